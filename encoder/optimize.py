"""A faster copy of a backbone for inference on a CPU: packed weights, fused activations, bfloat16 or int8 on request.

torch computes a float32 `linear` with MKL, which reaches less than half of some processors' speed where oneDNN, given
weights in the layout it wants, does not. The copy has its matrix products replaced by modules that hold such weights;
it shares everything else with the backbone it was made from, which stays as it was. In float32 the frames are the
same to rounding, and the copy can be saved as ever. Whether packing pays is measured when the copy is made.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from encoder.config import Context
from encoder.conformer import FeedForward
from encoder.packed import (
    DepthwiseConv,
    Int8Linear,
    PackedFeedForward,
    PackedLinear,
    can_pack,
)
from encoder.subsampling import PatchConv
from trunkline.errors import ConfigError, DependencyError
from trunkline.log import get_logger

if TYPE_CHECKING:
    from encoder.backbone import Audio, Backbone

LIMIT = 0.1
"""Largest deviation that rounding may cause: the L2 norm of the frames' difference, over that of the frames."""
GAIN = 1.05
"""Packing has to be this many times as fast as torch's `linear`, or is left out."""
DTYPES = {None: torch.float32, "bfloat16": torch.bfloat16}
QUANTISATIONS = (None, "int8")
SMALLEST = 64
"""Inputs of a matrix product that int8 is used for; the first convolution has 9."""

Range = tuple[float, float]
logger = get_logger(__name__)


def optimize(
    backbone: Backbone,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
    calibration: Sequence[Audio] = (),
    context: Context = Context.full(),
    limit: float = LIMIT,
) -> Backbone:
    """Return a copy of a backbone that computes faster on this machine's CPU, for inference alone.

    Args:
        backbone: stays as it is; the copy shares its norms, biases and features.
        dtype: "bfloat16" computes everything after the features in it; fast where the processor has instructions
            for it.
        quantize: "int8" for the matrix products: weights with a scale per output, inputs in the fixed range that they
            have on the calibration audio, so that a frame still depends on nothing but what its context shows. The
            rest is computed in `dtype`.
        calibration: recordings (files or waveforms) like those to come; needed for int8, else optional.
        context: context in which `calibration` is encoded.
        limit: largest relative L2 deviation of the frames on the calibration audio.

    Raises:
        ConfigError: a dtype or quantisation that there is none of; int8 without calibration audio; a deviation over
            the limit; a backbone that is optimised already or not on the CPU.
        DependencyError: this torch cannot do what is asked.
    """
    _check(backbone, dtype, quantize, calibration)
    ranges: dict[str, Range] = {}
    expected = _frames(backbone, calibration, context, ranges)
    kind = DTYPES[dtype]
    optimized = shared_copy(backbone, kind).eval()
    pack = can_pack()
    if dtype and _product_seconds(backbone, kind, pack) > _product_seconds(
        backbone, torch.float32, pack
    ):
        logger.warning("This processor computes %s slower than float32; leave it out here.", dtype)
    if quantize:
        _replace(optimized, ranges)
    elif pack and _product_seconds(backbone, kind, False) >= GAIN * _product_seconds(
        backbone, kind, True
    ):
        _replace(optimized, {})
    else:
        logger.info("Packed weights are no faster than torch's own here; they stay as they are.")
    if expected:
        name = " and ".join(filter(None, (quantize, dtype))) or "packing"
        deviation = _deviation(_frames(optimized, calibration, context), expected)
        if not deviation <= limit:
            raise ConfigError(
                f"{name} changes the frames of the calibration audio by {deviation:.3f} (relative L2), more than "
                f"limit={limit:g}; keep float32, or raise the limit if the heads show that it does no harm."
            )
        logger.info("%s changes the frames by %.4f (relative L2).", name, deviation)
    return optimized


def _check(
    backbone: Backbone, dtype: str | None, quantize: str | None, calibration: Sequence[Audio]
) -> None:
    if dtype not in DTYPES or quantize not in QUANTISATIONS:
        raise ConfigError(
            f"dtype={dtype!r}, quantize={quantize!r} cannot be: dtype is None or 'bfloat16', quantize None or 'int8'."
        )
    if quantize and not calibration:
        raise ConfigError(
            "quantize='int8' needs calibration=[...], a few recordings like those to come: they tell the ranges of "
            "the inputs, and how far the frames move."
        )
    if quantize and not can_pack():
        raise DependencyError("quantize='int8' needs a torch that is built with oneDNN.")
    if any(isinstance(module, PackedLinear | Int8Linear) for module in backbone.modules()):
        raise ConfigError("This backbone is optimised already; optimise the one it was made from.")
    if backbone.feature_mean.device.type != "cpu":
        raise ConfigError(
            f"The backbone is on {backbone.feature_mean.device}; optimize serves the CPU."
        )


def shared_copy(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """Return a copy with its own modules and the same tensors; those of the encoder as `dtype`."""
    memo: dict[int, Any] = {
        id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())
    }
    for parameter in backbone.conformer.parameters():
        if parameter.dtype != dtype:
            memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(backbone, memo)


def _replace(backbone: Backbone, ranges: dict[str, Range]) -> None:
    """Replace the matrix products and what goes with them; those whose input range is given by int8."""
    conformer = backbone.conformer
    dtype = conformer.after_norm.weight.dtype

    def packed(name: str, layer: nn.Module, activation: str) -> nn.Module:
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        if name in ranges and weight[0].numel() >= SMALLEST:
            return Int8Linear(weight, bias, activation, ranges[name], dtype)
        return PackedLinear(weight, bias, activation)

    for name, layer in list(_products(conformer)):
        activation = "relu" if isinstance(layer, PatchConv) else "none"
        if name.endswith("w_1"):  # of a feed-forward
            activation = "swish"
        _put(conformer, name, packed(name, layer, activation))
    for name, module in list(conformer.named_modules()):
        if isinstance(module, FeedForward):
            _put(conformer, name, PackedFeedForward(module.w_1, module.w_2))
        elif isinstance(module, nn.Conv1d):
            _put(conformer, name, DepthwiseConv(module))


def _products(conformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the matrix products by name, but for the position table's, which is computed once."""
    for name, module in conformer.named_modules():
        if isinstance(module, nn.Linear | PatchConv) and not name.endswith("linear_pos"):
            yield name, module


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, module)


def _frames(
    backbone: Backbone,
    recordings: Sequence[Audio],
    context: Context,
    ranges: dict[str, Range] | None = None,
) -> list[Tensor]:
    """Encode recordings; note the range of every matrix product's inputs in `ranges`."""
    hooks = []
    if ranges is not None:
        for name, module in _products(backbone.conformer):
            hooks.append(module.register_forward_pre_hook(_observer(name, ranges)))
    try:
        return [backbone.encode(item, context=context).frames for item in recordings]
    finally:
        for hook in hooks:
            hook.remove()


def _observer(name: str, ranges: dict[str, Range]) -> Callable[[nn.Module, Any], None]:
    def observe(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel():
            low, high = (float(limit) for limit in inputs[0].aminmax())
            seen = ranges.get(name, (low, high))
            ranges[name] = (min(low, seen[0]), max(high, seen[1]))

    return observe


def _deviation(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    difference = sum(
        float((ours.float() - theirs.float()).square().sum())
        for ours, theirs in zip(found, expected, strict=True)
    )
    return (difference / max(sum(float(item.square().sum()) for item in expected), 1e-20)) ** 0.5


@torch.no_grad()
def _product_seconds(backbone: Backbone, dtype: torch.dtype, packed: bool) -> float:
    """Return the time of one matrix product in the shape of this backbone's feed-forward, here and now."""
    dim, hidden = backbone.config.dim, backbone.config.feed_forward
    rows = torch.randn(256, dim).to(dtype)
    layer: nn.Module = nn.Linear(dim, hidden, dtype=dtype)
    if packed:
        layer = PackedLinear(layer.weight, layer.bias)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        layer(rows)
        times.append(time.perf_counter() - began)
    return min(times)
