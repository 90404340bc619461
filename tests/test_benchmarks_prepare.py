"""The benchmarks of data preparation and augmentation run, keep to their limits and become tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.prepare import missed
from benchmarks.prepare_tables import augment_parts, prepare_parts

ROOT = Path(__file__).parents[1]


def run(module: str, *words: object) -> int:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def test_preparation_is_measured_and_told(tmp_path: Path) -> None:
    results = tmp_path / "prepare.json"
    run("prepare", "--files", 4, "--rows", 400, "--folder", tmp_path, "--results", results)
    record = json.loads(results.read_text(encoding="utf-8"))
    assert set(record["runs"]) == {"stats", "split", "tag", "filter", "audit"}
    record["inventory"]["files_a_minute_of_a_core"] = 501  # of four files the start is all
    assert missed(record) == []
    slow = record["runs"] | {"tag": record["runs"]["tag"] | {"cpu_seconds": 61.0}}
    assert missed(record | {"runs": slow}) == ["tag: 61.0 cpu_seconds, the limit is 60"]
    parts = list(prepare_parts(record))
    assert "of 4 two-channel files" in parts[1]
    steps = parts[-1]
    assert not isinstance(steps, str)
    assert [row["step"] for row in steps] == list(record["runs"])


def test_augmentation_is_measured_and_told(tmp_path: Path) -> None:
    results = tmp_path / "augment.json"
    assert run("augment", "--data", tmp_path / "none", "--results", results) == 0
    record = json.loads(results.read_text(encoding="utf-8"))
    assert [run["faults"] for run in record["runs"].values()] == [0, 0]
    (effects, masking) = (part for part in augment_parts(record) if not isinstance(part, str))
    assert {"speed", "reverb", "noise", "band", "codec"} <= {row["operation"] for row in effects}
    assert masking[0]["ms"] > 0
