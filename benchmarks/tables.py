"""Print `docs/results.md` from `benchmarks/results/*.json`, so that no figure is typed by hand.

Example: python -m benchmarks.tables > docs/results.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import readers, store, store_costs, store_retrieval
from benchmarks.encoder_cpu import LIVE, LONG
from benchmarks.encoder_cpu import tables as encoder_tables
from benchmarks.heads_real_tables import heads_parts
from benchmarks.prepare_tables import augment_parts, prepare_parts, text_parts
from benchmarks.pretrain_tables import real_parts, speed_parts, sweep_parts
from benchmarks.rescoring_tables import report_parts, rescoring_parts
from benchmarks.torture_tables import torture_parts

RESULTS = Path(__file__).parent / "results"
Rows = list[dict[str, Any]]
Parts = Callable[[dict[str, Any]], Iterator["str | Rows"]]


def encoder_parts(cpu: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield text and tables of `benchmarks/encoder_cpu.py`."""
    yield (
        "## The encoder on a CPU beside the package chunkformer (`benchmarks/encoder_cpu.py`)\n\n"
        f"{cpu['peer']}, torch {cpu['torch']}, {cpu['cpus']} cores; the same random weights, a process each. "
        f"Contexts {LONG} for recordings and batches, {LIVE} for a step of a stream (0.64 s of audio)."
    )
    for title, rows in encoder_tables(cpu).items():
        if rows:
            yield f"{title}:"
            yield rows


def load_parts(load: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield the table of `benchmarks/manifest_load.py`."""
    yield "## A manifest of a million cuts (`benchmarks/manifest_load.py`)"
    yield [{"load": name, **row} for name, row in load["runs"].items()]


def store_parts(measured: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield what `benchmarks/store.py` measured, and what follows for costs."""
    yield from store.tables(measured)
    if {"frames_size", "frames_write", "store_million"} <= measured.keys():
        yield from store_costs.tables(measured)


def report(title: str) -> Parts:
    """Return the parts of a benchmark whose report says all there is."""
    return partial(report_parts, title)


SECTIONS: dict[str, Parts] = {
    "pretrain_real": real_parts,
    "pretrain_sweep": sweep_parts,
    "pretrain_speed": speed_parts,
    "encoder_cpu": encoder_parts,
    "longform_memory": report("Memory of a long recording (`benchmarks/longform_memory.py`)"),
    "manifest_load": load_parts,
    "heads_real": heads_parts,
    "five_heads": report("Five heads on one 10-minute call (`benchmarks/five_heads.py`)"),
    "store": store_parts,
    "store_retrieval": store_retrieval.tables,
    "store_torture": torture_parts,
    "readers": readers.tables,
    "prepare": prepare_parts,
    "text_normaliser": text_parts,
    "augment": augment_parts,
    "rescoring": rescoring_parts,
    "phonetics": report("Sounds and spellings (`benchmarks/phonetics.py`)"),
    "decoding": report("Prefix beam search beside pyctcdecode (`benchmarks/decoding.py`)"),
    "language_model": report("N-gram models beside lmplz (`benchmarks/language_model.py`)"),
}
"""Name of a file of results without its ending -> how its part of the page is written, in the page's order."""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "---|" * len(names),
    ]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def sections() -> Iterable[str]:
    """Yield the page's parts, those whose results are there."""
    yield "# Measured\n\nPrinted by `python -m benchmarks.tables` from `benchmarks/results/`; do not edit by hand."
    for name, parts in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            for part in parts(json.loads(path.read_text(encoding="utf-8"))):
                yield part if isinstance(part, str) else _table(part)


def main() -> None:
    """Print the page."""
    print("\n\n".join(sections()))


if __name__ == "__main__":
    main()
