"""Rules over a call's turns: which label may come where, the best sequence that keeps them, and why one was refused.

A table is written by people who know the calls:

    {"rules": [{"label": "promise_to_pay", "after": ["debt_named"]},
               {"label": "greeting", "not_after": ["farewell"], "penalty": 3.0}]}

"promise_to_pay only if debt_named came before in the call": forbidden otherwise; breaking the second rule costs 3 nats,
so that a confident classifier can overrule it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trunkline.checkpoint import read_json
from trunkline.errors import CheckpointError, ConfigError, DataError, nearest
from trunkline.settings import read_settings

MAX_MEMORY = 12
"""So many labels may stand in `after` and `not_after`: what was said before is kept as a set of them."""


@dataclass(frozen=True)
class Rule:
    """Where a label may stand.

    Args:
        label: that is ruled.
        after: at least one of these must have come before in the call.
        directly_after: the turn before must have one of these.
        not_after: none of these may have come before in the call.
        penalty: cost in nats of breaking the rule; None forbids it.
    """

    label: str
    after: tuple[str, ...] = ()
    directly_after: tuple[str, ...] = ()
    not_after: tuple[str, ...] = ()
    penalty: float | None = None

    def __post_init__(self) -> None:
        given = [bool(self.after), bool(self.directly_after), bool(self.not_after)]
        if sum(given) != 1:
            raise ConfigError(
                f"label {self.label!r}: a rule has one of after, directly_after and not_after; write several rules "
                "for several conditions."
            )
        if self.penalty is not None and not (self.penalty > 0 and math.isfinite(self.penalty)):
            raise ConfigError(
                f"penalty: must be a positive number of nats, or absent to forbid, not {self.penalty}."
            )

    def __str__(self) -> str:
        if self.directly_after:
            return f"{self.label!r} only directly after {_or(self.directly_after)}"
        if self.after:
            return f"{self.label!r} only after {_or(self.after)}"
        return f"{self.label!r} never after {_or(self.not_after)}"

    def broken(self, previous: str | None, before: frozenset[str]) -> bool:
        """Return whether the label may not follow these: the turn before, and all turns before."""
        if self.directly_after:
            return previous not in self.directly_after
        if self.after:
            return before.isdisjoint(self.after)
        return not before.isdisjoint(self.not_after)


class Refusal(NamedTuple):
    """A turn (from 0) whose likeliest label did not stand."""

    turn: int
    refused: str
    refused_probability: float
    given: str
    given_probability: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"turn {self.turn + 1}: {self.refused!r} ({self.refused_probability:.2f}) gave way to {self.given!r} "
            f"({self.given_probability:.2f}): {'; '.join(self.reasons)}"
        )


class RuledCall(NamedTuple):
    """The labels of a call's turns that the rules allow, their log probability with penalties, and what was refused."""

    labels: tuple[str, ...]
    log_probability: float
    refusals: tuple[Refusal, ...]


class TransitionTable:
    """Rules over the labels of a classification head.

    Args:
        labels: of the head, in the order of its outputs.
        rules: all of which hold together.

    Raises:
        ConfigError: a rule names a label that the head does not have (the nearest is named), or too many labels.
    """

    def __init__(self, labels: Sequence[str], rules: Sequence[Rule]) -> None:
        self.labels = tuple(labels)
        self.rules = tuple(rules)
        for rule in self.rules:
            for name in (rule.label, *rule.after, *rule.directly_after, *rule.not_after):
                if name not in self.labels:
                    raise ConfigError(
                        f"The rule {rule} names {name!r}, which is no label of the head."
                        f"{nearest(name, self.labels)}"
                    )
        remembered = {name for rule in self.rules for name in (*rule.after, *rule.not_after)}
        self.remembered = tuple(sorted(remembered))
        if len(self.remembered) > MAX_MEMORY:
            raise ConfigError(
                f"after and not_after name {len(self.remembered)} labels; at most {MAX_MEMORY} can be kept in mind."
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], labels: Sequence[str]) -> TransitionTable:
        """Read a table of rules as JSON, for a head with these labels.

        Raises:
            ConfigError: the file is no such table, or does not fit the labels.
        """
        try:
            table = read_json(path)
        except CheckpointError as error:
            raise ConfigError(f"The rules {path} cannot be read: {error}") from error
        if not (isinstance(table, Mapping) and isinstance(table.get("rules"), list)):
            raise ConfigError(
                f'{path} is no table of rules; write {{"rules": [{{"label": ...}}]}}.'
            )
        try:
            rules = [read_settings(Rule, _as_rule(entry)) for entry in table["rules"]]
            return cls(labels, rules)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def broken(self, labels: Sequence[str]) -> list[tuple[int, Rule]]:
        """Return (turn, rule) of every rule that a sequence of labels breaks."""
        found = []
        for turn, label in enumerate(labels):
            previous = labels[turn - 1] if turn else None
            before = frozenset(labels[:turn])
            found += [
                (turn, rule)
                for rule in self.rules
                if rule.label == label and rule.broken(previous, before)
            ]
        return found

    def cost(self, labels: Sequence[str]) -> float:
        """Return what a sequence of labels costs in nats; infinity where it is forbidden."""
        return sum(
            math.inf if rule.penalty is None else rule.penalty for _, rule in self.broken(labels)
        )

    def decode(self, probabilities: Sequence[Mapping[str, float]] | np.ndarray) -> RuledCall:
        """Return the likeliest labels of a call's turns that keep the rules (Viterbi), and each refusal with its why.

        Args:
            probabilities: of each turn in the order of the call, {label: probability} or (turns, labels).

        Raises:
            DataError: probabilities of other labels, or no sequence keeps the rules at all.
        """
        table = self._table(probabilities)
        if not len(table):
            return RuledCall((), 0.0, ())
        with np.errstate(divide="ignore"):
            path, score = self._viterbi(np.log(table))
        labels = tuple(self.labels[index] for index in path)
        refusals = []
        for turn, (given, wanted) in enumerate(zip(path, table.argmax(axis=1), strict=True)):
            if table[turn, given] < table[turn, wanted]:
                instead = (*labels[:turn], self.labels[wanted], *labels[turn + 1 :])
                refusals.append(
                    Refusal(
                        turn,
                        self.labels[wanted],
                        float(table[turn, wanted]),
                        labels[turn],
                        float(table[turn, given]),
                        self._reasons(labels, instead, turn),
                    )
                )
        return RuledCall(labels, score, tuple(refusals))

    def _reasons(self, labels: Sequence[str], instead: Sequence[str], turn: int) -> tuple[str, ...]:
        """Return what the refused sequence breaks that the given one does not.

        There is always something: with nothing broken the refused label, being likelier, would stand.
        """
        kept = set(self.broken(labels))
        return tuple(
            str(rule)
            + ("" if place == turn else f" (turn {place + 1})")
            + ("" if rule.penalty is None else f", which costs {rule.penalty:g}")
            for place, rule in self.broken(instead)
            if (place, rule) not in kept
        )

    def _viterbi(self, scores: np.ndarray) -> tuple[list[int], float]:
        """Return the best labels for log probabilities (turns, labels), and their score.

        A state is the last label and the set of remembered labels so far; only states that can occur are kept.
        """
        best: dict[tuple[int | None, frozenset[str]], tuple[float, list[int]]]
        best = {(None, frozenset()): (0.0, [])}
        for turn, row in enumerate(scores):
            following: dict[tuple[int | None, frozenset[str]], tuple[float, list[int]]] = {}
            for ((last, before), (score, path)), label in itertools.product(
                best.items(), range(len(self.labels))
            ):
                total = score + row[label] - self._step_cost(label, last, before)
                if total == -math.inf:
                    continue
                name = self.labels[label]
                seen = before | {name} if name in self.remembered else before
                known = following.get((label, seen))
                if known is None or total > known[0]:
                    following[label, seen] = (float(total), [*path, label])
            if not following:
                raise DataError(
                    f"No label of turn {turn + 1} keeps the rules, whatever the turns before are given: "
                    f"{'; '.join(str(rule) for rule in self.rules)}."
                )
            best = following
        score, path = max(best.values(), key=lambda found: found[0])
        return path, score

    def _step_cost(self, label: int, last: int | None, before: frozenset[str]) -> float:
        previous = None if last is None else self.labels[last]
        return sum(
            math.inf if rule.penalty is None else rule.penalty
            for rule in self.rules
            if rule.label == self.labels[label] and rule.broken(previous, before)
        )

    def _table(self, probabilities: Sequence[Mapping[str, float]] | np.ndarray) -> np.ndarray:
        rows = []
        for row in probabilities:
            if isinstance(row, Mapping):
                if set(row) != set(self.labels):
                    raise DataError(
                        f"A turn has probabilities of {', '.join(sorted(row)) or 'nothing'}; the rules are for "
                        f"{', '.join(self.labels)}."
                    )
                row = [row[name] for name in self.labels]
            rows.append(row)
        table = np.asarray(rows, dtype=np.float64).reshape(-1, len(self.labels))
        if not ((table >= 0) & (table <= 1 + 1e-6)).all():
            raise DataError("A probability is not between 0 and 1.")
        return table


def _as_rule(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{entry!r} is no rule; write an object with label and after.")
    return entry


def _or(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)
