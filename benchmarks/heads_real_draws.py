"""Rows of several untrained trunks: their mean, and tests that draw trunks as well as cuts.

One untrained trunk may be lucky: on one unseen speaker they lie up to twenty points apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trunkline.errors import DataError
from trunkline.metrics import bootstrap_groups, interval, paired_difference

Scores = dict[str, list[dict[str, Any]]]


def mean_scores(parts: Sequence[Scores], folders: Sequence[Sequence[Path]]) -> Scores:
    """Return the mean of the scores of each draw, by head and context, with the interval of its accuracy.

    Args:
        parts: the scores of each draw.
        folders: of each head, the evaluation of each draw, in the order of the heads in `parts`.
    """
    found: Scores = {}
    for head, evaluations in zip(parts[0], folders, strict=True):
        found[head] = []
        for place, first in enumerate(parts[0][head]):
            rows = [part[head][place] for part in parts]
            mean = {
                name: float(np.mean([row[name] for row in rows]))
                if isinstance(value, float)
                else value
                for name, value in first.items()
            }
            correct, groups, unit = _correct(evaluations, first["context"])[1:]
            doubt = interval(correct, groups, unit=unit)
            each = [row["accuracy"] for row in rows]
            mean |= {"low": doubt.low, "high": doubt.high, "over": f"{doubt.groups} {doubt.unit}s"}
            found[head].append(
                mean | {"draws": len(parts), "lowest": min(each), "highest": max(each)}
            )
    return found


def compared(
    a: tuple[Sequence[Path], str], b: tuple[Sequence[Path], str]
) -> dict[str, float | str]:
    """Return the paired test of the accuracies of two rows, each the evaluations of its draws, and a context.

    Raises:
        DataError: they answered other cuts.
    """
    (ids, correct, groups, unit), (others, other, _, _) = _correct(*a), _correct(*b)
    if ids != others:
        raise DataError(f"{a[0][0]} and {b[0][0]} answered other cuts; make both rows again.")
    difference = paired_difference(correct, other, groups, unit=unit)
    return {"score": "accuracy", "a": correct.mean(), "b": other.mean()} | difference._asdict()


def _correct(
    evaluations: Sequence[Path], context: str
) -> tuple[list[str], np.ndarray, list[str | None], str]:
    """Return the cuts, what is right of the draws, (draws, cuts), and by what to group cuts."""
    from heads.predictions import read_predictions

    draws = []
    for folder in evaluations:
        rows = sorted(
            (row for row in read_predictions(folder) if row.context == context),
            key=lambda row: row.id,
        )
        draws.append(rows)
    ids = [row.id for row in draws[0]]
    if any([row.id for row in rows] != ids for rows in draws):
        raise DataError(f"The draws of {evaluations[0].parent} answered other cuts.")
    correct = np.array([[row.answer == row.reference for row in rows] for rows in draws], float)
    groups, unit = bootstrap_groups(
        [row.speaker for row in draws[0]], [row.call for row in draws[0]]
    )
    return ids, correct, groups, unit
