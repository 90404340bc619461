"""Parquet files: written staged, in row groups, and written again without some rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from embstore.schema import ROW_GROUP, writer_options
from embstore.state import Keys, StoredFile
from embstore.storage import Staged, Storage, writing
from trunkline.checkpoint import sha256_file
from trunkline.errors import DataError, StorageError

Keep = Callable[[pa.RecordBatch], np.ndarray]
"""Which rows of a batch stay, (rows,) bool."""


class TableWriter:
    """One staged Parquet file, in row groups of `ROW_GROUP` rows; memory is that of two row groups.

    A whole row group is written in a thread, while the next one is made.
    """

    def __init__(self, storage: Storage, schema: pa.Schema) -> None:
        self.storage, self.schema = storage, schema
        self.staged: Staged = storage.stage()
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._held = 0
        self._thread: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None
        try:
            with writing(self.staged.path):
                self._sink = pa.OSFile(str(self.staged.path), "wb")
                self._file = pq.ParquetWriter(self._sink, schema, **writer_options(schema))
        except BaseException:
            self.staged.drop()
            raise

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table)
        self._held += table.num_rows
        self.rows += table.num_rows
        if self._held >= ROW_GROUP:
            joined = pa.concat_tables(self._waiting)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP
            self._wait()
            self._thread = self._thread or ThreadPoolExecutor(1)
            self._written = self._thread.submit(
                self._file.write_table, joined.slice(0, whole), row_group_size=ROW_GROUP
            )
            self._waiting = [joined.slice(whole)]
            self._held = joined.num_rows - whole

    def finish(self, path: str, table: str, space: str) -> StoredFile:
        """Close the file, read it back, and say what it is; the commit that names it waits for the disk."""
        self._end()
        with writing(self.staged.path):
            if self._held or not self.rows:
                joined = pa.concat_tables([self.schema.empty_table(), *self._waiting])
                self._file.write_table(joined, row_group_size=ROW_GROUP)
            self._file.close()
            self._sink.close()
        self._waiting = []
        digest = sha256_file(self.staged.path)
        found = pq.read_metadata(self.staged.path).num_rows
        if found != self.rows:
            raise DataError(f"{path}: {self.rows} rows were written and {found} are there.")
        size = self.staged.path.stat().st_size
        return StoredFile(path, table, space, self.rows, size, digest, self.staged.name)

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(StorageError, pa.ArrowException):
            self._end()
        for each in (self._file, self._sink):
            with contextlib.suppress(OSError, pa.ArrowException):
                each.close()
        self.staged.drop()

    def _end(self) -> None:
        """Wait for what is being written, and let the thread go."""
        if self._thread is not None:
            self._thread.shutdown()
        self._wait()

    def _wait(self) -> None:
        """Wait for the row group that is being written, and raise what went wrong."""
        written, self._written = self._written, None
        if written is not None:
            with writing(self.staged.path):
                written.result()


def part_name(table: str, space: str, unique: str) -> str:
    """Return where a new file of a table lies; frames are many and get folders by two digits."""
    folder = f"{table}/{space}" if space else table
    return (
        f"{folder}/{unique[:2]}/part-{unique}.parquet"
        if table == "frames"
        else (f"{folder}/part-{unique}.parquet")
    )


def without(keys: Keys, gone: set[bytes]) -> Keep:
    """Return what keeps the rows whose cut is not in `gone`, a set of pairs."""
    known: dict[tuple[str, str, int], bool] = {}

    def keep(batch: pa.RecordBatch) -> np.ndarray:
        kept = np.empty(batch.num_rows, bool)
        columns = (batch.column(name).to_pylist() for name in ("call_id", "cut_id", "channel"))
        for place, key in enumerate(zip(*columns, strict=True)):
            if key not in known:
                known[key] = keys.pair(*key) not in gone
            kept[place] = known[key]
        return kept

    return keep


def rewritten(
    storage: Storage, source: Path | pa.NativeFile, file: StoredFile, keep: Keep
) -> tuple[StoredFile, Staged]:
    """Stage a Parquet file again with the rows that `keep` keeps."""
    reader = pq.ParquetFile(source, page_checksum_verification=True)
    writer = TableWriter(storage, reader.schema_arrow)
    try:
        for batch in reader.iter_batches(batch_size=ROW_GROUP):
            writer.write(pa.Table.from_batches([batch]).filter(pa.array(keep(batch))))
        return writer.finish(file.path, file.table, file.space), writer.staged
    except BaseException:
        writer.discard()
        raise
    finally:
        reader.close()


def read_file(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some of its columns, with its checksums checked."""
    return pq.read_table(
        path,
        columns=None if columns is None else list(columns),
        page_checksum_verification=True,
        partitioning=None,  # type: ignore[arg-type]
    )


def read_rows(
    paths: Sequence[str], schema: pa.Schema, columns: Sequence[str], where: ds.Expression | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of Parquet files for which a condition holds, in order, with their checksums checked.

    Few row groups are read ahead, so that memory stays bounded.
    """
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    format = ds.ParquetFileFormat(default_fragment_scan_options=options)
    data = ds.dataset(list(paths), schema=schema, format=format)
    return data.to_batches(
        columns=list(columns), filter=where, batch_readahead=2, fragment_readahead=2
    )
