"""The streaming Conformer backbone: log-mel features in, frames of 80 ms out.

Names are imported when they are first used, so that a command of this package answers ``--help`` without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoder.backbone import Backbone, Encoded
    from encoder.config import BackboneConfig, Context, FeatureConfig
    from encoder.load import load_backbone, save_backbone

_MODULES = {
    "Backbone": "backbone",
    "BackboneConfig": "config",
    "Context": "config",
    "Encoded": "backbone",
    "FeatureConfig": "config",
    "load_backbone": "load",
    "save_backbone": "load",
}

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Context",
    "Encoded",
    "FeatureConfig",
    "load_backbone",
    "save_backbone",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"encoder.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
