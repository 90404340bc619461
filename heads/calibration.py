"""Confidences that can be believed: temperature, abstain threshold, and log-likelihood ratios; all fitted on dev."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trunkline.errors import DataError

_GOLDEN = (math.sqrt(5) - 1) / 2
_SMALLEST, _LARGEST = 0.02, 50.0


class Threshold(NamedTuple):
    """Answers at least so sure are given; on dev they were right in `precision` of `coverage` of all cases."""

    threshold: float
    precision: float
    coverage: float


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature T for which `loss(1 / T)`, the mean negative log likelihood of logits / T, is least.

    The loss is convex in 1 / T, so a golden-section search finds it. It has no least value where every answer is
    right (T goes to 0) or worse than a guess (T goes to infinity); T stays within [0.02, 50].

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    low, high = math.log(1 / _LARGEST), math.log(1 / _SMALLEST)
    for _ in range(60):
        span = _GOLDEN * (high - low)
        left, right = high - span, low + span
        if loss(math.exp(left)) <= loss(math.exp(right)):
            high = right
        else:
            low = left
    return math.exp(-(low + high) / 2)


def abstain_threshold(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, precision: float
) -> Threshold | None:
    """Return the threshold that keeps most answers while at least `precision` of those kept are right.

    None where no threshold does. With few dev items the precision that was asked for is met on dev only by luck:
    look at the interval of `heads.evaluate`.

    Raises:
        DataError: no answers, or a precision outside (0, 1].
    """
    if not 0 < precision <= 1:
        raise DataError(f"precision={precision} is no share of right answers; give 0.9, say.")
    sure = np.asarray(confidence, dtype=np.float64)
    if not len(sure):
        raise DataError("There is nothing to set a threshold on: no answers.")
    order = np.argsort(-sure, kind="stable")
    sure, right = sure[order], np.asarray(correct, dtype=np.float64)[order]
    kept = np.arange(1, len(sure) + 1)
    reached = np.cumsum(right) / kept
    last_of_equals = np.append(sure[1:] < sure[:-1], True)
    good = np.flatnonzero((reached >= precision - 1e-12) & last_of_equals)
    if not len(good):
        return None
    best = int(good[-1])
    return Threshold(float(sure[best]), float(reached[best]), float(kept[best] / len(sure)))


class LogLikelihoodRatio(NamedTuple):
    """Scores of trials as natural log-likelihood ratios: ``scale * score + offset``."""

    scale: float
    offset: float

    def of(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratio of each score; positive speaks for the same speaker."""
        return self.scale * np.asarray(scores, dtype=np.float64) + self.offset


def fit_llr(
    scores: Sequence[float] | np.ndarray, targets: Sequence[bool] | np.ndarray, steps: int = 100
) -> LogLikelihoodRatio:
    """Fit log-likelihood ratios by logistic regression, both kinds of trials weighing the same (Newton's method).

    A small penalty keeps the scale finite where scores separate the trials without error.

    Source: Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006, section 7.

    Raises:
        DataError: only one kind of trial.
    """
    values, same = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=bool)
    if same.all() or not same.any():
        raise DataError("Trials of the same speaker and of different speakers are both needed.")
    spread = float(values.std()) or 1.0
    design = np.stack([(values - values.mean()) / spread, np.ones(len(values))], axis=1)
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    penalty = np.diag([1e-4, 0.0])
    beta = np.zeros(2)
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-np.clip(design @ beta, -60, 60)))
        gradient = design.T @ (weight * (probability - same)) + penalty @ beta
        curvature = (design.T * (weight * probability * (1 - probability))) @ design
        move = np.linalg.solve(curvature + penalty + 1e-9 * np.eye(2), gradient)
        beta -= move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-10:
            break
    scale = float(beta[0] / spread)
    return LogLikelihoodRatio(scale, float(beta[1] - scale * values.mean()))
