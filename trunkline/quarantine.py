"""Cuts that cannot be read: how one is described, and how many a job puts up with.

A job leaves bad cuts out, names each in its quarantine list, and stops when they are more than a share of all: then
it is the folder that is wrong, or the manifest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trunkline.errors import DataError, TrunklineError, UsageError

if TYPE_CHECKING:
    from trunkline.rows import Cut

OPTION = "--max-bad-fraction"
SETTING = "train.max_bad_fraction="
"""What stands before the limit in a message: commands have an option, trainings a setting."""


def fault(cut: Cut, error: Exception) -> dict[str, Any]:
    """Describe a cut that cannot be read: its id, file, line of the manifest, and the reason."""
    place = {"id": cut.id, "file": str(cut.audio_filepath), "line": cut.line}
    return place | {"reason": str(error)}


def add_option(parser: argparse._ActionsContainer) -> None:
    """Add `--max-bad-fraction` to a command; `check_option` refuses what is no share."""
    parser.add_argument(
        OPTION,
        type=float,
        default=0.01,
        metavar="X",
        help="stop when more than this share of the cuts cannot be read (default 0.01, and more than one)",
    )


def check_option(share: float) -> None:
    """Raise a UsageError for what is no share."""
    if not 0 <= share <= 1:
        raise UsageError(f"{OPTION} {share} is no share: 0 to 1.")


def check_share(
    faults: Sequence[dict[str, Any]],
    total: int,
    limit: float,
    *,
    setting: str = f"{OPTION} ",
    error: type[TrunklineError] = DataError,
    remark: str = "",
) -> None:
    """Raise `error` if more than `limit` of `total` cuts are bad, or all; a single one only where `limit` is 0.

    Args:
        faults: as from `fault`; the first five are told.
        total: cuts that were tried.
        limit: share of bad cuts to put up with.
        setting: how the limit is called, and what joins it to its value.
        error: what to raise.
        remark: a sentence on what became of the good cuts.
    """
    if len(faults) <= max(1.0 if limit else 0.0, limit * total) and len(faults) < max(total, 1):
        return
    # A folder's cuts stand in no line; their reasons name the file.
    told = [
        f"line {bad['line']}: {bad['reason']}" if bad.get("line") else bad["reason"]
        for bad in faults[:5]
    ]
    told += [remark] if remark else []
    raise error(
        f"{len(faults)} of {total} cuts cannot be read, more than {setting}{limit:g} allows: {' '.join(told)} "
        "Run `trunkline data check` for the whole list."
    )
