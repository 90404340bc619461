"""Manifests: lines to cuts, the cache behind them, and what is said about lines that are wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import DataError, StorageError, UsageError
from trunkline.manifest import load_manifest, write_manifest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path_factory.mktemp("cache")))


def lines(path: Path, *rows: dict | str) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_a_line_becomes_a_cut_with_every_field_and_unknown_keys_kept(tmp_path: Path) -> None:
    full = {
        "audio_filepath": "calls/a.wav", "id": "a-1", "call_id": "a", "channel": "customer",
        "start": 1, "end": 2.5, "duration": 1.5, "sampling_rate": 8000, "text": "số dư",
        "speaker": "s7", "language": "vi", "split": "train", "tags": ["noisy"],
        "labels": {"intent": "balance"}, "tone": "sắc", "slots": {"card": "visa"},
    }  # fmt: skip
    manifest = load_manifest(lines(tmp_path / "m.jsonl", full, {"audio_filepath": "/b.flac"}))
    first, second = manifest
    assert first.audio_filepath == tmp_path / "calls/a.wav"
    assert (first.id, first.call_id, first.channel, first.line) == ("a-1", "a", 1, 1)
    assert (first.start, first.end, first.duration, first.sampling_rate) == (1.0, 2.5, 1.5, 8000)
    assert (first.text, first.tags) == ("số dư", ("noisy",))
    assert first.extra == {"tone": "sắc", "slots": {"card": "visa"}}
    wanted = {"intent": "balance", "tone": "sắc", "speaker": "s7", "mood": None, "id": "a-1"}
    assert {name: first.label(name) for name in wanted} == wanted
    assert (second.audio_filepath, second.speaker, second.line) == (Path("/b.flac"), None, 2)
    assert second.label("intent") is None and second.extra == {}


def test_rows_without_id_are_told_apart_by_channel_and_times(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "x.y/a.wav"},
        {"audio_filepath": "x.y/a.wav", "channel": 0},
        {"audio_filepath": "x.y/a.wav", "channel": "customer"},
        {"audio_filepath": "x.y/a.wav", "channel": 0, "start": 1.5, "duration": 2},
        {"audio_filepath": "x.y/a.wav", "start": 4},
        {"audio_filepath": "x.y/a.wav", "end": 4},
    ]
    manifest = load_manifest(lines(tmp_path / "m.jsonl", *rows))
    assert len(set(manifest.ids)) == len(rows)
    assert manifest.ids[3] == "x.y/a.wav#0@1.5-3.5"
    assert set(manifest.column("call_id")) == {"x.y/a"}
    assert manifest[3].end == 3.5


strings = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
extras = st.dictionaries(
    st.sampled_from(["tone", "digit", "x"]), st.integers(-9, 9) | strings | st.booleans()
)
fields = st.fixed_dictionaries(
    {"audio_filepath": strings},
    optional={
        "id": strings | st.integers(0, 99),
        "channel": st.sampled_from([0, 1, 5, "agent", "customer", None]),
        "start": st.integers(0, 9) | st.floats(0, 9),
        "end": st.floats(10, 99),
        "duration": st.none() | st.integers(1, 9) | st.floats(0.01, 9),
        "sampling_rate": st.sampled_from([8000, 16000.0, "48000"]),
        "text": strings | st.none(),
        "speaker": strings | st.integers(0, 9) | st.none(),
        "labels": st.dictionaries(strings, strings, max_size=2),
    },
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(fields, extras, st.booleans()), min_size=1, max_size=12))
def test_whatever_is_written_is_read_again(
    rows: list[tuple[dict, dict, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    texts = [json.dumps(row | extra) + "\r\n" * blank for row, extra, blank in rows]
    manifest = load_manifest(lines(folder / "m.jsonl", *texts))
    assert len(manifest) == len(rows)
    line = 1
    for cut, (row, extra, blank) in zip(manifest, rows, strict=True):
        assert cut.line == line
        line += 1 + blank
        assert cut.audio_filepath == folder / row["audio_filepath"]
        assert cut.extra == extra
        assert cut.labels == row.get("labels", {})
        for name in ("text", "speaker"):
            value = row.get(name)
            assert getattr(cut, name) == (None if value is None else str(value))
        assert cut.channel == {"agent": 0, "customer": 1}.get(
            row.get("channel"), row.get("channel")
        )
        assert cut.start == row.get("start")
        assert cut.sampling_rate == (int(row["sampling_rate"]) if "sampling_rate" in row else None)
    write_manifest(manifest, folder / "copy.jsonl")
    again = load_manifest(folder / "copy.jsonl")
    for cut, copy in zip(manifest, again, strict=True):
        assert (copy.id, copy.text, copy.extra, copy.end) == (cut.id, cut.text, cut.extra, cut.end)


GOOD = {"audio_filepath": "a.wav", "duration": 1.0}


@pytest.mark.parametrize(
    ("seventh", "message"),
    [
        ('{"audio_filepath": "a.wav",}', "is not valid JSON"),
        ("not json", "is not valid JSON"),
        ('{"audio_filepath": "a.wav"} {"audio_filepath": "b.wav"}', "is not valid JSON"),
        ("[1, 2]", "must be a JSON object"),
        ('{"audio_path": "a.wav"}', "no audio_filepath. Did you mean 'audio_path'"),
        ('{"audio_filepath": null}', "no audio_filepath"),
        ('{"audio_filepath": ["a.wav"]}', "audio_filepath must be a string"),
        ('{"audio_filepath": "a.wav", "duration": -1}', "duration must be a number of seconds"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "holds what is no JSON number: NaN"),
        ('{"audio_filepath": "a.wav", "start": "soon"}', "start must be a number of seconds"),
        ('{"audio_filepath": "a.wav", "start": 2, "end": 2}', "end 2.0 must be after start 2.0"),
        (
            '{"audio_filepath": "a.wav", "start": 2, "duration": 0}',
            "end 2.0 must be after start 2.0",
        ),
        ('{"audio_filepath": "a.wav", "offset": 2, "duration": 0}', "end 2.0 must be after start"),
        ('{"audio_filepath": "a.wav", "channel": "both"}', "channel must be 0, 1"),
        ('{"audio_filepath": "a.wav", "channel": 0.5}', "channel must be 0, 1"),
        ('{"audio_filepath": "a.wav", "channel": true}', "channel must be 0, 1"),
        ('{"audio_filepath": "a.wav", "snr_db": -Infinity}', "-Infinity; write null"),
        ('{"audio_filepath": "a.wav", "channel": 1e30}', "channel must be 0, 1"),
        ('{"audio_filepath": "a.wav", "sampling_rate": 3000000000}', "must be a whole number"),
        (
            '{"audio_filepath": "a.wav", "duration": 1' + "0" * 400 + "}",
            "must be a number of seconds",
        ),
        ('{"audio_filepath": "a.wav", "n": 1' + "0" * 5000 + "}", "holds what is no JSON number"),
        ('{"audio_filepath": "a.wav", "x": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
        (
            '{"audio_filepath": "a.wav", "text": "a\\ud800b"}',
            "text holds '\\ud800', half a character",
        ),
        ('{"audio_filepath": "a\\u0000.wav"}', "holds a NUL character"),
        ('{"audio_filepath": "a.wav", "tags": [null]}', "tags must be a list of strings"),
        ('{"audio_filepath": "a.wav", "tags": [{"a": 1}]}', "tags must be a list of strings"),
        ('{"audio_filepath": "a.wav", "labels": ["a"]}', "labels an object"),
        ('{"audio_filepath": "a.wav", "sampling_rate": 0}', "sampling_rate must be a whole number"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_number(
    tmp_path: Path, seventh: str, message: str
) -> None:
    path = lines(tmp_path / "m.jsonl", *[GOOD] * 4, "", GOOD, seventh, GOOD)
    with pytest.raises(DataError, match=r"m\.jsonl:7\b") as caught:
        load_manifest(path)
    assert message in str(caught.value)


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    (tmp_path / "m.jsonl").write_bytes(good + b'\n{"audio_filepath": "a.wav", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:2 is not UTF-8"):
        load_manifest(tmp_path / "m.jsonl")


def test_lines_beyond_the_first_block_keep_their_numbers(tmp_path: Path) -> None:
    long = GOOD | {"text": "x" * 300}
    path = lines(tmp_path / "m.jsonl", *[long] * 20_000, "", GOOD)
    manifest = load_manifest(path)
    assert (manifest[19_999].line, manifest[20_000].line) == (20_000, 20_002)
    with path.open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"m\.jsonl:20003 is not valid JSON"):
        load_manifest(path)


def test_an_empty_manifest_and_a_missing_one_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n \n")
    for name, error in [("empty", DataError), ("blank", DataError), ("gone", StorageError)]:
        with pytest.raises(error, match=rf"{name}\.jsonl"):
            load_manifest(tmp_path / f"{name}.jsonl")
    with pytest.raises(UsageError, match="Did you mean 'kaldi'"):
        load_manifest(lines(tmp_path / "m.jsonl", GOOD), format="kadli")


def test_a_changed_manifest_is_read_anew_and_its_old_cache_removed(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", GOOD)
    before = load_manifest(path)
    caches = list((tmp_path / ".trunkline").iterdir())
    assert load_manifest(path).fingerprint == before.fingerprint
    assert list((tmp_path / ".trunkline").iterdir()) == caches
    lines(path, GOOD, GOOD | {"id": "new"})
    after = load_manifest(path)
    assert (len(before), len(after), after[1].id) == (1, 2, "new")
    assert after.fingerprint != before.fingerprint
    assert len(list((tmp_path / ".trunkline").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0", None])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: bytes | None) -> None:
    path = lines(tmp_path / "m.jsonl", *[GOOD] * 50)
    fingerprint = load_manifest(path).fingerprint
    (cache,) = (tmp_path / ".trunkline").iterdir()
    whole = cache.read_bytes()
    cache.unlink()  # and not written in place: a table may still be mapped from it
    cache.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = load_manifest(path)
    assert (len(again), again.fingerprint) == (50, fingerprint)


def test_a_read_only_folder_is_cached_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = lines(tmp_path / "data" / "m.jsonl", GOOD)
    (tmp_path / "data").chmod(0o555)
    try:
        assert len(load_manifest(path)) == 1
        assert [item.name for item in path.parent.iterdir()] == ["m.jsonl"]
        assert len(list(Path(os.environ["TRUNKLINE_CACHE"]).iterdir())) == 1
    finally:
        (tmp_path / "data").chmod(0o755)


def _in_process(code: str, *args: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_processes_that_load_one_manifest_at_once_all_get_it(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", *[GOOD] * 30_000)
    code = (
        "import sys; from trunkline.manifest import load_manifest as l; print(len(l(sys.argv[1])))"
    )
    running = [_in_process(code, path) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["30000"] * 3
    assert [item.suffix for item in (tmp_path / ".trunkline").iterdir()] == [".arrow"]


def test_where_no_cache_can_be_written_the_message_says_what_to_set(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", *[GOOD] * 5000)

    code = (
        "import resource, signal, sys\n"
        "from trunkline.manifest import load_manifest\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "load_manifest(sys.argv[1])\n"
    )
    _, stderr = _in_process(code, path).communicate()
    assert "StorageError: Cannot cache" in stderr and "Set TRUNKLINE_CACHE" in stderr
    assert list((tmp_path / ".trunkline").iterdir()) == []
    assert len(load_manifest(path)) == 5000


def test_a_manifest_appears_whole_or_not_at_all_when_the_disk_is_full(tmp_path: Path) -> None:
    path = lines(tmp_path / "out.jsonl", GOOD)
    code = (
        "import resource, signal, sys\n"
        "from trunkline.manifest import write_manifest\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "write_manifest(({'audio_filepath': f'{i}.wav'} for i in range(9999)), sys.argv[1])\n"
    )
    _, stderr = _in_process(code, path).communicate()
    assert "StorageError: Cannot write" in stderr and "out.jsonl" in stderr
    assert json.loads(path.read_text()) == GOOD
    assert [item.name for item in tmp_path.iterdir()] == ["out.jsonl"]


def test_durations_come_from_times_then_declaration_then_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(20_000), 8000)
    rows = [
        {"audio_filepath": "a.wav"},
        {"audio_filepath": "a.wav", "start": 1.0},
        {"audio_filepath": "a.wav", "duration": 7.0},
        {"audio_filepath": "a.wav", "duration": 7.0, "start": 1.0},
        {"audio_filepath": "a.wav", "duration": 7.0, "start": 1.0, "end": 2.0},
        {"audio_filepath": "gone.wav"},
    ]
    manifest = load_manifest(lines(tmp_path / "m.jsonl", *rows))
    assert manifest.durations.tolist() == [2.5, 1.5, 7.0, 7.0, 1.0, 0.0]
    assert manifest.durations.dtype == np.float64
    assert len(manifest[1].load(16000)) == 24_000


def test_a_selection_keeps_order_and_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    rows = [
        GOOD | {"id": f"c{i}", "split": "train" if i % 3 else "test", "digit": i % 2}
        for i in range(12)
    ]
    manifest = load_manifest(lines(tmp_path / "m.jsonl", *rows))
    train = manifest.filter(split="train")
    assert [cut.id for cut in train] == [f"c{i}" for i in range(12) if i % 3]
    assert train.filter(digit=1).column("id").tolist() == ["c1", "c5", "c7", "c11"]
    assert train.select([3, 0]).ids.tolist() == ["c5", "c1"]
    assert train[-1].id == manifest[-1].id == "c11"
    assert [cut.id for cut in manifest[2:4]] == ["c2", "c3"]
    assert manifest.column("digit").tolist() == [0, 1] * 6
    prints = {m.fingerprint for m in (manifest, train, train.select([3, 0]), train.select([0, 3]))}
    assert len(prints) == 4
    with pytest.raises(DataError, match="no cut with split = 'tain'. There are: test, train"):
        manifest.filter(split="tain")
    with pytest.raises(IndexError):
        manifest[12]


def test_a_manifest_travels_to_another_process_as_its_cache(tmp_path: Path) -> None:
    rows = [GOOD | {"id": f"c{i}", "text": "x" * 200} for i in range(5000)]
    manifest = load_manifest(lines(tmp_path / "m.jsonl", *rows)).select(range(10, 5000))
    sent = pickle.dumps(manifest)
    assert len(sent) < 60_000
    assert pickle.loads(sent)[3] == manifest[3]  # noqa: S301


def test_written_paths_are_relative_below_the_manifest_and_absolute_elsewhere(
    tmp_path: Path,
) -> None:
    source = lines(
        tmp_path / "m.jsonl", {"audio_filepath": "in/a.wav"}, {"audio_filepath": "/b.wav"}
    )
    assert write_manifest(load_manifest(source), tmp_path / "copy.jsonl") == 2
    (tmp_path / "deep").mkdir()
    write_manifest(load_manifest(source), tmp_path / "deep" / "copy.jsonl")
    written = [json.loads(line)["audio_filepath"] for line in (tmp_path / "copy.jsonl").open()]
    assert written == ["in/a.wav", "/b.wav"]
    deep = [cut.audio_filepath for cut in load_manifest(tmp_path / "deep" / "copy.jsonl")]
    assert deep == [tmp_path / "in/a.wav", Path("/b.wav")]


def test_fifty_thousand_rows_cost_little_memory(tmp_path: Path) -> None:
    rows = [GOOD | {"id": f"cut-{i}", "text": "xin chào " * 20} for i in range(50_000)]
    path = lines(tmp_path / "m.jsonl", *rows)
    code = (
        "import contextlib, sys\n"
        "from pathlib import Path\n"
        "with contextlib.suppress(ImportError):\n"
        "    import pandas\n"  # pyarrow imports it where it is installed
        "from trunkline.manifest import load_manifest\n"
        "def anonymous():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('RssAnon:')[1].split()[0])\n"
        "before = anonymous()\n"
        "manifest = load_manifest(sys.argv[1])\n"
        "total = manifest.durations.sum()\n"
        "print(len(manifest), anonymous() - before)\n"
    )
    for _ in ("first", "cached"):
        count, used = _in_process(code, path).communicate()[0].split()
        assert count == "50000"
        assert int(used) < 120_000 if _ == "first" else int(used) < 20_000  # kB


def test_the_shared_manifests_load_with_their_labels() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared recordings (../shared/data) are not here")
    expected = {
        "vi_diadiem": ("intent", 8), "en_fsdd_digits": ("digit", 10), "vi_syllables": ("tone", 6),
        "en_ravdess_emotion": ("emotion", 8), "en_librispeech_mini": ("gender", 2),
    }  # fmt: skip
    for name, (label, values) in expected.items():
        manifest = load_manifest(SHARED / name / "manifest.jsonl")
        found = set(manifest.column(label))
        assert len(found) == values and None not in found, name
        assert manifest.filter(split="test")[0].load(8000).size > 0
