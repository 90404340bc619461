"""Pitch as a target: what MFCC leave out, and tones, emotion and speakers are told by.

Every 10 ms an autocorrelation of 50 ms is taken from the compressed spectrum (Tolonen & Karjalainen 2000: the
magnitude to the power of 0.67, so that formants do not drown the pitch), freed of the window's own (Boersma 1993)
and read at lags evenly spaced in the logarithm. Clusters of these curves tell pitch and voicing together; nothing
has to decide where a voice begins or which octave it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from encoder.config import FeatureConfig

LAGS = 48
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
WINDOW_SECONDS = 0.05
COMPRESSION = 0.67


def correlogram(waveform: np.ndarray | Tensor, config: FeatureConfig) -> np.ndarray:
    """Return the autocorrelation curves (features, LAGS) of a waveform (samples,), one for each log-mel feature."""
    curves = list(correlogram_blocks([np.asarray(waveform, dtype=np.float32)], config))
    return np.concatenate(curves) if curves else np.zeros((0, LAGS), np.float32)


def correlogram_blocks(blocks: Iterable[np.ndarray], config: FeatureConfig) -> Iterator[np.ndarray]:
    """Yield the curves (features, LAGS) of a waveform that comes in blocks (samples,), whatever their sizes."""
    window = max(round(WINDOW_SECONDS * config.sample_rate), config.window)
    before = (window - config.window) // 2
    after = np.zeros(window - config.window - before, np.float32)
    waiting = np.zeros(before, np.float32)  # so that a curve has the centre of its feature
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        curves = _curves(waiting, window, config)
        waiting = waiting[len(curves) * config.hop :]
        yield curves
    yield _curves(np.concatenate([waiting, after]), window, config)


def _curves(samples: np.ndarray, window: int, config: FeatureConfig) -> np.ndarray:
    if len(samples) < window:
        return np.zeros((0, LAGS), np.float32)
    taper = torch.hann_window(window)
    windows = torch.from_numpy(samples).unfold(0, window, config.hop)
    windows = (windows - windows.mean(dim=1, keepdim=True)) * taper
    size = 1 << (2 * window - 1).bit_length()
    correlation = torch.fft.irfft(torch.fft.rfft(windows, n=size).abs().pow(COMPRESSION), n=size)
    own = torch.fft.irfft(torch.fft.rfft(taper, n=size).abs().pow(2), n=size)
    tiny = torch.finfo(torch.float32).tiny
    correlation = correlation / correlation[:, :1].clamp_min(tiny) / (own / own[0]).clamp_min(tiny)
    lags = config.sample_rate / torch.logspace(
        math.log10(HIGHEST_HZ), math.log10(LOWEST_HZ), LAGS, dtype=torch.float64
    )
    below = lags.long()
    part = (lags - below).float()
    return torch.lerp(correlation[:, below], correlation[:, below + 1], part).numpy()
