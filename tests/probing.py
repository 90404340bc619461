"""Made vectors, made audio and the command, for tests of probes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from ssl.pooled import Pooled
from trunkline.manifest import Cut

ROOT = Path(__file__).parent.parent
RATE = 8000
PITCHES = {"low": 200.0, "mid": 700.0, "high": 2000.0}


def made_features(
    informative: int,
    *,
    per_split: int = 90,
    classes: int = 3,
    shuffled: bool = False,
    seed: int = 0,
) -> dict[str, Pooled]:
    """Three layers of noise, in one of which the classes are far apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 8)) * 2.5
    features = {}
    for split in ("train", "dev", "test"):
        targets = np.arange(per_split) % classes
        vectors = rng.normal(size=(per_split, 3, 8))
        vectors[:, informative] += centres[targets]
        if shuffled:
            rng.shuffle(targets)
        cuts = [
            Cut(f"{split}{index}", Path("none.wav"), f"{split}{index}", extra={"tone": str(target)})
            for index, target in enumerate(targets)
        ]
        features[split] = Pooled(torch.from_numpy(vectors).float(), cuts)
    return features


def made_corpus(folder: Path, *, split: bool = True, speakers: int = 0, number: int = 48) -> Path:
    """Hummed notes of three pitches in noise; cut 0 is shorter than one frame of the encoder."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(number):
        pitch = list(PITCHES)[index % 3]
        seconds = 0.1 if index == 0 else 0.3 + 0.2 * rng.random()
        times = np.arange(int(RATE * seconds)) / RATE
        wave = 0.3 * np.sin(2 * np.pi * PITCHES[pitch] * times) + 0.02 * rng.normal(size=len(times))
        soundfile.write(folder / f"{index}.wav", wave, RATE)
        row = {"audio_filepath": f"{index}.wav", "pitch": pitch, "always": "same"}
        if split:
            row["split"] = ("train", "dev", "test")[(index // 3) % 3]
        if speakers:
            row["speaker"] = f"speaker{(index // 3) % speakers}"
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "trunkline", "probe", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
