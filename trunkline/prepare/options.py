"""Arguments of the steps: lists of names, shares, and how much may be set aside."""

from __future__ import annotations

import argparse
from pathlib import Path

MAX_BAD = 0.01  # share of the lines that may be set aside before a step stops


def names_of(text: str) -> list[str]:
    """Return the names of a list such as `call_id,speaker`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names no column")
    return names


def shares_of(text: str) -> dict[str, float]:
    """Return the shares of a list such as `train=0.8,test=0.2`."""
    shares: dict[str, float] = {}
    for item in names_of(text):
        name, _, value = item.partition("=")
        try:
            share = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{item!r} is not NAME=SHARE") from None
        if name in shares or not 0 < share < float("inf"):
            raise argparse.ArgumentTypeError(f"{item!r}: each name once, a share above 0")
        shares[name] = share
    return shares


def add_in_and_out(parser: argparse.ArgumentParser) -> None:
    """Declare the manifest read and the manifest written."""
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument("output", type=Path, help="the .jsonl file to write")
    add_max_bad(parser)


def add_max_bad(parser: argparse.ArgumentParser) -> None:
    """Declare `--max-bad`, which every step that reads a manifest takes."""
    parser.add_argument(
        "--max-bad",
        type=float,
        default=MAX_BAD,
        help=f"share of the lines that may be set aside before the step stops ({MAX_BAD:g})",
    )
