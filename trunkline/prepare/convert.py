"""`trunkline data import`: other formats become a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Write SOURCE as a manifest of JSON lines; files below it get relative paths."
    )
    parser.epilog = "Example: trunkline data import /path/to/recordings calls.jsonl"
    parser.add_argument("source", type=Path)
    parser.add_argument("manifest", type=Path, help="the .jsonl file to write")
    parser.add_argument("--format", default="auto", help="of SOURCE; found out by default")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write a source in another format as a manifest."""
    from trunkline.manifest import load_manifest, write_manifest

    manifest = load_manifest(args.source, format=args.format)
    count = write_manifest(manifest, args.manifest)
    return {"source": str(args.source), "manifest": str(args.manifest), "cuts": count}
