"""Small backbones for the encoder's tests, with weights so large that a mistake anywhere shows in the frames."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from encoder import Backbone, BackboneConfig, Context, FeatureConfig

TINY = BackboneConfig(
    dim=16,
    layers=2,
    heads=2,
    feed_forward=24,
    kernel=15,
    conv_channels=4,
    features=FeatureConfig(num_mels=15),
)

CONTEXTS = [
    Context(4, 6, 0),
    Context(3, 4, 2),
    Context(2, 3, 9),
    Context(50, 0, 1),
    Context(1, 5, 3),
    Context(1, 0, 0),
    Context(8, 0, 0),
    Context(5, 2, 7),
    Context(16, 40, 6),
]
"""What a frame may see: every case of chunks, left context and look-ahead."""
contexts = st.builds(Context, st.integers(1, 12), st.integers(0, 20), st.integers(0, 16))


def strong_backbone(seed: int = 0, **changes: Any) -> Backbone:
    """A backbone in evaluation mode whose frames depend strongly on all they see."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(TINY.changed(**changes)).eval()
        for parameter in backbone.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(std=1.5 * fan_in**-0.5)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(std=0.2))
    return backbone


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
