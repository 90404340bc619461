"""`trunkline data check` finds every fault and goes on; `trunkline data import` writes a manifest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.manifest import load_manifest
from trunkline.prepare.check import KINDS, check

ROOT = Path(__file__).parents[1]


def data(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "trunkline.prepare.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def sine(seconds: float = 1.0, rate: int = 8000, peak: float = 0.5) -> np.ndarray:
    return peak * np.sin(np.arange(round(seconds * rate)) * 0.3)


def corpus(folder: Path) -> tuple[Path, dict[int, str]]:
    """Write a manifest with every fault a line can have; return it and the fault of each line."""
    audio = folder / "audio"
    audio.mkdir()
    soundfile.write(audio / "good.wav", sine(), 8000)
    soundfile.write(audio / "stereo.wav", np.stack([sine(), sine(peak=0.2)], 1), 8000)
    soundfile.write(audio / "dual.wav", np.stack([sine(), sine()], 1), 8000)
    soundfile.write(audio / "silent.wav", sine(peak=1e-4), 8000)
    soundfile.write(audio / "clipped.wav", np.clip(sine(peak=3), -1, 1), 8000)
    soundfile.write(audio / "loud.wav", sine(peak=0.999), 8000)
    soundfile.write(audio / "mulaw.wav", sine(peak=0.9), 8000, subtype="ULAW")
    nan = sine()
    nan[400] = np.nan
    soundfile.write(audio / "nan.wav", nan, 8000, subtype="FLOAT")
    soundfile.write(audio / "scale.wav", sine() * 32768, 8000, subtype="FLOAT")
    whole = (audio / "good.wav").read_bytes()
    (audio / "cut.wav").write_bytes(whole[:9000])
    (audio / "zero.wav").write_bytes(b"")
    (audio / "text.wav").write_text("words\n" * 99)
    soundfile.write(audio / "whole.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 8000)
    (audio / "late.flac").write_bytes((audio / "whole.flac").read_bytes()[:40000])
    rows: list[tuple[Any, str]] = [
        ({"audio_filepath": "audio/good.wav", "id": "a", "duration": 1.02}, ""),
        ({"audio_filepath": "audio/gone.wav"}, "missing"),
        ("{oops", "row"),
        ({"audio_filepath": "audio/text.wav"}, "unreadable"),
        ({"audio_filepath": "audio/zero.wav"}, "empty"),
        ({"audio_filepath": "audio/cut.wav"}, "truncated"),
        ({"audio_filepath": "audio/good.wav", "id": "r", "sampling_rate": 16000}, "rate"),
        ({"audio_filepath": "audio/good.wav", "id": "d", "duration": 1.3}, "duration"),
        ({"audio_filepath": "audio/good.wav", "id": "s", "start": 0.5, "end": 1.5}, "span"),
        ({"audio_filepath": "audio/stereo.wav"}, "channel"),
        ({"audio_filepath": "audio/stereo.wav", "channel": 2}, "channel"),
        ({"audio_filepath": "audio/good.wav", "id": "a"}, "duplicate"),
        ({"duration": 1.0}, "row"),
        ({"audio_filepath": "audio/nan.wav"}, "nan"),
        ({"audio_filepath": "audio/silent.wav"}, "silent"),
        ({"audio_filepath": "audio/clipped.wav"}, "clipped"),
        ({"audio_filepath": "audio/scale.wav"}, "scale"),
        ({"audio_filepath": "audio/late.flac"}, "truncated"),
        ({"audio_filepath": "audio/dual.wav", "channel": "agent"}, ""),
        ({"audio_filepath": "audio/loud.wav"}, ""),
        ({"audio_filepath": "audio/mulaw.wav"}, ""),
        ({"audio_filepath": "audio/good.wav", "id": "last", "start": 0.2, "end": 0.4}, ""),
    ]
    lines = [row if isinstance(row, str) else json.dumps(row) for row, _ in rows]
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "m.jsonl", {line: kind for line, (_, kind) in enumerate(rows, 1) if kind}


def test_every_fault_is_found_with_its_line_and_none_stops_the_check(tmp_path: Path) -> None:
    manifest, faults = corpus(tmp_path)
    report = tmp_path / "report.json"
    done = data("check", manifest, "--samples", "--report", report)
    assert done.returncode == 1, done.stderr
    found = json.loads(report.read_text())
    assert {fault["line"]: fault["kind"] for fault in found["faults"]} == faults
    assert len(found["faults"]) == len(faults) == sum(found["counts"].values())
    assert set(found["counts"]) == set(KINDS) - {"manifest"}
    assert [(note["kind"], note["line"]) for note in found["notes"]] == [("dual_mono", 19)]
    assert (found["cuts"], found["files"]) == (20, 14)
    by_line = {fault["line"]: fault for fault in found["faults"]}
    assert by_line[2]["file"] == str(tmp_path / "audio/gone.wav")
    assert "m.jsonl:3 is not valid JSON" in by_line[3]["message"]
    assert "sample 400" in by_line[14]["message"]
    assert "stands on line 1" in by_line[12]["message"]
    assert "Traceback" not in done.stderr


def test_headers_alone_leave_the_samples_unread(tmp_path: Path) -> None:
    manifest, faults = corpus(tmp_path)
    done = data("check", manifest, "--json")
    shown = json.loads(done.stdout)
    decoded = {14, 15, 16, 17, 18}
    assert {row["line"] for row in shown["tables"]["faults"]} == set(faults) - decoded
    assert (done.returncode, shown["faults"], shown["notes"]) == (1, len(faults) - len(decoded), 0)


def test_sound_data_exits_0(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([sine(), sine(peak=0.3)], 1), 8000)
    soundfile.write(tmp_path / "b.flac", sine(2), 16000)
    done = data("check", tmp_path, "--samples", "--report", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["faults"], report["cuts"], report["files"]) == ([], 3, 2)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (None, 1, "error: .*gone.jsonl does not exist"),
        ("", 1, "is empty"),
        ("key\twav\n", 1, "holds no cuts|is not valid JSON"),
    ],
)
def test_a_manifest_that_is_none_is_one_sentence(
    tmp_path: Path, content: str | None, status: int, message: str
) -> None:
    path = tmp_path / "gone.jsonl"
    if content is not None:
        path.write_text(content)
    done = data("check", path)
    assert done.returncode == status
    assert re.search(message, done.stderr + done.stdout)
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(), 8000)
    (tmp_path / "taken").mkdir()
    done = data("check", tmp_path, "--report", tmp_path / "taken")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: Cannot write")


def test_a_file_deleted_after_the_check_is_named_when_it_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(), 8000)
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav"}\n')
    assert check(tmp_path / "m.jsonl", samples=True).faults == []
    (cut,) = load_manifest(tmp_path / "m.jsonl")
    (tmp_path / "a.wav").unlink()
    with pytest.raises(OSError, match=r"a\.wav does not exist"):
        cut.load()
    assert check(tmp_path / "m.jsonl").counts() == {"missing": 1}


def test_import_writes_a_manifest_that_checks_clean_and_reads_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "kaldi"
    folder.mkdir()
    soundfile.write(folder / "c1.wav", np.stack([sine(3), sine(3, peak=0.1)], 1), 8000)
    (folder / "wav.scp").write_text("c1-A c1.wav\nc1-B c1.wav\n")
    (folder / "reco2file_and_channel").write_text("c1-A c1 A\nc1-B c1 B\n")
    (folder / "segments").write_text("u1 c1-A 0.5 1.5\nu2 c1-B 1.0 2.0\n")
    (folder / "text").write_text("u1 xin chào\nu2 dạ\n")
    done = data("import", folder, tmp_path / "out" / "m.jsonl", "--json")
    assert (done.returncode, json.loads(done.stdout)["cuts"]) == (0, 2), done.stderr
    assert data("check", tmp_path / "out" / "m.jsonl", "--samples").returncode == 0
    before, after = load_manifest(folder), load_manifest(tmp_path / "out" / "m.jsonl")
    for one, other in zip(before, after, strict=True):
        assert (one.id, one.text, one.start, one.call_id) == (
            other.id, other.text, other.start, other.call_id,
        )  # fmt: skip
        np.testing.assert_array_equal(one.load(), other.load())


@settings(max_examples=15, deadline=None)
@given(keep=st.floats(0.0, 0.999), suffix=st.sampled_from(["wav", "flac", "mp3"]))
def test_wherever_a_file_is_cut_short_the_check_tells(
    keep: float, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, 16000)
    soundfile.write(folder / f"whole.{suffix}", noise, 8000)
    whole = (folder / f"whole.{suffix}").read_bytes()
    (folder / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * keep)])
    report = check(folder, samples=True)
    assert [Path(fault.file).name for fault in report.faults] == [f"cut.{suffix}"]
    assert report.faults[0].kind in ("truncated", "empty", "unreadable")
