"""`trunkline data tag` and `filter`: what is wrong is named, nothing is lost, expressions run no code."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preparing import data, rows_of, write_rows
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Manifest, manifest_of_rows
from trunkline.prepare.filter import Expression
from trunkline.prepare.lines import line
from trunkline.prepare.tag import (
    BORDERLINE,
    TAGS,
    Limits,
    fit_for,
    repetitions,
    tagger,
    tags_of_text,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"


def manifest_of(rows: list[dict[str, Any]]) -> Manifest:
    full = [{"audio_filepath": f"{i}.wav"} | row for i, row in enumerate(rows)]
    return manifest_of_rows(Path("/nowhere/m.jsonl"), enumerate(full, 1))


def tag(rows: list[dict[str, Any]], limits: Limits | None = None) -> list[dict[str, Any]]:
    manifest = manifest_of(rows)
    return list(map(tagger(manifest, limits), manifest.rows()))


def tags(text: str, seconds: float = 3.0, language: str | None = "vi") -> list[str]:
    return list(tags_of_text(text, seconds, language, Limits()))


CLEAN = "dạ em chào anh ạ em gọi từ ngân hàng"


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        (CLEAN, 3.0, []),
        (CLEAN, 1.5, []),
        (CLEAN, len(CLEAN) / 30, ["fast_speech"]),
        (CLEAN, len(CLEAN) / 29.9, ["borderline:fast_speech"]),
        (CLEAN, len(CLEAN) / 25, ["borderline:fast_speech"]),
        (CLEAN, len(CLEAN) / 24.9, []),
        (CLEAN, float("nan"), []),
        ("dạ", 4.9, ["borderline:length_mismatch"]),
        ("dạ", 5.1, ["length_mismatch"]),
        ("dạ", 2.0, []),
        ("a" * 12 + "b" * 13, 3.0, ["long_word"]),
        ("thànhphốhồchíminh vâng ạ", 3.0, []),
        ("tôimuốnhỏisốdưtàikhoản vâng dạ", 3.0, ["borderline:long_word"]),
        ("dạ " * 15, 4.0, ["repetition"]),
        ("dạ " * 5, 2.0, ["borderline:repetition"]),
        ("dạ " * 4, 2.0, []),
        ("cảm ơn anh " * 15, 9.0, ["repetition"]),
        ("ừ" + "m" * 15, 2.0, ["repetition"]),
        ("...", 1.0, ["empty_text"]),
        ("", 1.0, ["empty_text"]),
        ("xin ch\ufffdo anh", 2.0, ["encoding"]),
        ("dạ không ạ".encode().decode("latin-1"), 2.0, ["encoding"]),
        ("tài khoản của tôi".encode().decode("cp1252", "ignore"), 2.0, ["encoding"]),
        ("vâng <b>dạ</b> ạ", 2.0, ["markup"]),
        ("vâng &amp; dạ", 2.0, ["markup"]),
        ("t\u0430i khoan", 2.0, ["borderline:repairable"]),
        ("tài\u200bkhoản", 2.0, ["borderline:repairable"]),
        ("please tell me the balance of this account", 3.0, ["language"]),
        ("em cần transfer tiền qua smart banking ạ", 3.0, ["borderline:language"]),
        ("karaoke", 1.0, []),
    ],
)
def test_each_fault_has_its_tag_and_its_limits(text, seconds, expected):
    language = "vi" if any("language" in name for name in expected) else None
    assert tags(text, seconds, language) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("zero one two", "en", []),
        ("số dư tài khoản của tôi", "en", ["language"]),
        ("我 的 账户", "vi", ["language"]),
        ("да нет", "en-US", ["language"]),
        ("да нет", "ru", []),
        (CLEAN, None, []),
        ("the quick brown fox", None, []),
    ],
)
def test_the_language_is_the_one_declared(text, language, expected):
    assert tags(text, 3.0, language) == expected


@given(st.lists(st.sampled_from("ab"), max_size=12))
def test_repetitions_are_counted_as_by_hand(words):
    by_hand = min(1, len(words))
    for size in range(1, 5):
        for at in range(len(words)):
            unit, count = words[at : at + size], 1
            if len(unit) < size:
                continue
            while words[at + count * size : at + (count + 1) * size] == unit:
                count += 1
            by_hand = max(by_hand, count)
    assert repetitions(words) == by_hand


@given(st.text(max_size=60), st.floats(0.01, 100), st.sampled_from(["vi", "en", None, "xx"]))
@settings(deadline=None)
def test_any_text_can_be_tagged(text, seconds, language):
    names = tags(text, seconds, language)
    assert {name.removeprefix(BORDERLINE) for name in names} <= set(TAGS)
    assert len(names) == len(set(names))


def test_turns_that_cover_each_other_on_one_channel_are_tagged():
    spans = [(0, 0, 4), (0, 3.8, 6), (0, 6, 9), (0, 7, 8), (1, 0, 4), (0, 20, 21), (0, 20.2, 21)]
    rows = [
        {"audio_filepath": "c.wav", "channel": c, "start": s, "end": e} for c, s, e in spans
    ] + [{"audio_filepath": "c.wav", "channel": 0}]
    found = [change["tags"] for change in tag(rows)]
    hard, border = ["overlapping_turns"], None
    assert found == [border, border, hard, hard, None, hard, hard, None]
    rows[1]["start"] = 3.7
    found = [change["tags"] for change in tag(rows)]
    assert found[:2] == [["borderline:overlapping_turns"]] * 2


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=14)


@given(SPANS)
@settings(max_examples=60, deadline=None)
def test_overlap_is_that_of_every_pair(spans):
    rows = [
        {"audio_filepath": "c.wav", "channel": 0, "start": s, "end": s + d, "id": str(i)}
        for i, (s, d) in enumerate(spans)
    ]
    found = [bool(change["tags"]) for change in tag(rows, Limits(overlap=(0.5, 0.5)))]
    for i, (s, d) in enumerate(spans):
        shares = [
            (min(s + d, s2 + d2) - max(s, s2)) / min(d, d2)
            for j, (s2, d2) in enumerate(spans)
            if i != j
        ]
        assert found[i] == (max(shares, default=0) >= 0.5)


def test_a_speaker_or_role_on_the_other_channel_is_tagged():
    rows = []
    for call in range(6):
        agent = 1 if call == 4 else 0
        rows += [
            {"call_id": str(call), "channel": agent, "speaker": "an"},
            {"call_id": str(call), "channel": 1 - agent, "speaker": f"c{call}"},
        ]
    rows += [{"call_id": "x", "channel": 0, "role": "customer"}, {"channel": 0, "role": "agent"}]
    found = [change["tags"] for change in tag(rows)]
    swapped = [index for index, names in enumerate(found) if names == ["channel_swapped"]]
    assert swapped == [8, 9, 12]


def test_tagging_again_changes_nothing_and_keeps_the_tags_of_others(tmp_path: Path):
    rows = [
        {"audio_filepath": "a.wav", "text": "dạ " * 20, "duration": 5, "tags": ["by hand"]},
        {"audio_filepath": "b.wav", "text": CLEAN, "duration": 3, "tags": ["fast_speech"]},
        {"audio_filepath": "c.wav"},
    ]
    source = write_rows(tmp_path / "m.jsonl", rows)
    done = data("tag", source, tmp_path / "once.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["cuts"], counts["untagged"]) == (3, 2)
    assert counts["tags"] == {"repetition": 1}
    once = rows_of(tmp_path / "once.jsonl")
    assert once[0]["tags"] == ["by hand", "repetition"]
    assert "tags" not in once[1] and once[1]["measured"]["vietnamese_share"] == 1.0
    assert (tmp_path / "once.jsonl").read_text().splitlines()[2] == json.dumps(rows[2])
    assert data("tag", tmp_path / "once.jsonl", tmp_path / "twice.jsonl").returncode == 0
    assert (tmp_path / "twice.jsonl").read_bytes() == (tmp_path / "once.jsonl").read_bytes()


ROW = {
    "audio_filepath": "a.wav", "id": "r", "text": "dạ", "speaker": "an", "start": 1.0, "end": 3.5, "channel": 1,
    "tags": ["x", "y"], "labels": {"intent": "card"}, "measured": {"rate": 12.5, "odd": "a'b"}, "n": 7, "flag": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("duration == 2.5", True),
        ("duration = 2.5 and intent = 'card'", True),
        ("duration > 2.5 or 'x' in tags", True),
        ("not 'x' in tags", False),
        ("'z' not in tags and intent == 'card'", True),
        ("labels.intent in ['card', 'loan']", True),
        ("measured.rate >= 12.5 and measured.rate < 13", True),
        ('measured.odd == "a\'b"', True),
        ("measured.odd == 'a''b'", True),
        ("language == null", True),
        ("language == 'vi'", False),
        ("language != 'vi'", True),
        ("not (language == 'vi')", True),
        ("sampling_rate < 9000", False),
        ("sampling_rate >= 9000", False),
        ("n in [1, -2, 7.0]", True),
        ("flag", True),
        ("flag == true and n > -1e3", True),
        ("'ạ' in text", True),
        ("true", True),
        ("1 < 2 and not not true", True),
        ("false or true and false", False),
        ("(false or true) and speaker", True),
        ("'' in language", False),
    ],
)
def test_an_expression_says_what_it_means(text, expected):
    (row,) = manifest_of([ROW]).rows()
    assert Expression(text)(row) is expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a value at its end"),
        ("duration >", "needs a value at its end"),
        ("duration ~ 1", "cannot be read from '~ 1'"),
        ("(duration > 1", "needs ')' at its end"),
        ("duration 1", "needs a comparison, 'and' or 'or' at '1'"),
        ("speaker not 'a'", "needs 'in'"),
        ("[1, 2", "needs ']'"),
        ("speaker in ['a', b]", "needs a value at 'b ]'"),
        ("__import__('os')", "needs a comparison"),
        ("a.__class__()", "needs a comparison"),
        ("(1)(2)", "needs a comparison"),
        ("and", "needs a value at 'and'"),
        ("-'a' == 1", "no negative"),
        ("not " * 300 + "true", "More than 100"),
        ("(" * 300, "More than 100"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text, said):
    with pytest.raises(UsageError) as error:
        Expression(text)
    assert said in str(error.value)


@given(st.text(alphabet="ab'\"<>=!()[],.- 0159notiwdr", max_size=30))
def test_no_text_makes_the_parser_fail_otherwise(text):
    (row,) = manifest_of([ROW]).rows()
    with contextlib.suppress(UsageError, DataError):
        Expression(text)(row)


def test_values_that_cannot_be_compared_name_the_line():
    (row,) = manifest_of([ROW]).rows()
    with pytest.raises(DataError, match="Line 1, cut 'r'"):
        Expression("speaker < 5")(row)


def tagged(tmp_path: Path) -> Path:
    rows = [
        {"split": "train", "tags": ["borderline:fast_speech", "mine"]},
        {"split": "train", "tags": ["fast_speech"]},
        {"split": "test", "tags": ["borderline:fast_speech"]},
        {"split": "test", "tags": ["mine"]},
        {"split": "train"},
    ]
    full = [{"audio_filepath": f"{i}.wav", "id": str(i)} | row for i, row in enumerate(rows)]
    return write_rows(tmp_path / "tagged.jsonl", full)


@pytest.mark.parametrize(
    ("purpose", "kept"), [("train", "0234"), ("evaluation", "34"), ("split", "034")]
)
def test_borderline_cuts_train_and_do_not_evaluate(tmp_path: Path, purpose: str, kept: str):
    source = tagged(tmp_path)
    out, rest = tmp_path / "out.jsonl", tmp_path / "rest.jsonl"
    done = data("filter", source, out, "--purpose", purpose, "--rest", rest, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert "".join(row["id"] for row in rows_of(out)) == kept
    assert summary["kept"] == len(kept) and summary["left_out"] == 5 - len(kept)
    both = out.read_text().splitlines() + rest.read_text().splitlines()
    assert sorted(both) == sorted(source.read_text().splitlines())  # byte for byte, nothing is lost


def test_a_name_that_no_cut_states_is_answered_with_the_nearest(tmp_path: Path):
    source = tagged(tmp_path)
    done = data("filter", source, tmp_path / "o.jsonl", "mesured.rate > 1 or durration > 2")
    assert done.returncode == 2
    assert "No cut states 'durration'. Did you mean 'duration'?" in done.stderr
    done = data("filter", source, tmp_path / "o.jsonl", "duration > 1")
    assert done.returncode == 1 and "No cut of" in done.stderr
    assert not (tmp_path / "o.jsonl").exists()


def test_a_cut_without_a_split_cannot_be_judged_by_it():
    (row,) = manifest_of([{"id": "a"}]).rows()
    with pytest.raises(UsageError, match="states no split"):
        fit_for(row, "split")


@given(
    st.dictionaries(
        st.sampled_from(["tags", "measured", "text", "x"]) | st.text(max_size=4),
        st.none()
        | st.text(max_size=5)
        | st.integers(-5, 5)
        | st.lists(st.text(max_size=3), max_size=2),
        max_size=5,
    ),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_changed_line_says_what_it_said_and_what_is_new(keys, escaped):
    change = {"tags": ["a", "b"], "measured": {"words": 3}, "split": None}
    written = {"audio_filepath": "a.wav", **keys}
    text = f"{json.dumps(written, ensure_ascii=escaped)} "
    home = Path("/nowhere")
    row = {"json": text, "id": "a", "call_id": "a", "audio_filepath": "a.wav"}
    manifest = SimpleNamespace(root=home)
    expected = {k: v for k, v in (written | change).items() if v is not None}
    told = json.loads(line(manifest, row, home, change))  # pyright: ignore[reportArgumentType]
    assert {k: v for k, v in told.items() if v is not None} == expected
    assert line(manifest, row, home, {}) == text  # pyright: ignore[reportArgumentType]


SETS = sorted(path.parent.name for path in SHARED.glob("*/manifest.jsonl"))


@pytest.mark.skipif(not SETS, reason="../shared/data is not here")
@pytest.mark.parametrize("name", SETS)
def test_tag_runs_clean_on_every_real_set(tmp_path: Path, name: str):
    from trunkline.prepare.cli import main

    out = tmp_path / "tagged.jsonl"
    assert main(["tag", str(SHARED / name / "manifest.jsonl"), str(out), "--quiet"]) == 0
    written = rows_of(out)
    hard = [row for row in written if any(t in TAGS for t in row.get("tags", ()))]
    assert len(hard) <= 0.001 * len(written), hard[:3]  # these recordings are clean
