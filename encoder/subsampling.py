"""Eightfold subsampling by three strided convolutions: 15 features make one frame, 8 features on the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING

BLOCK = 32
"""Frames that are subsampled at once where no gradient is needed: the first convolution makes 80 times their size."""


def num_frames(num_features: int) -> int:
    """Return how many frames `num_features` features give: 1 + (T - 15) // 8, and none below 15."""
    return (
        0 if num_features < RECEPTIVE_FIELD else 1 + (num_features - RECEPTIVE_FIELD) // SUBSAMPLING
    )


def frame_lengths(lengths: Tensor) -> Tensor:
    """`num_frames` of a tensor of feature lengths."""
    return ((lengths - RECEPTIVE_FIELD).div(SUBSAMPLING, rounding_mode="floor") + 1).clamp_min(0)


def _halved(bins: int) -> int:
    return (bins - 3) // 2 + 1


class PatchConv(nn.Conv2d):
    """A dense convolution, given its patches (..., inputs), as a matrix product, and ReLU: (..., channels)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., channels)."""
        rows = input.flatten(0, -2)  # may copy: patches overlap
        output = functional.linear(rows, self.weight.flatten(1), self.bias)
        return output.relu_().unflatten(0, input.shape[:-1])


class Subsampling(nn.Module):
    """Features (batch, features, mels) to frames (batch, frames, dim), scaled by sqrt(dim) as in the reference.

    The convolutions keep channels last and the dense ones run as matrix products: on a CPU this trains faster than
    convolutions with channels first, where the subsampling is a large part of the work of a small backbone.
    """

    def __init__(self, num_mels: int, channels: int, dim: int) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.conv = nn.ModuleList(
            [
                PatchConv(1, channels, 3, stride=2),
                nn.Conv2d(channels, channels, 3, stride=2, groups=channels),
                PatchConv(channels, channels, 1),
                nn.Conv2d(channels, channels, 3, stride=2, groups=channels),
                PatchConv(channels, channels, 1),
            ]
        )
        self.out = nn.Linear(channels * _halved(_halved(_halved(num_mels))), dim)
        self._initialise()

    def _initialise(self) -> None:
        """Start with frames of variance 1 that vary with the input.

        PyTorch's defaults shrink the signal in each of the five convolutions while their biases stay, so that frames
        are nearly constant, and a backbone is slow to leave its first plateau.
        """
        for number, conv in enumerate(self.conv):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            followed_by_relu = number in (0, 2, 4)
            nn.init.kaiming_normal_(
                conv.weight, nonlinearity="relu" if followed_by_relu else "linear"
            )
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.out.weight, std=1 / (self.scale * math.sqrt(self.out.in_features)))
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, num_frames(features), dim)."""
        batch, length, _ = features.shape
        frames = num_frames(length)
        if frames == 0:
            return features.new_zeros(batch, 0, self.out.out_features)
        if torch.is_grad_enabled() or batch * frames <= BLOCK:
            return self._subsample(features, 0, frames)
        block = max(1, BLOCK // batch)
        return torch.cat(
            [
                self._subsample(features, first, min(first + block, frames))
                for first in range(0, frames, block)
            ],
            dim=1,
        )

    def _subsample(self, features: Tensor, first: int, last: int) -> Tensor:
        """Return the frames [first, last)."""
        used = features[:, SUBSAMPLING * first : SUBSAMPLING * (last - 1) + RECEPTIVE_FIELD]
        dense, *pairs = self.conv
        hidden = dense(used.unfold(1, 3, 2).unfold(2, 3, 2).flatten(3))
        for depthwise, pointwise in zip(pairs[::2], pairs[1::2], strict=True):
            hidden = depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            hidden = pointwise(hidden)
        # Channel-major, bin-minor, as the reference flattens it.
        return self.out(hidden.transpose(2, 3).flatten(2)) * self.scale
