"""`trunkline data check`: is this data sound? `trunkline data import`: make it a manifest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline import command

_SHOWN = 20  # faults printed; all of them are in the report and in the JSON output


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of both commands."""
    parser = argparse.ArgumentParser(
        prog="trunkline data",
        description=__doc__,
        epilog="Example: trunkline data check calls.jsonl --samples",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="list every fault of a manifest and its recordings",
        description="Read every header (--samples: every sample) and list each fault with file and "
        "line. Exit status 1 when there is one.",
        epilog="Example: trunkline data check calls.jsonl --samples --report faults.json",
    )
    check.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    check.add_argument("--samples", action="store_true", help="decode everything, not only headers")
    check.add_argument("--report", type=Path, help="write all findings to this JSON file")
    check.set_defaults(function=run_check)
    importer = commands.add_parser(
        "import",
        help="write a manifest from a folder of audio, CSV, TSV, Kaldi, NeMo or Lhotse data",
        description="Write SOURCE as a manifest of JSON lines; files below it get relative paths.",
        epilog="Example: trunkline data import /path/to/recordings calls.jsonl",
    )
    importer.add_argument("source", type=Path)
    importer.add_argument("manifest", type=Path, help="the .jsonl file to write")
    importer.add_argument("--format", default="auto", help="of SOURCE; found out by default")
    importer.set_defaults(function=run_import)
    return parser


def run_check(args: argparse.Namespace) -> dict[str, Any]:
    """Check a manifest; exit status 1 when anything is wrong."""
    from trunkline.checkpoint import write_json
    from trunkline.prepare.check import check

    report = check(args.manifest, samples=args.samples)
    if args.report:
        write_json(args.report, report.to_dict())
    rows = [
        {"line": found.line, "kind": found.kind, "id": found.id, "what": found.message}
        for found in report.faults
    ]
    notes = [
        {"line": found.line, "kind": found.kind, "id": found.id, "what": found.message}
        for found in report.notes
    ]
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


def run_import(args: argparse.Namespace) -> dict[str, Any]:
    """Write a source in another format as a manifest."""
    from trunkline.manifest import load_manifest, write_manifest

    manifest = load_manifest(args.source, format=args.format)
    count = write_manifest(manifest, args.manifest)
    return {"source": str(args.source), "manifest": str(args.manifest), "cuts": count}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return command.run(lambda args: args.function(args), build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
