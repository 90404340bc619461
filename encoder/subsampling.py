"""Eightfold subsampling by three strided convolutions: 15 features make one frame, 8 features on the next."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING


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
                nn.Conv2d(1, channels, 3, stride=2),
                nn.Conv2d(channels, channels, 3, stride=2, groups=channels),
                nn.Conv2d(channels, channels, 1),
                nn.Conv2d(channels, channels, 3, stride=2, groups=channels),
                nn.Conv2d(channels, channels, 1),
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
        used = features[:, : SUBSAMPLING * (frames - 1) + RECEPTIVE_FIELD]
        dense, *pairs = self.conv
        patches = used.unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
        hidden = _dense(patches, dense)
        for depthwise, pointwise in zip(pairs[::2], pairs[1::2], strict=True):
            hidden = depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            hidden = _dense(hidden, pointwise)
        # Channel-major, bin-minor, as the reference flattens it.
        return self.out(hidden.transpose(2, 3).flatten(2)) * self.scale


def _dense(hidden: Tensor, conv: nn.Module) -> Tensor:
    """Apply a convolution over patches (..., inputs) as a matrix product, then ReLU."""
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    output = functional.linear(hidden.flatten(0, 2), weight.flatten(1), bias)
    return output.relu_().unflatten(0, hidden.shape[:3])
