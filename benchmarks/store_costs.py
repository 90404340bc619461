"""What a store costs: bytes and processor hours of call hours at each setting, from what `benchmarks.store` measured.

A call hour is an hour of conversation, so two channel hours. Bytes of a vector are the measured share of raw float32
times its width; processor hours are those of one core of the machine that was measured: encoding from the row
`export`, writing from the row `frames_write`. Nothing is measured here.

Example: python -m benchmarks.store_costs --dim 256
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trunkline.command import Summary, run
from trunkline.errors import DataError, UsageError

RESULTS = Path(__file__).parent / "results" / "store.json"
FRAMES_PER_HOUR = 3600 / 0.08
CALL_MINUTES = 5.0
SEGMENT_SECONDS = 10.0
CHANNELS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cost model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store_costs",
        description="Compute what a store costs from measured figures.",
    )
    parser.add_argument("--dim", type=int, default=256, help="width of a vector, default 256")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return run(_costs, parser, argv)


def _costs(arguments: argparse.Namespace) -> Summary:
    if arguments.dim < 1:
        raise UsageError("--dim must be at least 1.")
    if not arguments.results.exists():
        raise DataError(f"{arguments.results} is missing; run python -m benchmarks.store first.")
    measured = json.loads(arguments.results.read_text())
    if missing := [
        name for name in ("frames_size", "frames_write", "store_million") if name not in measured
    ]:
        raise DataError(
            f"{arguments.results} lacks {', '.join(missing)}; run python -m benchmarks.store."
        )
    return {"tables": {"costs": costs(measured, arguments.dim), "encoding": encoding(measured)}}


def costs(measured: dict[str, Any], dim: int) -> list[dict[str, Any]]:
    """Return one row a setting: vectors, bytes of 1,000 and of a million call hours, processor hours of writing."""
    raw = 4 * dim
    pooled, frame = (
        raw * measured["store_million"]["of_raw"], raw * measured["frames_size"]["of_raw"],
    )  # fmt: skip
    # Frames were written at width 512; what is written a second is taken to be bytes, not rows.
    numbers_per_second = measured["frames_write"]["frames_per_s"] * 512
    per_hour = {
        "pooled": CHANNELS * 60 / CALL_MINUTES,
        "segments": CHANNELS * 3600 / SEGMENT_SECONDS,
        "frames": CHANNELS * FRAMES_PER_HOUR,
    }
    settings = [
        (f"pooled, calls of {CALL_MINUTES:g} min", "pooled", pooled, True),
        (f"segments of {SEGMENT_SECONDS:g} s", "segments", pooled, True),
        ("frames, 10 mantissa bits", "frames", frame, True),
        ("frames as float16 .npy", "frames", 2.0 * dim, True),
        ("Flat index of segments", "segments", float(raw), False),
    ]
    if "build_ivf" in measured:
        settings.append(
            (
                "IVF-SQ8 index of segments",
                "segments",
                raw * measured["build_ivf"]["file_of_raw"],
                False,
            )
        )
    rows = []
    for name, kind, size, written in settings:
        vectors = 1000 * per_hour[kind]
        row = {
            "setting": name,
            "dim": dim,
            "vectors_of_1000_h": vectors,
            "bytes_of_1000_h": _bytes(vectors * size),
            "bytes_of_1_M_h": _bytes(1000 * vectors * size),
        }
        if written:
            row["core_hours_writing_1000_h"] = f"{vectors * dim / numbers_per_second / 3600:.3g}"
        rows.append(row)
    return rows


def encoding(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what encoding takes beside, where an export was measured."""
    if "export" not in measured:
        return []
    export = measured["export"]
    share = export["encoding_s"] / export["hours"] / 3600
    return [
        {
            "channel_hours_measured": f"{export['hours']:.3g}",
            "wall_hours_of_1000_call_hours": f"{1000 * CHANNELS * share:.3g}",
            "of_1_M": f"{1e6 * CHANNELS * share:.3g}",
            "threads": export["threads"],
            "load_before": export["load_before"],
        }
    ]


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 1000 or unit == "TB":
            return f"{number:.3g} {unit}"
    raise AssertionError


def tables(measured: dict[str, Any]) -> Iterator[str | list[dict[str, Any]]]:
    """Yield the part of `docs/results.md` about costs."""
    yield "## What a store costs (`benchmarks/store_costs.py`)"
    yield (
        "Computed from the figures above. A call hour is two channel hours. Encoding depends on the backbone and the "
        "machine: the second table is of the export that was measured, at the load it says."
    )
    for dim in (256, 512):
        yield costs(measured, dim)
    if found := encoding(measured):
        yield found


if __name__ == "__main__":
    raise SystemExit(main())
