from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from encoder import load_backbone
from examples.demo import main


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = 0.1 * rng.standard_normal((12 * 8000, 2))
        soundfile.write(folder / f"{number}.wav", noise, 8000, subtype="ULAW")
    return folder


@pytest.mark.slow
def test_own_unlabelled_recordings_give_a_backbone_and_no_probe(
    recordings: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(recordings), "--out", str(out), "--steps", "3", "--json"]) == 0
    captured = capfd.readouterr()
    summary: dict[str, Any] = json.loads(captured.out)
    run = out / "recordings" / "run"
    assert load_backbone(run / "backbone").sample_rate == 8000
    assert f"out={run}" in captured.err and "Probe: left out" in captured.err
    assert summary["frames_per_second"] > 0
    assert any("report.html" in row["path"] for row in summary["tables"]["where everything lies"])
    for place in summary["tables"]["where everything lies"]:
        assert Path(place["path"]).exists(), place


def test_recordings_that_are_not_there_end_the_demo_with_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_without_recordings_calls_are_made_and_the_backbone_is_compared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(
        "espeakng_loader", reason="needs the demo extra: pip install trunkline[demo]"
    )
    out = tmp_path / "demo"
    arguments = ["--out", str(out), "--steps", "3", "--made-calls", "9", "--json"]
    assert main(arguments) == 0
    summary = json.loads(capfd.readouterr().out)
    scores, time, places = summary["tables"].values()
    assert [row["backbone"] for row in scores] == [str(out / "run/backbone"), "random:tiny", "mfcc"]
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in scores)
    assert len(time) == 5 and all(Path(place["path"]).exists() for place in places)
