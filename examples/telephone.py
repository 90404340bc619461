"""A telephone line, imitated, not measured: 300-3400 Hz, handset colour, level, five noises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from examples.voices import SAMPLE_RATE
from trunkline.augment.line import through_band
from trunkline.augment.noise import make_noise


@dataclass(frozen=True, slots=True)
class Handset:
    """What one side's telephone does to speech."""

    noise: str
    """One of `trunkline.augment.config.NOISES`."""
    snr_db: float
    """Speech over noise, both as heard through the telephone, while the side speaks."""
    level_dbfs: float
    tilt: float
    """Colour of the handset: exponent of frequency / 1 kHz."""


def telephone(rng: np.random.Generator, dry: np.ndarray, channel: int, line: Handset) -> np.ndarray:
    """Send a channel of clean speech (2, samples) through a handset; return (samples,), noisy.

    The filter has no phase and no delay, so word times hold.
    """
    speech = _in_band(dry[channel], line.tilt)
    speaking = dry[channel] != 0
    level = 10 ** (line.level_dbfs / 20) / np.sqrt(np.mean(speech[speaking] ** 2))
    noise = _in_band(make_noise(rng, line.noise, dry.shape[1], SAMPLE_RATE, dry), line.tilt)
    noise_level = 10 ** ((line.level_dbfs - line.snr_db) / 20) / np.sqrt(np.mean(noise**2))
    return np.clip(speech * level + noise * noise_level, -1, 1).astype(np.float32)


def _in_band(waveform: np.ndarray, tilt: float) -> np.ndarray:
    samples = torch.from_numpy(waveform.astype(np.float32, copy=False))
    return through_band(samples, SAMPLE_RATE, tilt=tilt).numpy()
