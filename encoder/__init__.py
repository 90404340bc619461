"""The streaming Conformer backbone: log-mel features in, frames of 80 ms out.

Names are imported when they are first used, so that a command of this package answers ``--help`` without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoder.backbone import Backbone
    from encoder.config import BackboneConfig, Context, FeatureConfig
    from encoder.encoded import Encoded
    from encoder.load import load_backbone, save_backbone
    from encoder.session import StreamingSession
    from encoder.state import LayerState, StreamState, join_states, reset_states, split_states

_MODULES = {
    "Backbone": "backbone",
    "BackboneConfig": "config",
    "Context": "config",
    "Encoded": "encoded",
    "FeatureConfig": "config",
    "LayerState": "state",
    "StreamState": "state",
    "StreamingSession": "session",
    "join_states": "state",
    "load_backbone": "load",
    "reset_states": "state",
    "save_backbone": "load",
    "split_states": "state",
}

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Context",
    "Encoded",
    "FeatureConfig",
    "LayerState",
    "StreamState",
    "StreamingSession",
    "join_states",
    "load_backbone",
    "reset_states",
    "save_backbone",
    "split_states",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"encoder.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
