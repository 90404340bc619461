"""`python -m rescoring.explain`: why a hypothesis won: every term of every hypothesis of a list."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rescoring.options import (
    add_model_options,
    add_weight_options,
    build_expander,
    build_weighted_rescorer,
)
from trunkline.command import Summary, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_explain, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.explain",
        description="Show every term of every hypothesis of some lists, the best first. 'x TERM' is the term "
        "times its weight; the x columns add up to the total.",
        epilog="example: python -m rescoring.explain calls.nbest.jsonl --utt call7-12 --weights weights.json "
        "--lm models/lm",
    )
    option = parser.add_argument
    option("lists", type=Path, metavar="FILE", help="N-best lists, JSONL")
    option(
        "--utt",
        action="append",
        metavar="ID",
        help="this utterance; may be repeated; default: the first",
    )
    option("--top", type=int, default=10, metavar="N", help="hypotheses to show (%(default)s)")
    add_weight_options(parser)
    add_model_options(parser)
    return parser


def _explain(arguments: argparse.Namespace) -> Summary:
    from trunkline.errors import UsageError, nearest
    from trunkline.nbest import read_nbest

    if arguments.top < 1:
        raise UsageError(f"--top must be 1 or more, not {arguments.top}.")
    rescorer = build_weighted_rescorer(arguments)
    expanded = build_expander(arguments, rescorer)
    wanted: dict[str, None] = dict.fromkeys(arguments.utt or ())
    seen: list[str] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    for nbest in read_nbest(arguments.lists):
        seen.append(nbest.utt_id)
        if wanted and nbest.utt_id not in wanted:
            continue
        found = rescorer.explain(expanded(nbest))
        about = [nbest.utt_id]
        about += [f"ref: {nbest.ref}"] * (nbest.ref is not None)
        about += [f"left as it was: {found.result.kept}"] * bool(found.result.kept)
        about += [f"off: {' '.join(found.result.off)}"] * bool(found.result.off)
        tables["; ".join(about)] = found.rows[: arguments.top]
        wanted.pop(nbest.utt_id, None)
        if not wanted:
            break
    if wanted:
        name = next(iter(wanted))
        hint = (
            nearest(name, seen) if len(seen) <= 20 else f" The first of {len(seen)} is {seen[0]!r}."
        )
        raise UsageError(f"{arguments.lists} has no utterance {name!r}.{hint}")
    return {"tables": tables}


if __name__ == "__main__":
    raise SystemExit(main())
