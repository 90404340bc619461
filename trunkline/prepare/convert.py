"""`trunkline data import`: other formats become a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Write SOURCE as a manifest of JSON lines; files below it get relative paths."
    )
    parser.epilog = "Example: trunkline data import /path/to/recordings calls.jsonl"
    parser.add_argument("source", type=Path)
    parser.add_argument("manifest", type=Path, help="the .jsonl file to write")
    parser.add_argument("--format", default="auto", help="of SOURCE; found out by default")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write a source in another format as a manifest."""
    from trunkline.manifest import write_manifest
    from trunkline.prepare.lines import Step, arguments_of

    step = Step("import", arguments_of(args), max_bad=args.max_bad)
    count = write_manifest(step.read(args.source, format=args.format), args.manifest)
    summary = step.finish(args.manifest, {"cuts": count})
    return {"source": str(args.source), "manifest": summary.pop("output"), **summary}
