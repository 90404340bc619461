"""Which frame may see which: masks as comparisons of positions. True means "may attend"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from encoder.config import Context


def visible_range(first: int, last: int, total: int, context: Context) -> tuple[int, int]:
    """Return the frames [low, high) that any of the frames [first, last) may see, out of `total`."""
    if context.is_full:
        return 0, total
    low = (first // context.chunk) * context.chunk - context.left
    high = ((last - 1) // context.chunk + 1) * context.chunk + context.right
    return max(low, 0), min(high, total)


def attention_mask(queries: Tensor, keys: Tensor, context: Context) -> Tensor | None:
    """Return the mask (queries, keys) for frame positions, or None when everything is visible.

    With chunk 2, left 2, right 1, six frames::

        1 1 1 . . .
        1 1 1 . . .
        1 1 1 1 1 .
        1 1 1 1 1 .
        . . 1 1 1 1
        . . 1 1 1 1
    """
    if context.is_full:
        return None
    start = (queries // context.chunk * context.chunk)[:, None]
    return (keys >= start - context.left) & (keys < start + context.chunk + context.right)


def length_mask(lengths: Tensor, total: int) -> Tensor:
    """Return (batch, total): True where a frame is real, False where it is padding."""
    return torch.arange(total, device=lengths.device) < lengths[:, None]


class Window(NamedTuple):
    """Queries [first, last) that all see the keys [low, high); `repeats` such windows lie a chunk apart.

    Where windows repeat, some of their keys may lie outside of the recording: there are none, and nothing sees them.
    """

    first: int
    last: int
    low: int
    high: int
    repeats: int = 1

    def there(self, chunk: int, total: int) -> int:
        """Return how many of the keys are there, of `total`, over all repeats."""
        moves = range(0, self.repeats * chunk, chunk)
        return sum(min(self.high + move, total) - max(self.low + move, 0) for move in moves)

    def missing(self, chunk: int, total: int) -> list[tuple[int, slice]]:
        """Return which keys are not there, of `total`, in which of the repeats."""
        found = []
        for repeat in range(self.repeats):
            low, high = self.low + repeat * chunk, self.high + repeat * chunk
            found += [(repeat, slice(0, -low))] if low < 0 else []
            found += [(repeat, slice(total - low, None))] if high > total else []
        return found


def chunk_windows(
    first: int,
    last: int,
    total: int,
    context: Context,
    budget: int,
    repeat: bool = True,
    there: float = 1.0,
) -> Iterator[Window]:
    """Yield the queries [first, last) in windows of at most `budget` scores where that is possible.

    Args:
        first: the first query, which begins a chunk.
        last: end of the queries.
        total: number of keys there are.
        context: what each query may see.
        budget: scores (queries times keys) of one window, times its repeats.
        repeat: whether windows of one shape may be joined to one that repeats.
        there: share of the keys that have to be there, or windows are not joined.
    """
    if context.is_full:
        yield from _split(Window(first, last, 0, total), budget)
        return
    chunk, left, right = context
    keys = left + chunk + right
    at_once = max(1, budget // (chunk * keys)) if repeat else 1
    start = first
    while start < last:
        window = Window(start, start + chunk, start - left, start + chunk + right)
        joined = window._replace(repeats=min(at_once, (last - start) // chunk))
        if joined.repeats * keys * there > joined.there(chunk, total):
            # Too much would be missing: no more than those that have all their keys.
            whole = min(last - start, total - right - start) // chunk if start >= left else 0
            joined = window._replace(repeats=min(at_once, whole))
        if joined.repeats > 1:
            yield joined
        else:
            stop = min(start + chunk, last)
            alone = Window(start, stop, max(0, window.low), min(window.high, total))
            yield from _split(alone, budget)
        start += max(1, joined.repeats) * chunk


def _split(window: Window, budget: int) -> Iterator[Window]:
    rows = max(16, budget // max(1, window.high - window.low))
    if window.last - window.first <= rows:
        yield window
        return
    for first in range(window.first, window.last, rows):
        yield window._replace(first=first, last=min(first + rows, window.last))


def rows_between(rows: Tensor, first: int, last: int) -> Tensor:
    """Return rows [first, last) of (batch, rows, dim), with zeros where there are none."""
    total = rows.shape[1]
    inside = rows[:, max(0, first) : max(0, min(last, total))]
    before, after = max(0, -first), max(0, last - max(total, first))
    return functional.pad(inside, (0, 0, before, after)) if before or after else inside
