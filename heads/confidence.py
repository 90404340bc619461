"""How sure a recogniser is of each word, as a probability that can be believed.

The posterior of a word is the share of the N-best list, by probability, that has it in that place; the mean
log probability of its frames says how clearly it was heard. Neither is a probability of being right: a logistic
regression on dev makes one of them.

Sources: Wessel et al., "Confidence measures for large vocabulary continuous speech recognition", IEEE TSAP 2001
(word posteriors); Siu et al., "Improved estimation, evaluation and applications of confidence measures", Eurospeech
1997 (normalised cross entropy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trunkline.errors import DataError
from trunkline.metrics import expected_calibration_error

_SMALLEST = 1e-4


class WordCalibration(NamedTuple):
    """Logistic regression: P(right) = 1 / (1 + exp(-(bias + posterior * logit(posterior) + clarity * log_prob)))."""

    bias: float
    posterior: float
    clarity: float

    def of(self, posteriors: Any, log_probs: Any) -> np.ndarray:
        """Return the probability that each word is right, (words,)."""
        design = _design(posteriors, log_probs)
        return _sigmoid(design @ np.array(self))

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> WordCalibration:
        """Read what `_asdict` gave."""
        return cls(values["bias"], values["posterior"], values["clarity"])


def word_posteriors(texts: Sequence[str], scores: Sequence[float]) -> np.ndarray:
    """Return for each word of the first text the probability of the hypotheses that have it in its place, (words,).

    Args:
        texts: hypotheses, the best first.
        scores: their log probabilities, up to a constant.
    """
    best = texts[0].split()
    weights = np.exp(np.array(scores) - max(scores))
    weights /= weights.sum()
    posteriors = np.zeros(len(best))
    for text, weight in zip(texts, weights, strict=True):
        posteriors += weight * np.array(matches(best, text.split()), dtype=np.float64)
    return posteriors.clip(0.0, 1.0)


def matches(words: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Return for each word whether the alignment with the fewest edits puts an equal one of `others` opposite."""
    if list(words) == list(others):
        return [True] * len(words)
    costs = [list(range(len(others) + 1))]
    for i, word in enumerate(words, start=1):
        row = [i]
        for j, other in enumerate(others, start=1):
            row.append(min(costs[-1][j - 1] + (word != other), costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    found = [False] * len(words)
    i, j = len(words), len(others)
    while i and j:
        same = words[i - 1] == others[j - 1]
        if costs[i][j] == costs[i - 1][j - 1] + (not same):
            i, j = i - 1, j - 1
            found[i] = same
        elif costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return found


def fit_word_calibration(
    posteriors: Sequence[float] | np.ndarray,
    log_probs: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
) -> WordCalibration:
    """Fit the regression to words of dev (Newton's method); a small penalty keeps it finite without any error.

    Raises:
        DataError: no words.
    """
    right = np.asarray(correct, dtype=np.float64)
    if not len(right):
        raise DataError("There is nothing to calibrate confidences on: no words on dev.")
    design = _design(posteriors, log_probs)
    penalty = 0.5 * np.eye(3)
    penalty[0, 0] = 1e-3
    weights = np.zeros(3)
    for _ in range(100):
        probability = _sigmoid(design @ weights)
        gradient = design.T @ (probability - right) + penalty @ weights
        curvature = (design.T * (probability * (1 - probability))) @ design + penalty
        move = np.linalg.solve(curvature, gradient)
        weights -= move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-9:
            break
    return WordCalibration(*map(float, weights))


def normalised_cross_entropy(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> float:
    """Return NCE: 1 is perfect, 0 knows no more than the share of right words, below 0 misleads.

    NaN where all words are right or all are wrong, when there is nothing to tell apart.

    Raises:
        DataError: no words.
    """
    sure = np.asarray(confidence, dtype=np.float64).clip(1e-7, 1 - 1e-7)
    right = np.asarray(correct, dtype=bool)
    if not len(right):
        raise DataError("There is nothing to score: no words.")
    share = float(right.mean())
    if share in (0.0, 1.0):
        return math.nan
    base = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    cross = -float(np.where(right, np.log(sure), np.log(1 - sure)).mean())
    return 1 - cross / base


def confidence_scores(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> dict[str, float | None]:
    """Return `nce` (None where it has no meaning), `ece`, and how many `words` there were and what share was right."""
    nce = normalised_cross_entropy(confidence, correct)
    right = np.asarray(correct, dtype=np.float64)
    return {
        "nce": None if math.isnan(nce) else nce,
        "ece": expected_calibration_error(confidence, right),
        "words": len(right),
        "right": float(right.mean()),
    }


def _design(posteriors: Any, log_probs: Any) -> np.ndarray:
    posterior = np.asarray(posteriors, dtype=np.float64).clip(_SMALLEST, 1 - _SMALLEST)
    clarity = np.asarray(log_probs, dtype=np.float64).clip(-20.0, 0.0)
    return np.stack(
        [np.ones(len(posterior)), np.log(posterior) - np.log1p(-posterior), clarity], axis=1
    )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.clip(-60, 60)))
