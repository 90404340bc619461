"""Layers for inference on a CPU, in the form that oneDNN computes fastest; `encoder.optimize` puts them in place.

They call the operators that torch's own compiler (Inductor) emits for packed weights; eager torch has no public name
for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trunkline.errors import UsageError


def can_pack() -> bool:
    """Return whether this torch has the operators."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(space, name)
        for space, name in (
            (torch.ops.mkldnn, "_linear_pointwise"),
            (torch.ops.mkldnn, "_reorder_linear_weight"),
            (torch.ops.onednn, "qlinear_pointwise"),
            (torch.ops.onednn, "qlinear_prepack"),
        )
    )


class _Fixed(nn.Module):
    """A layer without parameters: it cannot be trained or moved, so copies may share it."""

    in_features: int
    out_features: int

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fixed:
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> _Fixed:
        probe = torch.empty(0)
        if fn(probe).device != probe.device:
            raise UsageError(
                "An optimised backbone stays on the CPU; move the one it was made from."
            )
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise UsageError(
            f"{prefix.rstrip('.')} holds rounded weights; save the backbone that was optimised."
        )


def _rows(inputs: Tensor, width: int) -> Tensor:
    if torch.is_grad_enabled() and inputs.requires_grad:
        raise UsageError(
            "An optimised backbone gives no gradients; train the one it was made from."
        )
    return inputs.reshape(-1, width)


class PackedLinear(_Fixed):
    """``activation(x W^T + b)`` with W in oneDNN's layout, in the type of the weights."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str = "none") -> None:
        """Pack `weight` (outputs, inputs, ...); `activation` is none, relu or swish, oneDNN's name of SiLU."""
        super().__init__()
        self.shape = weight.shape
        self.out_features, self.in_features = weight.flatten(1).shape
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().flatten(1))  # noqa: SLF001
        self.bias = bias.detach()
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., outputs) for (..., inputs)."""
        rows = _rows(inputs, self.in_features)
        if len(rows):
            output = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
                rows, self.weight, self.bias, self.activation, [], ""
            )
        else:
            output = rows.new_zeros(0, self.out_features)
        return output.unflatten(0, inputs.shape[:-1])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.bias.dtype != torch.float32:
            super()._save_to_state_dict(destination, prefix, keep_vars)
        # The layout changes, not the numbers.
        destination[f"{prefix}weight"] = self.weight.to_dense().reshape(self.shape)
        destination[f"{prefix}bias"] = self.bias


class Int8Linear(_Fixed):
    """`PackedLinear` with weights of 8 bits, a scale for each output, and inputs of 8 bits in a range fixed beforehand.

    The range is fixed, not that of the frames at hand, so that a frame does not depend on those beside it.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        activation: str,
        input_range: tuple[float, float],
        dtype: torch.dtype,
    ) -> None:
        """Quantise `weight` (outputs, inputs, ...) for inputs in `input_range` and outputs of `dtype`."""
        super().__init__()
        weight = weight.detach().flatten(1).float()
        self.out_features, self.in_features = weight.shape
        low, high = min(input_range[0], 0.0), max(input_range[1], 0.0)
        self.scale = max(high - low, 1e-8) / 255
        self.zero = round(-low / self.scale)
        self.half_above_zero = torch.tensor(self.zero + 0.5)  # the conversion to bytes rounds down
        self.scales = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = bias.detach().float()
        self.activation, self.dtype = activation, dtype

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., outputs) for (..., inputs)."""
        rows = _rows(inputs, self.in_features)
        if not len(rows):
            return inputs.new_zeros(*inputs.shape[:-1], self.out_features)
        return self.product(self.rounded(rows)).unflatten(0, inputs.shape[:-1])

    def rounded(self, rows: Tensor) -> Tensor:
        """Return inputs (rows, inputs) as bytes."""
        # bfloat16 has too few digits for the sum.
        scaled = torch.add(self.half_above_zero, rows.float(), alpha=1 / self.scale)
        # By way of int16: torch converts float32 to uint8 one number at a time.
        return scaled.clamp_(0, 255).to(torch.int16).to(torch.uint8)

    def product(self, rounded: Tensor, then: Int8Linear | None = None) -> Tensor:
        """Return outputs (rows, outputs) of bytes (rows, inputs): as `dtype`, or as the bytes that `then` takes."""
        scale, zero, dtype = (
            (1.0, 0, self.dtype) if then is None else (then.scale, then.zero, torch.uint8)
        )
        return torch.ops.onednn.qlinear_pointwise(
            *(rounded, self.scale, self.zero, self.weight, self.scales, self.zeros, self.bias),
            *(scale, zero, dtype, self.activation, [], ""),
        )


class PackedFeedForward(nn.Module):
    """A feed-forward of packed layers; the activation is computed with the first."""

    def __init__(self, w_1: nn.Module, w_2: nn.Module) -> None:
        super().__init__()
        self.w_1, self.w_2 = w_1, w_2

    def forward(self, frames: Tensor) -> Tensor:
        """Return (..., dim) for frames (..., dim)."""
        if isinstance(self.w_1, Int8Linear) and isinstance(self.w_2, Int8Linear) and frames.numel():
            rows = self.w_1.rounded(_rows(frames, self.w_1.in_features))
            # The wide hidden frames stay bytes: rounding them apart takes as long as the product.
            hidden = self.w_1.product(rows, then=self.w_2)
            return self.w_2.product(hidden).unflatten(0, frames.shape[:-1])
        return self.w_2(self.w_1(frames))


class DepthwiseConv(nn.Module):
    """A depthwise convolution over time with channels last, as frames are in memory."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (batch, channels, time - kernel + 1) for (batch, channels, time)."""
        image = hidden.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        output = functional.conv2d(image, self.weight.unsqueeze(2), self.bias, groups=self.channels)
        return output.squeeze(2)
