"""Speaker verification: error trade-off, equal error rate, detection cost, and their doubt.

A trial compares two recordings; a target trial has one speaker on both sides. Trials share speakers, so an
interval draws speakers, not trials: a trial counts as often as both its speakers were drawn (the joint bootstrap of
Poh and Bengio, "Estimating the confidence interval of expected performance curve in biometric authentication using
joint bootstrap", ICASSP 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trunkline.errors import DataError, UsageError
from trunkline.metrics.resampling import ALPHA, MIN_GROUPS, Difference, Interval


class ErrorTradeoff(NamedTuple):
    """Error rates when scores from a threshold on are accepted, (thresholds + 1,) each.

    `miss` (targets refused) rises from 0 to 1 while `false_alarm` (others accepted) falls from 1 to 0; the last
    threshold is infinity: nothing is accepted.
    """

    thresholds: np.ndarray
    miss: np.ndarray
    false_alarm: np.ndarray


Measure = Callable[[ErrorTradeoff], float]


def error_tradeoff(
    scores: Sequence[float] | np.ndarray,
    targets: Sequence[bool] | np.ndarray,
    weights: np.ndarray | None = None,
) -> ErrorTradeoff:
    """Return both error rates at every threshold that makes a difference.

    Args:
        scores: (trials,) higher for "same speaker".
        targets: (trials,) whether it is the same speaker.
        weights: (trials,) how often each trial counts; once if not given.

    Raises:
        DataError: there are no target trials, or nothing but target trials, or a score is not finite.
        UsageError: the sequences differ in length.
    """
    values, same = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=bool)
    if values.shape != same.shape:
        raise UsageError(f"There are {len(values)} scores but {len(same)} trials.")
    if not np.isfinite(values).all():
        raise DataError("A trial's score is not finite.")
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    values, same, weight = values[order], same[order], weight[order]
    refused_targets = np.cumsum(weight * same)
    refused_others = np.cumsum(weight * ~same)
    if not len(values) or not refused_targets[-1] > 0 or not refused_others[-1] > 0:
        raise DataError(
            "Trials of the same speaker and trials of different speakers are both needed; "
            f"there are {int(same.sum())} and {int((~same).sum())}."
        )
    first = np.flatnonzero(np.diff(values, prepend=-np.inf))  # equal scores are decided alike
    miss = np.append(np.append(0.0, refused_targets)[first], refused_targets[-1])
    kept = refused_others[-1] - np.append(np.append(0.0, refused_others)[first], refused_others[-1])
    return ErrorTradeoff(
        np.append(values[first], np.inf), miss / refused_targets[-1], kept / refused_others[-1]
    )


def equal_error_rate(tradeoff: ErrorTradeoff) -> float:
    """Return where misses equal false alarms, between two thresholds on the line that joins them."""
    gap = tradeoff.miss - tradeoff.false_alarm
    after = int(np.argmax(gap >= 0))
    if after == 0 or gap[after] == 0:
        return float(tradeoff.miss[after])
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float((1 - share) * tradeoff.miss[after - 1] + share * tradeoff.miss[after])


def min_dcf(
    tradeoff: ErrorTradeoff, p_target: float = 0.01, miss_cost: float = 1.0, alarm_cost: float = 1.0
) -> float:
    """Return the least detection cost over all thresholds, over that of the better of "always" and "never".

    Source: NIST Speaker Recognition Evaluation 2016 plan, section 3.
    """
    cost = miss_cost * p_target * tradeoff.miss + alarm_cost * (1 - p_target) * tradeoff.false_alarm
    return float(cost.min() / min(miss_cost * p_target, alarm_cost * (1 - p_target)))


def trial_interval(
    measure: Measure,
    scores: Sequence[float] | np.ndarray,
    targets: Sequence[bool] | np.ndarray,
    speakers: tuple[Sequence[str], Sequence[str]] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """Return the 95 % interval of a measure such as `equal_error_rate`, by bootstrap over speakers.

    Args:
        measure: of an `ErrorTradeoff`.
        scores: (trials,) higher for "same speaker".
        targets: (trials,) whether it is the same speaker.
        speakers: of both sides of each trial; without them, or with fewer than `MIN_GROUPS`, trials are drawn and
            the result's `unit` is "trial".
        seed: of the draws.
        resamples: number of draws.
    """
    values, same = np.asarray(scores), np.asarray(targets)
    draws, unit, groups = _weights(len(values), speakers, seed, resamples)
    order = np.argsort(values, kind="stable")  # once: sorting what is sorted costs little
    values, same = values[order], same[order]
    found = [
        measure(error_tradeoff(values, same, weights[order]))
        for weights in draws
        if _both(same, weights[order])
    ]
    low, high = np.quantile(found, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high), unit, groups)


def trial_difference(
    measure: Measure,
    scores_a: Sequence[float] | np.ndarray,
    scores_b: Sequence[float] | np.ndarray,
    targets: Sequence[bool] | np.ndarray,
    speakers: tuple[Sequence[str], Sequence[str]] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Difference:
    """Compare two systems on the same trials by a measure for which lower is better; see `trial_interval`."""
    a, b, same = np.asarray(scores_a), np.asarray(scores_b), np.asarray(targets)
    if a.shape != b.shape:
        raise UsageError(f"A paired comparison needs the same trials: {len(a)} against {len(b)}.")
    draws, unit, groups = _weights(len(a), speakers, seed, resamples)
    orders = [np.argsort(scores, kind="stable") for scores in (a, b)]
    sides = [(scores[order], same[order]) for scores, order in zip((a, b), orders, strict=True)]

    def difference_of(weights: np.ndarray) -> float:
        one, other = (
            measure(error_tradeoff(scores, targets, weights[order]))
            for (scores, targets), order in zip(sides, orders, strict=True)
        )
        return one - other

    moved = np.array([difference_of(weights) for weights in draws if _both(same, weights)])
    low, high = np.quantile(moved, [ALPHA / 2, 1 - ALPHA / 2])
    difference = measure(error_tradeoff(a, same)) - measure(error_tradeoff(b, same))
    tail = min(np.sum(moved <= 0), np.sum(moved >= 0))
    p = min(1.0, 2 * (tail + 1) / (len(moved) + 1))
    verdict = "not distinguishable"
    if low > 0 or high < 0:
        verdict = "better" if difference < 0 else "worse"
    return Difference(difference, float(low), float(high), float(p), verdict, unit, groups)


def _weights(
    trials: int, speakers: tuple[Sequence[str], Sequence[str]] | None, seed: int, resamples: int
) -> tuple[Iterator[np.ndarray], str, int]:
    """Return how often each trial counts in each draw, (trials,) each, and over what was drawn."""
    rng = np.random.default_rng(seed)
    names = np.unique([*speakers[0], *speakers[1]]) if speakers else np.array([])
    if speakers is None or len(names) < MIN_GROUPS:
        drawn = (
            np.bincount(rng.integers(trials, size=trials), minlength=trials)
            for _ in range(resamples)
        )
        return drawn, "trial", trials
    left, right = (np.searchsorted(names, side) for side in speakers)

    def weights() -> np.ndarray:
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        return np.where(left == right, times[left], times[left] * times[right])

    return (weights() for _ in range(resamples)), "speaker", len(names)


def _both(same: np.ndarray, weights: np.ndarray) -> bool:
    return bool(weights[same].any() and weights[~same].any())
