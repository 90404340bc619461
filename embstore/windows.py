"""Where a cut is parted into segments: every N seconds, at speech, at turns, or where the manifest says."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from embstore.poolings import Window
from trunkline.errors import DataError, UsageError
from trunkline.rows import Cut

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
METHODS = ("vad", "turns", "manifest", "none")


def check_method(text: str) -> str:
    """Return the method, or raise UsageError: `10s` or another length, vad, turns, manifest, none."""
    match = _SECONDS.fullmatch(text)
    if text not in METHODS and (match is None or not 0.1 <= float(match[1]) <= 3600):
        raise UsageError(
            f"--segments {text!r} is not understood: give a length such as 10s (0.1s to 3600s), or one of "
            f"{', '.join(METHODS)}."
        )
    return text


def windows_of(cut: Cut, duration: float, method: str) -> list[Window]:
    """Return the segments of a cut of `duration` seconds; what overlaps its end is cut there.

    Raises:
        DataError: the manifest's own `segments` are not a list of {"start", "end"} in seconds from the cut's start;
            the recording cannot be read.
    """
    if method == "none":
        return []
    if method == "manifest":
        return _own(cut, duration)
    if match := _SECONDS.fullmatch(method):
        length = float(match[1])
        count = max(1, math.ceil(round(duration / length, 9)))
        return [Window(n * length, min((n + 1) * length, duration)) for n in range(count)]
    stretches = _speech(cut)
    if method == "vad":
        return [Window(start, end, 1.0) for start, end in stretches]
    from trunkline.prepare.segment import Turns, turns_of

    return [
        Window(start, end, _share(start, end, stretches))
        for start, end in turns_of(stretches, Turns())
    ]


def _speech(cut: Cut) -> list[tuple[float, float]]:
    from trunkline.prepare.vad import speech

    return speech(cut.blocks(8000))


def _share(start: float, end: float, stretches: list[tuple[float, float]]) -> float:
    spoken = sum(max(0.0, min(end, last) - max(start, first)) for first, last in stretches)
    return min(1.0, spoken / (end - start))


def _own(cut: Cut, duration: float) -> list[Window]:
    given = cut.label("segments")
    if given is None:
        return [Window(0.0, duration)]
    windows = []
    for item in given if isinstance(given, list) else [given]:
        start, end = (_number(item, name) for name in ("start", "end"))
        if start is None or end is None or not 0 <= start < end:
            raise DataError(
                f"Line {cut.line}, cut {cut.id!r}: segments must be a list of "
                f'{{"start": seconds, "end": seconds}} from the start of the cut, not {json.dumps(item)[:80]}.'
            )
        if start < duration:
            windows.append(Window(start, min(end, duration)))
    return windows


def _number(item: Any, name: str) -> float | None:
    value = item.get(name) if isinstance(item, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
