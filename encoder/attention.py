"""Self-attention with relative sinusoidal positions (Dai et al. 2019, section 3.3), in blocks of queries.

``score(i, j) = ((q_i + u) . k_j + (q_i + v) . (W_pos PE(i - j))) / sqrt(head dim)``. Queries are taken in blocks,
and each block sees only the keys its context allows, so memory grows with the length and not with its square.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.config import Context
from encoder.masks import attention_mask, visible_range

QUERY_BLOCK = 512


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
    batch, heads, queries, width = scores.shape
    scores = scores.contiguous()
    stride_b, stride_h, stride_q, stride_w = scores.stride()
    return scores.as_strided(
        (batch, heads, queries, keys),
        (stride_b, stride_h, stride_q - stride_w, stride_w),
        scores.storage_offset() + queries - 1,
    )


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
            linear(frames).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        outputs = []
        for first in range(0, total, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, total)
            low, high = visible_range(first, last, total, context)
            bias = self._bias(
                query[:, :, first:last], valid[:, low:high], first, low, high, context
            )
            outputs.append(
                functional.scaled_dot_product_attention(
                    query[:, :, first:last] + self.pos_bias_u[:, None],
                    key[:, :, low:high],
                    value[:, :, low:high],
                    attn_mask=bias,
                    dropout_p=self.dropout if self.training else 0.0,
                )
            )
        attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        return self.linear_out(attended.transpose(1, 2).flatten(2))

    def _bias(
        self, query: Tensor, valid: Tensor, first: int, low: int, high: int, context: Context
    ) -> Tensor:
        """Position scores plus minus infinity for what is hidden: (batch, heads, queries, keys)."""
        queries, keys = query.shape[2], high - low
        last = first + queries - 1
        table = self.linear_pos(
            relative_positions(last - low, first - high + 1, query.shape[1] * query.shape[3], query)
        )
        table = table.unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        scores = (query + self.pos_bias_v[:, None]) @ table
        bias = relative_shift(scores, keys) / math.sqrt(query.shape[3])
        visible = valid[:, None, None, :]
        mask = attention_mask(
            torch.arange(first, last + 1, device=query.device),
            torch.arange(low, high, device=query.device),
            context,
        )
        if mask is not None:
            visible = visible & mask
        # A finite value, so that a padded query that sees no key gives numbers instead of NaN.
        return bias.masked_fill(~visible, -1e4 if bias.dtype == torch.float16 else -1e30)
