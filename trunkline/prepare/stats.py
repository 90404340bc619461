"""`trunkline data stats`: how much there is, and of what."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

BY = ("split", "language", "channel", "licence")
_SHOWN = 20  # values of a column, the most hours first


def stats(manifest: Manifest) -> Row:
    """Return counts, hours, lengths and words of a manifest; recordings are not opened."""
    from trunkline.prepare.lines import stated_seconds

    seconds = stated_seconds(manifest)
    known = seconds[np.isfinite(seconds)]
    texts = words = 0
    tags: Counter[str] = Counter()
    for row in manifest.rows():
        if row["text"]:
            texts += 1
            words += len(row["text"].split())
        tags.update(row["tags"])
    lengths = np.percentile(known, [0, 5, 50, 95, 100]) if len(known) else [np.nan] * 5
    names = ("shortest", "5 %", "median", "95 %", "longest")
    return {
        "cuts": len(manifest),
        "files": len(manifest.codes("audio_filepath")[1]),
        "calls": len(manifest.codes("call_id")[1]),
        "speakers": len(manifest.codes("speaker")[1]),
        "hours": round(float(known.sum()) / 3600, 4),
        "without_duration": len(manifest) - len(known),
        "seconds": {name: round(float(x), 3) for name, x in zip(names, lengths, strict=True)},
        "with_text": texts,
        "words": words,
        "tags": dict(tags.most_common()),
    }


def spread(manifest: Manifest, column: str) -> list[Row]:
    """Return cuts, hours and share of hours (%) of each value of a column or label, most hours first."""
    from trunkline.prepare.lines import stated_seconds

    seconds = np.nan_to_num(stated_seconds(manifest))
    codes, values = manifest.codes(column)
    cuts = np.bincount(codes + 1, minlength=len(values) + 1)
    sums = np.bincount(codes + 1, weights=seconds, minlength=len(values) + 1)
    shares = 100 * (sums / sums.sum() if sums.sum() else cuts / max(1, cuts.sum()))
    order = np.lexsort((np.arange(len(cuts)), -cuts, -sums))
    return [
        {
            "value": None if place == 0 else values[place - 1],
            "cuts": int(cuts[place]),
            "hours": round(float(sums[place]) / 3600, 4),
            "share": round(float(shares[place]), 1),
        }
        for place in order.tolist()
        if cuts[place]
    ]


def tables(manifest: Manifest, columns: Sequence[str]) -> dict[str, list[Row]]:
    """Return the spread of each column that a cut states, cut off after the largest values."""
    found = {}
    for column in columns:
        rows = spread(manifest, column)
        if any(row["value"] is not None for row in rows):
            more = f", {_SHOWN} of {len(rows)}" if len(rows) > _SHOWN else ""
            found[f"{column} (share of the hours, %{more})"] = rows[:_SHOWN]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad, names_of

    parser.description = "Count cuts, calls, speakers, hours and words; nothing is written."
    parser.epilog = "Example: trunkline data stats calls.jsonl --by split,channel,intent"
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument(
        "--by", type=names_of, default=list(BY), help=f"columns or labels ({','.join(BY)})"
    )
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Show the statistics of a manifest."""
    from trunkline.prepare.lines import Step

    step = Step("stats", {}, max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    aside = {"set_aside": len(step.quarantined)}
    return (
        {"manifest": str(args.manifest)}
        | stats(manifest)
        | aside
        | {"tables": tables(manifest, args.by)}
    )
