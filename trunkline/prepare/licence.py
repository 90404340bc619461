"""`trunkline data licence`: under which licence each cut may be used, kept beside the cut.

The column `licence` goes through every step, and from there into the model card of what was trained
on it (`python -m ssl.pretrain`).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.errors import UsageError
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

NOT_STATED = "not stated"


def licences(manifest: Manifest) -> dict[str, int]:
    """Return how many cuts each licence has, the most frequent first; "not stated" for none."""
    codes, names = manifest.codes("licence")
    counts = np.bincount(codes + 1, minlength=len(names) + 1).tolist()
    found = Counter({str(name): count for name, count in zip(names, counts[1:], strict=True)})
    found[NOT_STATED] += counts[0]
    return {name: count for name, count in found.most_common() if count}


def describe(manifest: Manifest) -> str:
    """Return the licences of a manifest as a model card states them, "" where no cut has one."""
    found = licences(manifest)
    if set(found) <= {NOT_STATED}:
        return ""
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{name} ({count} cuts)" for name, count in found.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Show the licences of MANIFEST; with --set, write OUTPUT with that licence where a cut has none "
        "(--replace: also where it has one). --require: exit status 1 when a cut has none."
    )
    parser.epilog = "Example: trunkline data licence calls.jsonl out.jsonl --set 'CC BY 4.0'"
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="the .jsonl file to write")
    parser.add_argument(
        "--set", metavar="LICENCE", help="an SPDX identifier, or the contract's name"
    )
    parser.add_argument("--where", help="only for cuts for which this expression is true")
    parser.add_argument("--replace", action="store_true", help="also cuts that state another")
    parser.add_argument("--require", action="store_true", help="fail when a cut states none")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Show or set licences."""
    from trunkline.prepare.filter import Expression
    from trunkline.prepare.lines import Step, arguments_of, rewritten

    if (args.set is None) != (args.output is None):
        raise UsageError("--set and OUTPUT belong together: what to set, and where to write it.")
    if args.set is not None and not args.set.strip():
        raise UsageError("--set needs the name of a licence.")
    step = Step("licence", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    summary: dict[str, Any] = {"manifest": str(args.manifest), "cuts": len(manifest)}
    if args.set is not None:
        wanted = Expression(args.where or "true")
        found: Counter[str] = Counter()

        def change(row: Row) -> Row:
            stated = row.get("licence")
            new = wanted(row) and (args.replace or stated is None) and stated != args.set
            found[str((args.set if new else stated) or NOT_STATED)] += 1
            return {"licence": args.set} if new else {}

        def lines() -> Iterator[str]:
            yield from rewritten(manifest, args.output, change)
            wanted.check_names()  # while nothing is in its place yet

        written = step.write(args.output, lines())
        counts = dict(found.most_common())
        summary = step.finish(args.output, {"cuts": written})
    else:
        counts = licences(manifest)
    summary["tables"] = {
        "licences": [{"licence": name, "cuts": count} for name, count in counts.items()]
    }
    missing = args.require and counts.get(NOT_STATED, 0)
    return summary | {"exit_status": 1 if missing else 0}
