"""`trunkline data scan`: does anything here hold a telephone, card or account number?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trunkline.errors import StorageError

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Read the text files below PATH, and the names of all files, for telephone, card and account "
        "numbers, in digits or spelled out in Vietnamese or English. Exit status 1 when there is one. The "
        "numbers themselves are not shown."
    )
    parser.epilog = "Example: trunkline data scan private"
    parser.add_argument("path", type=Path)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Scan files; exit status 1 when a number is found."""
    from collections import Counter

    from trunkline.prepare.pseudonymise import scan

    if not args.path.exists():
        raise StorageError(f"{args.path} does not exist.")
    found = scan(args.path)
    title = f"found (first {_SHOWN})" if len(found) > _SHOWN else "found"
    return {
        "path": str(args.path),
        "numbers": len(found),
        "counts": dict(Counter(row["kind"] for row in found)),
        "tables": {title: found if args.json else found[:_SHOWN]} if found else {},
        "exit_status": 1 if found else 0,
    }
