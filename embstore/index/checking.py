"""Whether the indexes of a store are what its Parquet files make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from embstore.index.folder import INFO, PRIVATE, find, hashes, indexes
from embstore.index.opened import Index, current_files
from embstore.index.parts import batches, open_part, prepared
from embstore.schema import VECTORS
from embstore.state import StoredFile
from embstore.store import EmbeddingStore
from trunkline.errors import TrunklineError

SAMPLE = 100
"""Vectors that are looked for in each index."""
FOUND = 0.8
"""Of them, the share that an approximate index has to find, each by itself."""


def check(store: EmbeddingStore) -> Iterator[str]:
    """Yield what is wrong with the indexes of a store, in words.

    Hashes of their files, ids against the rows of the Parquet files, and a sample of vectors, which must be found.
    Rows that were added after an index was made are not its fault.
    """
    for folder in indexes(store.path):
        try:
            yield from _check(store, folder)
        except TrunklineError as error:
            yield str(error)


def _check(store: EmbeddingStore, folder: Path) -> Iterator[str]:
    changed = [name for name, digest, stated in hashes(folder) if digest != stated]
    if changed:
        yield f"{folder}: {', '.join(changed)} is not what {INFO} says. Build the index again."
        return
    index = Index.open(store, find(store.path, folder.parent.name).parent.name)
    now = {file.path: file for file in current_files(store, index.info)}
    old = [
        path
        for path, digest in index.info.files.items()
        if path not in now or now[path].sha256 != digest
    ]
    if old:
        yield f"{folder} holds rows of {len(old)} files that have changed, first {old[0]}. Run --update."
    parts = index.ids["part"].combine_chunks().dictionary_encode()
    names = parts.dictionary.to_pylist()
    if strangers := sorted(set(names) - set(index.info.files)):
        yield f"{folder} holds rows of {strangers[0]}, which it does not name. Build the index again."
    for code, path in enumerate(names):
        if path in now and path in index.info.files and path not in old:
            rows = np.flatnonzero(parts.indices.to_numpy() == code)
            yield from _check_file(index, now[path], rows, max(1, SAMPLE // len(names)))


def _check_file(index: Index, file: StoredFile, places: np.ndarray, sample: int) -> Iterator[str]:
    """Compare the index's rows of one file, at `places` of ids.parquet, with the file."""
    mine = index.ids.take(pa.array(places))
    columns = [name for name in mine.column_names if name not in PRIVATE]
    there = pa.Table.from_batches(list(batches(index.store, file, columns))).select(columns)
    same = all(there[name].equals(mine[name]) for name in columns)
    if not same or mine["row"].to_pylist() != list(range(len(mine))):
        yield f"{index.folder}: its ids of {file.path} do not fit the file's rows. Build the index again."
        return
    groups = open_part(index.store, file).num_row_groups
    batch = next(batches(index.store, file, [VECTORS], [groups // 2]))
    first = sum(
        open_part(index.store, file).metadata.row_group(g).num_rows for g in range(groups // 2)
    )
    chosen = np.unique(np.linspace(0, batch.num_rows - 1, sample).astype(int))
    vectors = prepared(batch, file.path, index.metric, index.info.dim)[chosen]
    if missed := _missed(index, vectors, places[first + chosen]):
        yield f"{index.folder}: {missed} of {len(chosen)} vectors of {file.path} are not found. Build the index again."


def _missed(index: Index, vectors: np.ndarray, places: np.ndarray) -> int:
    """Return how many vectors an index does not hold at their places, or too many do not find themselves."""
    if index.info.kind == "flat":
        flat = faiss.downcast_index(index.index.index)
        held = np.stack([flat.reconstruct(int(place)) for place in places])
        return int((np.abs(held - vectors).max(1) > 1e-5).sum())
    if index.info.metric == "dot":
        return 0  # of inner products the own need not be the largest
    ids = index.ids["id"].to_numpy()[places]
    _, found = index.nearest(vectors, min(10, index.info.rows))
    missed = int(sum(own not in row for own, row in zip(ids, found, strict=True)))
    return missed if missed > (1 - FOUND) * len(ids) else 0
