"""The Conformer's convolution module, with LayerNorm, and a right reach that the context limits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.config import Context
from encoder.masks import rows_between


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, depthwise, LayerNorm, SiLU, pointwise."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.kernel = kernel
        self.pointwise_conv1 = nn.Linear(dim, 2 * dim)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pointwise_conv2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, valid: Tensor, context: Context) -> Tensor:
        """Convolve.

        Args:
            frames: (batch, frames, dim).
            valid: (batch, frames), True for real frames; padding counts as 0 after the GLU.
            context: limits the reach to the right to ``min(kernel // 2, right)`` frames past the chunk.

        Returns:
            (batch, frames, dim).
        """
        hidden = self.gate(frames).masked_fill(~valid[..., None], 0.0)
        return self.project(self.depthwise(hidden, 0, 0, frames.shape[1], context))

    def gate(self, frames: Tensor) -> Tensor:
        """Return what the depthwise convolution works on, (..., dim) of each frame (..., dim)."""
        return functional.glu(self.pointwise_conv1(frames), dim=-1)

    def project(self, hidden: Tensor) -> Tensor:
        """Return the module's output (..., dim) for the depthwise convolution's (..., dim)."""
        return self.dropout(self.pointwise_conv2(functional.silu(self.norm(hidden))))

    def depthwise(
        self, hidden: Tensor, low: int, first: int, last: int, context: Context
    ) -> Tensor:
        """Convolve over time what `gate` returned.

        Args:
            hidden: (batch, frames, dim) of the frames from `low` on; what lies outside counts as 0.
            low: number of the first frame of `hidden`.
            first: the first frame to return.
            last: end of the frames to return.
            context: what each frame may see.

        Returns:
            (batch, last - first, dim).
        """
        half, chunk = self.kernel // 2, context.chunk
        if first == last:
            return hidden[:, :0]
        if context.is_full or context.right >= half:
            seen = rows_between(hidden, first - half - low, last + half - low)
            return self.depthwise_conv(seen.transpose(1, 2)).transpose(1, 2)
        # Whole chunks, each with what it reaches, of which `right` frames past its end may be seen.
        begin, chunks = first // chunk * chunk, -(-last // chunk) - first // chunk
        rows = rows_between(hidden, begin - half - low, begin + chunks * chunk + half - low)
        windows = rows.transpose(1, 2).unfold(2, chunk + 2 * half, chunk)
        seen = torch.arange(chunk + 2 * half, device=hidden.device) < half + chunk + context.right
        windows = windows.masked_fill(~seen, 0.0).transpose(1, 2).flatten(0, 1)
        output = self.depthwise_conv(windows).unflatten(0, (-1, chunks))
        return output.permute(0, 1, 3, 2).flatten(1, 2)[:, first - begin : last - begin]
