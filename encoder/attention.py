"""Self-attention with relative sinusoidal positions (Dai et al. 2019, section 3.3), in blocks of queries.

``score(i, j) = ((q_i + u) . k_j + (q_i + v) . (W_pos PE(i - j))) / sqrt(head dim)``. Queries are taken in blocks,
and each block sees only the keys its context allows, so memory grows with the length and not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.config import Context
from encoder.masks import Window, attention_mask, chunk_windows, rows_between, visible_range

QUERY_BLOCK = 512
SCORES = 1 << 19
"""Scores of all heads that are computed at once where no gradient is needed: 2 MB, so that they stay in the cache."""
LARGE = 32
"""Queries from which on two products pay in bfloat16 on a CPU, where torch's fused attention is slow."""

THERE = 0.75
"""Share of the keys that have to be there for windows to be joined in bfloat16: few large products beat many small."""

LONGEST_TABLE = 4096
"""Offsets of the longest table of positions that is kept from one step to the next."""


def relative_positions(first: int, last: int, dim: int, like: Tensor) -> Tensor:
    """Return PE(r) for r = first, first - 1, ..., last: (first - last + 1, dim), computed in float32."""
    offsets = torch.arange(first, last - 1, -1, device=like.device, dtype=torch.float32)
    rates = torch.exp(
        torch.arange(0, dim, 2, device=like.device, dtype=torch.float32)
        * (-math.log(10000.0) / dim)
    )
    angles = offsets[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


def relative_shift(scores: Tensor, keys: int) -> Tensor:
    """Turn scores by offset into scores by key.

    Args:
        scores: (batch, heads, queries, queries + keys - 1); column c of query i is the offset that key
            ``c - (queries - 1) + i`` has, so row i has to move by ``queries - 1 - i`` columns.
        keys: number of keys.

    Returns:
        (batch, heads, queries, keys), a view.
    """
    batch, heads, queries, _ = scores.shape
    stride_b, stride_h, stride_q, stride_w = scores.stride()
    return scores.as_strided(
        (batch, heads, queries, keys),
        (stride_b, stride_h, stride_q - stride_w, stride_w),
        scores.storage_offset() + (queries - 1) * stride_w,
    )


def _attend_in_halves(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend in bfloat16 by two products; the softmax between them is computed in float32, and rounded.

    `bias` may be overwritten.
    """
    lead, dim = query.shape[:2], query.shape[-1]
    query, value = query.flatten(0, 1), value.flatten(0, 1)
    # oneDNN would copy transposed keys, one number at a time.
    key = key.flatten(0, 1).contiguous().transpose(1, 2)
    scores = bias.flatten(0, 1).baddbmm_(query, key, alpha=dim**-0.5)
    return torch.bmm(scores.softmax(dim=-1), value).unflatten(0, lead)


class Positions(NamedTuple):
    """``W_pos PE(r) / sqrt(head dim)`` for r = top, top - 1, ...: `table` (heads, head dim, offsets)."""

    top: int
    table: Tensor

    def between(self, highest: int, lowest: int) -> Tensor:
        """Return (heads, head dim, offsets) for the offsets from `highest` down to `lowest`."""
        return self.table[:, :, self.top - highest : self.top - lowest + 1]


class _Memo(NamedTuple):
    key: object
    weights: list[Tensor]  # held, so that no other tensor can get their ids
    positions: Positions


MEMOS = 4
"""Tables that are kept, shared by the views that adapters make of one layer."""


class RelativeAttention(nn.Module):
    """Multi-head self-attention over the frames that a `Context` lets each frame see."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, dim // heads))
        self._memos: list[_Memo] = []  # the last used first

    def forward(self, frames: Tensor, valid: Tensor, context: Context) -> Tensor:
        """Attend.

        Args:
            frames: (batch, frames, dim).
            valid: (batch, frames), True for real frames; nothing attends to padding.
            context: what each frame may see.

        Returns:
            (batch, frames, dim).
        """
        total = frames.shape[1]
        query, key, value = (
            self._heads(linear(frames)) for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        block = min(QUERY_BLOCK, total)
        top = bottom = total - 1
        if not context.is_full:
            top = min(top, block + context.chunk + context.left)
            bottom = min(bottom, block + context.chunk + context.right)
        positions = self._positions(top, -bottom, frames)
        outputs = []
        for first in range(0, total, block):
            last = min(first + block, total)
            low, high = visible_range(first, last, total, context)
            visible = valid[:, None, None, low:high]
            mask = attention_mask(
                torch.arange(first, last, device=frames.device),
                torch.arange(low, high, device=frames.device),
                context,
            )
            visible = visible if mask is None else visible & mask
            keys, values = key[:, :, low:high], value[:, :, low:high]
            outputs.append(
                self._attend(query[:, :, first:last], keys, values, positions, first - low, visible)
            )
        attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        return self.linear_out(attended.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def positions(self, longest: int, context: Context) -> Positions:
        """Return the position table of `attend_known` for streams of at most `longest` frames.

        That of a context that is not too long is kept until the weights change: a stream needs it in every step.
        """
        top, bottom = context.left + context.chunk - 1, context.chunk + context.right - 1
        if context.is_full or top + bottom > LONGEST_TABLE:
            # Windows that are joined may reach past the ends of a recording.
            limits = [
                longest - 1 if context.is_full else min(x, 2 * longest) for x in (top, bottom)
            ]
            return self._positions(limits[0], -limits[1], self.pos_bias_u)
        weights = list(chain(self.linear_pos.parameters(), self.linear_pos.buffers()))
        # The same objects, and not written to since; a version is how torch itself tells that.
        versions = [None if item.is_inference() else item._version for item in weights]  # noqa: SLF001
        key = (context, self.linear_pos, self.pos_bias_u.dtype, list(map(id, weights)), versions)
        found = next((memo for memo in self._memos if memo.key == key), None)
        if found is None or None in versions:
            found = _Memo(key, weights, self._positions(top, -bottom, self.pos_bias_u))
        self._memos[:] = [found, *(memo for memo in self._memos if memo.key != key)][:MEMOS]
        return found.positions

    def attend_known(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        first: int,
        low: int,
        context: Context,
        positions: Positions,
    ) -> Tensor:
        """Attend with queries that begin a chunk to keys that are all there, window by window.

        Args:
            query: (batch, queries, dim), the frames from `first` on.
            key: (batch, keys, dim), the frames from `low` on, as far as any of the queries may see.
            value: as `key`.
            first: number of the first query's frame.
            low: number of the first key's frame.
            context: what each frame may see.
            positions: what `positions` returns.

        Returns:
            (batch, queries, dim).
        """
        batch, queries, dim = query.shape
        budget = max(1, SCORES // (self.heads * batch))
        total = low + key.shape[1]
        outputs = []
        there = THERE if self._by_products(query) else 1.0
        for window in chunk_windows(
            first, first + queries, total, context, budget, batch == 1, there
        ):
            asked = self._windows(query, window, window.first - first, window.last - first, context)
            seen, heard = (
                self._windows(part, window, window.low - low, window.high - low, context)
                for part in (key, value)
            )
            missing = window.missing(context.chunk, total)
            offset = window.first - window.low
            attended = self._attend(asked, seen, heard, positions, offset, missing=missing)
            outputs.append(attended.transpose(1, 2).reshape(batch, -1, dim))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        positions: Positions,
        offset: int,
        visible: Tensor | None = None,
        missing: Sequence[tuple[int, slice]] = (),
    ) -> Tensor:
        """Attend with queries (batch, heads, queries, head dim) to keys, of which the first is `offset` before them.

        What is not `visible`, or in the slices of `missing` for an item, gets no weight.
        """
        batch, _, queries, _ = query.shape
        keys = key.shape[2]
        table = positions.between(offset + queries - 1, offset - keys + 1)
        # The batch among the rows, so that the table is not copied for every item.
        rows = (query + self.pos_bias_v[:, None]).transpose(0, 1).flatten(1, 2)
        scores = (rows @ table).unflatten(1, (batch, queries)).transpose(0, 1)
        bias = relative_shift(scores, keys)
        # A finite value, so that a padded query that sees no key gives numbers instead of NaN.
        nothing = -1e4 if bias.dtype == torch.float16 else -1e30
        if visible is not None:
            bias = bias.masked_fill(~visible, nothing)
        if missing:
            bias = bias.contiguous()
        for item, hidden in missing:
            bias[item, :, :, hidden] = nothing
        query = query + self.pos_bias_u[:, None]
        if queries >= LARGE and self._by_products(query):
            return _attend_in_halves(query, key, value, bias)
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )

    def _by_products(self, frames: Tensor) -> bool:
        """Return whether this is inference in bfloat16 on a CPU; a GPU's fused attention is not to be replaced."""
        inference = not (self.training or torch.is_grad_enabled())
        return inference and frames.dtype == torch.bfloat16 and frames.device.type == "cpu"

    def _positions(self, top: int, bottom: int, like: Tensor) -> Positions:
        table = relative_positions(top, bottom, self.pos_bias_u.numel(), like)
        table = self.linear_pos(table).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        return Positions(top, table.contiguous() / math.sqrt(table.shape[1]))

    def _heads(self, frames: Tensor) -> Tensor:
        """Return (batch, heads, frames, head dim), a view."""
        return frames.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _windows(
        self, frames: Tensor, window: Window, first: int, last: int, context: Context
    ) -> Tensor:
        """Return rows [first, last), and for a window that repeats those a chunk further on: a view, by head."""
        if window.repeats == 1:
            return self._heads(frames[:, first:last])
        last_row = last + (window.repeats - 1) * context.chunk
        rows = rows_between(frames, first, last_row)[0]
        windows = rows.unfold(0, last - first, context.chunk)
        return windows.unflatten(1, (self.heads, -1)).transpose(2, 3)
