"""A learned softmax over the encoder's layers (SUPERB, Yang et al. 2021, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.masks import length_mask


class LayerMix(nn.Module):
    """Weighted sum of layers with weights that are positive and add up to 1; at first all are equal.

    The sum is normalised per frame (mean 0, variance 1, no parameters), so that a head starts from inputs of one
    scale whatever the layers' own; s3prl's `Featurizer` leaves that to the head.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))

    def weights(self) -> Tensor:
        """Return (layers,), which add up to 1."""
        return self.logits.softmax(0)

    def forward(self, layers: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, frames, dim) for layers (number, batch, frames, dim), zero after each item's length."""
        mixed = torch.tensordot(self.weights().to(layers.dtype), layers, dims=1)
        mixed = functional.layer_norm(mixed, mixed.shape[-1:])
        return mixed.masked_fill(~length_mask(lengths, mixed.shape[1])[..., None], 0.0)
