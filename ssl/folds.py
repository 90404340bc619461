"""Every labelled cut as test once: several folds, by speaker where speakers are known.

One unseen speaker says little about the next. With folds each speaker is answered by classifiers that never heard him,
and a comparison counts all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ssl.pooled import Pooled
from ssl.probing import LabelledCuts, Row, classes_of, common, groups_of, with_label
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Cut, Manifest
from trunkline.metrics import accuracy, interval, macro_f1, uar

MIN_FOLDS = 3
"""One part is test, the next dev, and something must be left to train on."""


def folded_cuts(
    manifest: Manifest, label: str, number: int, *, seed: int = 0
) -> list[LabelledCuts]:
    """Deal all cuts that have `label` into parts; each is test once, with the next as dev and the others as train.

    Whole speakers (or calls, where no speaker is known) go to the part that is smallest so far, the largest first.

    Raises:
        UsageError: fewer than three folds, or fewer speakers (or calls, or cuts) than folds.
        DataError: a fold's train has one class only.
    """
    labelled, notes = with_label(manifest, label)
    names, unit = groups_of(labelled, label)
    groups: dict[str, list[Cut]] = {}
    for cut, name in zip(labelled, names, strict=True):
        groups.setdefault(f"#{cut.id}" if name is None else f"={name}", []).append(cut)
    if not MIN_FOLDS <= number <= len(groups):
        raise UsageError(
            f"--folds {number}: must be {MIN_FOLDS} to {len(groups)}, as {manifest.path} has {len(groups)} {unit}s "
            f"with a {label!r}."
        )
    parts: list[list[Cut]] = [[] for _ in range(number)]
    order = sorted(groups)
    np.random.default_rng(seed).shuffle(order)
    for key in sorted(order, key=lambda key: -len(groups[key])):
        min(parts, key=len).extend(groups[key])
    notes.append(
        f"Each of {len(groups)} {unit}s is test once, in {number} folds; splits are not looked at."
    )
    return [_fold(manifest, label, parts, test, notes) for test in range(number)]


def _fold(
    manifest: Manifest, label: str, parts: list[list[Cut]], test: int, notes: list[str]
) -> LabelledCuts:
    dev = (test + 1) % len(parts)
    train = [cut for place, part in enumerate(parts) if place not in (test, dev) for cut in part]
    if len(set(classes_of(train, label))) < 2:
        raise DataError(
            f"{manifest.path}: with part {test + 1} of {len(parts)} as test and the next as dev, what is left to train "
            f"on has one {label!r} only; take more folds."
        )
    return LabelledCuts(label, train, parts[dev], parts[test], notes)


def picked(pooled: Pooled, cuts: Sequence[Cut]) -> Pooled:
    """Return the vectors of those cuts that are there, in the order of `cuts`, of the very objects: ids may repeat."""
    places = {id(cut): place for place, cut in enumerate(pooled.cuts)}
    there = [cut for cut in cuts if id(cut) in places]
    rows = torch.tensor([places[id(cut)] for cut in there], dtype=torch.long)
    return Pooled(pooled.vectors[rows], there)


def joined(rows: Sequence[Row], cuts: Sequence[Cut], label: str, seed: int = 0) -> Row:
    """Return the score over all folds of one row each; of one fold, the row itself.

    Args:
        rows: one for each fold.
        cuts: the test cuts of all folds, in the order of `rows`.
        label: what was told.
        seed: of the interval.
    """
    if len(rows) == 1:
        return rows[0]
    reference = classes_of(cuts, label)
    answers = [answer for row in rows for answer in row.answers]
    correct = np.array(reference) == np.array(answers)
    groups, unit = groups_of(cuts, label)
    return Row(
        **common(rows),
        dev_accuracy=float(np.mean([row.dev_accuracy for row in rows])),
        dev_loss=float(np.mean([row.dev_loss for row in rows])),
        accuracy=accuracy(reference, answers),
        macro_f1=macro_f1(reference, answers),
        uar=uar(reference, answers),
        interval=interval(correct, groups, unit=unit, seed=seed),
        correct=correct,
        answers=tuple(answers),
    )
