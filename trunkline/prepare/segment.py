"""`trunkline data segment`: whole channels become turns, on one timeline for both parties.

Each channel is searched for speech alone (`trunkline.prepare.vad`); stretches with short gaps are
one turn, long turns are parted, and every turn knows its place in the call and how much of it the
other party talks over. Recordings are read, never written.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.errors import DataError, StorageError, UsageError
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest
    from trunkline.prepare.lines import Step

TAG = "overlap"
_RATE = 8000
_TIMES = re.compile(r"@[\d.]+-[\d.]*$")  # of an id: the turn has its own
_MARKED = 0.2  # s of the other party's speech from which a turn is tagged

Stretch = tuple[float, float]


@dataclass(frozen=True)
class Turns:
    """How stretches of speech become turns; seconds."""

    vad: str = "energy"
    padding: float = 0.1
    """Added on each side of speech."""
    merge_gap: float = 0.5
    """Gaps up to this one lie inside a turn."""
    min_length: float = 0.3
    """Shorter turns are left out, and counted."""
    max_length: float = 15.0
    """Longer turns are parted, at a gap where there is one."""

    def __post_init__(self) -> None:
        if not (0 <= self.min_length < self.max_length and self.padding >= 0 <= self.merge_gap):
            raise UsageError(
                "Needed: 0 <= --min-length < --max-length, and --padding and --merge-gap of 0 s or more."
            )


def turns_of(stretches: Sequence[Stretch], settings: Turns) -> list[Stretch]:
    """Return the turns made of the stretches of speech of one channel, in order."""
    turns: list[Stretch] = []
    for start, end in stretches:
        if (
            turns
            and start - turns[-1][1] <= settings.merge_gap
            and end - turns[-1][0] <= settings.max_length
        ):
            turns[-1] = turns[-1][0], max(end, turns[-1][1])
            continue
        parts = max(1, math.ceil((end - start) / settings.max_length))
        edges = np.linspace(start, end, parts + 1).round(3).tolist()
        turns += zip(edges[:-1], edges[1:], strict=True)
    return [turn for turn in turns if turn[1] - turn[0] >= settings.min_length]


def overlap(turn: Stretch, others: Sequence[Stretch]) -> float:
    """Return the seconds of a turn in which one of the others' turns lies."""
    start, end = turn
    shared, reached = 0.0, start
    for a, b in sorted(others):
        a, b = max(a, reached), min(b, end)
        if b > a:
            shared += b - a
            reached = b
    return shared


def segment(manifest: Manifest, settings: Turns, step: Step) -> Iterator[tuple[Row, Row]]:
    """Yield (row of the cut, what its turn changes in it), call by call in order of time.

    A text goes along only where a cut gives one turn: whose words are whose nobody knows otherwise.
    Cuts that cannot be read are set aside.
    """
    from trunkline import log

    calls, names = manifest.codes("call_id")
    order = np.argsort(calls, kind="stable")
    rows = manifest.select(order).rows()
    waiting: list[Row] = []
    with log.progress(total=len(manifest), description="segmenting", unit="cuts") as bar:
        for row in rows:
            if waiting and waiting[0]["call_id"] != row["call_id"]:
                yield from _call(manifest, waiting, settings, step)
                waiting = []
            waiting.append(row)
            bar.advance()
        yield from _call(manifest, waiting, settings, step)


def _call(
    manifest: Manifest, rows: Sequence[Row], settings: Turns, step: Step
) -> Iterator[tuple[Row, Row]]:
    found: list[tuple[Row, list[Stretch]]] = []
    for row in rows:
        try:
            found.append((row, turns_of(_speech(manifest, row, settings), settings)))
        except (DataError, StorageError) as error:
            step.set_aside(manifest.path, row["line"], str(error), id=row["id"])
    timeline = sorted(
        ((turn, index) for index, (_, turns) in enumerate(found) for turn in turns),
        key=lambda item: (item[0], item[1]),
    )
    for place, (turn, index) in enumerate(timeline):
        row, turns = found[index]
        other = [
            each
            for theirs, stretches in found
            if theirs["channel"] != row["channel"]
            for each in stretches
        ]
        yield row, _change(row, turn, place, overlap(turn, other), alone=len(turns) == 1)


def _speech(manifest: Manifest, row: Row, settings: Turns) -> list[Stretch]:
    from trunkline import audio
    from trunkline.prepare import vad

    path, start, end = manifest.root / row["audio_filepath"], row["start"] or 0.0, row["end"]
    blocks = audio.blocks(path, channel=row["channel"], start=start, end=end, sample_rate=_RATE)
    last = end if end is not None else audio.info(path).duration
    found = vad.speech(blocks, method=settings.vad, padding=settings.padding)
    return [(round(start + a, 3), round(min(last, start + b), 3)) for a, b in found]


def _change(row: Row, turn: Stretch, place: int, shared: float, *, alone: bool) -> Row:
    start, end = turn
    tags = [name for name in row["tags"] if name != TAG]
    return {
        "id": f"{_TIMES.sub('', row['id'])}@{start:.3f}-{end:.3f}",
        "call_id": row["call_id"],
        "start": start,
        "end": end,
        "duration": round(end - start, 3),
        "text": row["text"] if alone else None,
        "measured": row.get("measured") if alone else None,
        "turn": place,
        "overlap": round(shared, 3),
        "tags": [*tags, TAG] if shared >= _MARKED else tags or None,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_in_and_out

    parser.description = (
        "Write a turn a line for the cuts of MANIFEST (whole channels, or stretches), both parties of a "
        "call in order of time, with `turn`, and `overlap` in seconds of the other party's speech."
    )
    parser.epilog = (
        "Example: trunkline data segment calls.jsonl turns.jsonl --vad silero --max-length 12"
    )
    add_in_and_out(parser)
    defaults = Turns()
    parser.add_argument("--vad", choices=["energy", "silero"], default=defaults.vad)
    for name, what in (
        ("padding", "on each side of speech"),
        ("merge-gap", "gaps up to this lie inside a turn"),
        ("min-length", "shorter turns are left out"),
        ("max-length", "longer turns are parted"),
    ):
        value = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=value, help=f"s; {what} ({value:g})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Segment a manifest."""
    from trunkline.prepare.lines import Step, arguments_of, line

    settings = Turns(args.vad, args.padding, args.merge_gap, args.min_length, args.max_length)
    step = Step("segment", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    unread = len(step.quarantined)
    seconds = overlapped = 0.0
    spoken: set[int] = set()
    without_text = 0
    home = Path(os.path.abspath(args.output)).parent

    def lines() -> Iterator[str]:
        nonlocal seconds, overlapped, without_text
        for row, change in segment(manifest, settings, step):
            seconds += change["duration"]
            overlapped += change["overlap"]
            if change["text"] is None and row["text"] is not None and row["line"] not in spoken:
                without_text += 1
            spoken.add(row["line"])
            yield line(manifest, row, home, change)
        step.check_limit()  # before the output takes the place of an earlier one

    turns = step.write(args.output, lines())
    counts = {
        "cuts": len(manifest),
        "turns": turns,
        "hours": round(seconds / 3600, 4),
        "overlapped_hours": round(overlapped / 3600, 4),
        "without_speech": len(manifest) - len(spoken) - (len(step.quarantined) - unread),
        "texts_left_behind": without_text,
    }
    return step.finish(args.output, counts)
