"""Rows of a table together with what the store knows of their calls, and tables written as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embstore.schema import Space, schema_of
from embstore.store import EmbeddingStore
from trunkline.checkpoint import write_bytes, write_text

KEYS = ["call_id", "cut_id", "channel"]
_PLACE = "__place"


def with_calls(store: EmbeddingStore, rows: pa.Table, space: Space) -> pa.Table:
    """Return rows of a table, in their order, with the columns of `calls` that they lack."""
    few = rows.num_rows < 10_000
    where = pc.field("call_id").isin(rows["call_id"].unique()) if few else None
    schema = schema_of("calls", space)
    calls = pa.Table.from_batches(store.scan("calls", space, where=where), schema)
    added = [name for name in calls.column_names if name not in (*rows.column_names, "space")]
    placed = rows.append_column(_PLACE, pa.array(np.arange(len(rows))))
    joined = placed.join(calls.select([*KEYS, *added]), KEYS, join_type="left outer")
    return joined.sort_by(_PLACE).drop_columns(_PLACE).combine_chunks()  # a join keeps no order


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as .parquet, .json (a list of rows) or .csv; vectors become lists, times ISO 8601.

    Raises:
        StorageError: the file cannot be written.
    """
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(path, buffer.getvalue())
        return
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    if path.suffix == ".json":
        write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, table.column_names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
