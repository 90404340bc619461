"""What the backbone returns, in every way of asking it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Encoded(NamedTuple):
    """What the backbone returns.

    `frames` (batch, frames, dim), zero at padding; `lengths` (batch,) in frames; `layers` (number, batch, frames,
    dim) of the layers asked for, or None; `times` (frames,) centre of each frame in seconds. In a step of streams,
    where each stream has its own clock, `times` is (batch, frames).
    """

    frames: Tensor
    lengths: Tensor
    layers: Tensor | None
    times: Tensor
