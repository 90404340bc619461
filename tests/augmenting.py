"""What the tests of augmentation share: the committed settings, tones, and the command as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from trunkline.augment import AugmentConfig
from trunkline.settings import load_settings

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/augment/telephone.yaml"
RATE = 8000


def tone(
    frequency: float, seconds: float = 1.0, rate: int = RATE, peak: float = 0.5
) -> torch.Tensor:
    return peak * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)


def everything(**changes) -> AugmentConfig:
    config = load_settings(AugmentConfig, CONFIG)
    return AugmentConfig(**({name: getattr(config, name) for name in vars(config)} | changes))


def data(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trunkline.prepare.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
