"""Which frame may see which: masks as comparisons of positions. True means "may attend"."""

from __future__ import annotations

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
