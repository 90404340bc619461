"""What "near" means in an index: the cosine, the inner product, or the cosine of whitened vectors.

Pooled frames of speech all point much the same way, so that a few directions decide every cosine. Whitening subtracts
the mean and divides by the spread along every principal direction; the covariance is shrunk towards a sphere as by
Ledoit and Wolf (2004), so that it also works with few vectors. It is estimated once, from a sample, and kept beside the
index.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from embstore.index.folder import AGAIN, WHITENING
from trunkline.errors import DataError

METRICS = ("cosine", "dot", "whitened")
SAMPLE = 20_000
"""Vectors that a whitening is estimated from."""


class Metric(NamedTuple):
    """A metric by name; `whitened` has the mean (dim,) and the matrix (dim, dim) that vectors are multiplied with."""

    name: str
    mean: np.ndarray | None = None
    matrix: np.ndarray | None = None

    def prepare(self, vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return vectors (rows, dim) such that their inner products are the scores of the metric.

        They are written to `out`, if it is given, unless they are as they were.
        """
        if self.name == "dot":
            return vectors
        if self.mean is not None and self.matrix is not None:
            vectors = (vectors - self.mean) @ self.matrix
        squares = np.einsum("nd,nd->n", vectors, vectors)
        lengths = np.sqrt(np.where(squares > 0, squares, 1.0)).astype(np.float32)
        return np.multiply(vectors, (1 / lengths)[:, None], out=out)

    def save(self, folder: Path) -> None:
        """Write what is estimated, if anything, into the folder of an index."""
        if self.mean is not None and self.matrix is not None:
            np.save(folder / WHITENING, np.concatenate([self.mean[None], self.matrix]))


def whitening(vectors: np.ndarray) -> Metric:
    """Return the whitened metric, estimated from vectors (rows, dim)."""
    from sklearn.covariance import ledoit_wolf

    mean = vectors.mean(0, dtype=np.float64)
    covariance, _ = ledoit_wolf(vectors - mean, assume_centered=True)
    values, directions = np.linalg.eigh(covariance)
    # Directions in which nothing varies, not even after shrinking, are left as they are.
    floor = max(float(values.max()) * 1e-9, 1e-12)
    matrix = directions / np.sqrt(np.maximum(values, floor))
    return Metric("whitened", mean.astype(np.float32), matrix.astype(np.float32))


def load_metric(folder: Path, name: str, dim: int) -> Metric:
    """Return the metric of an index in a folder.

    Raises:
        DataError: what was estimated is missing, damaged, or of another dimension.
    """
    if name != "whitened":
        return Metric(name)
    try:
        whole = np.load(folder / WHITENING, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / WHITENING} cannot be read ({error}).{AGAIN}") from error
    if whole.shape != (dim + 1, dim):
        raise DataError(
            f"{folder / WHITENING} has shape {whole.shape}, not {(dim + 1, dim)}.{AGAIN}"
        )
    return Metric(name, whole[0], whole[1:])
