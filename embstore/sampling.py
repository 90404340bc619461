"""Rows of a table under a condition, all or a random sample, with their vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from embstore import where as conditions
from embstore.joined import with_calls
from embstore.schema import VECTORS, Space, schema_of, vectors_of
from embstore.store import EmbeddingStore
from trunkline.errors import DataError


def keys(
    store: EmbeddingStore, table: str, space: Space, where: str | None = None
) -> tuple[pa.Table, np.ndarray]:
    """Return the rows of a table and its calls for which a condition holds, and their places in the table.

    Raises:
        UsageError: the condition cannot be asked.
        DataError: there are no such rows.
    """
    schema = schema_of(table, space)
    names = [name for name in schema.names if name != VECTORS]
    own = pa.Table.from_batches(
        store.scan(table, space, names), pa.schema([schema.field(name) for name in names])
    )
    rows = with_calls(store, own, space)
    places = np.arange(len(rows))
    if where is not None:
        numbered = rows.append_column("__place", pa.array(places))
        places = conditions.select(numbered, where)["__place"].to_numpy()
        rows = rows.take(pa.array(places))
    if not len(rows):
        asked = "" if where is None else f" for which {where}"
        raise DataError(f"{store.path} has no {table} in {space.name}{asked}.")
    return rows, places


def sample(
    store: EmbeddingStore,
    table: str,
    space: Space,
    where: str | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, pa.Table]:
    """Return vectors (rows, dim) and the other columns of rows, at most `limit` of them, drawn without preference.

    The columns of `calls` are there too. The order is that of the table. Raises as `keys`.
    """
    rows, places = keys(store, table, space, where)
    if limit is not None and len(rows) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))
        rows, places = rows.take(pa.array(chosen)), places[chosen]
    vectors = np.empty((len(places), space.dim), np.float32)
    first = 0
    for batch in store.scan(table, space, [VECTORS]):
        low, high = np.searchsorted(places, [first, first + batch.num_rows])
        if high > low:
            vectors[low:high] = vectors_of(batch.column(VECTORS))[places[low:high] - first]
        first += batch.num_rows
    return vectors, rows.combine_chunks()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (rows, dim) divided by their lengths; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
