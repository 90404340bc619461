"""The embedding store beside its peers and limits: sizes, writing, fetching, indexes, search, forgetting, export.

Each row is measured in a process of its own and written at once; run again to measure only what is missing, or
`--again ROW`. The large data (about 12 GB) stays in `--work` for the next row.

Example: python -m benchmarks.store --work /data/tmp --backbone runs/small/backbone --manifest calls.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _store_million as million
from benchmarks import _store_rows as rows
from trunkline.checkpoint import write_json
from trunkline.command import Summary, run
from trunkline.errors import UsageError
from trunkline.log import get_logger

RESULTS = Path(__file__).parent / "results" / "store.json"

ROWS: dict[str, Callable[[Path], rows.Row]] = {
    "frames_size": rows.frames_size,
    "frames_write": rows.frames_write,
    "commit": rows.commit,
    "fetch_call": rows.fetch_call,
    "resume": rows.resume,
    "forget": rows.forget,
    "store_million": million.store_million,
    "build_flat": million.build_flat,
    "search_flat": million.search_flat,
    "build_ivf": million.build_ivf,
    "search_ivf": million.search_ivf,
}

TARGETS: tuple[tuple[str, str, str, str, float], ...] = (
    ("frame store, of raw float32", "frames_size", "of_raw", "<=", 0.45),
    ("recall@10 of rounded vectors against float32", "frames_size", "recall_at_10", ">=", 0.995),
    (
        "frame store, of native half floats at their best",
        "frames_size",
        "of_native_half",
        "<=",
        1.04,
    ),
    ("frames written, of native half floats", "frames_write", "of_native_half", ">=", 1.3),
    ("frames written, of pyarrow's defaults", "frames_write", "of_pyarrow_defaults", ">=", 0.85),
    ("size, of pyarrow's defaults", "frames_write", "size_of_pyarrow_defaults", "<=", 0.43),
    ("bytes written, of np.save and fsync, wall", "frames_write", "of_np_save_wall", ">=", 0.18),
    ("export outside the encoder, share of the time", "export", "outside", "<=", 0.02),
    ("commit of a shard, staged to published, ms wall", "commit", "protocol_ms_wall", "<=", 3.0),
    ("resume with nothing to do, 1 M calls, s", "resume", "seconds", "<=", 5.0),
    ("one call's frames, of a scan with a dictionary type", "fetch_call", "ratio", "<=", 1 / 20),
    ("Flat index of 1 M x 512, peak memory of index", "build_flat", "peak_of_index", "<=", 1.35),
    ("Flat index of 1 M x 512, s of 2 cores", "build_flat", "seconds_of_2_cores", "<=", 6.0),
    ("exact search of 1 M x 512, of DuckDB", "search_flat", "of_duckdb", "<=", 1 / 15),
    ("IVF-SQ8 of 1 M x 512, one query, of Flat", "search_ivf", "of_flat_single", "<=", 1 / 80),
    (
        "IVF-SQ8 of 1 M x 512, recall@10 on fresh queries",
        "search_ivf",
        "recall_at_10_fresh",
        ">=",
        0.96,
    ),
    ("IVF-SQ8 of 1 M x 512, file of raw", "build_ivf", "file_of_raw", "<=", 0.27),
    ("forgetting one of 100,000 calls, s", "forget", "seconds", "<=", 5.0),
)
"""Claim, row, figure, and what it should be (reference, 6.5)."""

logger = get_logger(__name__)


def export(work: Path, backbone: str, manifest: str) -> rows.Row:
    """Export a manifest: the share of the time that is spent outside the encoder and the reading of audio."""
    import shutil

    from embstore.exporter import Exporter
    from embstore.plan import ExportOptions

    shutil.rmtree(work / "exported", ignore_errors=True)
    options = ExportOptions(
        manifest=manifest, backbone=backbone, store=str(work / "exported"), frames=True
    )
    exporter = Exporter(options)
    reports = [exporter.export_shard(number) for number in range(len(exporter.plan.shards))]
    seconds, encoding = (sum(getattr(r, name) for r in reports) for name in ("seconds", "encoding"))
    hours, cuts = (sum(getattr(r, name) for r in reports) for name in ("hours", "cuts"))
    return {
        "hours": hours,
        "cuts": cuts,
        "wall_s": seconds,
        "encoding_s": encoding,
        "outside": 1 - encoding / seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store", description="Measure the embedding store."
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for large data")
    parser.add_argument("--backbone", help="for the row `export`")
    parser.add_argument("--manifest", help="for the row `export`")
    parser.add_argument("--row", nargs="+", choices=[*ROWS, "export"], help="only these")
    parser.add_argument("--again", action="store_true", help="also rows that are there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> Summary:
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.inside:
        name = arguments.inside
        found = (
            export(arguments.work, arguments.backbone, arguments.manifest)
            if name == "export"
            else ROWS[name](arguments.work)
        )
        print(json.dumps(found, default=float))
        return {}
    wanted = arguments.row or [*ROWS, *(["export"] if arguments.backbone else [])]
    if "export" in wanted and not (arguments.backbone and arguments.manifest):
        raise UsageError("The row export needs --backbone and --manifest.")
    measured = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in wanted:
        if name in measured and not arguments.again:
            continue
        row = _in_a_process(name, arguments)
        if row is not None:
            measured[name] = row
            write_json(
                arguments.out, {key: measured[key] for key in [*ROWS, "export"] if key in measured}
            )
    return {"tables": {"claims": claims(measured)}}


def _in_a_process(name: str, arguments: argparse.Namespace) -> rows.Row | None:
    words = [
        sys.executable,
        "-m",
        "benchmarks.store",
        "--inside",
        name,
        "--work",
        str(arguments.work),
    ]
    for option in ("backbone", "manifest"):
        if value := getattr(arguments, option):
            words += [f"--{option}", value]
    before, began = os.getloadavg()[0], time.time()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        logger.error("%s failed: %s", name, done.stderr[-2000:])
        return None
    row = json.loads(done.stdout.splitlines()[-1])
    row["threads"] = len(os.sched_getaffinity(0))
    if name == "build_flat":
        row["seconds_of_2_cores"] = row["seconds"] / 2
    row["load_before"] = round(before, 1)
    logger.info("%s: %s (%.0f s)", name, row, time.time() - began)
    return row


def claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each claim with its figure and whether it holds."""
    found = []
    for claim, row, figure, sign, limit in TARGETS:
        value = measured.get(row, {}).get(figure)
        if value is None:
            continue
        holds = value <= limit if sign == "<=" else value >= limit
        found.append(
            {
                "claim": claim,
                "measured": f"{value:.4g}",
                "wanted": f"{sign} {limit:.4g}",
                "holds": holds,
            }
        )
    return found


def tables(measured: dict[str, Any]) -> Iterator[str | list[dict[str, Any]]]:
    """Yield the part of `docs/results.md` about the store."""
    yield "## The embedding store (`benchmarks/store.py`)"
    yield (
        "Made-up vectors of 512 numbers; each row in a process of its own. Times are processor time unless they say "
        "wall; wall times were taken while other work shared the cores, at the load given in the JSON file."
    )
    yield [{**row, "holds": "yes" if row["holds"] else "no"} for row in claims(measured)]
    yield "All figures:"
    yield [
        {
            "row": name,
            "figure": figure.replace("_", " "),
            "value": f"{value:.4g}" if isinstance(value, float) else value,
        }
        for name, row in measured.items()
        for figure, value in row.items()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
