"""Eightfold subsampling by three strided convolutions: 15 features make one frame, 8 features on the next."""

from __future__ import annotations

import math

from torch import Tensor, nn

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING


def num_frames(num_features: int) -> int:
    """Return how many frames `num_features` features give: 1 + (T - 15) // 8, and none below 15."""
    return 0 if num_features < RECEPTIVE_FIELD else 1 + (num_features - RECEPTIVE_FIELD) // SUBSAMPLING


def frame_lengths(lengths: Tensor) -> Tensor:
    """`num_frames` of a tensor of feature lengths."""
    return ((lengths - RECEPTIVE_FIELD).div(SUBSAMPLING, rounding_mode="floor") + 1).clamp_min(0)


def _halved(bins: int) -> int:
    return (bins - 3) // 2 + 1


class Subsampling(nn.Module):
    """Features (batch, features, mels) to frames (batch, frames, dim), scaled by sqrt(dim) as in the reference."""

    def __init__(self, num_mels: int, dim: int) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.conv = nn.Sequential(
            nn.Conv2d(1, dim, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, stride=2, groups=dim),
            nn.Conv2d(dim, dim, 1),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, stride=2, groups=dim),
            nn.Conv2d(dim, dim, 1),
            nn.ReLU(),
        )
        self.out = nn.Linear(dim * _halved(_halved(_halved(num_mels))), dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, num_frames(features), dim)."""
        batch, length, _ = features.shape
        frames = num_frames(length)
        if frames == 0:
            return features.new_zeros(batch, 0, self.out.out_features)
        hidden = self.conv(features[:, None, : SUBSAMPLING * (frames - 1) + RECEPTIVE_FIELD])
        # Channel-major, bin-minor, as the reference flattens it.
        return self.out(hidden.transpose(1, 2).flatten(2)) * self.scale
