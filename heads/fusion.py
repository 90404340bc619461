"""A second source beside the sound: a vector of text or context, whose absence leaves the answer from sound alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trunkline.errors import DataError, UsageError, nearest


class VectorFusion(nn.Module):
    """What a vector adds to the logits; a missing vector adds exactly nothing.

    In training some vectors are dropped at random, so that the sound alone is learnt too and the head does not
    come to lean on a vector that calls may lack.
    """

    def __init__(self, dim: int, outputs: int, *, hidden: int, missing: float) -> None:
        super().__init__()
        self.dim = dim
        self.missing = missing
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (batch, outputs) to add, for vectors (batch, dim); a row with NaN is a missing vector."""
        there = ~vectors.isnan().any(dim=1, keepdim=True)
        if self.training:
            there &= torch.rand_like(there, dtype=torch.float32) >= self.missing
        added = self.layers(vectors.masked_fill(~there, 0.0))
        return torch.where(there, added, torch.zeros_like(added))


def read_vectors(values: Sequence[Any], dim: int) -> Tensor:
    """Return vectors (batch, dim) as they stand in a manifest; None becomes a row of NaN, "missing".

    Raises:
        DataError: a vector of another width, or one that is no list of finite numbers.
    """
    rows = torch.full((len(values), dim), torch.nan)
    for index, value in enumerate(values):
        if value is None:
            continue
        try:
            row = torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"A fusion vector is no list of numbers: {str(value)[:60]!r}."
            ) from error
        if row.shape != (dim,) or not bool(row.isfinite().all()):
            raise DataError(
                f"A fusion vector has shape {tuple(row.shape)} or holds no finite numbers; the head was "
                f"made for vector_dim={dim}."
            )
        rows[index] = row
    return rows


def vectors_by_head(
    heads: Mapping[str, nn.Module], given: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """Return the vector (1, dim) of each head that `given` names; a missing vector, None, is a row of NaN.

    Raises:
        UsageError: no such head, or one that was made without fusion. DataError: as `read_vectors`.
    """
    found = {}
    for name, value in (given or {}).items():
        if name not in heads:
            raise UsageError(f"A vector is given for {name!r}, no head here.{nearest(name, heads)}")
        read = getattr(heads[name], "vectors", None)
        vectors = None if read is None else read([value])
        if vectors is None:
            raise UsageError(
                f"A vector is given for {name!r}, a head without fusion; train it with the options vector and "
                "vector_dim."
            )
        found[name] = vectors.to(next(heads[name].parameters()).device)
    return found
