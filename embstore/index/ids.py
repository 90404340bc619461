"""The rows that ids stand for: made from batches of a table, written to `ids.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore.index.folder import IDS_OPTIONS
from embstore.schema import VECTORS, Space, schema_of


class IdsWriter:
    """Writes `ids.parquet` batch by batch."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema

    def __enter__(self) -> IdsWriter:
        self._writer = pq.ParquetWriter(self.path, self.schema, **IDS_OPTIONS)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, batch: pa.RecordBatch, path: str, row: int, first: int) -> None:
        """Note a batch: its rows from `row` on in the file get ids from `first` on."""
        self._writer.write_batch(ids_of(batch, path, row, first, self.schema))


def ids_schema(table: str, space: Space) -> pa.Schema:
    """Return the columns of `ids.parquet`: `id`, those of a table but the vectors, `part` and `row`."""
    own = [field for field in schema_of(table, space) if field.name not in (VECTORS, "space")]
    return pa.schema([("id", pa.int64()), *own, ("part", pa.string()), ("row", pa.int32())])


def ids_of(
    batch: pa.RecordBatch, path: str, row: int, first: int, schema: pa.Schema
) -> pa.RecordBatch:
    """Return the rows of `ids.parquet` for a batch."""
    count = batch.num_rows
    own = {
        "id": pa.array(np.arange(first, first + count)),
        "part": pa.repeat(path, count),
        "row": pa.array(np.arange(row, row + count, dtype=np.int32)),
    }
    columns = [own[name] if name in own else batch.column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
