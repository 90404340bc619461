"""Transcripts as files for players and for Praat: SRT, WebVTT, TextGrid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from heads.recognition import Word

GAP = 0.6
"""A pause of so many seconds between words begins a new cue."""
LONGEST_CUE = 6.0
LINE = 42
"""Characters of a line; a cue has two."""


class Cue(NamedTuple):
    """What is shown at once; seconds."""

    start: float
    end: float
    text: str


def cues(words: Sequence[Word]) -> list[Cue]:
    """Return words grouped into cues: of at most 6 s and two lines of 42 characters, broken at pauses."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Cue(x[0].start, max(x[-1].end, x[0].start), _text(x)) for x in groups]


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.word for word in words)


def _fits(group: Sequence[Word], word: Word) -> bool:
    return (
        word.start - group[-1].end < GAP
        and word.end - group[0].start <= LONGEST_CUE
        and len(_text(group)) + 1 + len(word.word) <= 2 * LINE
    )


def to_srt(words: Sequence[Word], duration: float) -> str:
    """Return SubRip text; nothing said is an empty file."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_lines(cue.text)}\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(words: Sequence[Word], duration: float) -> str:
    """Return WebVTT text; &, < and > of a transcript are escaped, as the format asks."""
    blocks = ["WEBVTT\n"]
    for cue in cues(words):
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_lines(text)}\n")
    return "\n".join(blocks)


def to_textgrid(words: Sequence[Word], duration: float) -> str:
    """Return a Praat TextGrid (long format) of one tier "words" that covers [0, duration] without gaps."""
    end = max([duration, *(word.end for word in words)])
    marks: list[tuple[float, float, str]] = []
    at = 0.0
    for word in words:
        start = max(at, word.start)
        if start > at:
            marks.append((at, start, ""))
        at = max(start, word.end)
        marks.append((start, at, word.word))
    if end > at or not marks:
        marks.append((at, end, ""))
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end:.6f}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {end:.6f}",
        f"        intervals: size = {len(marks)}",
    ]
    for number, (start, stop, text) in enumerate(marks, start=1):
        quoted = text.replace('"', '""')
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start:.6f}",
            f"            xmax = {stop:.6f}",
            f'            text = "{quoted}"',
        ]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Sequence[Word], float], str]] = {
    "srt": to_srt,
    "vtt": to_vtt,
    "textgrid": to_textgrid,
}
SUFFIXES = {"srt": ".srt", "vtt": ".vtt", "textgrid": ".TextGrid"}


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"


def _lines(text: str) -> str:
    """Return the text on one line, or on two broken nearest to the middle."""
    if len(text) <= LINE or " " not in text:
        return text
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    middle = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"
