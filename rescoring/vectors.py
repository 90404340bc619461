"""Vectors of syllables and phrases whose squared distance follows the phonetic distance, for nearest-neighbour search.

Classical multidimensional scaling of each cost table times its weight (Torgerson, Psychometrika 17, 1952; d is taken
as a squared distance), side by side. What the vectors find must be ranked again by the exact distance: they know no
context rules, and the tables are not Euclidean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rescoring.costs import PARTS, SYMBOLS, Costs, default_costs, part_matrix
from trunkline.syllable import Syllable, parse

MIN_EIGENVALUE = 0.01
"""Directions that carry less than this share of a part's largest one are left out."""

MAX_SYLLABLES = 6


@lru_cache(maxsize=65536)
def syllable_vector(syllable: Syllable, dialect: str | Costs = "any") -> np.ndarray:
    """Return the vector of a syllable, float32 (dim,); the same for equal syllables, on every machine and run."""
    vector = np.concatenate(
        [
            table[SYMBOLS[part].index(getattr(syllable, part))]
            for part, table in zip(PARTS, _tables(dialect), strict=True)
        ]
    )
    vector.setflags(write=False)  # the next caller gets the same one
    return vector


def dimension(dialect: str | Costs = "any") -> int:
    """Return the length of a syllable's vector; 42 for the shipped tables."""
    return sum(table.shape[1] for table in _tables(dialect))


def phrase_vector(tokens: Sequence[str], dialect: str | Costs = "any") -> np.ndarray | None:
    """Return the vectors of up to `MAX_SYLLABLES` tokens side by side, float32 (tokens * dim,).

    Its squared distance to that of another phrase of as many tokens is about the sum of their distances. None when a
    token is no Vietnamese syllable, or there are too many or none.
    """
    syllables = [parse(token) for token in tokens]
    if not 0 < len(tokens) <= MAX_SYLLABLES:
        return None
    parts = [syllable_vector(x, dialect) for x in syllables if x is not None]
    return np.concatenate(parts) if len(parts) == len(tokens) else None


@lru_cache(maxsize=16)
def _tables(dialect: str | Costs) -> tuple[np.ndarray, ...]:
    costs = default_costs(dialect) if isinstance(dialect, str) else dialect
    return tuple(_embed(costs.weights[part] * part_matrix(costs, part)) for part in PARTS)


def _embed(squared_distances: np.ndarray) -> np.ndarray:
    """Return points (symbols, dim) whose squared distances come near the given ones."""
    count = len(squared_distances)
    centring = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(-0.5 * centring @ squared_distances @ centring)
    kept = np.flatnonzero(values > MIN_EIGENVALUE * values.max())[::-1]
    points = vectors[:, kept] * np.sqrt(values[kept])
    # An eigenvector's sign is free; its largest component is made positive.
    largest = points[np.abs(points).argmax(axis=0), np.arange(len(kept))]
    return (points * np.sign(largest)).astype(np.float32)
