"""`python -m embstore.verify`: is everything there, once, and as it was written?"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from embstore.checks import Fault
    from embstore.store import EmbeddingStore

CORRUPT = 4
"""Exit status where something is wrong with the store."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m embstore.verify",
        description="Check a store: the log, SHA-256 and page checksums of every file, schemas, numbers of rows, ids "
        "against the log, files that do not belong there, indexes against Parquet, and, with --backbone, vectors "
        "of a sample of cuts against fresh ones. Exit status 4 where something is wrong.",
        epilog="Example: python -m embstore.verify store --backbone runs/small/backbone --sample 20",
    )
    option = parser.add_argument
    option("store", type=Path, metavar="STORE", help="the store")
    option("--quick", action="store_true", help="hashes and names only, nothing is decoded")
    option("--backbone", metavar="DIR", help="encode a sample of cuts again with this backbone")
    option("--sample", type=int, default=10, metavar="N", help="how many of each space (10)")
    option("--tolerance", type=float, default=1e-3, metavar="X",
           help="largest difference of a fresh vector, as a share of its length (default 0.001)")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_verify, build_parser(), argv)


def _verify(arguments: argparse.Namespace) -> Summary:
    if arguments.sample < 1:
        raise UsageError(f"--sample {arguments.sample}: give 1 or more.")
    from embstore.store import EmbeddingStore

    store = EmbeddingStore.open(arguments.store)
    faults = verify(store, quick=arguments.quick)
    summary: Summary = {
        "store": str(arguments.store),
        "log_version": store.state.version,
        "files": len(store.state.files),
        "bytes": sum(file.size for file in store.state.files.values()),
        "cuts": {
            space: sum(len(pairs) // 32 for pairs in versions.values())
            for space, versions in store.state.cuts.items()
        }
        or 0,
    }
    if arguments.backbone:
        from embstore.reencode import compare

        compared, more = compare(store, arguments.backbone, arguments.sample, arguments.tolerance)
        summary["encoded_again"] = compared
        faults += more
    summary["faults"] = dict(Counter(fault.kind for fault in faults)) or 0
    summary["tables"] = {"Faults": [fault._asdict() for fault in faults]} if faults else {}
    summary["exit_status"] = CORRUPT if faults else 0
    return summary


def verify(store: EmbeddingStore, *, quick: bool = False) -> list[Fault]:
    """Return everything that is wrong with a store; `quick` decodes nothing."""
    from embstore import checks

    faults = [*checks.check_log(store), *checks.check_spaces(store), *checks.check_files(store)]
    if not quick and not any(fault.file.startswith("spaces") for fault in faults):
        faults += [*checks.check_rows(store), *checks.speakers_erased(store)]
    if any((store.path / "index").glob("*")):
        from embstore import index

        faults += [checks.Fault("index", "index", what) for what in index.check(store)]
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
