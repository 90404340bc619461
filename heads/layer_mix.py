"""A learned softmax over the encoder's layers (SUPERB, Yang et al. 2021, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.masks import length_mask


class LayerMix(nn.Module):
    """Weighted sum of layers with weights that are positive and add up to 1; at first all are equal.

    Each layer's frames are normalised first (mean 0, variance 1, no parameters), so that no layer is heard only because
    its numbers are larger; s3prl's `Featurizer` has that as an option. Normalising the sum instead learns more slowly.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))

    def weights(self) -> Tensor:
        """Return (layers,), which add up to 1."""
        return self.logits.softmax(0)

    def forward(self, layers: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, frames, dim) for layers (number, batch, frames, dim), zero after each item's length."""
        layers = functional.layer_norm(layers, layers.shape[-1:])
        mixed = torch.tensordot(self.weights().to(layers.dtype), layers, dims=1)
        return mixed.masked_fill(~length_mask(lengths, mixed.shape[1])[..., None], 0.0)
