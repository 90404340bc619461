"""What each term of a hypothesis' score counts, and when a list is better left alone: a JSON file.

total = alpha * am + beta * lm + gamma * sem + delta * phon + bias * bias + length * len + extra terms
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from trunkline.checkpoint import read_json, write_json
from trunkline.errors import ConfigError, StorageError, nearest

SCHEMA = "trunkline.weights/1"
FIELD_OF_TERM = {
    "am": "alpha",
    "lm": "beta",
    "sem": "gamma",
    "phon": "delta",
    "bias": "bias",
    "len": "length",
}
GUARDS = ("margin", "max_drop", "max_oov")


@dataclass(frozen=True)
class Weights:
    """The weights of the terms, the guards, and where the weights come from.

    Args:
        alpha: of am, the acoustic log probability of the text. Tuning leaves it at 1.
        beta: of lm, the language model's log probability.
        gamma: of sem, how well the words fit each other or the context.
        delta: of phon, minus the expected phonetic distance to the rest of the list, in syllables.
        bias: of bias, how closely listed phrases are met.
        length: of len, the number of words; it balances the other terms' liking for short texts.
        extra: weights of further terms, by name.
        margin: another hypothesis must beat the 1-best by this many nats, or the list stays as it is.
        max_drop: a hypothesis whose am is this many nats below the best cannot win; None: any can.
        max_oov: above this share of unknown words the language model knows too little of the
            domain, and the list stays as it is.
        tuning: how the weights were found, for the reader of the file.

    Raises:
        ConfigError: a weight or guard is not a finite number, or a guard is negative.
    """

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0
    bias: float = 0.0
    length: float = 0.0
    extra: Mapping[str, float] = field(default_factory=dict, hash=False)
    margin: float = 0.0
    max_drop: float | None = None
    max_oov: float = 0.30
    tuning: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.extra, Mapping):
            raise ConfigError(f"Weight extra must map terms to weights, not be {self.extra!r}.")
        for name, value in [*self.items(), *((x, getattr(self, x)) for x in GUARDS)]:
            if name == "max_drop" and value is None:
                continue
            if isinstance(value, bool | str) or not _is_finite(value):
                raise ConfigError(f"Weight {name} must be a finite number, not {value!r}.")
            if name in GUARDS and value < 0:
                raise ConfigError(f"{name} must be 0 or more, not {value!r}.")
        if clash := sorted(set(self.extra) & set(FIELD_OF_TERM)):
            raise ConfigError(f"Weight extra[{clash[0]!r}] has the name of a term of its own.")

    def items(self) -> Iterator[tuple[str, float]]:
        """Yield each term's name and weight."""
        for term, name in FIELD_OF_TERM.items():
            yield term, getattr(self, name)
        yield from self.extra.items()

    def of(self, term: str) -> float:
        """Return the weight of a term; 0 for one that is not named."""
        name = FIELD_OF_TERM.get(term)
        return getattr(self, name) if name else self.extra.get(term, 0.0)

    @classmethod
    def from_terms(cls, weights: Mapping[str, float], **guards: Any) -> Self:
        """Return weights given by the names of the terms: am, lm, sem, phon, bias, len, others."""
        known = {FIELD_OF_TERM[x]: w for x, w in weights.items() if x in FIELD_OF_TERM}
        return cls(
            **known, extra={x: w for x, w in weights.items() if x not in FIELD_OF_TERM}, **guards
        )

    def changed(self, settings: Iterable[str]) -> Self:
        """Return the weights with some replaced: ``beta=0.6``, ``margin=2``, ``extra.NAME=1``.

        Raises:
            ConfigError: an unknown name, or what is given is no number.
        """
        fresh: dict[str, Any] = {}
        extra = dict(self.extra)
        names = [*FIELD_OF_TERM.values(), *GUARDS]
        for setting in settings:
            name, _, value = setting.partition("=")
            try:
                number = float(value)
            except ValueError as error:
                raise ConfigError(f"{setting!r} must be NAME=NUMBER, such as beta=0.6.") from error
            if name.startswith("extra.") and name != "extra.":
                extra[name.removeprefix("extra.")] = number
            elif name in names:
                fresh[name] = number
            else:
                raise ConfigError(f"There is no weight {name!r}.{nearest(name, names)}")
        return replace(self, extra=extra, **fresh)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as JSON."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read weights from JSON.

        Raises:
            StorageError: no such file. CheckpointError: no JSON. ConfigError: an unknown or ill-typed key.
        """
        if not Path(path).exists():
            raise StorageError(
                f"{path}: there are no such weights; rescoring.tune --out writes them."
            )
        found = read_json(path)
        if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
            raise ConfigError(f"{path} holds no weights of schema {SCHEMA!r}.")
        known = [item.name for item in fields(cls)]
        for name in found:
            if name not in known:
                raise ConfigError(f"{path} has unknown weight {name!r}.{nearest(name, known)}")
        try:
            return cls(**found)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
