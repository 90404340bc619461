"""Which layer of the backbone a space holds: the normalised output, one layer, or the mean of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from encoder import Encoded


def wanted_layers(layer: str) -> list[int] | Literal["all"] | None:
    """Return what the backbone is asked for: "last", "mix" or a number, as `Backbone.encode` takes it."""
    if layer == "last":
        return None
    return "all" if layer == "mix" else [int(layer)]


def layer_frames(encoded: Encoded, layer: str) -> np.ndarray:
    """Return the frames (frames, dim) float32 of one recording; "mix" is the mean of layers 1 to the last."""
    frames = encoded.frames[0]
    if encoded.layers is not None:
        layers = encoded.layers[:, 0].float()
        frames = layers[1:].mean(dim=0) if layer == "mix" else layers[0]
    return frames.float().cpu().numpy()
