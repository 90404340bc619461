"""Noise and second talkers, at a stated ratio to the speech."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trunkline.augment.config import NOISES
from trunkline.augment.signal import speech_level, within_scale
from trunkline.errors import DataError, UsageError, nearest


def make_noise(
    rng: np.random.Generator, kind: str, length: int, sample_rate: int, voices: np.ndarray
) -> np.ndarray:
    """Make line noise (length,) float32, of any level.

    Args:
        rng: decides it.
        kind: "hiss" (white), "hum" (harmonics of 50 Hz above the band's lower edge), "street" (pink,
            swelling as cars pass), "babble" (`voices` backwards and many times over), "crackle".
        length: samples.
        sample_rate: Hz.
        voices: (talkers, samples >= 1) that babble is made of.
    """
    hiss = rng.standard_normal(length, dtype=np.float32)
    if kind == "hiss":
        return hiss
    if kind == "hum":
        period = np.arange(sample_rate // 50) / sample_rate
        tones = [np.sin(2 * np.pi * (50 * k * period + rng.random())) / k for k in range(6, 30)]
        return np.resize(np.sum(tones, axis=0, dtype=np.float32), length) + 0.02 * hiss
    if kind == "street":
        shape = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), 50) ** -0.5
        cycles = rng.uniform(0.05, 0.2) * np.arange(length) / sample_rate + rng.random()
        swell = 1 + 0.8 * np.sin(2 * np.pi * cycles)
        return (np.fft.irfft(np.fft.rfft(hiss) * shape, length) * swell).astype(np.float32)
    if kind == "babble":
        count = len(voices)
        many = [np.roll(voices[k % count, ::-1], int(rng.integers(length))) for k in range(8)]
        babble = np.sum([np.resize(voice, length) for voice in many], axis=0)
        return (babble + 0.005 * hiss).astype(np.float32)
    if kind == "crackle":
        return hiss * (0.1 + 3 * (rng.random(length) < 0.002)).astype(np.float32)
    raise UsageError(f"Unknown noise {kind!r}.{nearest(kind, NOISES)}")


def add_noise(waveform: Tensor, noise: Tensor, snr_db: float, sample_rate: int) -> Tensor:
    """Return speech with noise `snr_db` below it, both scaled down where they pass full scale.

    The ratio is of the speech where it is spoken (`speech_level`) to the noise's RMS over all of
    it. Digital silence stays as it is: there is no level that noise could be below.

    Args:
        waveform: (samples,).
        noise: (samples,), of any level.
        snr_db: dB.
        sample_rate: Hz.

    Raises:
        DataError: the noise is silent.
    """
    _check_length(waveform, noise)
    return _mix(waveform, noise, snr_db, sample_rate, float(noise.square().mean().sqrt()))


def add_talker(waveform: Tensor, talker: Tensor, ratio_db: float, sample_rate: int) -> Tensor:
    """Return two talkers, the second (zero where it does not speak) `ratio_db` below the first.

    Both levels are taken where there is speech; raises as `add_noise`.
    """
    _check_length(waveform, talker)
    return _mix(waveform, talker, ratio_db, sample_rate, speech_level(talker, sample_rate))


def _mix(speech: Tensor, other: Tensor, ratio_db: float, sample_rate: int, level: float) -> Tensor:
    if level == 0.0:
        raise DataError("What was to be mixed in is silent; leave it out of the manifest.")
    gain = speech_level(speech, sample_rate) / level * 10 ** (-ratio_db / 20)
    return within_scale(speech + gain * other)


def _check_length(waveform: Tensor, other: Tensor) -> None:
    if waveform.shape != other.shape:
        raise UsageError(
            f"Speech is {tuple(waveform.shape)}, what is mixed in {tuple(other.shape)}; both must "
            "be (samples,) of one length."
        )


def as_tensor(samples: np.ndarray, like: Tensor) -> Tensor:
    """Return samples as a float32 tensor where `like` lies."""
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(like.device)
