"""`trunkline encode` and `trunkline bench`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from encoder_backbones import strong_backbone

from encoder import Context, bench, encode, load_backbone

ROOT = Path(__file__).parent.parent
LIMITS = Context(4, 6, 2)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    strong_backbone().save(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A long call of two channels, turns of a second, and a very short one."""
    folder, rng = tmp_path / "recordings", np.random.default_rng(0)
    folder.mkdir()
    soundfile.write(folder / "call.wav", 0.1 * rng.standard_normal((25 * 8000, 2)), 8000)
    for number in range(3):
        soundfile.write(folder / f"turn-{number}.wav", 0.1 * rng.standard_normal(8000), 8000)
    soundfile.write(folder / "word.wav", 0.1 * rng.standard_normal(500), 8000)
    return folder


def run(capsys, *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    status = encode.main([*map(str, words), "--context", "4,6,2", "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else {}, captured.err


def index(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len(rows), "nothing stands there twice"
    return {row["id"]: row for row in rows}


def test_a_folder_becomes_a_file_of_frames_for_each_channel(backbone, recordings, tmp_path, capsys):
    out = tmp_path / "frames"
    status, summary, _ = run(capsys, backbone, recordings, out)
    assert status == 0
    assert (summary["cuts"], summary["encoded"], summary["quarantined"]) == (6, 6, 0)
    model, rows = load_backbone(backbone), index(out)
    assert sorted(rows) == [
        "call.wav#0",
        "call.wav#1",
        "turn-0.wav",
        "turn-1.wav",
        "turn-2.wav",
        "word.wav",
    ]
    for row in rows.values():
        frames = np.load(out / row["file"], allow_pickle=False)
        expected = model.encode(row["audio_filepath"], channel=row.get("channel"), context=LIMITS)
        assert frames.shape == (row["frames"], 16) and frames.dtype == np.float32
        np.testing.assert_allclose(frames, expected.frames[0].numpy(), atol=1e-5)
    about = json.loads((out / "encode.json").read_text())
    times = model.encode(recordings / "turn-0.wav", context=LIMITS).times
    assert about["backbone"] == model.fingerprint and about["context"] == [4, 6, 2]
    assert about["first_time"] == times[0] and about["frame_shift"] == pytest.approx(0.08)


def test_one_file_one_channel_one_layer_in_half_precision(backbone, recordings, tmp_path, capsys):
    out, call = tmp_path / "frames", recordings / "call.wav"
    words = ["--channel", "customer", "--layer", "1", "--dtype", "float16"]
    status, summary, _ = run(capsys, backbone, call, out, *words)
    assert (status, summary["cuts"]) == (0, 1)
    (row,) = index(out).values()
    frames = np.load(out / row["file"])
    model = load_backbone(backbone)
    layer = model.encode(call, channel=1, context=LIMITS, layers=[1]).layers[0, 0]
    assert frames.dtype == np.float16 and row["channel"] == 1
    np.testing.assert_allclose(frames, layer.numpy(), rtol=2e-3, atol=2e-3)


def test_cuts_of_a_manifest_are_stretches_of_their_recordings(
    backbone, recordings, tmp_path, capsys
):
    rows = [
        {"id": "a/1", "audio_filepath": "call.wav", "channel": "agent", "start": 1.0, "end": 3.0},
        {
            "id": "a:1",
            "audio_filepath": "call.wav",
            "channel": "customer",
            "start": 2.0,
            "end": 24.5,
        },
    ]
    manifest = recordings / "cuts.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, backbone, manifest, tmp_path / "frames")[0] == 0
    model, found = load_backbone(backbone), index(tmp_path / "frames")
    samples = soundfile.read(recordings / "call.wav", dtype="float32")[0]
    for row, channel in zip(rows, (0, 1), strict=True):
        stretch = samples[round(row["start"] * 8000) : round(row["end"] * 8000), channel]
        expected = model.encode(stretch, context=LIMITS).frames[0].numpy()
        np.testing.assert_allclose(
            np.load(tmp_path / "frames" / found[row["id"]]["file"]), expected, atol=1e-5
        )


def test_bad_files_are_quarantined_and_asked_again_by_the_next_run(
    backbone, recordings, tmp_path, capsys
):
    out = tmp_path / "frames"
    (recordings / "empty.wav").write_bytes(b"")
    broken = (recordings / "call.wav").read_bytes()
    nan = np.full(30 * 8000, np.nan, np.float32)
    soundfile.write(recordings / "nan.wav", nan, 8000, subtype="FLOAT")
    words = ["--max-bad-fraction", "0.5"]
    status, summary, _ = run(capsys, backbone, recordings, out, *words)
    assert (status, summary["encoded"], summary["quarantined"]) == (0, 6, 2)
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    reasons = {Path(row["file"]).name: row["reason"] for row in map(json.loads, lines)}
    assert "0 bytes" in reasons["empty.wav"] and "NaN" in reasons["nan.wav"]
    assert not list((out / "frames").glob("*.tmp"))
    (recordings / "empty.wav").write_bytes(broken)
    status, summary, _ = run(capsys, backbone, recordings, out, *words)
    assert (summary["encoded"], summary["already_there"], summary["quarantined"]) == (2, 6, 1)


def test_too_many_bad_files_stop_the_run(backbone, recordings, tmp_path, capsys):
    for number in range(3):
        (recordings / f"bad-{number}.wav").write_bytes(b"no recording at all")
    status, _, message = run(capsys, backbone, recordings, tmp_path / "frames")
    assert status == 1
    assert "2 of 9 cuts cannot be read, more than --max-bad-fraction 0.01 allows" in message
    assert "bad-0.wav" in message and "Traceback" not in message


def test_a_run_that_is_killed_goes_on_with_nothing_lost_or_doubled(
    backbone, recordings, tmp_path, capsys
):
    out, rng = tmp_path / "frames", np.random.default_rng(1)
    for number in range(40):
        soundfile.write(
            recordings / f"long-{number:02d}.wav", 0.1 * rng.standard_normal(21 * 8000), 8000
        )
    command = [
        sys.executable,
        "-m",
        "trunkline",
        "encode",
        backbone,
        recordings,
        out,
        "--context",
        "4,6,2",
    ]
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    for _ in range(3000):
        if (out / "index.jsonl").exists() and len(index(out)) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = index(out)
    assert 3 <= len(done) < 46
    with (out / "index.jsonl").open("a") as file:
        file.write('{"id": "cut short by the ki')
    status, summary, _ = run(capsys, backbone, recordings, out)
    assert status == 0 and summary["already_there"] == len(done)
    assert summary["encoded"] == 46 - len(done) and len(index(out)) == 46
    assert sorted(f"frames/{path.name}" for path in (out / "frames").glob("*.npy")) == sorted(
        row["file"] for row in index(out).values()
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--context", "0,1,1"], 2, "chunk must be at least 1"),
        (["--context", "abc"], 2, "write 'full' or chunk,left,right"),
        (["--layer", "3"], 2, "--layer 3: the layers are 0 to 2"),
        (["--channel", "caller"], 2, "give agent, customer, or a number"),
        (["--channel", "5"], 1, "no cut with channel = 5"),
        (["--max-bad-fraction", "2"], 2, "is no share"),
    ],
)
def test_what_cannot_be_asked_is_answered_in_a_sentence(
    backbone, recordings, tmp_path, capsys, words, status, message
):
    out = tmp_path / "frames"
    assert encode.main([str(backbone), str(recordings), str(out), *words]) == status
    assert message in capsys.readouterr().err


def test_frames_of_other_settings_are_not_mixed(backbone, recordings, tmp_path, capsys):
    out = tmp_path / "frames"
    assert run(capsys, backbone, recordings / "word.wav", out)[0] == 0
    status = encode.main([str(backbone), str(recordings), str(out), "--context", "full"])
    assert status == 2 and "frames of another context" in capsys.readouterr().err
    status, _, message = run(capsys, backbone, recordings, recordings)
    assert status == 2 and "holds other files" in message
    status, _, message = run(capsys, tmp_path / "nowhere", recordings, tmp_path / "new")
    assert status == 1 and "is not a directory" in message
    status, _, message = run(capsys, backbone, tmp_path / "nowhere.wav", tmp_path / "new")
    assert status == 1 and "does not exist" in message


def test_two_cuts_of_one_id_are_refused(backbone, recordings, tmp_path, capsys):
    rows = [{"id": "same", "audio_filepath": "word.wav"}] * 2
    (recordings / "cuts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, message = run(capsys, backbone, recordings / "cuts.jsonl", tmp_path / "frames")
    assert status == 1 and "several cuts have the id 'same'" in message


def test_bench_measures_this_machine(backbone, capsys):
    words = [
        "--backbone",
        str(backbone),
        "--seconds",
        "4",
        "--rounds",
        "1",
        "--streams",
        "2",
        "--json",
    ]
    assert bench.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in found["tables"]["Speed"]}
    assert list(rows) == ["features", "long recording", "batch of 3 short ones"]
    for row in rows.values():
        assert row["real_time_factor"] * row["audio_s"] == pytest.approx(row["wall_s"])
    assert found["stream"]["latency_s"] == pytest.approx(7 * 0.08 + 0.165)
    assert found["stream"]["step_median_ms"] > 0 and found["peak_rss_mb"] > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "0"], "must be above 0"),
        (["--threads", "0"], "--threads 0 cannot be"),
        (["--backbone", "random:smal"], "Did you mean 'small'"),
        (["--live", "full"], "A stream cannot have full context"),
        (["--seconds", "0.5"], "less than two steps"),
    ],
)
def test_bench_that_cannot_be_is_answered_in_a_sentence(backbone, capsys, words, message):
    assert bench.main(["--backbone", str(backbone), "--rounds", "1", "--seconds", "2", *words]) == 2
    assert message in capsys.readouterr().err
