"""What `benchmarks/store.py` measures on 1,000,000 vectors of 512 numbers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._store_rows import DIM, POOLED, Clock, Row, cpu_of, made_pooled, peak_memory
from embstore import EmbeddingStore

COUNT = 1_000_000
FILES = 20
QUERIES = 200
ROUNDS = 3
"""Builds of a Flat index: the first has the system find memory for a file of that size, which can take longer than all
the rest."""
RAW = COUNT * DIM * 4


def million_store(work: Path) -> EmbeddingStore:
    """The store, made once."""
    path = work / "million-512"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        store, each = EmbeddingStore.create(path), COUNT // FILES
        for number in range(FILES):
            names = [f"call-{n:07d}" for n in range(number * each, (number + 1) * each)]
            columns = {"call_id": names, "channel": [n % 2 for n in range(each)]}
            store.append_columns(POOLED, columns, made_pooled(each, number))
        (path / "done").touch()
    return EmbeddingStore.open(path)


def queries() -> np.ndarray:
    """(QUERIES, DIM), not in the store."""
    return made_pooled(QUERIES, 777)


def store_million(work: Path) -> Row:
    """Pooled vectors in full precision: size, and processor time of writing (with what makes the vectors)."""
    clock = Clock()
    shutil.rmtree(work / "million-512", ignore_errors=True)
    store = million_store(work)
    size = sum(file.size for file in store.state.files.values() if file.table == "pooled")
    return {"seconds": clock.cpu(), "megabytes": size / 1e6, "of_raw": size / RAW}


def build_flat(work: Path) -> Row:
    """A Flat index from Parquet: time, peak memory, beside reading the same bytes and adding them, and writing them.

    Each the quickest of some rounds in turn; how long the first took is told as well.
    """
    built: list[Row] = []
    read: list[float] = []
    write: list[float] = []
    for _ in range(ROUNDS):
        built.append(_built(work, "flat", "flat"))
        read.append(_read_and_add(work))
        write.append(_write(work))
    best = min(built, key=lambda row: row["seconds"])
    peak = max(built, key=lambda row: row["peak_mb"])
    return best | {
        "peak_mb": peak["peak_mb"], "peak_of_index": peak["peak_of_index"], "read_and_add_s": min(read),
        "write_s": min(write), "first_seconds": built[0]["seconds"], "first_read_and_add_s": read[0],
    }  # fmt: skip


def _write(work: Path) -> float:
    """Processor time of writing as many bytes to a new file, which the system finds the pages for."""
    path = work / "new.bin"
    zeros = bytes(RAW // 16)
    clock = Clock()
    with path.open("wb") as file:
        for _ in range(16):
            file.write(zeros)
    seconds = clock.cpu()
    path.unlink()
    return seconds


def _read_and_add(work: Path) -> float:
    """Processor time of np.load and `add`: what a Flat index costs at least where nothing is decoded."""
    import faiss

    path = work / "million.npy"
    if not path.exists():
        raw = np.lib.format.open_memmap(path, "w+", np.float32, (COUNT, DIM))
        each = COUNT // FILES
        for number in range(FILES):
            raw[number * each : (number + 1) * each] = made_pooled(each, number)
        raw.flush()
        del raw
    clock = Clock()
    index = faiss.IndexFlatIP(DIM)
    index.add(np.load(path))
    return clock.cpu()


def build_ivf(work: Path) -> Row:
    """An inverted file with 8-bit codes: training, adding, tuning of nprobe."""
    return _built(work, "ivf", "ivf-sq8")


def _built(work: Path, name: str, kind: str) -> Row:
    from embstore.index.build import build, plan
    from embstore.index.folder import FAISS, find

    store = million_store(work)
    with peak_memory() as peak:
        clock = Clock()
        info = build(plan(store, "pooled", POOLED, name, kind=kind))
        cpu, wall = clock.cpu(), clock.wall()
    size = (find(store.path, name) / FAISS).stat().st_size / 1e6
    row = {
        "seconds": cpu, "seconds_wall": wall, "index_mb": size, "peak_mb": peak["mb"],
        "peak_of_index": peak["mb"] / size, "file_of_raw": size * 1e6 / RAW,
    }  # fmt: skip
    if info.recall:
        row |= {"lists": info.lists, "nprobe": info.nprobe, "recall_at_10": info.recall["at_10"]}
    return row


def search_flat(work: Path) -> Row:
    """Exact search, one query and many, beside DuckDB over the same Parquet files."""
    import duckdb

    row = _searched(work, "flat")
    store = million_store(work)
    query = queries()[0].tolist()
    duckdb.execute("set threads = 1")
    source = f"read_parquet('{store.path}/pooled/*/*.parquet')"
    similarity = f"array_cosine_similarity(v::float[{DIM}], ?::float[{DIM}])"
    sql = f"select call_id from {source} order by {similarity} desc limit 10"
    found = [name for (name,) in duckdb.execute(sql, [query]).fetchall()]
    duck = cpu_of(lambda: duckdb.execute(sql, [query]).fetchall())
    from embstore.index.opened import Index

    ours = Index.open(store, "flat").search(np.asarray(query, np.float32), 10)
    return row | {
        "duckdb_ms": 1e3 * duck,
        "of_duckdb": row["one_query_ms"] / (1e3 * duck),
        "same_as_duckdb": found == ours["call_id"].to_pylist(),
    }


def search_ivf(work: Path) -> Row:
    """Approximate search with the tuned nprobe, and its recall on fresh queries."""
    from embstore.index.opened import Index

    store = million_store(work)
    row = _searched(work, "ivf")
    truth, found = (
        Index.open(store, name).search(queries(), 10)["call_id"].to_pylist()
        for name in ("flat", "ivf")
    )
    hits = [set(truth[n : n + 10]) & set(found[n : n + 10]) for n in range(0, len(truth), 10)]
    row["recall_at_10_fresh"] = sum(map(len, hits)) / len(truth)
    flat = Index.open(store, "flat")
    unit = flat._checked(queries()[:8])  # noqa: SLF001  (prepared as `search` does, so that only FAISS is timed)
    exact = float(np.median(_each(lambda q: flat.nearest(q, 10), unit)))
    return row | {"flat_ms": 1e3 * exact, "of_flat_single": row["one_query_ms"] / (1e3 * exact)}


def _searched(work: Path, name: str) -> Row:
    from embstore.index.opened import Index

    store = million_store(work)
    clock = Clock()
    index = Index.open(store, name)
    opened = clock.cpu()
    unit = index._checked(queries())  # noqa: SLF001  (as above)
    with peak_memory() as peak:
        index.nearest(unit[:1], 10)
        # At first each page of the mapped file that a query touches is mapped; then it is there.
        first, singles = (_each(lambda q: index.nearest(q, 10), unit[1:31]) for _ in range(2))
        clock = Clock()
        index.nearest(unit, 10)
        batched = clock.cpu()
    clock = Clock()
    index.search(queries()[:1], 10, where="channel = 1")
    return {
        "open_ms": 1e3 * opened, "private_mb": peak["mb"],
        "one_query_at_first_ms": 1e3 * float(np.median(first)), "one_query_ms": 1e3 * float(np.median(singles)),
        "queries_per_s_batched": QUERIES / batched, "first_with_condition_ms": 1e3 * clock.cpu(),
    }  # fmt: skip


def _each(function: Callable[[np.ndarray], Any], unit: np.ndarray) -> list[float]:
    seconds = []
    for query in unit:
        began = time.process_time()
        function(query[None])
        seconds.append(time.process_time() - began)
    return seconds
