"""The embedding store: vectors of calls in Parquet, found again by call, channel and time."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embstore.schema import Space
    from embstore.store import EmbeddingStore
    from embstore.writer import Committed, Record, Segment

_MODULES = {
    "Committed": "writer",
    "EmbeddingStore": "store",
    "Record": "writer",
    "Segment": "writer",
    "Space": "schema",
}

__all__ = ["Committed", "EmbeddingStore", "Record", "Segment", "Space"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embstore.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
