"""Bad input to pretraining: one clear sentence, the right exit status, and nothing lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pretraining import ROOT, arguments, call, command, finished, write_calls

from ssl.pretrain import main
from trunkline.manifest import write_manifest


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return write_calls(tmp_path / "calls", number=6)


def refused(capsys, status: int, words: list[str]) -> str:
    """Run the command in vain; return the one sentence it says."""
    capsys.readouterr()
    assert main([*words, "--quiet"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    (sentence,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert captured.err.splitlines()[-1] == sentence
    assert "--debug" not in sentence  # it is an error that was foreseen
    return sentence


def write_bad(folder: Path, kind: str) -> Path:
    """Write a recording that is bad in one way."""
    path = folder / f"{kind}.wav"
    waveform = call(7, 3.0)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "headeronly":
        soundfile.write(path, waveform[:0], 8000)
    elif kind == "truncated":
        soundfile.write(path, waveform, 8000)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "nan":
        waveform[100] = np.nan
        soundfile.write(path, waveform, 8000, subtype="FLOAT")
    elif kind == "sample":
        soundfile.write(path, waveform[:1], 8000)
    elif kind == "fast":
        soundfile.write(path, call(7, 3.0, 96_000), 96_000)
    elif kind == "six":
        soundfile.write(path, np.stack([waveform] * 6, axis=1), 8000)
    return path


@pytest.mark.parametrize(
    ("names", "found"), [((), "it is empty"), (("a.txt", "b.txt", "notes.md"), "2 .txt, 1 .md")]
)
def test_a_folder_without_recordings_is_named_with_what_it_holds(tmp_path, capsys, names, found):
    folder = tmp_path / "calls"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("hello")
    sentence = refused(capsys, 1, arguments(folder, tmp_path / "run"))
    assert f"{folder} holds no recordings ({found})" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", r"is empty \(0 bytes\)"),
        ("headeronly", "holds no samples"),
        ("truncated", r"is truncated: its header promises \d+ bytes, it holds \d+"),
        ("nan", "holds NaN or infinite samples, the first at sample 100"),
        ("six", "has 6 channels and none was chosen"),
    ],
)
def test_when_no_recording_can_be_read_file_line_and_reason_are_named(
    tmp_path, capsys, kind, reason
):
    path = write_bad(tmp_path, kind)
    write_manifest([{"audio_filepath": str(path)}], tmp_path / "calls.jsonl")
    sentence = refused(capsys, 1, arguments(tmp_path / "calls.jsonl", tmp_path / "run"))
    assert re.search(
        rf"1 of 1 cuts cannot be read.*line 1: {re.escape(str(path))}.*{reason}", sentence
    )


def test_one_sample_is_too_short_and_said_to_be(tmp_path, capsys):
    write_manifest(
        [{"audio_filepath": str(write_bad(tmp_path, "sample"))}], tmp_path / "calls.jsonl"
    )
    sentence = refused(capsys, 1, arguments(tmp_path / "calls.jsonl", tmp_path / "run"))
    assert "shorter than 165 ms" in sentence


@pytest.mark.slow
def test_bad_recordings_among_good_ones_are_left_out_and_the_others_trained_on(
    calls, tmp_path, capsys
):
    kinds = ("empty", "truncated", "nan", "sample", "fast", "six")
    for kind in kinds:
        write_bad(calls.parent, kind)
    out = tmp_path / "run"
    more = ("train.max_bad_fraction=0.3", "iterations=[{steps: 2}]")
    assert main([*arguments(calls.parent, out, *more), "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["cuts"], summary["quarantined"]) == (6 + 5 + 6, 3)
    for kind in ("empty", "truncated", "nan"):
        assert f"{kind}.wav" in captured.err
    report = (out / "report.html").read_text()
    assert all(f"{kind}.wav" in report for kind in ("empty", "truncated", "nan"))
    assert "fast.wav" not in report


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["features", "targets"])
def test_a_file_deleted_before_training_is_left_out_and_named(calls, tmp_path, capsys, stage):
    more = ("data.cache_features=false", "iterations=[{steps: 3}]", "train.max_bad_fraction=0.3")
    words = [*arguments(calls, tmp_path / "run", *more), "--json", "--quiet"]
    assert main([*words, "--stage", stage]) == 0
    (calls.parent / "call-2.wav").unlink()
    capsys.readouterr()
    assert main(words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["quarantined"] == 1
    assert re.search(r"Left out call-2.*call-2\.wav does not exist", captured.err)
    assert "call-2.wav does not exist" in (tmp_path / "run/report.html").read_text()


def test_an_output_that_cannot_be_written_is_named(calls, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    sentence = refused(capsys, 1, arguments(calls, tmp_path / "file/run"))
    assert f"Cannot write to the run folder {tmp_path / 'file/run'}" in sentence
    assert (tmp_path / "file").read_text() == "mine"


def test_a_typo_is_answered_with_place_and_nearest_name(calls, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text(f"data:\n  manifest: {calls}\n  crop_second: 4\nout: {tmp_path / 'run'}\n")
    process = command("ssl.pretrain", str(config))
    status, stdout, stderr = finished(process)
    assert (status, stdout) == (2, "")
    assert stderr == (
        f"error: {config}:3: unknown setting 'data.crop_second'. Did you mean 'crop_seconds'?\n"
    )
    sentence = refused(capsys, 2, arguments(calls, tmp_path / "run", "train.lr=fast"))
    assert "override 'train.lr=fast'" in sentence
    sentence = refused(capsys, 2, [str(tmp_path / "missing.yaml")])
    assert "Cannot read the settings file" in sentence
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_other_settings_unless_they_are_free(calls, tmp_path, capsys):
    words = [*arguments(calls, tmp_path / "run"), "--stage", "features"]
    assert main(words) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*.json")}
    sentence = refused(capsys, 2, [*words, "train.lr=0.5", "mask.span=7"])
    assert "begun with other settings (mask.span, train.lr)" in sentence
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*.json")} == before
    free = (
        "train.checkpoint_every=5",
        "data.workers=1",
        "train.max_bad_fraction=0.2",
        "licence=ours",
    )
    assert main([*words, *free, "--quiet"]) == 0


def test_another_manifest_in_the_same_place_is_not_mistaken_for_the_old_one(
    calls, tmp_path, capsys
):
    words = [*arguments(calls, tmp_path / "run"), "--stage", "features"]
    assert main(words) == 0
    time.sleep(0.01)
    calls.write_text("".join(calls.read_text().splitlines(keepends=True)[:-1]))
    sentence = refused(capsys, 1, words)
    assert "was made from another manifest" in sentence
    assert (tmp_path / "run/features/part-00000/part.json").exists()


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(calls, tmp_path, capsys):
    out = tmp_path / "run"
    words = arguments(calls, out, "iterations=[{steps: 100000}]", "train.checkpoint_every=100000")
    process = command("ssl.pretrain", *words)
    try:
        deadline = time.monotonic() + 120
        while not (out / "recipe.json").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sentence = refused(capsys, 1, words)
        assert f"{out} is in use by process {process.pid} on " in sentence
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert main([*words, "--stage", "features", "--quiet"]) == 0


def test_features_that_another_run_is_making_are_not_made_twice(calls, tmp_path, capsys):
    shared = tmp_path / "shared"
    holder = "import sys, time; from pathlib import Path; from trunkline.training.tracking import locked\n"
    holder += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", holder, shared], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        words = [f"data.features={shared}", "--stage", "features"]
        sentence = refused(capsys, 1, [*arguments(calls, tmp_path / "one"), *words])
        assert f"{shared} is in use by process {process.pid}" in sentence
        process.kill()
    for name in ("one", "two"):
        assert main([*arguments(calls, tmp_path / name), *words, "--quiet"]) == 0
    assert (shared / "part-00000").is_dir()
    assert not (tmp_path / "one/features").exists()


def test_a_line_that_is_no_json_is_named(calls, tmp_path, capsys):
    lines = calls.read_text().splitlines()
    calls.write_text("\n".join([*lines, '{"audio_filepath": "call-0.wav"', *lines[:1]]) + "\n")
    sentence = refused(capsys, 1, arguments(calls, tmp_path / "run"))
    assert f"{calls}:7 is not valid JSON" in sentence
    assert not (tmp_path / "run").exists()
