"""Whatever a manifest, an argument or a neighbour does, a step names it and goes on, or stops in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from preparing import ROOT, data, rows_of, write_rows

from trunkline.prepare.cli import COMMANDS

# What a line of a manifest may hold; the lines that no step can use come last.
ODD = {
    "huge id": '"id": "' + "x" * 200_000 + '"',
    "number for an id": '"id": 12345',
    "lists in labels": '"id": "l", "labels": {"intent": ["a", {"b": 1}], "x": null}',
    "keys twice": '"id": "first", "id": "second"',
    "odd types beside the fields": '"id": "o", "phone": {"a": 1}, "licence": ["a"], "role": 5, "measured": "x", '
    '"turn": "y", "dual_mono": "z", "text_written": 5, "snr_db": "loud"',
    "number for a text": '"id": "n", "text": 12345',
    "long text": '"id": "t", "text": "' + "dạ " * 30_000 + '"',
    "controls": '"id": "c", "text": "a\\u0001b\\u202e\\u2028c\\u200b"',
    "far away": '"id": "s", "start": 1e308, "end": 1.5e308',
    "no such channel": '"id": "b", "channel": 7',
    "no such file": '"id": "f", "audio_filepath": "' + "x" * 5000 + '.wav"',
    "a folder": '"id": "d", "audio_filepath": "."',
}
REFUSED = {
    "no JSON": '"id": ',
    "tags of objects": '"tags": [{"a": 1}, 2]',
    "null tag": '"tags": [null]',
    "labels in a list": '"labels": ["a"]',
    "NaN": '"x": NaN',
    "infinity": '"snr_db": -Infinity',
    "half a character": '"text": "a\\ud800b"',
    "NUL": '"audio_filepath": "a\\u0000b.wav"',
    "number of an id without end": '"id": true',
    "thousands of digits": '"n": 1' + "0" * 5000,
    "channel beyond all": '"channel": 1e300',
    "rate beyond all": '"sampling_rate": 1e30',
    "deep": '"x": ' + "[" * 3000 + "]" * 3000,
    "list for a speaker": '"speaker": ["a"]',
    "negative start": '"start": -1',
    "end before start": '"start": 2, "end": 1',
    "text for a time": '"start": "soon"',
}
TELEPHONE = ROOT / "configs/augment/telephone.yaml"
GOOD = 6
UGLY = "run again with --debug"  # the end of a message that nobody wrote for users


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "0.wav", rng.normal(0, 0.1, 16000), 8000)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/key").write_bytes(os.urandom(32))
    (tmp_path / "home/key").chmod(0o600)
    (tmp_path / "work").mkdir()
    os.rename(tmp_path / "0.wav", tmp_path / "work/0.wav")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def good_rows() -> list[dict]:
    return [
        {"audio_filepath": "0.wav", "id": f"good-{i}", "start": i / 10, "end": i / 10 + 0.6, "split": "train",
         "text": "dạ vâng ạ", "call_id": f"call-{i}", "speaker": f"s-{i}"}
        for i in range(GOOD)
    ]  # fmt: skip


def steps(source: object, out: object) -> dict[str, list[object]]:
    """Return each command that reads a manifest, with its arguments."""
    return {
        "check": ["--samples", "--report", "report.json"],
        "import": [out],
        "dedupe": [out, "--jobs", 1, "--exact"],
        "normalise": [out, "--report", "n.json", "--changes", "changes.jsonl"],
        "segment": [out],
        "split": [out, "--by", "call_id"],
        "tag": [out],
        "filter": [out, "id != 'x'"],
        "audit": ["audit.html"],
        "pseudonymise": ["private", "--key-file", "../home/key"],
        "scan": [],
        "shard": ["parts", "--count", 2],
        "merge": [out],
        "stats": [],
        "licence": [out, "--set", "X"],
    }  # fmt: skip


NAMES = list(steps("", ""))


def test_every_command_is_tried() -> None:
    assert set(NAMES) == set(COMMANDS) - {"inventory", "augment"}


@pytest.mark.parametrize("name", NAMES)
def test_no_line_however_odd_kills_a_step_or_takes_good_ones_along(folder: Path, name: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in good_rows()]
    for number, odd in enumerate([*ODD.values(), *REFUSED.values()]):
        path = "" if '"audio_filepath"' in odd else '"audio_filepath": "0.wav", '
        ids = "" if '"id"' in odd else f'"id": "odd-{number}", '
        lines.append(f"{{{path}{ids}{odd}}}")
    source = folder / "m.jsonl"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    bad = () if name in ("check", "scan") else ("--max-bad", 1)
    done = data(name, "m.jsonl", *steps("m.jsonl", "out.jsonl")[name], *bad, "--json")
    assert UGLY not in done.stderr, done.stderr
    assert done.returncode == (1 if name in ("check", "scan") else 0), done.stderr
    shown = json.loads(done.stdout)
    if name == "check":
        assert shown["counts"]["row"] == len(REFUSED)
    elif name not in ("scan",):
        aside = "stats" if name == "stats" else None
        assert shown["set_aside"] >= len(REFUSED) or aside
    for out in (folder / "out.jsonl", folder / "private/manifest.jsonl"):
        if out.exists():
            ids = " ".join(row["id"] for row in rows_of(out))
            kept = out.name == "out.jsonl" and name not in ("segment", "dedupe")
            assert not kept or all(f"good-{number}" in ids for number in range(GOOD))
            assert name != "pseudonymise" or len(rows_of(out)) >= GOOD


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\x00\xff\xfe\x81" * 50, None])
def test_no_manifest_at_all_is_one_sentence(folder: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (folder / "m.jsonl").write_bytes(content)
    bad = () if name in ("check", "scan") else ("--max-bad", 1)
    done = data(name, "m.jsonl", *steps("m.jsonl", "out.jsonl")[name], *bad)
    assert UGLY not in done.stderr, done.stderr
    if name == "scan" and content is not None:
        return
    assert done.returncode == 1
    assert not (folder / "out.jsonl").exists() and not (folder / "private/manifest.jsonl").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if "out" in steps("", "out")[name]])
@pytest.mark.parametrize("out", ["taken", "0.wav/out.jsonl"])
def test_an_output_that_cannot_be_is_one_sentence(folder: Path, name: str, out: str) -> None:
    write_rows(folder / "m.jsonl", good_rows())
    (folder / "taken").mkdir()
    (folder / "taken/held").write_text("x")
    before = (folder / "0.wav").read_bytes()
    done = data(name, "m.jsonl", *steps("m.jsonl", out)[name])
    assert done.returncode in (1, 2) and "error: " in done.stderr, done.stderr
    assert UGLY not in done.stderr, done.stderr
    assert (folder / "0.wav").read_bytes() == before and (folder / "taken/held").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["split", "m.jsonl", "o", "--ratios", "train=nan"],
        ["split", "m.jsonl", "o", "--ratios", "train=0.5,train=0.5"],
        ["split", "m.jsonl", "o", "--max-bad", "nan"],
        ["split", "m.jsonl", "o", "--max-bad", "-1"],
        ["tag", "m.jsonl", "o", "--word-length", "nan"],
        ["tag", "m.jsonl", "o", "--word-length", "long"],
        ["segment", "m.jsonl", "o", "--max-length", "nan"],
        ["segment", "m.jsonl", "o", "--min-length", "-1"],
        ["shard", "m.jsonl", "parts", "--count", "1000000000"],
        ["shard", "m.jsonl", "parts", "--count", "x"],
        ["filter", "m.jsonl", "o", "("],
        ["filter", "m.jsonl", "o", "no_such_key == 1"],
        ["licence", "m.jsonl", "o", "--set", "  "],
        ["licence", "m.jsonl", "o", "--set", "X", "--where", "no_such_key == 1"],
        ["pseudonymise", "m.jsonl", "private"],
        ["import", "m.jsonl", "o", "--format", "excel"],
        ["inventory", ".", "inv", "--jobs", "-3"],
        ["augment", str(TELEPHONE), "--check", "--rate", "0"],
        ["augment", str(TELEPHONE), "--check", "--max-cost", "nan"],
        ["augment", str(TELEPHONE), "--listen", "heard", "--manifest", "m.jsonl", "--count", "0"],
        ["augment", str(TELEPHONE), "--listen", "heard"],
        ["augment", str(TELEPHONE), "noise.snr=3", "--check"],
        ["no-such-step", "m.jsonl"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused_before_anything_is_written(
    folder: Path, words: list[str]
) -> None:
    write_rows(folder / "m.jsonl", good_rows())
    done = data(*words)
    assert done.returncode == 2, done.stderr
    assert UGLY not in done.stderr
    assert {path.name for path in folder.iterdir()} <= {"m.jsonl", "0.wav", ".trunkline"}


@pytest.mark.parametrize("out", ["held", "0.wav/out", "x" * 300])
def test_an_inventory_that_cannot_be_written_is_one_sentence(folder: Path, out: str) -> None:
    (folder / "held").write_text("x")
    done = data("inventory", ".", out)
    assert done.returncode == 1 and done.stderr.startswith("error: Cannot"), done.stderr
    assert UGLY not in done.stderr and (folder / "held").read_text() == "x"


def test_a_pipe_is_no_recording_and_nobody_waits_for_it(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    write_rows(folder / "m.jsonl", [*good_rows(), {"audio_filepath": "pipe.wav", "id": "pipe"}])
    done = data("check", "m.jsonl", "--json")
    assert [fault["kind"] for fault in json.loads(done.stdout)["tables"]["faults"]] == [
        "unreadable"
    ]
    done = data("segment", "m.jsonl", "out.jsonl", "--max-bad", 0.5, "--json")
    assert json.loads(done.stdout)["set_aside"] == 1, done.stderr
    assert data("inventory", ".", "out").returncode == 0


def together(words: list[str], count: int = 3) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "trunkline.prepare.cli", *words, "--quiet"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    return runs


def test_runs_at_once_leave_what_one_alone_leaves(folder: Path) -> None:
    rng = np.random.default_rng(1)
    (folder / "calls").mkdir()
    for number in range(12):
        soundfile.write(folder / f"calls/{number}.wav", rng.normal(0, 0.1, 8000), 8000)
    rows = [
        {"audio_filepath": f"calls/{number % 12}.wav", "id": str(number)} for number in range(300)
    ]
    write_rows(folder / "m.jsonl", rows)
    for words, result in (
        (["inventory", "calls", "OUT", "--jobs", "1"], "inventory.csv"),
        (["split", "m.jsonl", "OUT/split.jsonl"], "split.jsonl"),
        (["pseudonymise", "m.jsonl", "OUT", "--key-file", "../home/key", "--audio", "copy"], "manifest.jsonl"),
    ):  # fmt: skip
        alone, many = (folder / f"{words[0]}-{kind}" for kind in ("alone", "many"))
        together([word.replace("OUT", str(alone)) for word in words], 1)
        together([word.replace("OUT", str(many)) for word in words], 3)
        assert (many / result).read_bytes() == (alone / result).read_bytes(), words[0]
        assert not list(many.rglob("*.tmp"))
        lines = (many / "provenance.jsonl").read_text("utf-8").splitlines()
        assert len([json.loads(line) for line in lines]) == 3
