"""`trunkline data merge`: several manifests as one, in their order; an id that stands twice is named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.errors import DataError
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

_NAMED = 20  # duplicate ids in a message


def duplicates(manifests: Sequence[Manifest]) -> Iterator[tuple[str, str, str]]:
    """Yield (id, where it stands first, where it stands again), as file:line."""
    first: dict[str, tuple[int, int]] = {}
    for number, manifest in enumerate(manifests):
        lines = manifest.column("line")
        for name, line in zip(manifest.ids, lines.tolist(), strict=True):
            there, at = first.setdefault(name, (number, line))
            if (there, at) != (number, line):
                yield name, f"{manifests[there].path}:{at}", f"{manifest.path}:{line}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Write the cuts of several manifests as one; paths are made to hold from its folder. An id that "
        "stands twice stops the command, unless --once is given and the lines say the same."
    )
    parser.epilog = "Example: trunkline data merge january.jsonl february.jsonl all.jsonl"
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("output", type=Path, help="the .jsonl file to write")
    parser.add_argument("--once", action="store_true", help="write lines that say the same once")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Merge manifests; nothing is written when an id stands for two cuts."""
    from trunkline.prepare.lines import Step, arguments_of, changed

    step = Step("merge", arguments_of(args), max_bad=args.max_bad)
    manifests = [step.read(path) for path in args.manifests]
    seen: dict[str, str] = {}
    twice = {name for name, _, _ in duplicates(manifests)}
    if twice and not args.once:
        raise _refusal(list(duplicates(manifests)))
    dropped = 0

    def changes(manifest: Manifest) -> Iterator[Row | None]:
        nonlocal dropped
        for row in manifest.rows():
            if row["id"] not in twice:
                yield {}
                continue
            said = _said(row, manifest)
            if seen.setdefault(row["id"], said) != said:
                clash = [found for found in duplicates(manifests) if found[0] == row["id"]]
                raise _refusal(clash)
            new = row["id"] not in written
            written.add(row["id"])
            dropped += not new
            yield {} if new else None

    written: set[str] = set()
    lines = (
        line for manifest in manifests for line in changed(manifest, args.output, changes(manifest))
    )
    count = step.write(args.output, lines)
    return step.finish(args.output, {"cuts": count, "said_twice": dropped})


def _said(row: Row, manifest: Manifest) -> str:
    """Return a line in one form, whatever the order of its keys and the folder of its manifest."""
    path = str(manifest.root / row["audio_filepath"])
    return json.dumps(json.loads(row["json"]) | {"audio_filepath": path}, sort_keys=True)


def _refusal(found: list[tuple[str, str, str]]) -> DataError:
    named = "; ".join(f"{name!r} ({first}, {again})" for name, first, again in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return DataError(
        f"{len(found)} ids stand for more than one cut: {named}{more}. Give the cuts ids of their own; "
        "--once drops lines that say the same."
    )
