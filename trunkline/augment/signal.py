"""Speed, level and clipping of a waveform, and how loud the speech in one is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import soxr
import torch
from torch import Tensor

from trunkline.errors import UsageError

FRAME = 0.02  # s; levels are measured, and packets lost, in frames of this length
_SPOKEN = 1e-3  # frames within 30 dB of the loudest one count as speech


def frames_of(waveform: Tensor, sample_rate: int) -> Tensor:
    """Return (frames, samples) of 20 ms, the last one padded with zeros."""
    size = max(1, round(FRAME * sample_rate))
    count = -(-waveform.shape[-1] // size)
    return torch.nn.functional.pad(waveform, (0, count * size - waveform.shape[-1])).view(-1, size)


def speech_level(waveform: Tensor, sample_rate: int) -> float:
    """Return the RMS of a waveform (samples,) where there is speech in it; 0 for digital silence.

    Speech is every 20 ms frame within 30 dB of the loudest one, so that a talker's pauses do not
    make a stated signal-to-noise ratio mean another one in every file (as ITU-T P.56 does it).
    """
    power = frames_of(waveform, sample_rate).square().mean(dim=1)
    if not len(power):
        return 0.0
    return float(power[power >= _SPOKEN * power.max()].mean().sqrt())


def within_scale(waveform: Tensor) -> Tensor:
    """Return the waveform, scaled down as a whole where it would pass full scale."""
    if not waveform.numel():
        return waveform
    return waveform / waveform.abs().amax().clamp_min(1.0)


def resample(waveform: Tensor, source_rate: float, target_rate: float) -> Tensor:
    """Return the waveform at another rate by soxr (high quality), on the device it came from.

    It is computed on the host wherever the waveform lies, so that an item is the same everywhere.
    """
    if source_rate == target_rate or not waveform.numel():
        return waveform
    host = waveform.detach().cpu().numpy().astype(np.float32, copy=False)
    return torch.from_numpy(soxr.resample(host, source_rate, target_rate)).to(waveform.device)


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """Return the waveform `factor` times as fast, (samples / factor,), its pitch moved alike.

    One resampling, and the result is played at the old rate. (Resampling up and back again, which
    earlier pipelines did, is the identity.)

    Raises:
        UsageError: the factor is outside 0.5 to 2.
    """
    if not 0.5 <= factor <= 2:
        raise UsageError(f"A speed factor must be 0.5 to 2, not {factor}.")
    ratio = Fraction(factor).limit_denominator(1000)
    return within_scale(resample(waveform, ratio.numerator, ratio.denominator))


def change_volume(waveform: Tensor, gain_db: float) -> Tensor:
    """Return the waveform louder by `gain_db`, as far as full scale allows: it never clips."""
    return within_scale(waveform * 10 ** (gain_db / 20))


def clip_peaks(waveform: Tensor, share: float) -> Tensor:
    """Return the waveform with the loudest `share` of its samples cut off to flat tops."""
    count = int(share * waveform.numel())
    if not 0 < count < waveform.numel():
        return waveform
    limit = float(waveform.abs().kthvalue(waveform.numel() - count).values)
    return waveform.clamp(-limit, limit)
