"""Frames that came in pieces, put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encoder import Encoded


def join_encoded(pieces: Sequence[Encoded], dim: int, layers: int) -> Encoded:
    """Return pieces of the same streams, in order, as one padded batch; each stream's frames follow one another.

    Args:
        pieces: of a session or of steps of a batch; each stream has its own lengths.
        dim: width of a frame, for streams without any piece.
        layers: number of layers beside the frames, 0 for None.
    """
    if not pieces:
        nothing = torch.zeros(1, 0, dim)
        kept = torch.zeros(layers, 1, 0, dim) if layers else None
        return Encoded(nothing, torch.zeros(1, dtype=torch.int64), kept, torch.zeros(0))
    lengths = torch.stack([piece.lengths for piece in pieces])
    total = lengths.sum(0)

    def joined(parts: Sequence[Tensor]) -> Tensor:
        rows = [
            torch.cat([part[place, :count] for part, count in zip(parts, counts, strict=True)])
            for place, counts in enumerate(lengths.T.tolist())
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    numbers = range(0 if pieces[0].layers is None else len(pieces[0].layers))
    kept = [joined([piece.layers[n] for piece in pieces]) for n in numbers]  # type: ignore[index]
    times = [piece.times for piece in pieces]
    clocks = torch.cat(times) if times[0].ndim == 1 else joined(times)
    return Encoded(
        joined([piece.frames for piece in pieces]),
        total,
        torch.stack(kept) if kept else None,
        clocks,
    )
