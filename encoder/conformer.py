"""The Conformer stack: pre-norm layers with two half-step feed-forwards around attention and convolution."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.attention import RelativeAttention
from encoder.config import BackboneConfig, Context
from encoder.convolution import ConvolutionModule
from encoder.masks import length_mask
from encoder.plan import Plan, make_plan
from encoder.subsampling import Subsampling, frame_lengths, num_frames

BRANCH_SCALE = 0.1
"""Size of the residual branches in a new backbone, relative to PyTorch's default."""


class FeedForward(nn.Module):
    """``w_2(SiLU(w_1(x)))`` with dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(dim, hidden)
        self.w_2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (..., dim) for frames (..., dim)."""
        return self.dropout(self.w_2(self.dropout(functional.silu(self.w_1(frames)))))


class ConformerLayer(nn.Module):
    """One Conformer block (Gulati et al. 2020), every residual branch behind its own LayerNorm."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.norm_ff_macaron = nn.LayerNorm(dim)
        self.feed_forward_macaron = FeedForward(dim, config.feed_forward, dropout)
        self.norm_mha = nn.LayerNorm(dim)
        self.self_attn = RelativeAttention(dim, config.heads, dropout)
        self.norm_conv = nn.LayerNorm(dim)
        self.conv_module = ConvolutionModule(dim, config.kernel, dropout)
        self.norm_ff = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, config.feed_forward, dropout)
        self.norm_final = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def _initialise(self) -> None:
        """Start close to the identity, so that the input reaches the last layer and learning begins at once.

        With PyTorch's defaults the branches of a deep stack bury the input, and the first steps teach little.
        """
        for last in (
            self.feed_forward_macaron.w_2,
            self.self_attn.linear_out,
            self.conv_module.pointwise_conv2,
            self.feed_forward.w_2,
        ):
            with torch.no_grad():
                last.weight.mul_(BRANCH_SCALE)
            nn.init.zeros_(last.bias)

    def forward(self, frames: Tensor, valid: Tensor, context: Context) -> Tensor:
        """Return frames (batch, frames, dim) of which `valid` (batch, frames) tells the padding."""
        frames = self.enter(frames)
        frames = frames + self.dropout(self.self_attn(self.norm_mha(frames), valid, context))
        frames = frames + self.conv_module(self.norm_conv(frames), valid, context)
        return self.leave(frames)

    def enter(self, frames: Tensor) -> Tensor:
        """Return frames (..., dim) after the first feed-forward; each depends on itself only."""
        branch = self.feed_forward_macaron(self.norm_ff_macaron(frames))
        return torch.add(frames, branch, alpha=0.5)

    def leave(self, frames: Tensor) -> Tensor:
        """Return frames (..., dim) after the last feed-forward and norm; each depends on itself only."""
        return self.norm_final(
            torch.add(frames, self.feed_forward(self.norm_ff(frames)), alpha=0.5)
        )


class Conformer(nn.Module):
    """Normalised features to frames."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.kernel = config.kernel
        self.embed = Subsampling(config.features.num_mels, config.conv_channels, config.dim)
        self.embed_dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))
        self.after_norm = nn.LayerNorm(config.dim)

    def forward(
        self, features: Tensor, lengths: Tensor, context: Context, wanted: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode normalised features.

        Args:
            features: (batch, features, mels), normalised, padded at the end.
            lengths: (batch,) features of each item.
            context: what each frame may see.
            wanted: layers to return: 0 is the subsampled input, n the output of layer n.

        Returns:
            Frames (batch, frames, dim) with zeros at padding, their lengths, and the wanted layers in rising order.
        """
        lengths, (encoded,) = encode_plan(make_plan([self], [wanted]), features, lengths, context)
        return encoded.frames, lengths, encoded.layers


class WayFrames(NamedTuple):
    """What one way through the encoder gives: frames (batch, frames, dim), and the layers it has to return."""

    frames: Tensor
    layers: list[Tensor]


def encode_plan(
    plan: Plan, features: Tensor, lengths: Tensor, context: Context
) -> tuple[Tensor, list[WayFrames]]:
    """Encode normalised features in every way of a plan; a layer that ways share runs once.

    Args:
        plan: from `make_plan`.
        features: (batch, features, mels), normalised, padded at the end.
        lengths: (batch,) features of each item.
        context: what each frame may see.

    Returns:
        Lengths of the frames (batch,), and what each way gives, with zeros at padding.
    """
    lengths = frame_lengths(lengths)
    valid = length_mask(lengths, num_frames(features.shape[1]))
    padding = ~valid[..., None]
    outputs: dict[int, Tensor] = {}
    for place, (node, done) in enumerate(zip(plan.nodes, plan.last_uses(), strict=True)):
        if node.number == 0:
            outputs[place] = plan.dropout(node.module(features))
        elif valid.shape[1]:
            outputs[place] = node.module(outputs[node.parent], valid, context)
        else:
            outputs[place] = outputs[node.parent]
        for unneeded in done:
            del outputs[unneeded]
    return lengths, [
        WayFrames(
            way.norm(outputs[way.path[-1]]).masked_fill(padding, 0.0),
            [outputs[way.path[number]].masked_fill(padding, 0.0) for number in way.wanted],
        )
        for way in plan.ways
    ]


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def stacked(layers: list[Tensor]) -> Tensor | None:
    """Return layers as (number, batch, frames, dim), or None if there are none."""
    return torch.stack(layers) if layers else None
