"""How far each layer of a stream can go: every frame is computed as soon as all that it may see is there, once.

Attention runs chunk by chunk, as soon as the layer has taken in the chunk and its look-ahead. The convolution runs
frame by frame behind it: a frame needs the attention of ``kernel // 2`` frames to its right, or of what its context
lets it see of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from encoder.config import Context


class Progress(NamedTuple):
    """Frames that a layer has taken in, that attention has passed, and that it has given out."""

    taken: int
    attended: int
    given: int

    def first_key(self, context: Context) -> int:
        """Return the first frame whose key may still be seen."""
        return 0 if context.is_full else max(0, self.attended - context.left)

    def first_gated(self, kernel: int) -> int:
        """Return the first frame that the convolution may still reach."""
        return max(0, self.given - kernel // 2)


def progress(taken: int, context: Context, kernel: int, ended: bool = False) -> Progress:
    """Return how far a layer is that has taken in `taken` frames; at the end of a stream it gives out all of them."""
    if ended or taken == 0:
        return Progress(taken, taken, taken)
    if context.is_full:
        return Progress(taken, 0, 0)
    half = kernel // 2
    attended = _whole_chunks(taken - context.right, context)
    given = max(
        _whole_chunks(attended - min(half, context.right), context), attended - half, 0
    )  # whole chunks whose right reach is complete, and the frames that reach no further than that
    return Progress(taken, attended, given)


def all_progress(
    taken: int, context: Context, kernel: int, layers: int, ended: bool = False
) -> list[Progress]:
    """Return the progress of every layer when the first one has taken in `taken` frames."""
    found = []
    for _ in range(layers):
        found.append(progress(taken, context, kernel, ended))
        taken = found[-1].given
    return found


def given_frames(taken: int, context: Context, kernel: int, layers: int) -> int:
    """Return how many frames of the last layer are known when the first one has taken in `taken`."""
    for _ in range(layers):
        taken = progress(taken, context, kernel).given
    return taken


def settled(context: Context, kernel: int, layers: int) -> int:
    """Return a number of frames, whole chunks, after which every layer is full: only the phase counts from there."""
    reach = context.left + kernel + context.look_ahead(layers, kernel)
    return (reach // context.chunk + 2) * context.chunk


@lru_cache(maxsize=64)
def longest_lead(context: Context, kernel: int, layers: int, layer: int) -> int:
    """Return how many frames layer `layer` (0 the input of the first one) may be ahead of the last one."""
    frames = range(settled(context, kernel, layers) + context.chunk)
    return max(
        given_frames(taken, context, kernel, layer) - given_frames(taken, context, kernel, layers)
        for taken in frames
    )


def _whole_chunks(frames: int, context: Context) -> int:
    return max(0, frames) // context.chunk * context.chunk
