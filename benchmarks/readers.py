"""Which engines read a store's files as they are: each in a throw-away environment, every value checked.

The store has calls of two files, both channels, 3,000 frames; one id holds quotes, a slash and SQL, one is Vietnamese.
An engine passes where rows, sums, one call's vectors and the earliest time are what was written. Engines that cannot
be installed, or fail, are recorded with what they said. Rows already in the results are kept; `--again` measures anew.

Example: python -m benchmarks.readers                       # all engines, in environments under a temporary folder
         python -m benchmarks.readers --engine duckdb polars --here
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._reading import READERS, Found
from embstore import EmbeddingStore, Record, Segment, Space
from trunkline.checkpoint import write_json
from trunkline.command import Summary, run

RESULTS = Path(__file__).parent / "results" / "readers.json"
READING = Path(__file__).parent / "_reading.py"

PACKAGES = {
    "pyarrow": ["pyarrow", "numpy"],
    "pandas": ["pandas", "pyarrow"],
    "datasets": ["datasets"],
    "daft": ["daft", "pandas"],
    "datafusion": ["datafusion", "pyarrow", "numpy"],
    "fastparquet": ["fastparquet"],
}
"""What is installed besides the engine of that name alone."""
DIM = 64
QUERY = 'he said "no"; DROP TABLE calls; -- it\'s a/b'


def make_store(folder: Path) -> tuple[str, Found]:
    """Write the store; return its path, and what a right reader finds."""
    store = EmbeddingStore.create(folder)
    pooled = Space(backbone="ab" * 32, dim=DIM)
    frames = Space(backbone="ab" * 32, dim=DIM, pooling="frames", precision="m10")
    calls = [QUERY, "cuộc gọi số 1", *(f"call-{number}" for number in range(58))]
    records = list(_records(calls))
    for half in (records[:70], records[70:]):
        store.append(pooled, half)
        store.append(frames, [_framed(record) for record in half])
    shown = EmbeddingStore.open(folder)
    found: Found = {}
    for table, space in (("pooled", pooled), ("segments", pooled), ("frames", frames)):
        vectors, keys = shown.pooled(space, table=table)
        row = keys["call_id"].to_pylist().index(QUERY)
        found[table] = {
            "rows": len(keys),
            "channels": sum(keys["channel"].to_pylist()),
            "sum": float(vectors.sum(dtype=np.float64)),
            "vector": [float(x) for x in vectors[row]],
        }
    # Both spaces have their own table of calls.
    durations = 2 * sum(round(1000 * record.duration) for record in records)
    found["calls"] = {
        "rows": 2 * len(records), "durations": durations, "started": "2026-01-31T08:30:00",
    }  # fmt: skip
    return str(folder), found


def _records(calls: Sequence[str]) -> Iterator[Record]:
    generator = np.random.default_rng(0)
    for number, call in enumerate(calls):
        for channel in (0, 1):
            vectors = generator.standard_normal((4, DIM)).astype(np.float32)
            segments = [Segment(10.0 * n, 10.0 * n + 10, v, 0.5) for n, v in enumerate(vectors)]
            yield Record(
                call_id=call, cut_id=f"{call}.{channel}", channel=channel, duration=40.0 + number,
                pooled=vectors.mean(0), segments=segments, n_frames=25,
                started_at=datetime(2026, 1, 31, 8, 30 + number % 20, tzinfo=UTC),
            )  # fmt: skip


def _framed(record: Record) -> Record:
    frames = np.random.default_rng(record.channel).standard_normal((25, DIM)).astype(np.float32)
    return Record(
        call_id=record.call_id, cut_id=record.cut_id, channel=record.channel,
        duration=record.duration, frames=frames, started_at=record.started_at,
    )  # fmt: skip


def differences(found: Found, expected: Found) -> list[str]:
    """Return what an engine read differently, in words."""
    wrong = []
    for table, values in expected.items():
        for name, value in values.items():
            read = found.get(table, {}).get(name)
            same = (
                math.isclose(read, value, rel_tol=1e-6, abs_tol=1e-3)
                if name == "sum" and isinstance(read, int | float)
                else np.array_equal(np.float32(read), np.float32(value))
                if name == "vector" and read is not None
                else read == value
            )
            if not same:
                shown = "" if name == "vector" else f": {read} instead of {value}"
                wrong.append(f"{table}.{name}{shown}")
    return wrong


def measure(engine: str, store: str, expected: Found, work: Path, here: bool) -> dict[str, Any]:
    """Return one row of the matrix: version, whether every value was right, else what went wrong."""
    row: dict[str, Any] = {"engine": engine, "version": None, "reads": False, "said": ""}
    python = Path(sys.executable)
    if not here:
        python = work / engine / "bin" / "python"
        venv.create(work / engine, with_pip=False)
        packages = PACKAGES.get(engine, [engine])
        install = ["install", "-q", "--no-compile", *packages]
        done = _run([sys.executable, "-m", "pip", "--python", python, *install], 1200)
        if done.returncode:
            return row | {"said": f"not installed: {_last(done.stderr)}"}
    row["version"] = _version(python, engine)
    done = _run([python, READING, engine, store, QUERY], 300)
    if done.returncode:
        return row | {"said": _last(done.stderr)}
    wrong = differences(json.loads(done.stdout.splitlines()[-1]), expected)
    return row | {"reads": not wrong, "said": "; ".join(wrong)}


def _run(command: Sequence[str | Path], limit: int) -> subprocess.CompletedProcess[str]:
    words = list(map(str, command))
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer within {limit} s")


def _version(python: Path, engine: str) -> str | None:
    if python == Path(sys.executable):
        return metadata.version(engine)
    code = f"from importlib import metadata; print(metadata.version({engine!r}))"
    return _run([python, "-c", code], 60).stdout.strip() or None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line or "xception" in line]
    return (errors or lines or ["nothing"])[-1][:300]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the matrix, row by row."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readers",
        description="Read a store with every engine, in its own environment.",
    )
    parser.add_argument("--engine", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument(
        "--here", action="store_true", help="in this environment, without installing"
    )
    parser.add_argument("--again", action="store_true", help="also engines that have a row already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> Summary:
    rows = {}
    if arguments.out.exists():
        rows = {row["engine"]: row for row in json.loads(arguments.out.read_text())["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        store, expected = make_store(Path(folder) / "store")
        for engine in arguments.engine:
            if engine not in rows or arguments.again:
                rows[engine] = measure(engine, store, expected, Path(folder), arguments.here)
                ordered = [rows[name] for name in READERS if name in rows]
                write_json(arguments.out, {"rows": ordered})
    return {"tables": {"readers": [rows[name] for name in READERS if name in rows]}}


def tables(found: dict[str, Any]) -> Iterator[str | list[dict[str, Any]]]:
    """Yield the part of `docs/results.md` about readers."""
    yield "## Who reads the store's Parquet files (`benchmarks/readers.py`)"
    yield (
        "Each engine in its own environment, on the default files: rows, sums, one call's vectors (its id holds "
        "quotes and SQL) and times in UTC are compared with what was written."
    )
    yield [
        {
            "engine": row["engine"],
            "version": row["version"] or "",
            "reads all values": "yes" if row["reads"] else "no",
            "said": row["said"].replace("|", "/"),
        }
        for row in found["rows"]
    ]


if __name__ == "__main__":
    raise SystemExit(main())
