"""What is done to the features of a crop that its targets know nothing of.

The same words over another line, from another mouth, beside another noise keep their targets: what the backbone must
not depend on is changed in the features, at no cost in audio work. Everything acts on log-mel energies (natural
logarithm), per item, and is drawn from torch's generator, whose state is part of a checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from encoder.config import FeatureConfig
from encoder.features import LOWEST, mel_centres

DECIBEL = 0.1 * math.log(10.0)
KNOTS = 6
"""A line's frequency response is drawn at so many places of the mel axis, and linear between them."""
NOISE_COLOUR_DB = 12.0
"""Spectra of stationary noise differ by up to this many dB from a flat one, either way."""

FLOOR = math.log(LOWEST)
"""The least log-mel energy there is."""
GATE_DB = 20.0
GATE_SLOPE = 2.5
"""Quiet bins lie up to so many times as far under the threshold as they did."""


def random_level(features: Tensor, decibels: float) -> Tensor:
    """Return features (batch, features, mels) of items louder or softer by up to so many dB."""
    gains = (2 * torch.rand(features.shape[0], 1, 1) - 1) * decibels
    return features + gains.to(features.device) * DECIBEL


def random_line(features: Tensor, decibels: float) -> Tensor:
    """Return features (batch, features, mels) as heard over lines whose response varies by up to so many dB."""
    return features + _curves(features.shape[0], features.shape[2], decibels).to(features)


def random_voice(features: Tensor, share: float, config: FeatureConfig) -> Tensor:
    """Return features (batch, features, mels) with frequencies stretched or squeezed by up to a share."""
    factors = 1 + (2 * torch.rand(features.shape[0]) - 1) * share
    return warp_frequencies(features, factors, config)


def warp_frequencies(features: Tensor, factors: Tensor, config: FeatureConfig) -> Tensor:
    """Return log-mel features as of a voice whose frequencies are `factors` times as high.

    Vocal tract length perturbation (Jaitly & Hinton 2013) on the mel axis, linear between bins; what comes from
    beyond the last bin is the last bin.

    Args:
        features: (batch, features, mels).
        factors: (batch,) above 0.
        config: tells what frequencies the bins stand for.
    """
    centres = mel_centres(config).to(features.device)
    step = centres[1] - centres[0]
    hertz = 700.0 * ((centres / 1127.0).exp() - 1.0)
    source = 1127.0 * (1.0 + hertz / factors.to(features.device)[:, None] / 700.0).log()
    places = ((source - centres[0]) / step).clamp(0, len(centres) - 1)
    below = places.long().clamp_max(len(centres) - 2)
    part = (places - below)[:, None]
    index = below[:, None].expand_as(features)
    return torch.lerp(features.gather(2, index), features.gather(2, index + 1), part.to(features))


def random_noise(
    features: Tensor, lengths: Tensor, probability: float, snr_db: tuple[float, float]
) -> Tensor:
    """Return features in which some items have another sound under them (WavLM, Chen et al. 2022, section IV-B).

    Half of these hear another item of the batch, half a stationary noise of a random colour. Energies add up, which
    is what mixing waveforms gives on average.

    Args:
        features: (batch, features, mels).
        lengths: (batch,) features that are not padding.
        probability: share of items that hear something else.
        snr_db: range of the ratio of the item's mean energy to that of the other sound.
    """
    batch, time, mels = features.shape
    valid = torch.arange(time, device=features.device) < lengths[:, None]
    level = _mean_energy(features, valid)
    fluctuation = torch.empty(batch, time, mels).exponential_().clamp_min(1e-3).log()
    stationary = (_curves(batch, mels, NOISE_COLOUR_DB) + fluctuation).to(features)
    if batch > 1:
        other = torch.roll(features, 1 + int(torch.randint(batch - 1, ()).item()), dims=0)
        talker = (torch.rand(batch, 1, 1) < 0.5).to(features.device)
        stationary = torch.where(talker, other, stationary)
    low, high = snr_db
    ratio = (low + (high - low) * torch.rand(batch)).to(features) * DECIBEL
    shift = level - _mean_energy(stationary, valid) - ratio
    mixed = torch.logaddexp(features, stationary + shift[:, None, None])
    chosen = (torch.rand(batch, 1, 1) < probability).to(features.device)
    return torch.where(chosen & valid[..., None], mixed, features)


def random_gate(features: Tensor, lengths: Tensor, probability: float) -> Tensor:
    """Return features in which what lies under the speech of some items is weaker or stronger than it was.

    Some lines suppress whatever is quiet, others hiss: the same word has 20 dB to its background on one and 50 dB on
    another. Bins below a threshold, 0 to 20 dB under their mean over the item, are moved away from it or towards it.

    Args:
        features: (batch, features, mels).
        lengths: (batch,) features that are not padding.
        probability: share of items that are changed.
    """
    batch, time, _ = features.shape
    valid = torch.arange(time, device=features.device) < lengths[:, None]
    hidden = features.masked_fill(~valid[..., None], -torch.inf)
    mean = hidden.logsumexp(dim=1, keepdim=True) - lengths.clamp_min(1).log()[:, None, None]
    threshold = mean - GATE_DB * DECIBEL * torch.rand(batch, 1, 1).to(features)
    slope = GATE_SLOPE * torch.rand(batch, 1, 1).to(features)
    gated = torch.where(
        features < threshold, torch.lerp(threshold, features, slope), features
    ).clamp_min(FLOOR)
    chosen = (torch.rand(batch, 1, 1) < probability).to(features.device)
    return torch.where(chosen & valid[..., None], gated, features)


def _mean_energy(features: Tensor, valid: Tensor) -> Tensor:
    """Return the logarithm of the mean energy (batch,) over valid features and bins."""
    hidden = features.masked_fill(~valid[..., None], -torch.inf)
    counts = valid.sum(dim=1) * features.shape[2]
    return hidden.flatten(1).logsumexp(dim=1) - counts.clamp_min(1).log()


def _curves(batch: int, mels: int, decibels: float) -> Tensor:
    """Return random smooth curves (batch, 1, mels), within so many dB of 0, in natural logarithms."""
    knots = (2 * torch.rand(batch, 1, KNOTS) - 1) * decibels * DECIBEL
    return functional.interpolate(knots, size=mels, mode="linear", align_corners=True)
