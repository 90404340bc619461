"""The best symbol of each frame, collapsed: the quickest way to read CTC."""

from __future__ import annotations

from typing import Any

import numpy as np

from heads.decoding.hypotheses import Decoded
from trunkline.errors import DataError


def checked(log_probs: Any, blank: int) -> np.ndarray:
    """Return log probabilities (frames, symbols) as an array of floats.

    Raises:
        DataError: another shape, NaN, +inf, a blank that is no symbol, or a frame in which nothing is possible.
    """
    if hasattr(log_probs, "detach"):
        log_probs = log_probs.detach().cpu().numpy()
    table = np.asarray(log_probs)
    if table.dtype not in (np.float32, np.float64):
        table = table.astype(np.float64)
    if table.ndim != 2 or not 0 <= blank < table.shape[1]:
        raise DataError(
            f"CTC log probabilities have shape {table.shape} with blank {blank}; expected (frames, symbols), "
            "the blank among the symbols."
        )
    if len(table):
        best = table.max(axis=1)
        if not np.isfinite(best).all():  # NaN wins every maximum
            frame = int(np.flatnonzero(~np.isfinite(best))[0])
            raise DataError(
                f"Frame {frame} of the CTC log probabilities has the maximum {best[frame]}; it must be finite."
            )
    return table


def collapse(path: Any, blank: int) -> list[int]:
    """Return the tokens of a CTC path (frames,): repeats become one, then blanks are dropped.

    A symbol on both sides of a blank stays twice: "chín chín" is not "chín".
    """
    path = np.asarray(path)
    if not len(path):
        return []
    new = np.concatenate([[True], path[1:] != path[:-1]])
    return path[new & (path != blank)].tolist()


def greedy(log_probs: Any, *, blank: int = 0) -> Decoded:
    """Return the tokens of the most probable path; `log_prob` is that path's alone. Raises as `checked`."""
    table = checked(log_probs, blank)
    total = float(table.max(axis=1).sum(dtype=np.float64)) if len(table) else 0.0
    path = table.argmax(axis=1) if len(table) else ()
    return Decoded(tuple(collapse(path, blank)), total, total)
