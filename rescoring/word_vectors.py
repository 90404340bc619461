"""Tokens and their vectors, and the folder they are kept in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rescoring.arrays import read_arrays, write_arrays
from trunkline.errors import CheckpointError, DataError

SCHEMA = "trunkline.word-vectors/1"


class WordVectors:
    """`tokens` and the `matrix` of their vectors, float32 (tokens, dim); `about` tells where they come from.

    Raises:
        DataError: the sizes differ, a token comes twice, or a number is not finite.
    """

    def __init__(
        self, tokens: Sequence[str], matrix: np.ndarray, about: Mapping[str, Any] | None = None
    ) -> None:
        self.tokens = list(tokens)
        self.rows = {token: row for row, token in enumerate(self.tokens)}
        self.matrix = np.asarray(matrix)
        self.about = dict(about or {})
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.tokens):
            raise DataError(
                f"{len(self.tokens)} tokens do not fit vectors of shape {matrix.shape}."
            )
        if len(self.rows) < len(self.tokens):
            raise DataError("A token comes twice among the vectors.")
        if not np.isfinite(self.matrix).all():
            raise DataError("A vector has a number that is not finite.")
        norms = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        self.unit = (self.matrix / np.where(norms > 0, norms, 1.0)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self.rows

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.matrix.shape[1])

    def cosine(self, first: str, second: str) -> float:
        """Return the cosine of two tokens that both have a vector; a `KeyError` for one that has none."""
        return float(self.unit[self.rows[first]] @ self.unit[self.rows[second]])

    def nearest(self, token: str, count: int = 5) -> list[tuple[str, float]]:
        """Return the tokens with the largest cosine to `token`, largest first, without itself."""
        cosines = self.unit @ self.unit[self.rows[token]]
        order = np.argsort(-cosines, kind="stable")[: count + 1]
        return [(self.tokens[x], float(cosines[x])) for x in order if self.tokens[x] != token][
            :count
        ]

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write ``vectors.npy`` and a JSON file with tokens, dimension, metric, settings and SHA-256."""
        about = self.about | {"dim": self.dim, "metric": "cosine", "tokens": self.tokens}
        write_arrays(folder, SCHEMA, about, {"vectors": self.matrix}, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, dim: int | None = None) -> WordVectors:
        """Open a folder that `save` wrote; with `dim`, vectors of any other dimension are refused.

        Raises:
            StorageError: there is no such folder.
            CheckpointError: it is incomplete, altered, or of another dimension than it says or than asked for.
        """
        about, arrays = read_arrays(folder, SCHEMA)
        tokens = about.pop("tokens", None)
        if "vectors" not in arrays or not isinstance(tokens, list):
            raise CheckpointError(f"{folder} has no vectors or no tokens; write the folder anew.")
        matrix = arrays["vectors"]
        for wanted in (about.get("dim"), matrix.shape[-1] if dim is None else dim):
            if matrix.ndim != 2 or matrix.shape[1] != wanted:
                raise CheckpointError(
                    f"{folder} has vectors of shape {matrix.shape}, but dimension {wanted} is wanted."
                )
        try:
            return cls(tokens, matrix, about)
        except DataError as error:
            raise CheckpointError(f"{folder}: {error}") from error
