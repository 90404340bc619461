"""SpecAugment on batches whose items have lengths of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trunkline.augment.config import Masking
from trunkline.errors import UsageError


def spec_augment(
    features: Tensor, lengths: Tensor, config: Masking, rngs: Sequence[np.random.Generator]
) -> Tensor:
    """Return features with stretches of time and of mel bands set to the item's mean.

    Masks lie inside each item: padding is neither masked nor counted, and an item's masks depend on
    its own generator and length alone, not on its batch mates.

    Args:
        features: (batch, frames, mels); unchanged.
        lengths: (batch,) frames that are no padding.
        config: how many and how wide.
        rngs: one generator an item, such as `trunkline.batching.item_rng` gives.

    Raises:
        UsageError: not as many generators as items.
    """
    if len(rngs) != len(features):
        raise UsageError(f"{len(features)} items need as many generators, not {len(rngs)}.")
    _, frames, mels = features.shape
    masked = torch.zeros(features.shape, dtype=torch.bool, device=features.device)
    for item, (length, rng) in enumerate(zip(lengths.tolist(), rngs, strict=True)):
        budget = int(config.time_share * length)
        times = _draw(rng, length, config.time_masks, config.time_width, budget)
        bands = _draw(rng, mels, config.band_masks, config.band_width, mels)
        in_time = torch.from_numpy(times).to(features.device)
        in_band = torch.from_numpy(bands).to(features.device)
        masked[item, :length] = in_time[:, None] | in_band
    inside = torch.arange(frames, device=features.device) < lengths.to(features.device)[:, None]
    total = (features * inside[:, :, None]).sum(dim=1, keepdim=True)
    mean = total / lengths.to(features)[:, None, None].clamp_min(1)
    return torch.where(masked, mean, features)


def _draw(
    rng: np.random.Generator, length: int, count: int, widest: int, budget: int
) -> np.ndarray:
    """Draw masks (length,) bool of which at most `budget` positions are set."""
    masked = np.zeros(length, dtype=bool)
    for _ in range(count):
        width = int(rng.integers(min(widest, budget, length) + 1))
        start = int(rng.integers(length - width + 1))
        masked[start : start + width] = True
        budget -= width
    return masked
