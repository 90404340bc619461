"""`trunkline data shard`, `merge`, `stats` and `licence`: parts are the whole again, and everything is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl.card import licence_of
from ssl.config import DataConfig, PretrainConfig
from tests.preparing import ROOT, data, rows_of, write_rows
from trunkline.errors import UsageError
from trunkline.manifest import load_manifest, manifest_of_rows
from trunkline.prepare import provenance
from trunkline.prepare.licence import describe, licences
from trunkline.prepare.shard import shard_of
from trunkline.prepare.stats import spread, stats


def calls(count: int) -> list[dict[str, Any]]:
    return [
        {"audio_filepath": f"a/{i}.wav", "channel": c, "id": f"{i}-{c}", "duration": 1.5 + c,
         "text": "dạ vâng ạ", "split": "test" if i % 5 == 0 else "train"}
        for i in range(count) for c in (0, 1)
    ]  # fmt: skip


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_each_cut_lies_in_one_part_with_its_call_wherever_it_stands(numbers, count):
    rows = [(1, {"audio_filepath": f"{i}.wav", "call_id": str(i)}) for i in numbers]
    of_cut = shard_of(manifest_of_rows(Path("/m.jsonl"), rows), count)
    assert set(of_cut) <= set(range(1, count + 1))
    parts = {}
    for number, part in zip(numbers, of_cut.tolist(), strict=True):
        assert parts.setdefault(number, part) == part
    alone = manifest_of_rows(Path("/m.jsonl"), rows[:1])
    assert shard_of(alone, count)[0] == of_cut[0]


def test_parts_merge_into_the_whole_and_are_not_written_twice(tmp_path: Path):
    source = write_rows(tmp_path / "calls.jsonl", calls(40))
    parts = tmp_path / "parts"
    one = data("shard", source, parts, "--count", 3, "--index", 2, "--json")
    assert one.returncode == 0, one.stderr
    assert [path.name for path in parts.glob("*.jsonl")] != []
    done = json.loads(data("shard", source, parts, "--count", 3, "--json").stdout)
    assert (done["cuts"], done["written"]) == (80, 2)
    assert [row["was there"] for row in done["tables"]["parts"]] == [False, True, False]
    again = json.loads(data("shard", source, parts, "--count", 3, "--json").stdout)
    assert again["written"] == 0
    damaged = parts / "calls-00001-of-00003.jsonl"
    damaged.write_text(damaged.read_text()[:100])
    assert json.loads(data("shard", source, parts, "--count", 3, "--json").stdout)["written"] == 1
    files = sorted(parts.glob("calls-*-of-00003.jsonl"))
    merged = data("merge", *files, tmp_path / "all.jsonl")
    assert merged.returncode == 0, merged.stderr
    key = [json.dumps(row, sort_keys=True) for row in rows_of(source)]
    assert sorted(json.dumps(row, sort_keys=True) for row in rows_of(tmp_path / "all.jsonl")) == [
        *sorted(json.dumps(json.loads(k) | {"call_id": f"a/{json.loads(k)['id'][:-2]}"}, sort_keys=True) for k in key)
    ]  # fmt: skip
    paths = {cut.audio_filepath for cut in load_manifest(tmp_path / "all.jsonl")}
    assert paths == {cut.audio_filepath for cut in load_manifest(source)}


def test_a_changed_manifest_makes_the_parts_anew(tmp_path: Path):
    source = write_rows(tmp_path / "calls.jsonl", calls(4))
    data("shard", source, tmp_path / "p", "--count", 2)
    write_rows(source, calls(5))
    done = json.loads(data("shard", source, tmp_path / "p", "--count", 2, "--json").stdout)
    assert (done["written"], done["cuts"]) == (2, 10)


@pytest.mark.parametrize("words", [["--count", 0], ["--count", 2, "--index", 3], []])
def test_parts_that_cannot_be_are_refused(tmp_path: Path, words):
    source = write_rows(tmp_path / "calls.jsonl", calls(1))
    assert data("shard", source, tmp_path / "p", *words).returncode == 2
    with pytest.raises(UsageError, match=":1 states no phone"):
        shard_of(load_manifest(source), 2, "phone")


def test_an_id_that_stands_twice_is_named_with_both_places(tmp_path: Path):
    a = write_rows(tmp_path / "a.jsonl", calls(3))
    b = write_rows(tmp_path / "b.jsonl", [{"audio_filepath": "x.wav", "id": "x"}, *calls(2)[1:2]])
    refused = data("merge", a, b, tmp_path / "all.jsonl")
    assert refused.returncode == 1
    assert f"'0-1' ({a}:2, {b}:2)" in refused.stderr
    assert not (tmp_path / "all.jsonl").exists()
    done = data("merge", a, b, tmp_path / "all.jsonl", "--once", "--json")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["cuts"], json.loads(done.stdout)["said_twice"]) == (7, 1)
    write_rows(b, [calls(1)[0] | {"text": "another"}])
    clash = data("merge", a, b, tmp_path / "other.jsonl", "--once")
    assert clash.returncode == 1 and "'0-0'" in clash.stderr
    assert not (tmp_path / "other.jsonl").exists()


def test_a_merge_records_what_it_was_made_of(tmp_path: Path):
    a = write_rows(tmp_path / "a.jsonl", calls(2))
    data("merge", a, tmp_path / "all.jsonl")
    (line,) = provenance.history(tmp_path / "all.jsonl")
    assert line["command"] == "merge" and len(line["inputs"]) == 1
    assert line["inputs"][str(a)] == load_manifest(a).fingerprint
    assert line["outputs"]["all.jsonl"] == load_manifest(tmp_path / "all.jsonl").fingerprint


def test_provenance_outlives_a_line_that_a_kill_cut_short(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    provenance.record(out, "one", {"path": out}, inputs={}, counts={"cuts": 1})
    with open(tmp_path / provenance.FILE, "a") as file:
        file.write('{"command": "tw')
    provenance.record(out, "three", {}, inputs={}, counts={})
    assert [line["command"] for line in provenance.history(out)] == ["one", "three"]


def test_counts_are_those_of_a_plain_loop(tmp_path: Path):
    rows = [*calls(10), {"audio_filepath": "b.wav", "start": 2.0, "end": 5.5, "tags": ["x"]}]
    manifest = load_manifest(write_rows(tmp_path / "m.jsonl", [*rows, {"audio_filepath": "c.wav"}]))
    found = stats(manifest)
    assert (found["cuts"], found["files"], found["calls"], found["speakers"]) == (22, 12, 12, 0)
    assert found["hours"] == round((10 * 4.0 + 3.5) / 3600, 4)
    assert found["without_duration"] == 1
    assert (found["with_text"], found["words"], found["tags"]) == (20, 60, {"x": 1})
    assert found["seconds"]["longest"] == 3.5 and found["seconds"]["shortest"] == 1.5
    parts = {row["value"]: row for row in spread(manifest, "split")}
    assert {value: row["cuts"] for value, row in parts.items()} == {"train": 16, "test": 4, None: 2}
    assert sum(row["share"] for row in parts.values()) == pytest.approx(100, abs=0.2)
    shown = data("stats", tmp_path / "m.jsonl", "--by", "channel,split")
    assert shown.returncode == 0 and "channel (share of the hours, %)" in shown.stdout
    assert not (tmp_path / provenance.FILE).exists()  # nothing is written


def test_a_licence_follows_the_data(tmp_path: Path):
    rows = [*calls(2), {"audio_filepath": "x.wav", "id": "x", "licence": "CC0-1.0"}]
    source = write_rows(tmp_path / "m.jsonl", rows)
    assert data("licence", source, "--require").returncode == 1
    out = tmp_path / "l.jsonl"
    words = ["licence", source, out, "--set", "Contract 7", "--where", "split == 'train'"]
    assert data(*words).returncode == 0
    assert licences(load_manifest(out)) == {"not stated": 2, "Contract 7": 2, "CC0-1.0": 1}
    assert describe(load_manifest(source).select([4])) == "CC0-1.0"
    assert describe(load_manifest(source).select([0])) == ""
    full = tmp_path / "full.jsonl"
    assert data("licence", out, full, "--set", "CC BY 4.0").returncode == 0
    assert data("licence", full, "--require").returncode == 0
    split = tmp_path / "split.jsonl"
    assert data("split", full, split, "--afresh").returncode == 0
    assert licences(load_manifest(split)) == {"Contract 7": 2, "CC BY 4.0": 2, "CC0-1.0": 1}
    assert data("licence", source, "--set", "x").returncode == 2
    config = PretrainConfig(out="r", data=DataConfig(manifest=str(split)))
    card = licence_of(config, load_manifest(split))
    assert card == "CC BY 4.0 (2 cuts); Contract 7 (2 cuts); CC0-1.0 (1 cuts)"
    assert licence_of(replace(config, licence="ours"), load_manifest(split)) == "ours"
    assert licence_of(config, load_manifest(source).select([0])) == "not stated"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    source = write_rows(tmp_path / "m.jsonl", calls(2000))
    load_manifest(source)  # its cache is written while there is space
    out = tmp_path / "out" / "s.jsonl"
    write_rows(out, [{"audio_filepath": "old.wav"}])
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from trunkline.prepare.cli import main\n"
        f"sys.exit(main(['split', {str(source)!r}, {str(out)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: Cannot write {out}" in done.stderr
    assert rows_of(out) == [{"audio_filepath": "old.wav"}]
    assert sorted(path.name for path in out.parent.iterdir()) == ["s.jsonl"]
