"""Scores of classifiers: right answers, classes one by one, sets of labels, and how far confidences can be believed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from trunkline.errors import DataError, UsageError


class ClassScore(NamedTuple):
    """How one class fares; `precision` is None where it was never answered, `recall` where it never occurs."""

    name: str
    support: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float


class ConfidenceBin(NamedTuple):
    """Answers whose confidence lies in (low, high], their mean confidence and how many were right."""

    low: float
    high: float
    answers: int
    confidence: float
    accuracy: float


class SetScores(NamedTuple):
    """Answers that are sets of labels: `exact` share of equal sets, F1 over all labels and over the mean of each."""

    exact: float
    micro_f1: float
    macro_f1: float


def accuracy(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Return the share of equal answers; `DataError` when there are none to compare."""
    truth, found = paired(reference, answer)
    return float(np.mean(truth == found))


def uar(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Return the unweighted average recall over the reference's classes (balanced accuracy)."""
    return uar_of(confusion_matrix(reference, answer)[0])


def macro_f1(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Return the mean F1 over every class that occurs in the reference or among the answers."""
    return macro_f1_of(confusion_matrix(reference, answer)[0])


def majority_accuracy(train: Sequence[str], test: Sequence[str]) -> float:
    """Return the accuracy on `test` of always answering the commonest label of `train`."""
    names, counts = np.unique(np.asarray(train), return_counts=True)
    if not len(names):
        raise DataError("There are no training labels, so there is no majority class.")
    return accuracy(test, [names[counts.argmax()]] * len(test))


def confusion_matrix(
    reference: Sequence[str], answer: Sequence[str], names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return counts (classes, classes), the reference's class down and the answer's across, and the classes' names.

    Args:
        reference: class of each cut.
        answer: what was answered.
        names: the classes in the order wanted; all that occur, sorted, if not given.

    Raises:
        DataError: no labels, or a class that `names` lacks. UsageError: the sequences differ in length.
    """
    truth, found = paired(reference, answer)
    there = np.union1d(truth, found).tolist()
    order = list(there if names is None else names)
    place = {name: index for index, name in enumerate(order)}
    if unknown := [name for name in there if name not in place]:
        raise DataError(f"{unknown[0]!r} is none of the classes {', '.join(map(str, order))}.")
    pairs = [
        place[a] * len(order) + place[b]
        for a, b in zip(truth.tolist(), found.tolist(), strict=True)
    ]
    return np.bincount(pairs, minlength=len(order) ** 2).reshape(len(order), len(order)), order


def uar_of(matrix: np.ndarray) -> float:
    """Return the unweighted average recall of a confusion matrix, over the classes that occur."""
    support = matrix.sum(axis=1)
    return float(np.mean(matrix.diagonal()[support > 0] / support[support > 0]))


def macro_f1_of(matrix: np.ndarray) -> float:
    """Return the mean F1 of a confusion matrix, over the classes that occur or were answered."""
    total = matrix.sum(axis=0) + matrix.sum(axis=1)
    return float(np.mean(2 * matrix.diagonal()[total > 0] / total[total > 0]))


def class_scores(matrix: np.ndarray, names: Sequence[str]) -> list[ClassScore]:
    """Return precision, recall and F1 of each class of a confusion matrix (classes, classes)."""
    support, answered = matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        _class_score(str(name), int(matrix[i, i]), int(support[i]), int(answered[i]))
        for i, name in enumerate(names)
    ]


def set_scores(
    reference: Sequence[Collection[str]], answer: Sequence[Collection[str]]
) -> SetScores:
    """Score answers that are sets of labels, such as several intents or ``slot=value`` pairs.

    A label that neither side ever has does not count; sets that are empty on both sides are equal.

    Raises:
        DataError: nothing to score. UsageError: the sequences differ in length.
    """
    names, hits, support, answered = _label_counts(reference, answer)
    exact = float(np.mean([set(a) == set(b) for a, b in zip(reference, answer, strict=True)]))
    if not names:
        return SetScores(exact, 1.0, 1.0)
    total = support + answered
    return SetScores(exact, float(2 * hits.sum() / total.sum()), float(np.mean(2 * hits / total)))


def label_scores(
    reference: Sequence[Collection[str]], answer: Sequence[Collection[str]]
) -> list[ClassScore]:
    """Return precision, recall and F1 of each label that occurs in the sets; raises as `set_scores`."""
    return [
        _class_score(name, *map(int, counts))
        for name, *counts in zip(*_label_counts(reference, answer), strict=True)
    ]


def _label_counts(
    reference: Sequence[Collection[str]], answer: Sequence[Collection[str]]
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels, and for each how often it was answered rightly, occurs, and was answered."""
    _check_lengths(reference, answer)
    names = sorted({name for labels in (*reference, *answer) for name in labels})
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((3, len(names)), dtype=np.int64)
    for truth, found in zip(reference, answer, strict=True):
        for row, labels in enumerate((set(truth) & set(found), set(truth), set(found))):
            counts[row, [place[name] for name in labels]] += 1
    return names, counts[0], counts[1], counts[2]


def _class_score(name: str, hits: int, support: int, answered: int) -> ClassScore:
    precision = hits / answered if answered else None
    recall = hits / support if support else None
    f1 = 2 * hits / (support + answered) if support + answered else 0.0
    return ClassScore(name, support, answered, precision, recall, f1)


def confidence_bins(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[float] | np.ndarray, bins: int = 15
) -> list[ConfidenceBin]:
    """Return the bins of equal width that hold answers, for a reliability diagram.

    Raises:
        DataError: nothing to score, or a confidence outside [0, 1]. UsageError: unequal lengths.
    """
    _check_lengths(confidence, correct)
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise DataError("A confidence is not between 0 and 1.")
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return [
        ConfidenceBin(
            place / bins,
            (place + 1) / bins,
            int((places == place).sum()),
            float(sure[places == place].mean()),
            float(right[places == place].mean()),
        )
        for place in np.unique(places).tolist()
    ]


def expected_calibration_error(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[float] | np.ndarray, bins: int = 15
) -> float:
    """Return the mean distance between confidence and accuracy over bins of equal width.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    found = confidence_bins(confidence, correct, bins)
    return sum(each.answers * abs(each.accuracy - each.confidence) for each in found) / len(correct)


def paired(reference: Sequence[str], answer: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays; `DataError` when they are empty, `UsageError` when their lengths differ."""
    _check_lengths(reference, answer)
    return np.asarray(reference), np.asarray(answer)


def _check_lengths(
    reference: Collection[object] | np.ndarray, answer: Collection[object] | np.ndarray
) -> None:
    if len(reference) != len(answer):
        raise UsageError(f"There are {len(reference)} reference labels but {len(answer)} answers.")
    if not len(reference):
        raise DataError("There is nothing to score: no labels.")
