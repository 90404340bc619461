"""One vector from the frames of a turn: mean, maximum, or attentive statistics; offline and running are one code.

Offline pooling is one step of a stream, so that both give the same. Every sum is over valid frames only.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from encoder.masks import length_mask

PoolingName: TypeAlias = Literal["mean", "max", "attention"]
POOLINGS: tuple[PoolingName, ...] = ("mean", "max", "attention")
TINY = 1e-20
SMALLEST_VARIANCE = 1e-5
"""Variance of one frame, or of frames that are all alike; keeps the root's gradient finite."""


class PoolState(NamedTuple):
    """What is known of a batch of turns so far; weights are relative to the highest score, as in an online softmax."""

    lengths: Tensor
    """(batch,) frames, int64."""
    highest: Tensor
    """(batch, views) largest attention score; (batch, dim) largest value for "max"."""
    weight: Tensor
    """(batch, views) sum of weights."""
    mean: Tensor
    """(batch, views, dim) weighted mean."""
    spread: Tensor
    """(batch, views, dim) weighted sum of squared distances from the mean."""
    recent: Tensor
    """(batch, n, width) the last n frames before projection, for heads that project n + 1 frames together."""


class Pooling(nn.Module):
    """Mean, maximum, or attentive statistics pooling (Okabe et al. 2018) over the valid frames.

    A turn without frames is pooled to zeros, and to the smallest deviation. Attention may have several views, each with
    weights of its own; what they see stands one after the other.
    """

    def __init__(self, name: PoolingName, dim: int, attention: int = 64, *, views: int = 1) -> None:
        super().__init__()
        assert views == 1 or name == "attention"
        self.name: PoolingName = name
        self.dim, self.views = dim, views
        self.output_dim = (2 * dim if name == "attention" else dim) * views
        self.score = (
            nn.Sequential(
                nn.Linear(dim, attention), nn.Tanh(), nn.Linear(attention, views, bias=False)
            )
            if name == "attention"
            else None
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, output_dim) for frames (batch, frames, dim) of `lengths` (batch,)."""
        return self.finish(self.step(frames, lengths, self.init_state(len(lengths), frames)))

    def init_state(self, batch: int, like: Tensor | None = None) -> PoolState:
        """Return sums over no frames; `like` tells type and device, the CPU's float32 by default."""
        device = None if like is None else like.device
        dtype = torch.float32

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        width = self.dim if self.name == "max" else self.views
        return PoolState(
            torch.zeros(batch, dtype=torch.int64, device=device),
            torch.full((batch, width), -math.inf, dtype=dtype, device=device),
            zeros(self.views),
            zeros(self.views, self.dim),
            zeros(self.views, self.dim),
            zeros(0, self.dim),
        )

    def step(self, frames: Tensor, lengths: Tensor, state: PoolState) -> PoolState:
        """Return the sums with these frames (batch, frames, dim) of `lengths` (batch,) taken in, in float32."""
        state = PoolState(*(tensor.to(frames.device) for tensor in state))
        valid = length_mask(lengths, frames.shape[1])[..., None]
        total = state.lengths + lengths
        if not frames.shape[1]:
            return state
        frames = frames.float()
        if self.name == "max":
            highest = frames.masked_fill(~valid, -math.inf).amax(1)
            return state._replace(lengths=total, highest=torch.maximum(state.highest, highest))
        scores = (
            frames.new_zeros(*frames.shape[:2], 1) if self.score is None else self.score(frames)
        )
        scores = scores.float().masked_fill(~valid, -math.inf)
        highest = torch.maximum(state.highest, scores.amax(1).detach())
        # Streams without a frame so far have no highest score; any finite one does for them.
        pivot = highest.masked_fill(highest.isinf(), 0.0)
        weights = (scores - pivot[:, None]).exp()
        decay = (state.highest - pivot).exp()
        known = state._replace(lengths=total, highest=highest)
        return _merged(known, decay, frames.masked_fill(~valid, 0.0), weights)

    def finish(self, state: PoolState) -> Tensor:
        """Return (batch, output_dim) for everything taken in."""
        if self.name == "max":
            return state.highest.masked_fill(state.highest.isinf(), 0.0)
        if self.name == "mean":
            return state.mean[:, 0]
        variance = state.spread / state.weight.clamp_min(TINY)[..., None]
        deviation = variance.clamp_min(SMALLEST_VARIANCE).sqrt()
        return torch.cat([state.mean, deviation], dim=2).flatten(1)


def with_recent(frames: Tensor, lengths: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames beside those before them, (batch, frames, (n + 1) * width), and the newest n frames of each stream.

    Before the first frame of a stream stand zeros. Only past frames are taken, so that nothing waits for what follows;
    for pooling a stretch is the same wherever it is counted.

    Args:
        frames: (batch, frames, width).
        lengths: (batch,) valid ones.
        recent: (batch, n, width) those before, oldest first.
    """
    count = recent.shape[1]
    if not count:
        return frames, recent
    whole = torch.cat([recent.to(frames), frames], dim=1)
    places = range(count + 1)
    windows = torch.cat([whole[:, n : n + frames.shape[1]] for n in places], dim=2)
    last = lengths[:, None] + torch.arange(count, device=lengths.device)
    kept = whole.gather(1, last[..., None].expand(-1, -1, whole.shape[2]))
    return windows, kept


def _merged(state: PoolState, decay: Tensor, frames: Tensor, weights: Tensor) -> PoolState:
    """Return the state with frames (batch, frames, dim) of some weights merged in (Chan et al. 1983, eq. 1.5).

    Args:
        state: so far.
        decay: (batch, views) what a weight so far has become relative to the new highest score.
        frames: zero at padding.
        weights: (batch, frames, views), zero at padding.
    """
    old, new = state.weight * decay, weights.sum(1)
    total = (old + new).clamp_min(TINY)
    mean = weights.transpose(1, 2) @ frames / new.clamp_min(TINY)[..., None]
    away = (frames[:, :, None] - mean[:, None]).square()
    spread = (weights[..., None] * away).sum(1)
    apart = mean - state.mean
    return state._replace(
        weight=old + new,
        mean=state.mean + apart * (new / total)[..., None],
        spread=state.spread * decay[..., None]
        + spread
        + apart.square() * (old * new / total)[..., None],
    )
