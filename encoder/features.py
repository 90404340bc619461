"""Log-mel filterbank features, equal to Kaldi's, in batched PyTorch; streaming; global normalisation.

The computation is that of ``torchaudio.compliance.kaldi.fbank`` without dither and energy: int16-scaled samples,
the mean of each window removed, pre-emphasis, povey window, power spectrum, mel filters, natural logarithm with
float32 epsilon as floor, and only windows that lie inside the audio (``snip_edges``). The operations are those of
the reference in its order: where a bin is 1e8 times weaker than the loudest one, float32 rounding alone moves its
logarithm by 0.02, so another order would not meet the reference there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from encoder.config import FeatureConfig

INT16_SCALE = 32768.0
"""Kaldi's features are of samples in int16 units; the toolkit's audio is in [-1, 1]."""
LOWEST = torch.finfo(torch.float32).eps
"""What a mel energy is at least, as in Kaldi."""


def num_features(num_samples: int, config: FeatureConfig) -> int:
    """Return how many features `num_samples` samples give."""
    return 0 if num_samples < config.window else 1 + (num_samples - config.window) // config.hop


class LogMel(nn.Module):
    """Waveform to log-mel features; works on any device and is the same for one item and a batch."""

    window: Tensor
    mel_filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        povey = torch.hann_window(config.window, periodic=False).pow(0.85)
        self.register_buffer("window", povey, persistent=False)
        # The spectrum's last bin belongs to no filter.
        filters = nn.functional.pad(mel_filters(config), (0, 0, 0, 1))
        self.register_buffer("mel_filters", filters, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        # Follows the backbone to its device and stays in float32, whatever the type of the weights.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features.

        Args:
            waveform: (..., samples) float in [-1, 1] at `config.sample_rate`.

        Returns:
            (..., features, num_mels) natural-log mel energies; zero features for less than one window.
        """
        config = self.config
        count = num_features(waveform.shape[-1], config)
        if count == 0:
            return waveform.new_zeros(*waveform.shape[:-1], 0, config.num_mels, dtype=torch.float32)
        waveform = waveform.to(torch.float32) * INT16_SCALE
        windows = waveform.unfold(-1, config.window, config.hop)
        windows = windows - windows.mean(dim=-1, keepdim=True)
        previous = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
        windows = (windows - config.preemphasis * previous) * self.window
        spectrum = torch.fft.rfft(windows, n=config.fft_size)
        # The square of `abs`, without the root that it takes first.
        power = (spectrum * spectrum.conj()).real
        energies = power @ self.mel_filters
        return energies.clamp_min(LOWEST).log()


def mel_filters(config: FeatureConfig) -> Tensor:
    """Return Kaldi's triangular mel filters, (fft_size / 2, num_mels).

    In float32 and in this order, as the reference computes them: the lowest filters have weights near zero, whose
    logarithm would otherwise differ by more than 1e-2.
    """
    mel_low, step = _mel_scale(config)
    number = torch.arange(config.num_mels)
    left, centre, right = (mel_low + (number + shift) * step for shift in (0.0, 1.0, 2.0))
    hertz = (config.sample_rate / config.fft_size) * torch.arange(config.fft_size // 2)
    mel = (1127.0 * (1.0 + hertz / 700.0).log())[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0.0)


def mel_centres(config: FeatureConfig) -> Tensor:
    """Return the centres of the filters in mel, (num_mels,), evenly spaced."""
    mel_low, step = _mel_scale(config)
    return mel_low + torch.arange(1, config.num_mels + 1) * step


def _mel_scale(config: FeatureConfig) -> tuple[float, float]:
    """Return the lower edge of the first filter, and the distance of two centres."""
    mel_low = _mel(config.low_hz)
    return mel_low, (_mel(config.upper_hz) - mel_low) / (config.num_mels + 1)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


class FeatureState(NamedTuple):
    """Samples that the next window still needs, (batch, waiting samples)."""

    samples: Tensor


def init_features(batch: int, device: torch.device | str = "cpu") -> FeatureState:
    """Return the state of streams that have not begun."""
    return FeatureState(torch.zeros(batch, 0, device=device))


def step_features(
    log_mel: LogMel, waveform: Tensor, state: FeatureState
) -> tuple[Tensor, FeatureState]:
    """Feed samples (batch, samples); return the features they complete (batch, features, mels), and the new state.

    The features are those of the whole waveform, whatever the block sizes.
    """
    samples = torch.cat([state.samples, waveform.to(torch.float32)], dim=-1)
    features = log_mel(samples)
    return features, FeatureState(samples[..., features.shape[-2] * log_mel.config.hop :])


class FeatureStatistics:
    """Mean and variance of features, gathered block by block in float64 (Welford; merged as Chan et al. 1983)."""

    def __init__(self, num_mels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_mels, dtype=torch.float64)
        self.squares = torch.zeros(num_mels, dtype=torch.float64)
        """Sum of squared differences from the mean."""

    def update(self, features: Tensor) -> None:
        """Add a block of features (features, num_mels)."""
        block = features.detach().to("cpu", torch.float64)
        if block.shape[0]:
            mean = block.mean(dim=0)
            self.merge(block.shape[0], mean, (block - mean).square().sum(dim=0))

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Add what another `FeatureStatistics` gathered."""
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta.square() * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Population variance, floored at 1e-20 as in the reference."""
        return (self.squares / max(self.count, 1)).clamp_min(1e-20)
