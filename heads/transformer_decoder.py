"""The attention decoder: a Transformer that reads what was written and the frames, and tells the next token.

Pre-norm blocks with ReLU (Vaswani et al. 2017; as in WeNet and ChunkFormer, whose weights fit). Teacher forcing and
step-by-step decoding share the blocks; the state of decoding is a value that steps return anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.masks import length_mask


class Memory(NamedTuple):
    """The frames as each block's cross-attention sees them: keys and values (batch, heads, frames, width)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    """(batch, 1, 1, frames): which may be attended."""


class DecoderState(NamedTuple):
    """What hypotheses have written: each block's keys and values (hypotheses, heads, tokens, width)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def at(self, rows: Tensor) -> DecoderState:
        """Return the state of some hypotheses, in that order."""
        return DecoderState(tuple(x[rows] for x in self.keys), tuple(x[rows] for x in self.values))


class Attention(nn.Module):
    """Scaled dot-product attention with separate projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """Return (batch, heads, length, width) of (batch, length, dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attend from (batch, length, dim) to split keys and values; the mask is True where it may."""
        found = functional.scaled_dot_product_attention(
            self.split(self.query(queries)), keys, values, attn_mask=mask
        )
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Causal self-attention, attention to the frames, feed-forward; each behind a norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.frame_attention = Attention(dim, heads), Attention(dim, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, feed_forward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feed_forward, dim),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        before: tuple[Tensor, Tensor] | None,
        memory: tuple[Tensor, Tensor],
        causal: Tensor,
        visible: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block's output and its self-attention's keys and values, those `before` included."""
        normed = self.norms[0](x)
        attention = self.self_attention
        keys = attention.split(attention.key(normed))
        values = attention.split(attention.value(normed))
        if before is not None:
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        x = x + self.dropout(attention(normed, keys, values, causal))
        x = x + self.dropout(self.frame_attention(self.norms[1](x), *memory, visible))
        return x + self.dropout(self.feed_forward(self.norms[2](x))), keys, values


class TransformerDecoder(nn.Module):
    """Next-token scores given frames of width `dim`."""

    def __init__(
        self, symbols: int, dim: int, *, layers: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embed = nn.Embedding(symbols, dim)
        nn.init.normal_(self.embed.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(Block(dim, heads, feed_forward, dropout) for _ in range(layers))
        self.after_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, symbols)
        self.dropout = nn.Dropout(dropout)

    def read(self, frames: Tensor, lengths: Tensor) -> Memory:
        """Return frames (batch, frames, dim) prepared for attention; an item of none is one frame of zeros."""
        if not frames.shape[1]:
            frames = frames.new_zeros(len(frames), 1, self.dim)
        mask = length_mask(lengths.clamp_min(1), frames.shape[1])[:, None, None]
        attentions: list[Attention] = [block.frame_attention for block in self.blocks]  # type: ignore[misc]
        return Memory(
            tuple(x.split(x.key(frames)) for x in attentions),
            tuple(x.split(x.value(frames)) for x in attentions),
            mask,
        )

    def forward(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Return logits (batch, length, symbols) of the token after each of `tokens` (batch, length)."""
        return self._run(tokens, memory, None)[0]

    def begin(self) -> DecoderState | None:
        """Return the state before the first token."""
        return None

    def step(
        self, tokens: Tensor, memory: Memory, state: DecoderState | None
    ) -> tuple[Tensor, DecoderState]:
        """Return ln P (hypotheses, symbols) of the token after `tokens` (hypotheses, new tokens), and the new state."""
        logits, state = self._run(tokens, memory, state)
        return logits[:, -1].float().log_softmax(-1), state

    def _run(
        self, tokens: Tensor, memory: Memory, state: DecoderState | None
    ) -> tuple[Tensor, DecoderState]:
        done = 0 if state is None else state.keys[0].shape[2]
        places = torch.arange(done, done + tokens.shape[1], device=tokens.device)
        x = self.embed(tokens) * math.sqrt(self.dim) + positions(places, self.dim)
        x = self.dropout(x.to(self.after_norm.weight.dtype))
        causal = torch.arange(done + tokens.shape[1], device=tokens.device) <= places[:, None]
        keys, values = [], []
        for number, block in enumerate(self.blocks):
            before = None if state is None else (state.keys[number], state.values[number])
            seen = (memory.keys[number], memory.values[number])
            x, key, value = block(x, before, seen, causal, memory.mask)
            keys.append(key)
            values.append(value)
        return self.output(self.after_norm(x)), DecoderState(tuple(keys), tuple(values))


def positions(places: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal encoding (places, dim) of places (places,): sines at even, cosines at odd columns."""
    rates = torch.exp(torch.arange(0, dim, 2, device=places.device) * (-math.log(10000.0) / dim))
    angles = places[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]
