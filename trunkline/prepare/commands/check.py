"""`trunkline data check`: every fault of a manifest and its recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SHOWN = 20  # faults printed; all of them are in the report and in the JSON output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Read every header (--samples: every sample) and list each fault with file and line. "
        "Exit status 1 when there is one."
    )
    parser.epilog = "Example: trunkline data check calls.jsonl --samples --report faults.json"
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument(
        "--samples", action="store_true", help="decode everything, not only headers"
    )
    parser.add_argument("--report", type=Path, help="write all findings to this JSON file")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check a manifest; exit status 1 when anything is wrong."""
    from trunkline.checkpoint import write_json
    from trunkline.prepare.check import check

    report = check(args.manifest, samples=args.samples)
    if args.report:
        write_json(args.report, report.to_dict())
    rows, notes = (
        [
            {"line": found.line, "kind": found.kind, "id": found.id, "what": found.message}
            for found in findings
        ]
        for findings in (report.faults, report.notes)
    )
    shown = len(rows) if args.json else _SHOWN
    return {
        "manifest": str(args.manifest),
        "cuts": report.cuts,
        "files": report.files,
        "hours": round(report.hours, 4),
        "faults": len(report.faults),
        "notes": len(report.notes),
        "counts": report.counts(),
        "report": str(args.report) if args.report else None,
        "tables": {
            title: items[:shown]
            for title, items in (
                (f"faults (first {shown})" if len(rows) > shown else "faults", rows),
                ("notes", notes),
            )
            if items
        },
        "exit_status": 1 if report.faults else 0,
    }
