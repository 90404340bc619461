"""What the commands that read vectors share: which store, table, space and rows are meant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embstore.schema import Space
    from embstore.store import EmbeddingStore

VECTOR_TABLES = ("pooled", "segments", "frames")


def add_store(parser: argparse.ArgumentParser, *, where: bool = True) -> None:
    """Declare the store, `--table`, `--space` and `--where`."""
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--table", default="pooled", choices=VECTOR_TABLES)
    parser.add_argument(
        "--space", help="a space's name or its beginning; needed where there are several"
    )
    if where:
        parser.add_argument(
            "--where",
            metavar="CONDITION",
            help='only these rows: "channel = 1 and duration_ms > 2000"',
        )


def chosen_space(store: EmbeddingStore, table: str, name: str | None) -> Space:
    """Return the space a command is about: the named one, or the only one that the table can have.

    Raises:
        UsageError: there is no such space, or several.
    """
    from embstore.schema import FRAMES

    if table == FRAMES:
        return store.space(name, pooling=FRAMES)
    pooled = [space for space in store.spaces().values() if space.pooling != FRAMES]
    return pooled[0] if name is None and len(pooled) == 1 else store.space(name)
