"""Which frame may see which: masks as comparisons of positions. True means "may attend"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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
    """Queries [first, last) that all see the keys [low, high); `repeats` such windows lie a chunk apart."""

    first: int
    last: int
    low: int
    high: int
    repeats: int = 1


def chunk_windows(
    first: int, last: int, total: int, context: Context, budget: int, repeat: bool = True
) -> Iterator[Window]:
    """Yield the queries [first, last) in windows that need no mask, of at most `budget` scores where that is possible.

    Args:
        first: the first query, which begins a chunk.
        last: end of the queries.
        total: number of keys there are.
        context: what each query may see.
        budget: scores (queries times keys) of one window, times its repeats.
        repeat: whether windows of one shape may be joined to one that repeats.
    """
    if context.is_full:
        yield from _split(Window(first, last, 0, total), budget)
        return
    chunk, left, right = context
    size = chunk * (left + chunk + right)
    at_once = max(1, budget // size) if repeat else 1
    start = first
    while start < last:
        # Chunks whose whole window is there, one shape: as many at once as the budget allows.
        whole = min(last - start, total - right - start) // chunk if start >= left else 0
        if whole >= 1:
            repeats = min(whole, at_once)
            window = Window(start, start + chunk, start - left, start + chunk + right, repeats)
        else:
            repeats = 1
            stop = min(start + chunk, last)
            window = Window(start, stop, max(0, start - left), min(start + chunk + right, total))
        yield from _split(window, budget)
        start += repeats * chunk


def _split(window: Window, budget: int) -> Iterator[Window]:
    rows = max(16, budget // max(1, window.high - window.low))
    if window.repeats > 1 or window.last - window.first <= rows:
        yield window
        return
    for first in range(window.first, window.last, rows):
        yield window._replace(first=first, last=min(first + rows, window.last))
