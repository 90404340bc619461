"""What README shows is true: its Python runs, its commands and files exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from encoder import Backbone, BackboneConfig
from trunkline.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_quickstart_runs(tmp_path):
    (quickstart,) = blocks("python")
    torch.manual_seed(0)
    Backbone(BackboneConfig.preset("tiny")).save(tmp_path / "demo/run/backbone")
    both_channels = np.random.default_rng(0).normal(0, 0.05, size=(16000, 2))
    soundfile.write(tmp_path / "call.wav", both_channels, 8000)
    result = subprocess.run(
        [sys.executable, "-c", quickstart],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"torch\.Size\(\[1, \d+, 96\]\)", result.stdout)
    assert re.search(r"torch\.Size\(\[5, 1, \d+, 96\]\)", result.stdout)


def test_the_example_row_is_json():
    (row,) = blocks("json")
    assert json.loads(row)["audio_filepath"]


def test_the_table_lists_every_command_and_its_module():
    rows = re.findall(r"^\| `trunkline ([\w-]+)` \| `([\w.]+)` \|", README, flags=re.MULTILINE)
    assert rows == [(name, module) for name, (module, _) in COMMANDS.items()]


def test_every_file_that_is_named_exists():
    named = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(
        r"configs/[\w/.]+", README
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
