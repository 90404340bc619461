"""Task heads on top of the encoder's frames: one trunk serves them all.

Names are imported when they are first used, so that a command of this package answers ``--help`` without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.adapter import attach_adapter, available_adapters, describe_parameters
    from heads.adapter_options import AdapterOptions
    from heads.folder import load_head, save_head
    from heads.head import (
        FrameHead,
        Head,
        HeadLabels,
        HeadOptions,
        PooledHead,
        PooledOptions,
        TrunkSpec,
    )
    from heads.model import MultiHeadModel, load_model
    from heads.registry import available_heads, find_head, register_head
    from heads.session import HeadSession

_MODULES = {
    "AdapterOptions": "adapter_options",
    "HeadSession": "session",
    "MultiHeadModel": "model",
    "attach_adapter": "adapter",
    "available_adapters": "adapter",
    "describe_parameters": "adapter",
    "load_head": "folder",
    "load_model": "model",
    "save_head": "folder",
    "FrameHead": "head",
    "Head": "head",
    "HeadLabels": "head",
    "HeadOptions": "head",
    "PooledHead": "head",
    "PooledOptions": "head",
    "TrunkSpec": "head",
    "available_heads": "registry",
    "find_head": "registry",
    "register_head": "registry",
}

__all__ = [
    "AdapterOptions",
    "FrameHead",
    "Head",
    "HeadLabels",
    "HeadOptions",
    "HeadSession",
    "MultiHeadModel",
    "PooledHead",
    "PooledOptions",
    "TrunkSpec",
    "attach_adapter",
    "available_adapters",
    "available_heads",
    "describe_parameters",
    "find_head",
    "load_head",
    "load_model",
    "register_head",
    "save_head",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"heads.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
