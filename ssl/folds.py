"""Every labelled cut as test once, or as dev once: several folds, by speaker where speakers are known.

One unseen speaker says little about the next. With folds each speaker is answered by classifiers that never heard him,
and a comparison counts all of them. Nor can one speaker of dev choose a layer for others: where dev rotates, each
speaker of train and dev has a say, and the classifiers that left one of them out each answer together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ssl.pooled import Pooled
from ssl.probing import LabelledCuts, Row, classes_of, common, groups_of, scored, with_label
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Cut, Manifest

MIN_FOLDS = 3
"""One part is test, the next dev, and something must be left to train on."""
MIN_ROTATIONS = 2


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
    groups, unit = _groups(labelled, label)
    if not MIN_FOLDS <= number <= len(groups):
        raise UsageError(
            f"--folds {number}: must be {MIN_FOLDS} to {len(groups)}, as {manifest.path} has {len(groups)} {unit}s "
            f"with a {label!r}."
        )
    parts = _dealt(groups, number, seed)
    notes.append(
        f"Each of {len(groups)} {unit}s is test once, in {number} folds; splits are not looked at."
    )
    return [_fold(manifest, label, parts, test, notes) for test in range(number)]


def rotated_cuts(cuts: LabelledCuts, number: int, *, seed: int = 0) -> list[LabelledCuts]:
    """Deal train and dev into parts; each is dev once, with the others as train, and test is always the same.

    Raises:
        UsageError: fewer than two parts, or fewer speakers (or calls, or cuts) than parts.
        DataError: the others of a part have one class only.
    """
    groups, unit = _groups([*cuts.train, *cuts.dev], cuts.label)
    if not MIN_ROTATIONS <= number <= len(groups):
        raise UsageError(
            f"--rotate {number}: must be {MIN_ROTATIONS} to {len(groups)}, as train and dev have {len(groups)} {unit}s."
        )
    parts = _dealt(groups, number, seed)
    note = (
        f"Each of {len(groups)} {unit}s of train and dev is dev once; the {number} classifiers that "
        "left a part out each answer together."
    )
    rotated = []
    for dev in range(number):
        train = [cut for place, part in enumerate(parts) if place != dev for cut in part]
        if len(set(classes_of(train, cuts.label))) < 2:
            raise DataError(
                f"--rotate {number}: with part {dev + 1} as dev, what is left to train on has one {cuts.label!r} "
                "only; take more parts."
            )
        rotated.append(LabelledCuts(cuts.label, train, parts[dev], cuts.test, [*cuts.notes, note]))
    return rotated


def _groups(cuts: Sequence[Cut], label: str) -> tuple[dict[str, list[Cut]], str]:
    """Return the cuts of each speaker (or call, or cut), and which of these it is."""
    names, unit = groups_of(cuts, label)
    groups: dict[str, list[Cut]] = {}
    for cut, name in zip(cuts, names, strict=True):
        groups.setdefault(f"#{cut.id}" if name is None else f"={name}", []).append(cut)
    return groups, unit


def _dealt(groups: dict[str, list[Cut]], number: int, seed: int) -> list[list[Cut]]:
    """Deal whole groups into parts: each to the part that is smallest so far, the largest first."""
    parts: list[list[Cut]] = [[] for _ in range(number)]
    order = sorted(groups)
    np.random.default_rng(seed).shuffle(order)
    for key in sorted(order, key=lambda key: -len(groups[key])):
        min(parts, key=len).extend(groups[key])
    return parts


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
    answers = [answer for row in rows for answer in row.answers]
    return Row(**common(rows), **_on_dev(rows), **scored(answers, cuts, label, seed))


def answered_together(rows: Sequence[Row], cuts: Sequence[Cut], label: str, seed: int = 0) -> Row:
    """Return the score of the mean of the probabilities of several classifiers; of one, the row itself.

    Args:
        rows: one for each rotation, of the same test cuts; their classes may differ.
        cuts: the test cuts.
        label: what was told.
        seed: of the interval.
    """
    if len(rows) == 1:
        return rows[0]
    classes = sorted({name for row in rows for name in row.classes})
    total = np.zeros((len(cuts), len(classes)))
    for row in rows:
        if row.probabilities is None:
            raise ValueError(f"The row of layer {row.layer} has no probabilities.")
        total[:, [classes.index(name) for name in row.classes]] += row.probabilities
    answers = [classes[index] for index in total.argmax(axis=1)]
    return Row(
        **common(rows),
        **_on_dev(rows),
        **scored(answers, cuts, label, seed),
        classes=tuple(classes),
        probabilities=total / len(rows),
    )


def _on_dev(rows: Sequence[Row]) -> dict[str, float]:
    return {
        name: float(np.mean([getattr(row, name) for row in rows]))
        for name in ("dev_accuracy", "dev_loss")
    }
