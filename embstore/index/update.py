"""Bring an index up to date with its Parquet files, and put the indexes of shards together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore.index.folder import (
    FAISS,
    IDS,
    IDS_OPTIONS,
    IndexInfo,
    check_ids,
    find,
    indexes,
    new_version,
    read_ids,
    read_info,
    write_info,
)
from embstore.index.ids import ids_of
from embstore.index.metric import Metric, load_metric
from embstore.index.opened import current_files, read_faiss
from embstore.index.parts import batches, prepared
from embstore.state import StoredFile
from embstore.store import EmbeddingStore
from trunkline.errors import DataError, UsageError

KEYS = ("call_id", "cut_id", "channel", "start_ms", "seg", "frame")
"""Columns that together tell the rows of a table apart, those of them that it has."""


def update_all(store: EmbeddingStore) -> dict[str, dict[str, int]]:
    """Update every index of a store; return what was added and removed, by name. Raises as `update`."""
    return {folder.parent.name: update(store, folder.parent.name) for folder in indexes(store.path)}


def update(store: EmbeddingStore, name: str) -> dict[str, int]:
    """Add the rows of new Parquet files to an index, remove those that are gone; write a new version if any were.

    A row is told by its cut and place in it. A file that was rewritten without some of its rows, as forgetting does,
    only loses these; one whose rows are others or in another order is removed and added anew.

    Returns:
        Rows `added` and `removed`.

    Raises:
        UsageError: there is no such index.
        DataError: the index or a file is damaged, or its kind cannot remove.
    """
    folder = find(store.path, name)
    info, ids = read_info(folder), read_ids(folder)
    files = {file.path: file for file in current_files(store, info)}
    stamps = {path: file.sha256 for path, file in files.items()}
    if stamps == info.files:
        return {"added": 0, "removed": 0}
    index = read_faiss(folder / FAISS, mapped=False)
    check_ids(folder, info, ids, index.ntotal, index.d)
    kept, fresh = _surviving(store, ids, info, files)
    removed = np.setdiff1d(ids["id"].to_numpy(), kept["id"].to_numpy(), assume_unique=True)
    _remove(index, removed, info)
    metric = load_metric(folder, info.metric, info.dim)
    added, next_id = _add(store, index, info, metric, fresh, kept.schema)
    table = pa.concat_tables([kept, *added])
    with new_version(store.path, name) as target:
        pq.write_table(table, target / IDS, **IDS_OPTIONS)
        faiss.write_index(index, str(target / FAISS))
        metric.save(target)
        now = {"rows": len(table), "next_id": next_id, "log_version": store.state.version}
        write_info(target, replace(info, files=stamps, **now))
    return {"added": len(table) - len(kept), "removed": len(removed)}


def _surviving(
    store: EmbeddingStore, ids: pa.Table, info: IndexInfo, files: dict[str, StoredFile]
) -> tuple[pa.Table, list[StoredFile]]:
    """Return the rows of ids.parquet that are still there, at their new places, and the files to add."""
    codes = ids["part"].combine_chunks().dictionary_encode()
    names = {name: code for code, name in enumerate(codes.dictionary.to_pylist())}
    of_file = codes.indices.to_numpy()
    keep = np.ones(len(ids), bool)
    rows = ids["row"].to_numpy().copy()
    fresh = [file for path, file in files.items() if path not in info.files]
    for path, stamp in info.files.items():
        if path in files and files[path].sha256 == stamp:
            continue
        mine = np.flatnonzero(of_file == names.get(path, -1))
        keep[mine] = False
        if path not in files:
            continue
        places = _places(store, files[path], ids.take(pa.array(mine)))
        if places is None:
            fresh.append(files[path])
            continue
        keep[mine] = places >= 0
        rows[mine] = places
    moved = ids.set_column(ids.schema.get_field_index("row"), "row", pa.array(rows, pa.int32()))
    return moved.filter(pa.array(keep)), fresh


def _places(store: EmbeddingStore, file: StoredFile, before: pa.Table) -> np.ndarray | None:
    """Return the row each indexed row of a file has in the file now (-1: gone), or None where it holds other rows."""
    keys = [name for name in KEYS if name in before.column_names]
    now = pa.Table.from_batches(list(batches(store, file, keys))).select(keys)
    order = {key: row for row, key in enumerate(_rows(now))}
    places = np.array([order.get(key, -1) for key in _rows(before.select(keys))], np.int32)
    found = places[places >= 0]
    whole = len(found) == len(now) and len(order) == len(now)
    return places if whole and (found[1:] > found[:-1]).all() else None


def _rows(table: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _remove(index: faiss.Index, ids: np.ndarray, info: IndexInfo) -> None:
    if not len(ids):
        return
    try:
        count = index.remove_ids(faiss.IDSelectorBatch(ids))
    except RuntimeError as error:
        raise DataError(
            f"An index of kind {info.kind} cannot forget rows. Build it again with `python -m embstore.index`."
        ) from error
    if count != len(ids):
        raise DataError(
            f"Of {len(ids)} rows to remove index {info.name!r} had {count}; build it again."
        )


def _add(
    store: EmbeddingStore,
    index: Any,
    info: IndexInfo,
    metric: Metric,
    files: Sequence[StoredFile],
    schema: pa.Schema,
) -> tuple[list[pa.Table], int]:
    added, next_id = [], info.next_id
    for file in files:
        row = 0
        for batch in batches(store, file):
            vectors = prepared(batch, file.path, metric, info.dim)
            index.add_with_ids(vectors, np.arange(next_id, next_id + len(vectors), dtype=np.int64))
            added.append(pa.Table.from_batches([ids_of(batch, file.path, row, next_id, schema)]))
            row, next_id = row + len(vectors), next_id + len(vectors)
    return added, next_id


def merge(store: EmbeddingStore, name: str, sources: Sequence[str]) -> IndexInfo:
    """Put indexes of the same table and space, built by shards, together as one; the sources stay.

    Raises:
        UsageError: no source, one that is not there, or sources of different spaces, tables, kinds or training.
        DataError: a source is damaged, or two hold the same file.
    """
    if not sources:
        raise UsageError("Name the indexes to merge.")
    folders = [find(store.path, source) for source in sources]
    infos = [read_info(folder) for folder in folders]
    first = infos[0]
    alike = ("table", "space", "kind", "metric", "dim", "lists")
    for info in infos[1:]:
        for field in alike:
            if getattr(info, field) != getattr(first, field):
                raise UsageError(
                    f"{first.name!r} and {info.name!r} differ in {field}: {getattr(first, field)} and "
                    f"{getattr(info, field)}; build them alike, with --shard."
                )
    metrics = [
        load_metric(folder, info.metric, info.dim)
        for folder, info in zip(folders, infos, strict=True)
    ]
    matrices = [metric.matrix for metric in metrics if metric.matrix is not None]
    if any(not np.array_equal(matrix, matrices[0]) for matrix in matrices):
        raise UsageError(
            "The indexes are whitened by different samples; build all shards of one and the same store."
        )
    index: Any = None
    tables, files, next_id = [], {}, 0
    for folder, info in zip(folders, infos, strict=True):
        if twice := files.keys() & info.files.keys():
            raise DataError(
                f"{min(twice)} is in {info.name!r} and in another of the indexes to merge."
            )
        other, ids = read_faiss(folder / FAISS, mapped=False), read_ids(folder)
        check_ids(folder, info, ids, other.ntotal, other.d)
        if index is None:
            index = other
        else:
            _join(index, other, next_id, info)
        numbers = pa.array(ids["id"].to_numpy() + next_id)
        tables.append(ids.set_column(0, "id", numbers))
        files |= info.files
        next_id += info.next_id
    table = pa.concat_tables(tables)
    # The lists are the same in every shard, but each has tuned on its own rows: the most careful choice holds.
    careful = max(infos, key=lambda info: info.nprobe)
    with new_version(store.path, name) as target:
        pq.write_table(table, target / IDS, **IDS_OPTIONS)
        faiss.write_index(index, str(target / FAISS))
        merged = replace(
            careful, name=name, rows=len(table), next_id=next_id, files=files, shard=""
        )
        metrics[0].save(target)
        write_info(target, merged)
    return merged


def _join(index: Any, other: Any, first_id: int, info: IndexInfo) -> None:
    try:
        index.check_compatible_for_merge(other)  # also that both were trained on the same vectors
        index.merge_from(other, first_id)
    except RuntimeError as error:
        raise UsageError(
            f"{info.name!r} does not fit the indexes before it. Build all shards of one and the same store, of one "
            f"--kind and with the same --seed. FAISS says: {str(error).rpartition(': ')[2]}"
        ) from error
