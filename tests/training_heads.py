"""A small made corpus of labelled turns, a tiny backbone, and settings for the tests of training heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from encoder_backbones import strong_backbone

from encoder import Backbone
from heads.config import HeadsConfig
from trunkline.settings import load_settings

TONES = {"low": 250, "middle": 600, "high": 1500}
RATE = 8000


def write_turns(folder: Path, number: int = 30, *, dev: int = 9) -> Path:
    """Write turns of a third of a second to one second, each a tone, and return their manifest.

    The label `intent` names the tone; every second turn has `mood` too, and `text` spells the tone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number + dev):
        name = list(TONES)[index % 3]
        samples = int(RATE * (0.35 + 0.06 * (index % 10)))
        wave = np.sin(2 * np.pi * TONES[name] * np.arange(samples) / RATE) * 0.3
        wave = wave + 0.01 * rng.standard_normal(samples)
        soundfile.write(folder / f"{index}.wav", wave.astype(np.float32), RATE)
        row: dict[str, Any] = {
            "id": f"turn-{index}",
            "audio_filepath": f"{index}.wav",
            "call_id": f"call-{index // 3}",
            "speaker": f"voice-{index % 3}",
            "split": "train" if index < number else "dev",
            "text": name[0],
            "labels": {"intent": name},
        }
        if index % 2:
            row["labels"]["mood"] = "good" if index % 3 else "bad"
        rows.append(row)
    return write_rows(folder / "turns.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest as it is given."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_backbone(folder: Path) -> Backbone:
    """Save a tiny backbone with strong weights."""
    backbone = strong_backbone()
    backbone.save(folder)
    return backbone


def settings(
    turns: Path, backbone: Path, out: Path, *changes: str, head: str = "intent"
) -> HeadsConfig:
    """Return the settings of a short run; later changes win."""
    given = [
        f"backbone={backbone}",
        f"out={out}",
        f"data.train={turns}",
        "data.split=train",
        "data.batch_seconds=8",
        f"heads.{head}.options.hidden=16",
        "contexts.full=1.0",
        "train.steps=12",
        "train.lr=0.01",
        "train.evaluate_every=4",
        "train.checkpoint_every=4",
        "train.log_every=1",
        "train.threads=1",
        "train.trackers=[]",
    ]
    return load_settings(HeadsConfig, None, [*given, *changes])
