"""Doubt about a score: bootstrap intervals over groups, and paired tests.

Cuts of one speaker are not independent, so whole groups are drawn with replacement (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004).
A system of which there are several draws, such as initialisations, is scored as their mean, and then the draws are
drawn as well (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007): one fewer than there are each time,
without which the spread of few would come out too narrow (Rao and Wu, JASA 1988).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trunkline.errors import DataError, UsageError

MIN_GROUPS = 10  # with fewer, a bootstrap sees too few different samples to mean anything
ALPHA = 0.05


class Interval(NamedTuple):
    """A 95 % interval, drawn over `groups` units of kind `unit` ("speaker" or "cut")."""

    low: float
    high: float
    unit: str
    groups: int


class Difference(NamedTuple):
    """System a minus system b; `verdict` says a is "better", "worse" or "not distinguishable"."""

    difference: float
    low: float
    high: float
    p: float
    verdict: str
    unit: str
    groups: int


def bootstrap_groups(
    speakers: Sequence[str | None], calls: Sequence[str | None]
) -> tuple[list[str | None], str]:
    """Return by what to group cuts, and its name: by speaker where any is known, else by call, else each cut alone."""
    if any(name is not None for name in speakers):
        return list(speakers), "speaker"
    if len(set(calls)) < len(calls):
        return list(calls), "call"
    return [None] * len(calls), "cut"


def interval(
    correct: Sequence[float] | np.ndarray,
    groups: Sequence[str | None] | None = None,
    *,
    sizes: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    unit: str = "speaker",
    resamples: int = 2000,
) -> Interval:
    """Return the 95 % interval of mean(correct) by bootstrap over groups.

    Args:
        correct: one score per cut, such as 1 for a right answer and 0 for a wrong one; (draws, cuts) where a system
            was made several times, and the interval is that of its mean over all that could have been made.
        groups: the speaker (or call) of each cut; a cut whose group is None stands alone. With
            fewer than `MIN_GROUPS` groups cuts are drawn, and the result's `unit` is "cut".
        sizes: what each cut counts, such as its reference words where `correct` holds its errors;
            the interval is then that of sum(correct) / sum(sizes), as for a word error rate.
        unit: what `groups` names, for the result.

    Raises:
        DataError: no cuts. UsageError: `groups` has another length than `correct`.
    """
    totals, weight, unit = _group_sums(_scores(correct), groups, unit, sizes)
    means = totals / np.maximum(weight, 1e-9)
    if np.ptp(means) == 0:
        return _interval_without_variation(float(means[0, 0]), unit, len(weight))
    means = _bootstrap([totals], weight, seed, resamples)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high), unit, len(weight))


def paired_difference(
    correct_a: Sequence[float] | np.ndarray,
    correct_b: Sequence[float] | np.ndarray,
    groups: Sequence[str | None] | None = None,
    *,
    sizes: Sequence[float] | np.ndarray | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
    unit: str = "speaker",
    resamples: int = 2000,
) -> Difference:
    """Compare two systems on the same cuts: mean(a) - mean(b), and whether it can be chance.

    The interval is the group bootstrap of `interval`. p comes from flipping the sign of whole
    groups' differences, which keeps its level with few groups or few disagreements, where the
    bootstrap is too eager. "better" and "worse" need both: p < 0.05 and an interval without 0.
    Either system may have several draws, (draws, cuts): the means are compared, draws are resampled beside groups,
    and p is the larger one of that of the flips and that of the bootstrap, as flips know nothing of other draws.
    For word error rates give errors, the references' words as `sizes`, and say that higher is not better.

    Raises:
        DataError: no cuts. UsageError: the sequences differ in length.
    """
    a, b = _scores(correct_a), _scores(correct_b)
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            f"A paired comparison needs the same cuts: {a.shape[1]} against {b.shape[1]}."
        )
    if len(a) == len(b) == 1:
        a, b = a - b, np.zeros_like(b)
    (added, weight, unit), (taken, _, _) = (_group_sums(x, groups, unit, sizes) for x in (a, -b))
    drawn = _bootstrap([added, taken], weight, seed, resamples)
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    totals = added.mean(axis=0) + taken.mean(axis=0)
    p = _sign_flip_p(totals, seed, 5 * resamples)
    if len(a) > 1 or len(b) > 1:
        p = max(p, _share_beyond_zero(drawn))
    difference = float(totals.sum() / weight.sum())
    verdict = "not distinguishable"
    if p < ALPHA and (low > 0 or high < 0):
        verdict = "better" if (difference > 0) == higher_is_better else "worse"
    return Difference(difference, float(low), float(high), p, verdict, unit, len(weight))


def statistic_interval(
    statistic: Callable[[np.ndarray], float],
    cuts: int,
    groups: Sequence[str | None] | None = None,
    *,
    seed: int = 0,
    unit: str = "speaker",
    resamples: int = 1000,
) -> Interval:
    """Return the 95 % interval of a score that is no mean over cuts, such as macro-F1, by bootstrap over groups.

    Args:
        statistic: takes the numbers of the drawn cuts, (drawn,), repeated as they were drawn.
        cuts: number of cuts.
        groups: as for `interval`, of which `unit`.
        seed: of the draws.
        unit: what `groups` names, for the result.
        resamples: number of draws.

    Raises:
        DataError: no cuts. UsageError: `groups` has another length than `cuts`.
    """
    draws, unit, number = _drawn_rows(cuts, groups, unit, seed, resamples)
    low, high = np.quantile([statistic(rows) for rows in draws], [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high), unit, number)


def statistic_difference(
    difference: Callable[[np.ndarray], float],
    cuts: int,
    groups: Sequence[str | None] | None = None,
    *,
    higher_is_better: bool = True,
    seed: int = 0,
    unit: str = "speaker",
    resamples: int = 1000,
) -> Difference:
    """Compare two systems by a score that is no mean over cuts; see `statistic_interval`.

    `difference` gives the score of system a minus that of system b on the drawn cuts. The verdict is by the interval;
    p is twice the smaller share of draws on one side of 0.
    """
    draws, unit, number = _drawn_rows(cuts, groups, unit, seed, resamples)
    found = np.array([difference(rows) for rows in draws])
    low, high = np.quantile(found, [ALPHA / 2, 1 - ALPHA / 2])
    p = _share_beyond_zero(found)
    verdict = "not distinguishable"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == higher_is_better else "worse"
    observed = difference(np.arange(cuts))
    return Difference(observed, float(low), float(high), p, verdict, unit, number)


def _share_beyond_zero(found: np.ndarray) -> float:
    """Return the two-sided p of a bootstrap: twice the smaller share of draws on one side of 0."""
    beyond = min(np.sum(found <= 0), np.sum(found >= 0))
    return float(min(1.0, 2 * (beyond + 1) / (len(found) + 1)))


def _drawn_rows(
    cuts: int, groups: Sequence[str | None] | None, unit: str, seed: int, resamples: int
) -> tuple[Iterator[np.ndarray], str, int]:
    """Return resamples of the cuts' numbers, what was drawn, and of how many."""
    members, unit = _members(cuts, groups, unit)
    number = int(members.max()) + 1
    order = np.argsort(members, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(members))[:-1])
    rng = np.random.default_rng(seed)
    draws = (
        np.concatenate([parts[index] for index in rng.integers(number, size=number)])
        for _ in range(resamples)
    )
    return draws, unit, number


def _members(cuts: int, groups: Sequence[str | None] | None, unit: str) -> tuple[np.ndarray, str]:
    """Return the group's number of each cut, (cuts,), and what a group is."""
    if not cuts:
        raise DataError("There is nothing to score: no cuts.")
    if groups is not None and len(groups) != cuts:
        raise UsageError(f"There are {cuts} cuts but {len(groups)} groups.")
    if groups is None or len({name for name in groups if name is not None}) < MIN_GROUPS:
        return np.arange(cuts), "cut"
    names = [f"#{index}" if name is None else f"={name}" for index, name in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1], unit


def _scores(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return (draws, cuts); one draw is the usual case."""
    scores = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not scores.size:
        raise DataError("There is nothing to score: no cuts.")
    return scores


def _group_sums(
    scores: np.ndarray,
    groups: Sequence[str | None] | None,
    unit: str,
    sizes: Sequence[float] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return each group's sum, (draws, groups), its size, (groups,), and what a group is."""
    cuts = scores.shape[1]
    weight = np.ones(cuts) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if len(weight) != cuts:
        raise UsageError(f"There are {cuts} cuts but {len(weight)} sizes.")
    if not weight.sum() > 0:
        raise DataError("There is nothing to score: the references hold no words.")
    members, unit = _members(cuts, groups, unit)
    totals = np.stack([np.bincount(members, weights=draw) for draw in scores])
    return totals, np.bincount(members, weights=weight), unit


def _bootstrap(
    systems: Sequence[np.ndarray], sizes: np.ndarray, seed: int, resamples: int
) -> np.ndarray:
    """Return the sum of the systems' mean scores of each resample, one at a time so that memory stays small.

    Each system is (draws, groups); the same groups are drawn for all, draws for each by itself.
    """
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        total = 0.0
        for system in systems:
            draws = rng.integers(len(system), size=len(system) - 1) if len(system) > 1 else [0]
            total += system[draws][:, drawn].sum() / len(draws)
        means[index] = total / max(sizes[drawn].sum(), 1e-9)
    return means


def _sign_flip_p(totals: np.ndarray, seed: int, flips: int) -> float:
    """Return the two-sided p of: each group's difference could as well be its negative."""
    moved = totals[totals != 0]
    limit = abs(moved.sum()) - 1e-9
    rng = np.random.default_rng(seed)
    extreme = sum(
        abs((2.0 * rng.integers(2, size=len(moved)) - 1) @ moved) >= limit for _ in range(flips)
    )
    return float((extreme + 1) / (flips + 1))


def _interval_without_variation(value: float, unit: str, groups: int) -> Interval:
    """All right or all wrong: the bootstrap would claim certainty, the exact bound does not."""
    doubt = (ALPHA / 2) ** (1 / groups)
    if value == 1:
        return Interval(doubt, 1.0, unit, groups)
    if value == 0:
        return Interval(0.0, 1.0 - doubt, unit, groups)
    return Interval(value, value, unit, groups)
