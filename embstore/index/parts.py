"""The Parquet files an index is made of, and their rows in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore.index.metric import Metric
from embstore.schema import ROW_GROUP, VECTORS, vectors_of
from embstore.state import StoredFile
from embstore.store import EmbeddingStore
from trunkline.errors import DataError, StorageError


def open_part(store: EmbeddingStore, file: StoredFile) -> pq.ParquetFile:
    """Open a Parquet file of a store.

    Raises:
        DataError: it is missing, truncated, or no Parquet.
        StorageError: it cannot be read.
    """
    try:
        # A row group at a time: buffering ahead would hold, and have the system provide, the memory of a whole file.
        return pq.ParquetFile(store.source(file), page_checksum_verification=True, pre_buffer=False)
    except (pa.ArrowException, FileNotFoundError) as error:
        raise DataError(_damaged(store, file, error)) from error
    except OSError as error:
        raise StorageError(f"Cannot read {store.path / file.path}: {error}") from error


def batches(
    store: EmbeddingStore,
    file: StoredFile,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in order, in batches of at most a row group.

    Raises:
        DataError, StorageError: as `open_part`, or a page is damaged.
    """
    names = None if columns is None else list(columns)
    parquet = open_part(store, file)
    try:
        yield from parquet.iter_batches(ROW_GROUP, groups, names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_damaged(store, file, error)) from error


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items, the next of which is made in a thread while one works on this one."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = thread.submit(next, items, end)
            yield item


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Have Arrow use the memory of one batch for the next, where it can.

    Its usual allocator gives large pieces back to the system, which has to provide them again for the next batch.
    """
    before = pa.default_memory_pool()
    with contextlib.suppress(NotImplementedError):  # some builds of Arrow have no jemalloc
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _damaged(store: EmbeddingStore, file: StoredFile, error: Exception) -> str:
    return (
        f"{store.path / file.path} is damaged ({error}). Run `python -m embstore.verify {store.path}`, and take the "
        "file from a backup."
    )


def prepared(
    batch: pa.RecordBatch, origin: str, metric: Metric, dim: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the vectors of a batch, (rows, dim) float32, as a metric wants them, in `out` where it changes them.

    Raises:
        DataError: the vectors have another dimension, or are not finite.
    """
    column = batch.column(VECTORS)
    if column.type.list_size != dim:
        raise DataError(
            f"{origin} holds vectors of {column.type.list_size} numbers, its space has {dim}: the file belongs to "
            "another model. Run `python -m embstore.verify`."
        )
    vectors = vectors_of(column)
    if not np.isfinite(np.einsum("nd,nd->n", vectors, vectors)).all():
        raise DataError(f"{origin} holds NaN or infinite numbers. Run `python -m embstore.verify`.")
    return metric.prepare(vectors, out)
