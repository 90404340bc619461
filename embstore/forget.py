"""`python -m embstore.forget`: remove calls or speakers from a store for good, and prove it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trunkline.command import Summary, run
from trunkline.errors import StorageError, UsageError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m embstore.forget",
        description="Remove calls or speakers from every table, index, .npy file and list of a store. Files are "
        "written again without them; a signed tombstone that holds a keyed hash keeps them from being exported "
        "again. An interrupted run is finished by the next one. Backups and copies are not reached.",
        epilog="Example: python -m embstore.forget store --call call-0042 --prove",
    )
    option = parser.add_argument
    option("store", type=Path, metavar="STORE", help="the store")
    option("--call", action="append", default=[], metavar="ID", help="a call; may be repeated")
    option("--speaker", action="append", default=[], metavar="ID", help="all cuts of a speaker")
    option("--file", type=Path, metavar="IDS.TXT", help="a file with the id of a call a line")
    option("--prove", action="store_true", help="read every byte of the store again, and search it")
    option("--resume", action="store_true", help="only finish what was interrupted")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 too where the proof finds something."""
    return run(_forget, build_parser(), argv)


def _forget(arguments: argparse.Namespace) -> Summary:
    calls = [*arguments.call, *(_ids(arguments.file) if arguments.file else [])]
    if not (calls or arguments.speaker or arguments.resume):
        raise UsageError("Nothing to forget: give --call, --speaker or --file, or --resume.")
    from embstore.erasure import forget
    from embstore.proof import prove
    from embstore.store import EmbeddingStore

    began = time.perf_counter()
    store = EmbeddingStore.open(arguments.store)
    removed = forget(store, calls, arguments.speaker)
    store.log.collect()
    summary: Summary = {
        "store": str(arguments.store),
        "asked": len(calls) + len(arguments.speaker),
        "forgotten_before": not removed.tombstones and not arguments.resume,
        "rows_removed": removed.rows or 0,
        "files_rewritten": removed.files,
        "indexes": removed.indexes,
        "log_version": store.state.version,
        "seconds": time.perf_counter() - began,
    }
    if arguments.prove:
        proof = prove(store, [*calls, *arguments.speaker], removed)
        summary["proof"] = asdict(proof) | {"proved": not proof.found}
        summary["exit_status"] = 1 if proof.found else 0
    return summary


def _ids(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"Cannot read {path}: {error}.") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UsageError(f"{path} names no call.")
    return ids


if __name__ == "__main__":
    raise SystemExit(main())
