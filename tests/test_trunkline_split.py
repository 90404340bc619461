"""`trunkline data split`: nothing leaks, nothing that was assigned moves, contradictions are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preparing import data, rows_of, write_rows
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Manifest, load_manifest, manifest_of_rows
from trunkline.prepare import provenance
from trunkline.prepare.split import leaks, read_assignments, split

SHARED = Path(__file__).parents[2] / "shared" / "data"


def manifest_of(rows: list[dict[str, Any]]) -> Manifest:
    full = [{"audio_filepath": f"{i}.wav"} | row for i, row in enumerate(rows)]
    return manifest_of_rows(Path("/nowhere/m.jsonl"), enumerate(full, 1))


def components(rows: list[dict[str, Any]]) -> list[int]:
    """The groups by the slow and obvious way: spread until nothing changes."""
    labels = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if labels[i] > labels[j] and any(a.get(k) == b[k] for k in b):
                    labels[i], changed = labels[j], True
    return labels


ROWS = st.lists(
    st.fixed_dictionaries(
        {"call_id": st.sampled_from("abcdefgh")},
        optional={"speaker": st.sampled_from("stuvwxyz"), "phone": st.sampled_from("123456")},
    ),
    min_size=1,
    max_size=25,
)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_groups_are_the_connected_components_and_no_value_lies_in_two_splits(rows):
    manifest = manifest_of(rows)
    names = split(manifest, ratios={"a": 1, "b": 1, "c": 1}).names
    labels = components(rows)
    for label in set(labels):
        assert len({n for n, other in zip(names, labels, strict=True) if other == label}) == 1
    assert split(manifest).groups == len(set(labels))


@given(ROWS, ROWS)
@settings(max_examples=60, deadline=None)
def test_new_data_never_moves_what_was_assigned(old, new):
    ratios = {"train": 2.0, "test": 1.0}
    before = split(manifest_of(old), ratios=ratios).names
    stated = [row | {"split": name} for row, name in zip(old, before, strict=True)]
    both = manifest_of(stated + new)
    after = split(both, ratios=ratios)
    assert after.names[: len(old)] == before
    kept = [
        row | {"split": name} for row, name in zip(stated + new, after.names, strict=True) if name
    ]
    assert not leaks(manifest_of(kept))
    assert after.conflicts or None not in after.names


def test_the_order_of_the_cuts_does_not_matter():
    rows = [{"call_id": str(i // 2), "speaker": str(i % 37)} for i in range(200)]
    forwards, backwards = split(manifest_of(rows)).names, split(manifest_of(rows[::-1])).names
    assert forwards == backwards[::-1]


def test_shares_are_those_asked_for_and_salt_changes_the_division():
    rows = [{"call_id": str(i)} for i in range(4000)]
    names = split(manifest_of(rows), ratios={"train": 8, "dev": 1, "test": 1}).names
    assert [round(names.count(n) / 4000, 1) for n in ("train", "dev", "test")] == [0.8, 0.1, 0.1]
    assert names != split(manifest_of(rows), salt="other").names


@pytest.mark.parametrize("calls", [1, 2, 6])
def test_large_groups_are_no_likelier_in_one_split_than_small_ones(calls: int):
    rows = [
        {"call_id": f"{i}-{j}", "speaker": f"s{i}", "phone": f"p{i}"}
        for i in range(1500)
        for j in range(calls)
    ]
    result = split(manifest_of(rows), ratios={"train": 0.6, "dev": 0.2, "test": 0.2})
    shares = [result.names.count(name) / len(rows) for name in ("train", "dev", "test")]
    assert result.groups == 1500
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.04)  # 3 standard deviations


def test_the_division_is_pinned():
    names = split(manifest_of([{"call_id": str(i)} for i in range(40)])).names
    dev, test = ([i for i, n in enumerate(names) if n == part] for part in ("dev", "test"))
    assert dev == [12, 13, 25, 39]
    assert test == [3, 20, 23, 38]


def test_a_bridge_between_two_splits_is_left_without_one_and_reported(tmp_path: Path):
    rows = [
        {"id": "old-train", "call_id": "1", "speaker": "an", "split": "train"},
        {"id": "old-test", "call_id": "2", "speaker": "bao", "split": "test"},
        {"id": "bridge", "call_id": "3", "speaker": "an", "phone": "5"},
        {"id": "bridge-2", "call_id": "4", "speaker": "bao", "phone": "5"},
        {"id": "apart", "call_id": "9", "speaker": "chi"},
    ]
    source = write_rows(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"} | row for row in rows])
    done = data("split", source, tmp_path / "out.jsonl", "--json")
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    (conflict,) = next(v for k, v in summary["tables"].items() if k.startswith("conflicts"))
    assert conflict["splits"] == ["test", "train"]
    assert conflict["cuts"] == 4
    assert (summary["cuts"], summary["conflicts"], summary["without_split"]) == (5, 1, 2)
    written = {row["id"]: row.get("split") for row in rows_of(tmp_path / "out.jsonl")}
    assert written["old-train"] == "train"
    assert written["old-test"] == "test"
    assert written["bridge"] is written["bridge-2"] is None
    assert written["apart"] is not None


def test_explicit_groups_and_earlier_manifests_are_honoured(tmp_path: Path):
    rows = [{"audio_filepath": "a.wav", "id": str(i), "call_id": str(i)} for i in range(30)]
    source = write_rows(tmp_path / "m.jsonl", rows)
    (tmp_path / "fixed.csv").write_text('key,value,split\ncall_id,3,held\n"call_id","4",test\n')
    first = tmp_path / "first.jsonl"
    done = data("split", source, first, "--assign", tmp_path / "fixed.csv", "--ratios", "a=1,b=1")
    assert done.returncode == 0, done.stderr
    before = {row["id"]: row["split"] for row in rows_of(first)}
    assert (before["3"], before["4"]) == ("held", "test")
    later = [row | {"call_id": str(i - 5), "id": f"n{i}"} for i, row in enumerate(rows)]
    more = write_rows(tmp_path / "more.jsonl", later)
    done = data("split", more, tmp_path / "2.jsonl", "--previous", first, "--ratios", "b=1")
    assert done.returncode == 0, done.stderr
    after = {row["call_id"]: row["split"] for row in rows_of(tmp_path / "2.jsonl")}
    assert {call: name for call, name in after.items() if int(call) >= 0} == {
        str(i): before[str(i)] for i in range(25)
    }
    assert {name for call, name in after.items() if int(call) < 0} == {"b"}


def test_the_same_step_writes_the_same_bytes_and_says_so(tmp_path: Path):
    rows = [{"audio_filepath": f"a/{i}.wav", "text": "dạ", "call_id": str(i)} for i in range(50)]
    source = write_rows(tmp_path / "m.jsonl", rows)
    out = tmp_path / "prepared" / "m.jsonl"
    assert data("split", source, out).returncode == 0
    first = out.read_bytes()
    assert data("split", source, out).returncode == 0
    assert out.read_bytes() == first
    one, two = provenance.history(out)
    assert one["outputs"] == two["outputs"] and one["inputs"] == two["inputs"]
    assert one["command"] == "split" and one["counts"]["cuts"] == 50 and one["version"]
    paths = {cut.audio_filepath for cut in load_manifest(out)}
    assert paths == {tmp_path / "a" / f"{i}.wav" for i in range(50)}  # they hold from a new folder


def test_a_leak_in_an_earlier_manifest_is_named(tmp_path: Path):
    rows = [{"audio_filepath": f"{i}.wav", "speaker": "an", "split": s} for i, s in enumerate("ab")]
    source = write_rows(tmp_path / "m.jsonl", rows)
    done = data("split", source, tmp_path / "o.jsonl", "--previous", source)
    assert done.returncode == 1
    assert "leaks: speaker 'an' lies in a and b" in done.stderr
    assert not (tmp_path / "o.jsonl").exists()


def test_one_group_of_most_cuts_is_warned_of(tmp_path: Path):
    rows = [{"audio_filepath": f"{i}.wav", "speaker": "agent"} for i in range(9)]
    source = write_rows(tmp_path / "m.jsonl", rows)
    assert "joins them" in data("split", source, tmp_path / "o.jsonl").stderr


def test_bad_lines_are_set_aside_and_too_many_stop_the_step(tmp_path: Path):
    rows = [{"audio_filepath": f"{i}.wav"} for i in range(9)]
    source = write_rows(tmp_path / "m.jsonl", rows)
    with open(source, "a") as file:
        file.write('{"audio_filepath": "x.wav", "start": -1, "end": 2}\n')
    refused = data("split", source, tmp_path / "o.jsonl")
    assert refused.returncode == 1
    assert "1 of 10 lines cannot be used" in refused.stderr and "m.jsonl:10" in refused.stderr
    done = data("split", source, tmp_path / "o.jsonl", "--max-bad", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["set_aside"] == 1
    (aside,) = rows_of(tmp_path / "o.quarantine.jsonl")
    assert aside["line"] == 10 and aside["file"] == str(source) and "-1" in aside["reason"]
    assert len(rows_of(tmp_path / "o.jsonl")) == 9


@pytest.mark.parametrize("text", ["a,b\n", "speaker,x,train\nspeaker,x,test\n", "speaker,,train\n"])
def test_a_wrong_assignment_is_named_with_its_line(tmp_path: Path, text: str):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a\.csv:[12]"):
        read_assignments(tmp_path / "a.csv")


def test_ratios_and_keys_must_make_sense(tmp_path: Path):
    manifest = manifest_of([{"call_id": "1"}])
    with pytest.raises(UsageError, match="above 0"):
        split(manifest, ratios={"train": 0})
    with pytest.raises(UsageError, match="names no key"):
        split(manifest, by=[])
    source = write_rows(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    assert data("split", source, tmp_path / "o", "--ratios", "train").returncode == 2


# The keys by which each set's documented split may not leak; speakers where the set knows them.
DOCUMENTED = {
    "en_fsdd_digits": [],
    "en_librispeech_mini": ["speaker"],
    "en_ravdess_emotion": ["speaker"],
    "en_s2i_barista": ["call_id"],
    "he_yesno": ["call_id"],
    "vi_diadiem": ["call_id"],
    "vi_read_clips": ["call_id"],
    "vi_syllables": ["call_id"],
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_splits_have_no_leak(name: str):
    path = SHARED / name / "manifest.jsonl"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    assert leaks(load_manifest(path), ["id", "audio_filepath", *DOCUMENTED[name]]) == []
