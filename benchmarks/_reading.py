"""Read a store with one engine: `python benchmarks/_reading.py ENGINE STORE QUERY`; needs nothing of ours.

Each function reads every table as an analyst would, by a pattern of files, and returns for each: rows, the sum
of channels, the sum of all numbers of all vectors, and the vector of call QUERY's first row. For `calls`, which has no
vectors, the sum of durations and the earliest start instead.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalIterable=false, reportCallIssue=false, reportGeneralTypeIssues=false
# (the engines are installed one at a time, elsewhere)

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

Found = dict[str, dict[str, Any]]
VECTORS = ("pooled", "segments", "frames")
COLUMNS = ["call_id", "channel", "v"]


def _order(table: str) -> str:
    return {"pooled": "cut_id", "segments": "cut_id, seg", "frames": "cut_id, frame"}[table]


def _with_pandas(frame: Any, query: str) -> dict[str, Any]:
    import numpy as np

    vectors = np.stack([np.asarray(v, dtype=np.float32) for v in frame["v"]])
    first = vectors[np.flatnonzero(frame["call_id"].to_numpy() == query)[0]]
    return {
        "rows": len(frame),
        "channels": int(frame["channel"].sum()),
        "sum": float(vectors.sum(dtype=np.float64)),
        "vector": [float(x) for x in first],
    }


def _calls(frame: Any) -> dict[str, Any]:
    started = frame["started_at"].min()
    return {
        "rows": len(frame),
        "durations": int(frame["duration_ms"].sum()),
        "started": started.tz_localize(None).isoformat() if started.tzinfo else started.isoformat(),
    }


def read_pyarrow(store: str, query: str) -> Found:
    """pyarrow.dataset."""
    import pyarrow.dataset as ds

    found = {}
    for table in VECTORS:
        data = ds.dataset(f"{store}/{table}", format="parquet").to_table(columns=COLUMNS)
        found[table] = _arrow(data, query)
    calls = ds.dataset(f"{store}/calls", format="parquet").to_table()
    return found | {"calls": _arrow_calls(calls)}


def _arrow(data: Any, query: str) -> dict[str, Any]:
    import numpy as np
    import pyarrow.compute as pc

    column = data["v"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(data), -1)
    row = data["call_id"].to_pylist().index(query)
    return {
        "rows": len(data),
        "channels": pc.sum(data["channel"]).as_py(),
        "sum": float(vectors.sum(dtype=np.float64)),
        "vector": [float(x) for x in vectors[row]],
    }


def _arrow_calls(calls: Any) -> dict[str, Any]:
    import pyarrow.compute as pc

    return {
        "rows": len(calls),
        "durations": pc.sum(calls["duration_ms"]).as_py(),
        "started": pc.min(calls["started_at"]).as_py().replace(tzinfo=None).isoformat(),
    }


def read_pandas(store: str, query: str) -> Found:
    """pandas.read_parquet of a folder."""
    import pandas as pd

    found = {
        table: _with_pandas(pd.read_parquet(f"{store}/{table}", columns=COLUMNS), query)
        for table in VECTORS
    }
    return found | {"calls": _calls(pd.read_parquet(f"{store}/calls"))}


def read_fastparquet(store: str, query: str) -> Found:
    """pandas with the engine fastparquet."""
    from glob import glob

    import fastparquet

    found = {}
    for table in VECTORS:
        files = sorted(glob(f"{store}/{table}/**/*.parquet", recursive=True))
        found[table] = _with_pandas(
            fastparquet.ParquetFile(files).to_pandas(columns=COLUMNS), query
        )
    files = sorted(glob(f"{store}/calls/*/*.parquet"))
    return found | {"calls": _calls(fastparquet.ParquetFile(files).to_pandas())}


def read_duckdb(store: str, query: str) -> Found:
    """SQL over a pattern of files, the sums made by DuckDB."""
    import duckdb

    found = {}
    for table in VECTORS:
        source = f"read_parquet('{store}/{table}/**/*.parquet')"
        rows, channels, total = duckdb.execute(
            f"select count(*), sum(channel)::bigint, sum(list_sum(v::double[])) from {source}"
        ).fetchone()
        (vector,) = duckdb.execute(
            f"select v from {source} where call_id = ? order by {_order(table)} limit 1", [query]
        ).fetchone()
        found[table] = {"rows": rows, "channels": channels, "sum": total, "vector": list(vector)}
    rows, durations, started = duckdb.execute(
        "select count(*), sum(duration_ms)::bigint, min(started_at at time zone 'UTC') "
        f"from read_parquet('{store}/calls/*/*.parquet')"
    ).fetchone()
    return found | {"calls": {"rows": rows, "durations": durations, "started": started.isoformat()}}


def read_polars(store: str, query: str) -> Found:
    """A lazy scan over a pattern of files."""
    import polars as pl

    found = {}
    for table in VECTORS:
        frame = pl.scan_parquet(f"{store}/{table}/**/*.parquet").select(COLUMNS).collect()
        found[table] = {
            "rows": frame.height,
            "channels": int(frame["channel"].cast(pl.Int64).sum()),
            "sum": float(frame["v"].explode().cast(pl.Float64).sum()),
            "vector": frame.filter(pl.col("call_id") == query)["v"][0].to_list(),
        }
    calls = pl.scan_parquet(f"{store}/calls/*/*.parquet").collect()
    started = calls["started_at"].min().replace(tzinfo=None).isoformat()
    return found | {
        "calls": {
            "rows": calls.height,
            "durations": int(calls["duration_ms"].sum()),
            "started": started,
        }
    }


def read_spark(store: str, query: str) -> Found:
    """Spark SQL on one local core; times as the session's zone, set to UTC, shows them."""
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    found = {}
    for table in VECTORS:
        frame = spark.read.option("recursiveFileLookup", "true").parquet(f"{store}/{table}")
        total = f.aggregate("v", f.lit(0.0), lambda a, b: a + b)
        rows, channels, sums = frame.agg(f.count("*"), f.sum("channel"), f.sum(total)).first()
        order = [name.strip() for name in _order(table).split(",")]
        first = frame.where(f.col("call_id") == query).orderBy(*order).first()
        found[table] = {"rows": rows, "channels": channels, "sum": sums, "vector": list(first["v"])}
    calls = spark.read.option("recursiveFileLookup", "true").parquet(f"{store}/calls")
    rows, durations, started = calls.agg(
        f.count("*"),
        f.sum("duration_ms"),
        f.date_format(f.min("started_at"), "yyyy-MM-dd'T'HH:mm:ss"),
    ).first()
    return found | {"calls": {"rows": rows, "durations": durations, "started": started}}


def read_datasets(store: str, query: str) -> Found:
    """Hugging Face datasets, the parquet loader."""
    import tempfile
    from glob import glob

    import datasets

    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for table in (*VECTORS, "calls"):
            files = sorted(glob(f"{store}/{table}/**/*.parquet", recursive=True))
            data = datasets.load_dataset(
                "parquet", data_files=files, split="train", cache_dir=cache
            )
            frame = data.with_format("arrow")[:]
            found[table] = _arrow_calls(frame) if table == "calls" else _arrow(frame, query)
    return found


def read_daft(store: str, query: str) -> Found:
    """Daft over a pattern of files."""
    import daft

    found = {
        table: _with_pandas(
            daft.read_parquet(f"{store}/{table}/**/*.parquet").select(*COLUMNS).to_pandas(), query
        )
        for table in VECTORS
    }
    return found | {"calls": _calls(daft.read_parquet(f"{store}/calls/**/*.parquet").to_pandas())}


def read_datafusion(store: str, query: str) -> Found:
    """DataFusion: SQL over the folder of each space, which it does not look for below a folder of folders."""
    from glob import glob

    import datafusion
    import pyarrow as pa

    context = datafusion.SessionContext()
    found = {}
    for table in (*VECTORS, "calls"):
        files = glob(f"{store}/{table}/**/*.parquet", recursive=True)
        folders = sorted({path.rpartition("/")[0] for path in files})
        for number, folder in enumerate(folders):
            context.register_parquet(f"{table}{number}", f"{folder}/")
        columns = "call_id, duration_ms, started_at" if table == "calls" else "*"
        parts = [f"select {columns} from {table}{number}" for number in range(len(folders))]
        order = "" if table == "calls" else f" order by {_order(table)}"
        data = pa.table(context.sql(" union all ".join(parts) + order).to_arrow_table())
        found[table] = _arrow_calls(data) if table == "calls" else _arrow(data, query)
    return found


def read_chdb(store: str, query: str) -> Found:
    """chDB (ClickHouse in the process): SQL over a pattern of files."""
    import chdb

    def rows_of(sql: str) -> list[dict[str, Any]]:
        text = str(chdb.query(sql, "JSONEachRow"))
        return [json.loads(line) for line in text.splitlines() if line]

    found = {}
    for table in VECTORS:
        source = f"file('{store}/{table}/**/*.parquet', Parquet)"
        (sums,) = rows_of(
            "select toUInt32(count()) as rows, toInt32(sum(channel)) as channels, "
            f"sum(arraySum(x -> toFloat64(x), v)) as sum from {source}"
        )
        quoted = query.replace("\\", "\\\\").replace("'", "\\'")
        (first,) = rows_of(
            f"select v from {source} where call_id = '{quoted}' order by {_order(table)} limit 1"
        )
        found[table] = sums | {"vector": first["v"]}
    (calls,) = rows_of(
        "select toUInt32(count()) as rows, toUInt32(sum(duration_ms)) as durations, "
        "formatDateTime(min(started_at), '%Y-%m-%dT%H:%i:%S', 'UTC') as started "
        f"from file('{store}/calls/*/*.parquet', Parquet)"
    )
    return found | {"calls": calls}


READERS: dict[str, Callable[[str, str], Found]] = {
    "pyarrow": read_pyarrow,
    "pandas": read_pandas,
    "duckdb": read_duckdb,
    "polars": read_polars,
    "pyspark": read_spark,
    "datasets": read_datasets,
    "daft": read_daft,
    "datafusion": read_datafusion,
    "chdb": read_chdb,
    "fastparquet": read_fastparquet,
}

if __name__ == "__main__":
    engine, folder, wanted = sys.argv[1:]
    print(json.dumps(READERS[engine](folder, wanted)))
