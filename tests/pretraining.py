"""A small made corpus and tiny settings for the tests of pretraining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from encoder import Backbone, BackboneConfig
from ssl.clustering import Stretches, cluster_mfcc
from ssl.corpus import Features, Labels
from ssl.crops import Crops
from ssl.masking import MaskConfig
from ssl.targets import TargetConfig
from trunkline.manifest import Manifest, load_manifest, write_manifest

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs/pretrain/tiny.yaml"
SMALL = (
    "data.crop_seconds=2",
    "data.batch_seconds=6",
    "targets.clusters=8",
    "targets.sample_rows=2000",
    "train.warmup_steps=2",
    "train.log_every=2",
    "train.threads=1",
    "train.trackers=[]",
)
TWO_ROUNDS = "iterations=[{steps: 8}, {steps: 4, clusters: 8}]"


def call(seed: int, seconds: float, rate: int = 8000) -> np.ndarray:
    """Return a made call: a tone that changes its pitch four times a second, and some noise."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * rate)
    pitch = np.repeat(rng.choice([200, 400, 800, 1600], size=samples // (rate // 4) + 1), rate // 4)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch[:samples]) / rate)
    return (tone + 0.01 * rng.standard_normal(samples)).astype(np.float32)


def write_calls(folder: Path, number: int = 12, rate: int = 8000) -> Path:
    """Write calls of 2 to 4 seconds and return the manifest of them."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(number):
        waveform = call(index, 2 + index % 5 / 2, rate)
        soundfile.write(folder / f"call-{index}.wav", waveform, rate)
        rows.append({"id": f"call-{index}", "audio_filepath": str(folder / f"call-{index}.wav")})
    write_manifest(rows, folder / "calls.jsonl")
    return folder / "calls.jsonl"


def arguments(manifest: Path, out: Path, *more: str) -> list[str]:
    """Return the arguments of `ssl.pretrain` and `ssl.cluster` for a tiny run; later settings win."""
    return [str(CONFIG), f"data.manifest={manifest}", f"out={out}", *SMALL, TWO_ROUNDS, *more]


def command(module: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command as a user would."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", *module.split(), *words],
        env=environment,
        cwd=ROOT,
        **pipes | options,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command; return its status, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def fingerprint(out: Path) -> str:
    """Return the fingerprint of the backbone that a run exported."""
    return json.loads((out / "backbone/config.json").read_text())["fingerprint"]


def prepare(manifest: Manifest | Path, folder: Path, *, keep: bool = True) -> Features:
    """Return the features of a corpus, of which half may be unreadable."""
    source = load_manifest(manifest) if isinstance(manifest, Path) else manifest
    config = BackboneConfig.preset("tiny").features
    return Features.prepare(source, config, folder, keep=keep, max_bad_fraction=0.5)


def make_crops(
    manifest: Path,
    folder: Path,
    *,
    keep: bool = True,
    crop: int = 20,
    cuts: Sequence[int] | None = None,
) -> tuple[Crops, Features, Labels]:
    """Return crops over a corpus with MFCC targets, with their features and labels."""
    source, features = load_manifest(manifest), prepare(manifest, folder / "features", keep=keep)
    backbone = Backbone(BackboneConfig.preset("tiny"))
    config = TargetConfig(clusters=8, sample_rows=2000)
    stretches = Stretches(source, features, backbone, max_bad_fraction=0.5)
    labels = cluster_mfcc(stretches, config, folder / "targets", seed=0)
    chosen = features.cuts if cuts is None else np.asarray(cuts)
    options = {"cuts": chosen, "crop": crop, "seed": 3}
    mask = MaskConfig(span=4)
    return Crops(source, features, labels, mask, features_config(), **options), features, labels


def features_config():
    """Return the features of the tiny backbone."""
    return BackboneConfig.preset("tiny").features
