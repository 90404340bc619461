"""One manifest row, its checks, and the `Cut` that is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import audio
from trunkline.errors import DataError, nearest

STRINGS = ("id", "call_id", "audio_filepath", "text", "speaker", "language", "split")
SECONDS = ("start", "end", "duration")
FIELDS = (*STRINGS, *SECONDS, "channel", "sampling_rate", "tags", "labels")

Row = dict[str, Any]

_LARGEST = 2**31  # no channel and no rate is as large


@dataclass(frozen=True, slots=True)
class Cut:
    """A stretch of one channel of one recording; times in seconds, `audio_filepath` absolute.

    Keys the manifest does not define are kept in `extra`. `line` is where the cut stands in its
    manifest (from 1; 0 where it comes from no file of lines).
    """

    id: str
    audio_filepath: Path
    call_id: str
    channel: int | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    sampling_rate: int | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    tags: tuple[str, ...] = ()
    labels: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    def label(self, name: str) -> Any:
        """Return `labels[name]`, else `extra[name]`, else the field `name`, else None."""
        if name in self.labels:
            return self.labels[name]
        return self.extra.get(name, getattr(self, name) if name in FIELDS else None)

    def load(self, sample_rate: int | None = None) -> np.ndarray:
        """Return the waveform (samples,), float32 in [-1, 1]; raises as `trunkline.audio.read`."""
        return audio.read(
            self.audio_filepath,
            channel=self.channel,
            start=self.start or 0.0,
            end=self.end,
            sample_rate=sample_rate,
        )

    def blocks(
        self, sample_rate: int | None = None, block_seconds: float = 10.0
    ) -> Iterator[np.ndarray]:
        """Yield what `load` returns in blocks (samples,), in bounded memory; raises as `trunkline.audio.blocks`."""
        return audio.blocks(
            self.audio_filepath,
            channel=self.channel,
            start=self.start or 0.0,
            end=self.end,
            sample_rate=sample_rate,
            block_seconds=block_seconds,
        )

    def to_row(self) -> Row:
        """Return the cut as a manifest row: what it states, unknown keys at the top level."""
        row = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("extra", "line")
        }
        row |= {"audio_filepath": str(self.audio_filepath), "tags": list(self.tags)}
        return {
            name: value for name, value in row.items() if value not in (None, [], {})
        } | self.extra


def parse_row(text: str | bytes, where: str) -> Row:
    """Return the checked row of a JSON line; `where` is "file:line" for messages."""
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not valid JSON ({error.msg}, column {error.colno})."
        ) from error
    except RecursionError as error:
        raise DataError(f"{where} holds lists or objects nested too deeply.") from error
    except ValueError as error:  # a constant, or a number of thousands of digits
        raise DataError(f"{where} holds what is no JSON number: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} must be a JSON object, one cut a line, not {type(row).__name__}.")
    return check_row(row, where)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name}; write null")


def check_row(row: Row, where: str) -> Row:
    """Return the row with its known fields typed, others as they are.

    Roles become a channel index, NeMo's `offset` a `start`; null is as good as absent.

    Raises:
        DataError: `audio_filepath` is missing, or a field has a type or value that it cannot have.
    """
    row = {name: value for name, value in row.items() if value is not None}
    if row.get("audio_filepath") in (None, ""):
        raise DataError(f"{where} has no audio_filepath.{_hint(row)}")
    if "offset" in row and "start" not in row:
        row["start"] = row.pop("offset")
    for name in STRINGS:
        if name in row:
            row[name] = _string(row[name], name, where)
    for name in SECONDS:
        if name in row:
            row[name] = _seconds(row[name], name, where)
    if "channel" in row:
        row["channel"] = _channel(row["channel"], where)
    if "sampling_rate" in row:
        row["sampling_rate"] = _rate(row["sampling_rate"], where)
    tags, labels = row.get("tags", []), row.get("labels", {})
    strings = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    if not strings or not isinstance(labels, dict):
        raise DataError(f"{where}: tags must be a list of strings and labels an object.")
    _check_letters(row, where)
    start = row.get("start", 0.0)
    end = row.get("end", start + row["duration"] if "start" in row and "duration" in row else None)
    if end is not None and end <= start:
        raise DataError(f"{where}: end {end} must be after start {start}.")
    return row


def _check_letters(row: Row, where: str) -> None:
    if "\0" in row["audio_filepath"]:
        raise DataError(f"{where}: audio_filepath holds a NUL character, which no file name can.")
    for name in STRINGS:
        if name in row and not row[name].isascii():
            try:
                row[name].encode()
            except UnicodeEncodeError as error:
                letter = ascii(row[name][error.start])
                raise DataError(
                    f"{where}: {name} holds {letter}, half a character that no UTF-8 text can hold."
                ) from error


def extra_of(row: Row) -> Row:
    """Return the keys of a row that are no field of the manifest."""
    known = FIELDS if "start" in row else (*FIELDS, "offset")
    return {name: value for name, value in row.items() if name not in known}


def _hint(row: Row) -> str:
    return nearest("audio_filepath", row) if row else ""


def _string(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool | list | dict):
        raise DataError(f"{where}: {name} must be a string, not {json.dumps(value)}.")
    return str(value)


def _seconds(value: Any, name: str, where: str) -> float:
    number = _number(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise DataError(
            f"{where}: {name} must be a number of seconds, 0 or more, not {json.dumps(value)}."
        )
    return number


def _rate(value: Any, where: str) -> int:
    number = _number(value)
    if number is None or not 0 < number < _LARGEST or number != int(number):
        raise DataError(
            f"{where}: sampling_rate must be a whole number of Hz, not {json.dumps(value)}."
        )
    return int(number)


def _channel(value: Any, where: str) -> int:
    if isinstance(value, str) and value in audio.ROLES:
        return audio.ROLES[value]
    number = _number(value)
    if number is None or not 0 <= number < _LARGEST or number != int(number):
        raise DataError(
            f'{where}: channel must be 0, 1, ..., "agent" or "customer", not {json.dumps(value)}.'
        )
    return int(number)


def _number(value: Any) -> float | None:
    """Return a JSON number, or a number written as a string (CSV), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
