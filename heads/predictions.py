"""What heads answered on labelled cuts: one line of JSON each, from which every score and comparison is made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from heads.frame import stretches
from heads.frame_spans import filled
from heads.head import Head
from heads.label_space import Answer
from trunkline.checkpoint import write_file
from trunkline.errors import DataError, StorageError
from trunkline.rows import Cut

Kind: TypeAlias = Literal["text", "classes", "sets", "numbers", "frames", "voices"]
"""What an answer is: a text, one class, a set of labels, a number, stretches of time, a speaker's vector."""

PREDICTIONS = "predictions.jsonl"
TRIALS = "trials.jsonl"


@dataclass(frozen=True)
class Prediction:
    """The answer of one head on one cut, beside the truth and what slices are made by."""

    head: str
    kind: Kind
    context: str
    id: str
    reference: Any
    answer: Any
    """A str, a list of labels (slots as ``slot=value``), a number, stretches [start, end, name]; None where nothing
    was heard."""
    confidence: float | None = None
    abstained: bool = False
    probabilities: dict[str, float] = field(default_factory=dict)
    call: str | None = None
    channel: int | None = None
    speaker: str | None = None
    language: str | None = None
    start: float = 0.0
    duration: float | None = None
    words: int | None = None
    snr: float | None = None


@dataclass(frozen=True)
class ScoredTrial:
    """The score of one trial of a speaker head; speakers are None where the manifest does not name them."""

    head: str
    context: str
    enrolled: str
    test: str
    same: bool
    score: float
    speakers: tuple[str, str] | None = None


def kind_of(head: Head, result: Any) -> Kind:
    """Return what the results of a head are, told by one of them.

    Raises:
        DataError: results that there is no score for.
    """
    if head.use == "transcribe":
        return "text"
    if head.use == "embed_speaker":
        return "voices"
    if head.use == "track":
        return "frames"
    if head.use == "classify":
        if hasattr(result, "label"):
            known = {} if head.labels is None else head.labels.extra
            return "classes" if known.get("task", "classes") == "classes" else "sets"
        value = getattr(result, "value", result)
        if isinstance(value, str | bool):
            return "classes"
        if value is None or isinstance(value, int | float):
            return "numbers"
    raise DataError(
        f"There is no score for what the head {head.kind!r} answers ({type(result).__name__}); texts, classes, sets of "
        "labels, numbers, stretches and voices have one."
    )


def prediction(
    name: str,
    kind: Kind,
    context: str,
    item: str,
    turns: Sequence[Cut],
    reference: Any,
    result: Any,
    background: str = "",
) -> Prediction:
    """Return a head's result on a cut (or on the turns of a call) as a prediction; `reference` is the raw label.

    `background` is the class of frames that no stretch covers, for heads that answer for every frame.
    """
    cut = turns[0]
    answer = getattr(result, "text", getattr(result, "label", getattr(result, "value", result)))
    confidence = getattr(result, "confidence", None)
    truth, given = as_json(reference, kind), as_json(answer, kind)
    texts = [str(reference)] if kind == "text" else [turn.text for turn in turns]
    seconds = [_duration(turn) for turn in turns]
    if kind == "frames":
        truth = filled(stretches(reference), background, seconds[0])
        given = filled(given, background, seconds[0])
    return Prediction(
        head=name,
        kind=kind,
        context=context,
        id=item,
        reference=truth,
        answer=given,
        confidence=None if confidence is None else float(confidence),
        abstained=bool(getattr(result, "abstained", False)),
        probabilities=dict(getattr(result, "probabilities", {})) if kind == "classes" else {},
        call=cut.call_id,
        channel=cut.channel,
        speaker=cut.speaker,
        language=cut.language,
        start=cut.start or 0.0,
        duration=None if None in seconds else sum(filter(None, seconds)),
        words=None if None in texts else sum(len((text or "").split()) for text in texts),
        snr=_number(cut.label("snr_db")),
    )


def as_json(answer: Answer | float | None, kind: Kind) -> Any:
    """Return an answer, or a raw label, as `Prediction` keeps it.

    Raises:
        DataError: a number that is none.
    """
    if answer is None:
        return None
    if kind == "frames":
        return [list(stretch)[:3] for stretch in answer]  # type: ignore[union-attr]
    if kind == "numbers":
        number = _number(answer)
        if number is None:
            raise DataError(f"The label {answer!r} is no number.")
        return number
    if kind == "sets":
        if isinstance(answer, dict):
            return sorted(f"{slot}={value}" for slot, value in answer.items() if value)
        return sorted({str(item) for item in answer})  # type: ignore[union-attr]
    return str(answer)


def write_lines(path: str | os.PathLike[str], rows: Iterable[Prediction | ScoredTrial]) -> None:
    """Write predictions or trials as JSON lines, whole or not at all."""
    with write_file(path) as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n")


def read_predictions(folder: str | os.PathLike[str]) -> list[Prediction]:
    """Return the predictions of an evaluation's folder (or of the file itself), none where it scored trials only.

    Raises:
        StorageError: the folder holds no evaluation. DataError: a line is no prediction (named as file:line).
    """
    return _read(folder, PREDICTIONS, Prediction)


def read_scored_trials(folder: str | os.PathLike[str]) -> list[ScoredTrial]:
    """Return the scored trials of an evaluation's folder, none where it has none; raises as `read_predictions`."""
    rows = _read(folder, TRIALS, ScoredTrial)
    return [replace(row, speakers=tuple(row.speakers) if row.speakers else None) for row in rows]


def _read(folder: str | os.PathLike[str], name: str, row_type: type[Any]) -> list[Any]:
    given = Path(folder)
    path = given / name if given.is_dir() else given
    if given.is_dir() and not (given / PREDICTIONS).exists():
        raise StorageError(
            f"{given} holds no {PREDICTIONS}; give the folder that heads.evaluate wrote (its --out)."
        )
    if (given.is_file() and name == TRIALS) or (given.is_dir() and not path.exists()):
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    known = {item.name for item in fields(row_type)}
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            rows.append(row_type(**{key: values[key] for key in values if key in known}))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is no line that heads.evaluate wrote: {error}."
            ) from error
    return rows


def _duration(cut: Cut) -> float | None:
    if cut.end is not None:
        return cut.end - (cut.start or 0.0)
    return cut.duration


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
