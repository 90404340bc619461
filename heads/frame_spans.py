"""Stretches of time with a class, [start, end, name] in seconds: gaps filled, and two of them compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOTHING = "(none)"
"""What an answer says of time that it does not cover."""


def filled(
    spans: Sequence[Sequence[Any]], background: str, duration: float | None
) -> list[list[Any]]:
    """Return stretches [start, end, name] with the gaps between them, up to `duration` seconds, as background.

    Without a background the gaps stay gaps: nothing is known of them.
    """
    found: list[list[Any]] = []
    place = 0.0
    for start, end, name in sorted((float(s), float(e), str(n)) for s, e, n in spans):
        if background and start > place:
            found.append([place, start, background])
        found.append([start, end, name])
        place = max(place, end)
    if background and duration is not None and duration > place:
        found.append([place, duration, background])
    return found


def seconds_by_class(
    reference: Sequence[Sequence[Any]], answer: Sequence[Sequence[Any]]
) -> dict[tuple[str, str], float]:
    """Return for how many seconds each class of the reference was answered by each class."""
    found: dict[tuple[str, str], float] = {}
    for start, end, truth in reference:
        left = end - start
        for first, last, said in answer:
            shared = min(end, last) - max(start, first)
            if shared > 0:
                found[truth, said] = found.get((truth, said), 0.0) + shared
                left -= shared
        if left > 1e-9:
            found[truth, NOTHING] = found.get((truth, NOTHING), 0.0) + left
    return found
