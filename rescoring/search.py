"""Weights with the fewest word errors: exact line search along one weight at a time, from many starts.

Along one weight every hypothesis' total is a line; which one wins is the upper envelope of a
list's lines, so the errors of all lists change at finitely many points and every interval
between them can be looked at (Och, "Minimum error rate training in statistical machine
translation", ACL 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rescoring.combine import DECIMALS
from rescoring.features import Features
from rescoring.weights import Weights

POSITIVE = ("lm", "sem", "phon", "bias")  # more of it can only be good; others may have either sign
RANGE = 20.0  # a weight may make its term spread this many times as widely as am does
RESTARTS = 20
MAX_SWEEPS = 20
NARROW = 1e-6  # intervals below this are chance


class Best(NamedTuple):
    """A point in the middle of the best interval, and the errors there."""

    position: float
    errors: int


def line_search(
    base: np.ndarray, slope: np.ndarray, errors: np.ndarray, low: float, high: float
) -> Best:
    """Return t in [low, high] with the fewest errors of argmax(base + t * slope), summed over lists.

    Args:
        base, slope: (lists, hypotheses) of each line; base is -inf in the padding.
        errors: (lists, hypotheses).

    Of the intervals with the fewest errors the one nearest to 0 is taken; 0 itself where nothing is better.
    """
    start, points, changes = _envelopes(base, slope, errors, low, high)
    order = np.argsort(points, kind="stable")
    points, counts = points[order], start + np.cumsum(changes[order])
    edges = np.concatenate([[low], points, [high]])
    counts = np.concatenate([[start], counts])
    # One interval a stretch of equal counts; points that coincide leave none between them.
    real = edges[1:] - edges[:-1] > NARROW
    if not real.any():
        return Best(0.0, _errors_at_zero(base, errors))
    left, right, counts = edges[:-1][real], edges[1:][real], counts[real]
    begins = np.flatnonzero(np.concatenate([[True], counts[1:] != counts[:-1]]))
    ends = np.concatenate([begins[1:], [len(counts)]]) - 1
    left, right, counts = left[begins], right[ends], counts[begins]
    if low <= 0 <= high and _errors_at_zero(base, errors) <= counts.min():
        return Best(0.0, _errors_at_zero(base, errors))
    best = counts == counts.min()
    middles = [_middle(a, b, low, high) for a, b in zip(left[best], right[best], strict=True)]
    return Best(min(middles, key=abs), int(counts.min()))


def _errors_at_zero(base: np.ndarray, errors: np.ndarray) -> int:
    return int(errors[np.arange(len(base)), np.round(base, DECIMALS).argmax(axis=1)].sum())


def _middle(left: float, right: float, low: float, high: float) -> float:
    middle = (left + right) / 2
    near = min(abs(left), abs(right))
    if near and (left <= low or right >= high):
        # An interval that runs on beyond the search is no reason to go far.
        middle = float(np.sign(middle)) * min(abs(middle), 2 * near)
    return float(middle)


def _envelopes(
    base: np.ndarray, slope: np.ndarray, errors: np.ndarray, low: float, high: float
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the errors at `low`, where the winner of some list changes, and by how many errors."""
    at_low = base + low * slope
    top = at_low.max(axis=1, keepdims=True)
    # Of the lines that meet at `low` the steepest wins right after it, of equal ones the first.
    winner = np.where(at_low >= top - 1e-9, slope, -np.inf).argmax(axis=1)
    rows = np.arange(len(base))
    start = int(errors[rows, winner].sum())
    points, changes = [], []
    position = np.full(len(base), low)
    while len(rows):
        steps = slope - slope[np.arange(len(rows)), winner][:, None]
        rise = base[np.arange(len(rows)), winner][:, None] - base
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.where(steps > 1e-12, rise / steps, np.inf)
        crossing = np.maximum(crossing, position[:, None])
        position = crossing.min(axis=1)
        alive = position < high
        rows, base, slope, errors = rows[alive], base[alive], slope[alive], errors[alive]
        crossing, position, winner = crossing[alive], position[alive], winner[alive]
        if not len(rows):
            break
        here = np.arange(len(rows))
        following = np.where(crossing <= position[:, None], slope, -np.inf).argmax(axis=1)
        points.append(position)
        changes.append(errors[here, following] - errors[here, winner])
        winner = following
    if not points:
        return start, np.empty(0), np.empty(0, dtype=np.int64)
    return start, np.concatenate(points), np.concatenate(changes)


def fit(
    features: Features, active: Sequence[str], *, restarts: int = RESTARTS, seed: int = 0
) -> Weights:
    """Return weights with the fewest errors: alpha 1, those of `active` searched, all others 0."""
    if not active:
        return Weights()
    if "lm" in active and features.blocked.any():
        features = features.at(np.flatnonzero(~features.blocked))
    columns = [features.names.index(name) for name in active]
    highest = [_reach(features, column) for column in columns]
    lowest = [0.0 if name in POSITIVE else -x for name, x in zip(active, highest, strict=True)]
    rng = np.random.default_rng(seed)
    best: tuple[int, float] | None = None
    found = np.zeros(len(features.names))
    for restart in range(restarts + 1):
        weights = np.zeros(len(features.names))
        weights[0] = 1.0
        for column, low, high in zip(columns, lowest, highest, strict=True):
            if restart:
                drawn = high / RANGE * np.exp(rng.normal())
                weights[column] = drawn * (rng.choice([-1.0, 1.0]) if low < 0 else 1.0)
        errors = _ascend(features, weights, columns, lowest, highest)
        size = sum(abs(weights[c]) / max(h, 1e-12) for c, h in zip(columns, highest, strict=True))
        if best is None or (errors, size) < best:
            best, found = (errors, size), weights
    return Weights.from_terms(dict(zip(features.names, found.tolist(), strict=True)))


def _ascend(
    features: Features,
    weights: np.ndarray,
    columns: Sequence[int],
    lowest: Sequence[float],
    highest: Sequence[float],
) -> int:
    """Search along each weight in turn, in place, until a sweep brings nothing; return the errors."""
    errors, totals = features.errors, features.totals(weights)
    fewest: int | None = None
    for _ in range(MAX_SWEEPS):
        before = fewest
        for column, low, high in zip(columns, lowest, highest, strict=True):
            slope = features.values[..., column]
            base = totals - weights[column] * slope
            weights[column], fewest = line_search(base, slope, errors, low, high)
            totals = base + weights[column] * slope
        if len(columns) == 1 or (before is not None and fewest is not None and fewest >= before):
            break
    return int(fewest or 0)


def _reach(features: Features, column: int) -> float:
    """Return the largest weight to look at: `RANGE` times am's spread over the term's."""
    spread = [_spread(features.values[..., x], features.present) for x in (0, column)]
    if spread[1] <= 1e-9:
        return 0.0
    return RANGE * (spread[0] if spread[0] > 1e-9 else 1.0) / spread[1]


def _spread(values: np.ndarray, present: np.ndarray) -> float:
    """Return the mean over lists of the standard deviation inside a list."""
    count = present.sum(axis=1, keepdims=True)
    mean = np.where(present, values, 0).sum(axis=1, keepdims=True) / count
    square = np.where(present, (values - mean) ** 2, 0).sum(axis=1, keepdims=True) / count
    return float(np.sqrt(square).mean())


def fit_guards(features: Features, weights: Weights) -> Weights:
    """Return `weights` with the margin and the largest drop that leave the fewest errors, off where none helps."""
    everyone = np.arange(len(features))
    am = np.where(features.present, features.values[..., 0], -np.inf)
    chosen = features.chosen(weights)
    drops = am.max(axis=1) - am[everyone, chosen]
    totals = features.totals(np.array([weights.of(name) for name in features.names]))
    gains = totals[everyone, chosen] - totals[everyone, am.argmax(axis=1)]
    shares = np.linspace(0.0, 1.0, 21)
    best, fewest = weights, features.scored(chosen).errors.sum()
    for name, values in (("max_drop", drops), ("margin", gains)):
        moved = values[values > 0]
        for limit in np.unique(np.quantile(moved, shares)) if len(moved) else ():
            trial = replace(best, **{name: float(limit)})
            errors = features.scored(features.chosen(trial)).errors.sum()
            if errors < fewest:
                best, fewest = trial, errors
    return best
