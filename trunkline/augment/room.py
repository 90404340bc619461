"""Rooms: responses of energy 1 whose first sample is the direct sound."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trunkline.augment.signal import speech_level, within_scale
from trunkline.errors import DataError

_LONGEST = 1.0  # s of a response that are used
_BEFORE = 0.001  # s before the largest peak where the direct sound may have begun


def make_response(
    rng: np.random.Generator, sample_rate: int, decay: float, direct_db: float
) -> np.ndarray:
    """Make a room response (samples,) float32: direct sound, then noise that dies away.

    Args:
        rng: decides the reflections.
        sample_rate: Hz.
        decay: seconds until the reflections have fallen by 60 dB (RT60).
        direct_db: energy of the direct sound over that of all reflections, dB.
    """
    seconds = np.arange(round(min(1.2 * decay, _LONGEST) * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / decay)
    tail[: max(1, round(0.002 * sample_rate))] = 0.0  # the nearest wall is 30 cm away
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def normalise_response(response: Tensor, sample_rate: int) -> Tensor:
    """Return a response that begins with its direct sound and has energy 1.

    A recorded response is as loud as whoever recorded it; taken as it is, it makes speech many
    times louder and clips it. Cutting what lies before the direct sound keeps word times.

    Raises:
        DataError: the response is silent.
    """
    first = max(0, int(response.abs().argmax()) - round(_BEFORE * sample_rate))
    response = response[first : first + round(_LONGEST * sample_rate)]
    energy = response.square().sum()
    if not float(energy) > 0:
        raise DataError("A room response is silent; leave it out of the manifest.")
    return response / energy.sqrt()


def reverberate(waveform: Tensor, response: Tensor, sample_rate: int) -> Tensor:
    """Return speech (samples,) in a room, of the same length and level.

    A response of energy 1 keeps the level of noise, not of a voice whose pitch meets a resonance,
    so the level of the speech is brought back too. Raises as `normalise_response`.
    """
    response = normalise_response(response, sample_rate)
    total = waveform.shape[-1] + response.shape[-1] - 1
    size = fast_length(total)
    spectrum = torch.fft.rfft(waveform, size) * torch.fft.rfft(response, size)
    wet = torch.fft.irfft(spectrum, size)[: waveform.shape[-1]]
    level = speech_level(wet, sample_rate)
    return within_scale(wet * (speech_level(waveform, sample_rate) / level if level else 1.0))


def fast_length(length: int) -> int:
    """Return the power of two from `length` on: a prime length would cost a transform many times more."""
    return 1 << max(0, length - 1).bit_length()
