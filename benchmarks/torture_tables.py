"""What `benchmarks/store_torture.py` found, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def torture_parts(measured: dict[str, Any]) -> Iterator[str | list[dict[str, Any]]]:
    """Yield text and tables of the results, for `benchmarks.tables`."""
    random_kills, flips, disk = (
        measured[name] for name in ("random_kills", "flipped_bits", "full_disk")
    )
    yield (
        "## The store under kill -9, on a full disk, and with flipped bits (`benchmarks/store_torture.py`)\n\n"
        f"{random_kills['kills']} kills of two exporters and two deleters at random moments, "
        f"{random_kills['log_entries']} commits, {random_kills['looks']} looks of a reader meanwhile. Everything but "
        "the first three numbers has to be 0."
    )
    names = ("lost", "doubled", "resurrected", "wrong_vectors", "erased_ids_in_raw_files")
    row = {name: random_kills[name] for name in ("kills", "calls", "expected", *names)}
    yield [row | {"faults": len(random_kills["faults"])}]
    yield "Seen while killing:"
    yield [random_kills["while_killing"]]
    yield f"Fail-points ({len(measured['failpoints'])}), what the next run left wrong:"
    wrong = {name: what for name, what in measured["failpoints"].items() if what != "right"}
    yield [{"right": len(measured["failpoints"]) - len(wrong), "wrong": len(wrong)}]
    yield "A bit flipped in every file in turn, and a full disk:"
    filled = {} if "skipped" in disk else {
        "committed_when_full": disk["committed_when_full"], "visible_when_full": disk["visible"],
        "faults_when_full": disk["faults_when_full"], "faults_after": disk["faults_after"],
    }  # fmt: skip
    yield [{"flips": flips["flips"], "not_found_by_verify": len(flips["not_found"])} | filled]
