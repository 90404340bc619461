"""What a classification head can answer: classes, sets of labels, or slots; raw labels become targets here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from heads.head import HeadLabels
from trunkline.errors import DataError, nearest

Task: TypeAlias = Literal["classes", "labels", "slots"]
Answer: TypeAlias = "str | tuple[str, ...] | dict[str, str]"
"""A class; the labels that apply, sorted; or the slots that are filled."""

IGNORED = -1
_HOW_MANY_NAMED = 5


@dataclass(frozen=True)
class LabelSpace:
    """The outputs of a head and how they belong together.

    Args:
        task: one of several classes, any number of labels, or one value for each of several slots.
        names: of the outputs; for slots ``slot=value``, and ``slot=`` where the slot is not filled.
        counts: in how many training items each output was right.
        items: number of training items.
        groups: outputs of which exactly one is right, by name: the slots, or all classes together.
    """

    task: Task
    names: tuple[str, ...]
    counts: tuple[int, ...]
    items: int
    groups: dict[str, tuple[int, ...]]

    @classmethod
    def of_labels(cls, task: Task, labels: Iterable[Any]) -> LabelSpace:
        """Return the space of the training labels.

        Raises:
            DataError: no labels, an ill-typed one, or nothing to tell apart (one class only).
        """
        answers = [read_answer(label, task) for label in labels]
        if not answers:
            raise DataError("No cut has a label, so there is nothing to learn.")
        if task == "slots":
            return _slot_space(answers)
        found = Counter(name for answer in answers for name in _names(answer))
        names: tuple[str, ...] = tuple(sorted(found))
        if task == "classes" and len(names) < 2:
            raise DataError(
                f"All {len(answers)} training labels are {', '.join(map(repr, names))}: with one class only "
                "there is nothing to learn."
            )
        if not names or (len(names) == 1 and found[names[0]] == len(answers)):
            raise DataError(
                f"All {len(answers)} training items have the same labels: there is nothing to learn."
            )
        groups = {"": tuple(range(len(names)))} if task == "classes" else {}
        counts = tuple(found[name] for name in names)
        return cls(task, names, counts, len(answers), groups)

    def to_labels(self) -> HeadLabels:
        """Return what is saved with the head."""
        extra = {"task": self.task, "items": self.items}
        if self.task == "slots":
            extra["slots"] = {name: len(places) for name, places in self.groups.items()}
        return HeadLabels(self.names, self.counts, extra=extra)

    @classmethod
    def from_labels(cls, labels: HeadLabels) -> LabelSpace:
        """Read what `to_labels` gave."""
        groups: dict[str, tuple[int, ...]] = {}
        first = 0
        sizes = {"": len(labels.names)} if labels.extra["task"] == "classes" else {}
        for name, size in labels.extra.get("slots", sizes).items():
            groups[name] = tuple(range(first, first + size))
            first += size
        return cls(
            labels.extra["task"],
            tuple(labels.names),
            tuple(labels.counts),
            labels.extra["items"],
            groups,
        )

    def parts(self) -> list[tuple[int, ...]]:
        """Return the outputs of each slot, or each label by itself, in the order of the outputs."""
        if self.task == "labels":
            return [(place,) for place in range(len(self.names))]
        return list(self.groups.values())

    def commonest(self) -> Answer:
        """Return the answer that is right most often without listening: what occurs most in training."""
        if self.task == "labels":
            often = [i for i, count in enumerate(self.counts) if 2 * count > self.items]
            return self.answer(often)
        counts = self.counts
        return self.answer([max(g, key=lambda place: counts[place]) for g in self.groups.values()])

    def unknown(self, label: Any) -> list[str]:
        """Return the parts of a label that no output stands for, empty where all do."""
        answer = read_answer(label, self.task)
        parts = (
            [f"{slot}={value}" for slot, value in answer.items()]
            if isinstance(answer, dict)
            else _names(answer)
        )
        return [part for part in parts if part not in self.names]

    def check(self, labels: Iterable[Any]) -> None:
        """Raise a `DataError` that names the labels that were not in training, and how often they occur."""
        missing = Counter(part for label in labels for part in self.unknown(label))
        if missing:
            first = missing.most_common(_HOW_MANY_NAMED)
            named = ", ".join(f"{name!r} ({count} x)" for name, count in first)
            more = f" and {len(missing) - len(first)} more" if len(missing) > len(first) else ""
            raise DataError(
                f"Labels that were not in the training set: {named}{more}."
                f"{nearest(first[0][0], self.names)} Train again with them, or correct the manifest."
            )

    def targets(self, labels: Sequence[Any]) -> Tensor:
        """Return the targets of a batch.

        For classes and slots (batch, groups) places within each group, `IGNORED` for what was not in training;
        for sets of labels (batch, names) of 0 and 1.
        """
        if self.task == "labels":
            rows = [set(_names(read_answer(label, self.task))) for label in labels]
            return torch.tensor([[float(name in row) for name in self.names] for row in rows])
        place = {name: index for index, name in enumerate(self.names)}
        table = []
        for label in labels:
            answer = read_answer(label, self.task)
            wanted = (
                [f"{slot}={answer.get(slot, '')}" for slot in self.groups]
                if isinstance(answer, dict)
                else _names(answer)
            )
            groups = self.groups.values()
            table.append(
                [
                    place[name] - group[0] if name in place else IGNORED
                    for name, group in zip(wanted, groups, strict=True)
                ]
            )
        return torch.tensor(table).reshape(len(table), len(self.groups))

    def answer(self, chosen: Sequence[int]) -> Answer:
        """Return the answer that the outputs `chosen` stand for: one for each group, or the labels that apply."""
        names = [self.names[index] for index in chosen]
        if self.task == "classes":
            return names[0]
        if self.task == "labels":
            return tuple(names)
        filled = (name.partition("=") for name in names)
        return {slot: value for slot, _, value in filled if value}


def read_answer(label: Any, task: Task) -> Answer:
    """Return a raw label of a manifest as an answer; numbers and truth values count by their text.

    Raises:
        DataError: a label of another type than the task's.
    """
    if isinstance(label, float) and label != label:
        raise DataError("A label is NaN; leave the key out of cuts that have no label.")
    if task == "classes" and isinstance(label, str | int | float):
        return str(label)
    if task == "labels" and isinstance(label, list | tuple | set | frozenset):
        return tuple(sorted({str(item) for item in label}))
    if task == "slots" and isinstance(label, Mapping):
        return {str(slot): str(value) for slot, value in label.items() if value not in (None, "")}
    kinds = {"classes": "a class name", "labels": "a list of labels", "slots": "{slot: value}"}
    raise DataError(f"The label {label!r} is not {kinds[task]}, which task={task!r} needs.")


def _names(answer: Answer) -> tuple[str, ...]:
    return (answer,) if isinstance(answer, str) else tuple(answer)


def _slot_space(answers: Sequence[Any]) -> LabelSpace:
    """Return the space of slots; "not filled" comes first in each and is always an output."""
    slots = sorted({slot for answer in answers for slot in answer})
    found = Counter(f"{slot}={answer.get(slot, '')}" for answer in answers for slot in slots)
    names: list[str] = []
    groups: dict[str, tuple[int, ...]] = {}
    for slot in slots:
        values = sorted({answer[slot] for answer in answers if slot in answer})
        groups[slot] = tuple(range(len(names), len(names) + 1 + len(values)))
        names += [f"{slot}={value}" for value in ("", *values)]
    if all(
        max(found[name] for name in _of(names, group)) == len(answers) for group in groups.values()
    ):
        raise DataError(
            f"All {len(answers)} training items fill the slots alike: there is nothing to learn."
        )
    return LabelSpace("slots", tuple(names), tuple(found[x] for x in names), len(answers), groups)


def _of(names: Sequence[str], places: Iterable[int]) -> list[str]:
    return [names[place] for place in places]
