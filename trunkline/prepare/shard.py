"""`trunkline data shard`: k of n parts of a manifest, the same ones everywhere and every time.

A cut's part is told by a hash of its call, so calls stay whole and new calls move no old one. Parts
that stand as this command wrote them are not written again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.errors import UsageError

if TYPE_CHECKING:
    from trunkline.manifest import Manifest


_MOST = 100_000  # parts


def shard_of(manifest: Manifest, count: int, by: str = "call_id") -> np.ndarray:
    """Return (cuts,) the part of each cut, from 1 to `count`; cuts with one value of `by` share it.

    Raises:
        UsageError: `count` is not 1 to 100,000, or a cut does not state `by`.
    """
    if not 1 <= count <= _MOST:
        raise UsageError(f"--count must be from 1 to {_MOST}, not {count}.")
    codes, values = manifest.codes(by)
    if (codes < 0).any():
        line = int(manifest.column("line")[np.argmax(codes < 0)])
        raise UsageError(f"{manifest.path}:{line} states no {by}, by which the parts are told.")
    parts = [
        int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest()) % count + 1
        for value in values
    ]
    return np.array(parts, dtype=np.int64)[codes]


def shard_path(folder: Path, manifest: Path, index: int, count: int) -> Path:
    """Return the file of a part, e.g. calls-00002-of-00008.jsonl."""
    stem = manifest.name.partition(".")[0]
    return folder / f"{stem}-{index:05d}-of-{count:05d}.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Write the parts of MANIFEST into FOLDER, or with --index one of them (so that n machines can "
        "each make and work on their own). `trunkline data merge` joins them again."
    )
    parser.epilog = "Example: trunkline data shard calls.jsonl parts --count 8 --index 3"
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True, help="how many parts there are")
    parser.add_argument("--index", type=int, help="write this part only, from 1")
    parser.add_argument("--by", default="call_id", help="what stays together (call_id)")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the parts that are not there yet."""
    from trunkline.prepare import provenance
    from trunkline.prepare.lines import Step, changed

    if args.index is not None and not 1 <= args.index <= args.count:
        raise UsageError(f"--index must be from 1 to {args.count}, not {args.index}.")
    given = {"count": args.count, "by": args.by}
    step = Step("shard", given, max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    inputs = {args.manifest.name: manifest.fingerprint}
    of_cut = shard_of(manifest, args.count, args.by)
    rows, written = [], 0
    for index in [args.index] if args.index else range(1, args.count + 1):
        path = shard_path(args.folder, args.manifest, index, args.count)
        part = manifest.select(np.flatnonzero(of_cut == index))
        there = provenance.done_before(path, "shard", given | {"index": index}, inputs)
        if not there:
            step.write(path, changed(part, path, itertools.repeat({}, len(part))))
            provenance.record(
                path, "shard", given | {"index": index}, inputs=inputs, counts={"cuts": len(part)}
            )
        written += not there
        rows.append({"part": path.name, "cuts": len(part), "was there": there})
    step.write_aside(args.folder / args.manifest.name)
    return {
        "folder": str(args.folder),
        "cuts": sum(row["cuts"] for row in rows),
        "written": written,
        "set_aside": len(step.quarantined),
        "tables": {"parts": rows},
    }
