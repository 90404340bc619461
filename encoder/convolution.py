"""The Conformer's convolution module, with LayerNorm, and a right reach that the context limits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder.config import Context


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
        hidden = functional.glu(self.pointwise_conv1(frames), dim=-1)
        hidden = hidden.masked_fill(~valid[..., None], 0.0).transpose(1, 2)
        hidden = self._depthwise(hidden, context).transpose(1, 2)
        return self.dropout(self.pointwise_conv2(functional.silu(self.norm(hidden))))

    def _depthwise(self, hidden: Tensor, context: Context) -> Tensor:
        half = self.kernel // 2
        if context.is_full or context.right >= half:
            return self.depthwise_conv(functional.pad(hidden, (half, half)))
        batch, dim, total = hidden.shape
        chunk = context.chunk
        chunks = -(-total // chunk)
        padded = functional.pad(hidden, (half, chunks * chunk - total + half))
        windows = padded.unfold(2, chunk + 2 * half, chunk)
        seen = torch.arange(chunk + 2 * half, device=hidden.device) < half + chunk + context.right
        windows = windows.masked_fill(~seen, 0.0).transpose(1, 2).flatten(0, 1)
        output = self.depthwise_conv(windows).unflatten(0, (batch, chunks))
        return output.transpose(1, 2).flatten(2)[:, :, :total]
