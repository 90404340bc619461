"""Minimum Bayes risk: the hypothesis that is nearest to all others, weighed by how likely those are.

Goel and Byrne, "Minimum Bayes-risk automatic speech recognition", Computer Speech & Language 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rescoring.alignment import edit_distances
from rescoring.costs import Costs, default_costs
from rescoring.phonetics import MAX_CELLS, cross_distances, pairwise_distances
from trunkline.errors import UsageError


@dataclass(frozen=True)
class Phonetic:
    """How the expected phonetic distance of a list is taken.

    Args:
        dialect: whose sounds are compared, or costs of your own, see `rescoring.phonetics.phonetic_distance`.
        pivots: distances are taken to this many of the acoustically best texts; 1 is the 1-best alone.
        scale: flattens the posterior, softmax(scale * am): decoders are surer than they should be.

    Raises:
        UsageError: an unknown dialect, no pivot, or a scale that is not positive.
    """

    dialect: str | Costs = "any"
    pivots: int = 20
    scale: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.dialect, str):
            default_costs(self.dialect)
        if self.pivots < 1 or not self.scale > 0:
            raise UsageError("pivots must be 1 or more and scale above 0.")


@dataclass(frozen=True)
class Consensus:
    """The last word given to the list as a whole: minimum Bayes risk over softmax(scale * total).

    Args:
        distance: of two texts, in words: "word" (edit distance) or "phonetic".
        scale: flattens the posterior.
        dialect: for the phonetic distance.

    Raises:
        UsageError: an unknown distance, or a scale that is not positive.
    """

    distance: Literal["word", "phonetic"] = "word"
    scale: float = 0.1
    dialect: str | Costs = "any"

    def __post_init__(self) -> None:
        if self.distance not in ("word", "phonetic"):
            raise UsageError(f"distance must be 'word' or 'phonetic', not {self.distance!r}.")
        if not self.scale > 0:
            raise UsageError(f"scale must be above 0, not {self.scale!r}.")

    def risk(self, tokens: Sequence[Sequence[str]], totals: np.ndarray) -> np.ndarray:
        """Return the expected distance of each text to the others, (texts,); equal texts given once."""
        if self.distance == "word":
            apart = word_distances(tokens)
        else:
            apart = pairwise_distances(tokens, self.dialect) * _longest(tokens, tokens)
        return apart @ posterior(totals, self.scale)


def posterior(scores: np.ndarray, scale: float) -> np.ndarray:
    """Return softmax(scale * scores), (texts,)."""
    exponents = scale * (scores - scores.max())
    weights = np.exp(exponents)
    return weights / weights.sum()


def expected_distances(
    tokens: Sequence[Sequence[str]], am: np.ndarray, settings: Phonetic
) -> np.ndarray:
    """Return each text's expected phonetic distance to the list, in syllables, (texts,).

    Equal texts must be given once, or a copy would count as evidence.
    """
    best = np.argsort(-am, kind="stable")[: settings.pivots]
    pivots: list[Sequence[str]] = [tokens[int(index)] for index in best]
    if 2 * len(pivots) > len(tokens):  # half of all pairs, each once
        apart = pairwise_distances(tokens, settings.dialect)[:, best]
    else:
        apart = cross_distances(tokens, pivots, settings.dialect)
    return (apart * _longest(tokens, pivots)) @ posterior(am[best], settings.scale)


def word_distances(tokens: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the word edit distance of every text to every other one, symmetric (texts, texts)."""
    count = len(tokens)
    numbers: dict[str, int] = {}
    lengths = np.array([len(words) for words in tokens], dtype=np.intp)
    ids = np.full((count, int(lengths.max(initial=0))), -1)
    for row, words in zip(ids, tokens, strict=True):
        row[: len(words)] = [numbers.setdefault(word, len(numbers)) for word in words]
    result = np.zeros((count, count))
    left, right = np.triu_indices(count, k=1)
    step = max(1, MAX_CELLS // max(1, ids.shape[1] ** 2))
    for start in range(0, len(left), step):
        a, b = left[start : start + step], right[start : start + step]
        unequal = ids[a, :, None] != ids[b, None, :]
        result[a, b] = result[b, a] = edit_distances(unequal, lengths[a], lengths[b])
    return result


def _longest(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> np.ndarray:
    return np.maximum.outer([len(x) for x in left], [len(x) for x in right])
