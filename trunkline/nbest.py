"""N-best lists: what a recogniser thought an utterance might be, one JSON object a line.

    {"utt_id": "call7-12", "nbest": [{"text": "xin chào", "am": -12.5, "lm": -8.1}, ...],
     "ref": ..., "context": ..., "bias": [...], "group": "call7"}

Schema ``trunkline.nbest/1``. Heads write such files, rescoring reads and writes them; a list may have
any length from 1 on. Scores are natural logarithms of the whole text, never per frame or token.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trunkline.checkpoint import write_file
from trunkline.errors import DataError, StorageError, nearest

SCHEMA = "trunkline.nbest/1"
HYPOTHESIS_KEYS = ("text", "am", "lm", "extra")
KEYS = ("schema", "utt_id", "nbest", "ref", "context", "bias", "group")


@dataclass(frozen=True)
class Hypothesis:
    """One text and its scores.

    Args:
        text: as the recogniser wrote it; rescoring normalises copies of its own.
        am: the acoustic (or end-to-end) log probability of the whole text, in nats.
        lm: the language model's log probability, if the recogniser already knows it.
        extra: further scores by name.

    Raises:
        DataError: a score is not a finite number, or the text is no string.
    """

    text: str
    am: float
    lm: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DataError(f"text must be a string, not {self.text!r}.")
        _finite(self.am, "am")
        if self.lm is not None:
            _finite(self.lm, "lm")
        if not isinstance(self.extra, Mapping):
            raise DataError(f"extra must map names to scores, not be {self.extra!r}.")
        for name, value in self.extra.items():
            _finite(value, f"extra[{str(name)!r}]")


@dataclass(frozen=True)
class NBest:
    """The hypotheses of one utterance, in the recogniser's order.

    Args:
        utt_id: the utterance's name, unique in a file.
        hyps: at least one hypothesis.
        ref: what was said, where it is known.
        context: text that belongs to the utterance, such as the previous turn.
        bias: phrases to expect, such as the customer's name.
        group: the call (or speaker) that the utterance comes from; intervals and folds respect it.
        extra: further keys of the JSON object, kept as they are.

    Raises:
        DataError: no hypotheses, or a field of another type.
    """

    utt_id: str
    hyps: tuple[Hypothesis, ...]
    ref: str | None = None
    context: str | None = None
    bias: tuple[str, ...] = ()
    group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.utt_id, str) or not self.utt_id:
            raise DataError(f"utt_id must be a string that is not empty, not {self.utt_id!r}.")
        object.__setattr__(self, "hyps", tuple(self.hyps))
        if not self.hyps:
            raise DataError(f"The N-best list of {self.utt_id!r} is empty; it needs 1 or more.")
        for name in ("ref", "context", "group"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise DataError(f"{name} must be a string, not {value!r}.")
        if isinstance(self.bias, str) or not all(isinstance(x, str) for x in self.bias):
            raise DataError(f"bias must be a list of phrases, not {self.bias!r}.")
        object.__setattr__(self, "bias", tuple(self.bias))

    def __len__(self) -> int:
        return len(self.hyps)

    @property
    def texts(self) -> list[str]:
        """The hypotheses' texts in the recogniser's order."""
        return [hypothesis.text for hypothesis in self.hyps]


def read_nbest(path: str | os.PathLike[str]) -> Iterator[NBest]:
    """Yield the lists of a JSONL file, one at a time; blank lines are passed over.

    Raises:
        DataError: a line that is not a list of schema ``trunkline.nbest/1``, an utterance that occurs twice, a file
            without any list; the message names file and line.
        StorageError: the file cannot be read.
    """
    seen: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                nbest = parse_nbest(line, f"{path}:{number}")
                if (first := seen.setdefault(nbest.utt_id, number)) != number:
                    raise DataError(
                        f"{path}:{number}: utt_id {nbest.utt_id!r} stands in line {first} already; "
                        "give each utterance a name of its own."
                    )
                yield nbest
    except DataError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not seen:
        raise DataError(f"{path} holds no N-best list; it needs one JSON object a line.")


def write_nbest(path: str | os.PathLike[str], lists: Iterable[NBest]) -> int:
    """Write lists as JSONL, whole or not at all; return how many there were."""
    count = 0
    with write_file(path) as file:
        for nbest in lists:
            file.write(json.dumps(to_json(nbest), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def parse_nbest(line: str | bytes, where: str) -> NBest:
    """Return the list in one JSON line; `where` is "file:line" for messages."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} must be a JSON object, not {type(row).__name__}.")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # such as "\ud83d" alone
        raise DataError(f"{where} has half a character in it: {error.reason}.") from error
    if row.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"{where} has schema {row['schema']!r}; this version reads {SCHEMA!r}.")
    for name in ("utt_id", "nbest"):
        if name not in row:
            raise DataError(f"{where} has no {name!r}.{nearest(name, row) if row else ''}")
    entries = row["nbest"]
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{where}: 'nbest' must be a list of one hypothesis or more.")
    hyps = tuple(_parse_hypothesis(x, f"{where}: nbest[{i}]") for i, x in enumerate(entries))
    bias = row.get("bias") or ()
    if not isinstance(bias, list | tuple):
        raise DataError(f"{where}: bias must be a list of phrases, not {bias!r}.")
    utt_id = row["utt_id"]
    try:
        return NBest(
            utt_id=str(utt_id) if isinstance(utt_id, int) else utt_id,
            hyps=hyps,
            ref=row.get("ref"),
            context=row.get("context"),
            bias=tuple(bias),
            group=row.get("group"),
            extra={name: value for name, value in row.items() if name not in KEYS},
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def to_json(nbest: NBest) -> dict[str, Any]:
    """Return the JSON object of a list, without what it does not state."""
    entries = []
    for x in nbest.hyps:
        entry: dict[str, Any] = {"text": x.text, "am": x.am}
        if x.lm is not None:
            entry["lm"] = x.lm
        if x.extra:
            entry["extra"] = dict(x.extra)
        entries.append(entry)
    row: dict[str, Any] = {"schema": SCHEMA, "utt_id": nbest.utt_id, "nbest": entries}
    row |= {"ref": nbest.ref, "context": nbest.context, "group": nbest.group}
    row |= {"bias": list(nbest.bias) or None, **nbest.extra}
    return {name: value for name, value in row.items() if value is not None}


def _parse_hypothesis(entry: Any, where: str) -> Hypothesis:
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be an object with text and am, not {entry!r}.")
    for name in entry:
        if name not in HYPOTHESIS_KEYS:  # a misspelt "lm" would switch the term off unseen
            hint = nearest(name, HYPOTHESIS_KEYS)
            raise DataError(f"{where} has unknown {name!r}; other scores go into extra.{hint}")
    for name in ("text", "am"):
        if name not in entry:
            raise DataError(f"{where} has no {name!r}.{nearest(name, entry) if entry else ''}")
    extra = entry.get("extra")
    try:
        return Hypothesis(
            entry["text"], entry["am"], entry.get("lm"), {} if extra is None else extra
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _finite(value: Any, name: str) -> None:
    try:
        sound = not isinstance(value, bool | str) and math.isfinite(value)
    except (TypeError, OverflowError):
        sound = False
    if not sound:
        raise DataError(f"{name} must be a finite number, not {value!r}.")
