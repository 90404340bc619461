"""A telephone line, imitated, not measured: 300-3400 Hz, handset colour, level, five noises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.voices import SAMPLE_RATE

NOISES = ("hiss", "hum", "street", "babble", "crackle")


@dataclass(frozen=True, slots=True)
class Handset:
    """What one side's telephone does to speech."""

    noise: str
    snr_db: float
    """Speech over noise, both as heard through the telephone, while the side speaks."""
    level_dbfs: float
    tilt: float
    """Colour of the handset: exponent of frequency / 1 kHz."""


def telephone(rng: np.random.Generator, dry: np.ndarray, channel: int, line: Handset) -> np.ndarray:
    """Send a channel of clean speech (2, samples) through a handset; return (samples,), noisy.

    The filter has no phase and no delay, so word times hold.
    """
    speech = _through_band(dry[channel], line.tilt)
    speaking = dry[channel] != 0
    level = 10 ** (line.level_dbfs / 20) / np.sqrt(np.mean(speech[speaking] ** 2))
    noise = _through_band(_noise(rng, line.noise, dry), line.tilt)
    noise_level = 10 ** ((line.level_dbfs - line.snr_db) / 20) / np.sqrt(np.mean(noise**2))
    return np.clip(speech * level + noise * noise_level, -1, 1).astype(np.float32)


def _through_band(waveform: np.ndarray, tilt: float) -> np.ndarray:
    frequency = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    gain = np.interp(frequency, (200, 300, 3200, 3400), (0, 1, 1, 0))
    gain *= (np.maximum(frequency, 100) / 1000) ** tilt
    return np.fft.irfft(np.fft.rfft(waveform) * gain.astype(np.float32), len(waveform))


def _noise(rng: np.random.Generator, kind: str, dry: np.ndarray) -> np.ndarray:
    """Make line noise as long as the call (2, samples), of any level."""
    length = dry.shape[1]
    hiss = rng.standard_normal(length, dtype=np.float32)
    if kind == "hum":
        period = np.arange(SAMPLE_RATE // 50) / SAMPLE_RATE
        tones = [np.sin(2 * np.pi * (50 * k * period + rng.random())) / k for k in range(6, 30)]
        return np.resize(np.sum(tones, axis=0, dtype=np.float32), length) + 0.02 * hiss
    if kind == "street":  # pink, swelling and fading as cars pass
        shape = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 50) ** -0.5
        cycles = rng.uniform(0.05, 0.2) * np.arange(length) / SAMPLE_RATE + rng.random()
        return np.fft.irfft(np.fft.rfft(hiss) * shape, length) * (
            1 + 0.8 * np.sin(2 * np.pi * cycles)
        )
    if kind == "babble":  # the call itself, backwards and many times over
        voices = [np.roll(dry[k % 2, ::-1], int(rng.integers(length))) for k in range(8)]
        return np.sum(voices, axis=0) + 0.005 * hiss
    if kind == "crackle":
        return hiss * (0.1 + 3 * (rng.random(length) < 0.002))
    return hiss
