"""From any transcript to the words that were said, with a report of every change."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from trunkline.errors import UsageError, nearest
from trunkline.text.readings import load_readings
from trunkline.text.repair import Chunk, repair
from trunkline.text.scan import Language, Piece, Scan
from trunkline.text.words import Word, lower_case, read_word

LANGUAGES = ("vi", "neutral")
TONE_MARKS = ("old", "new", "keep")
ANNOTATIONS = ("tag", "drop")


class Change(NamedTuple):
    """What was changed: `before` stood at [start, end) of the text given, `after` takes its place; by these rules."""

    rules: tuple[str, ...]
    start: int
    end: int
    before: str
    after: str


class Mark(NamedTuple):
    """A stretch [start, end) of the normalised text that is flagged (not understood) or tagged (a filler)."""

    kind: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Normalised:
    """The normalised text and how it came about.

    `flags` are what was not understood and stays: a "word" that is no Vietnamese syllable, a "letter", "acronym",
    "mixed" letters and digits, "number", "masked" number, "symbol", "script", "annotation", "link". `tags` are
    fillers. Nothing outside `changes` differs from the text given but white space.
    """

    text: str
    changes: list[Change] = field(default_factory=list)
    flags: list[Mark] = field(default_factory=list)
    tags: list[Mark] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how often each rule changed something."""
        return dict(Counter(rule for change in self.changes for rule in change.rules))


class Normaliser:
    """Normalises transcripts of one language; instances hold no state of their texts and may be shared.

    Args:
        language: "vi", or "neutral" for any other: characters, case, punctuation and annotations only; numbers
            stay, flagged.
        tone_mark: where hoà, thuý take their mark: "old" (hòa), "new" (hoà) or "keep".
        annotations: "tag" writes [cười] as <laugh>; "drop" leaves known ones out (the report still has them).
        spell_acronyms: read unknown acronyms letter by letter instead of keeping and flagging them.
        readings: a team's own short forms, see `trunkline.text.load_readings`.

    Raises:
        UsageError: a setting has none of these values.
    """

    def __init__(
        self,
        language: str = "vi",
        *,
        tone_mark: str = "old",
        annotations: str = "tag",
        spell_acronyms: bool = False,
        readings: str | os.PathLike[str] | Mapping[str, str] | None = None,
    ) -> None:
        for name, given, allowed in (
            ("language", language, LANGUAGES),
            ("tone_mark", tone_mark, TONE_MARKS),
            ("annotations", annotations, ANNOTATIONS),
        ):
            if given not in allowed:
                raise UsageError(f"{name} {given!r} is not known.{nearest(given, allowed)}")
        self.language = language
        own = load_readings(readings)
        vietnamese = language == "vi"

        @lru_cache(maxsize=1 << 17)
        def read(written: str) -> Word:
            if vietnamese:
                return read_word(written, own, tone=tone_mark, spell=spell_acronyms)
            lower = lower_case(written)
            return Word(lower, ("case",) if written != lower else ())

        # Forms that begin with a digit, as 5G and 24/7, are looked for before numbers are read.
        digital = sorted((x for x in own.forms if x[0].isdecimal()), key=len, reverse=True)
        pattern = re.compile(f"(?:{'|'.join(map(re.escape, digital))})(?![^\\W_]|[.,/]\\d)")
        self._language = Language(read, own, vietnamese, pattern, annotations == "drop")

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        return self.explain(text).text

    def explain(self, text: str) -> Normalised:
        """Return the normalised text with every change, flag and tag."""
        mended, chunks = repair(text)
        pieces = Scan(mended, self._language).run()
        if chunks:
            pieces = _merge(pieces, chunks)
        out, changes, flags, tags = [], [], [], []
        length = 0
        for piece in pieces:
            start, end, words, rules, flag, tag = piece
            if rules:
                changes.append(Change(rules, start, end, text[start:end], words))
            if not words:
                continue
            if flag:
                flags.append(Mark(flag, length, length + len(words), words))
            if tag:
                tags.append(Mark(tag, length, length + len(words), words))
            out.append(words)
            length += len(words) + 1
        return Normalised(" ".join(out), changes, flags, tags)


def _merge(pieces: list[Piece], chunks: list[Chunk]) -> list[Piece]:
    """Return the pieces with places in the text given: what touches a mended chunk becomes one piece with it."""
    merged: list[Piece] = []
    queue = list(reversed(chunks))
    shift = 0  # place in the text given minus place in the mended text, after the last chunk passed
    index = 0
    while index < len(pieces) or queue:
        piece = pieces[index] if index < len(pieces) else None
        chunk = queue[-1] if queue else None
        if chunk and (piece is None or chunk.mended_end <= piece.start):
            # All of it was invisible, or its pieces are merged already.
            merged.append(Piece(chunk.start, chunk.end, "", ("characters",)))
            shift = chunk.end - chunk.mended_end
            queue.pop()
            continue
        assert piece is not None
        if not chunk or piece.end <= chunk.mended_start:
            merged.append(piece._replace(start=piece.start + shift, end=piece.end + shift))
            index += 1
            continue
        # The pieces and chunks that overlap, as a chain: a telephone number may run over several chunks.
        first = min(piece.start + shift, chunk.start)
        group: list[Piece] = []
        end = chunk.mended_end
        last = chunk
        while index < len(pieces) and pieces[index].start < end:
            group.append(pieces[index])
            end = max(end, pieces[index].end)
            index += 1
            while queue and queue[-1].mended_start < end:
                last = queue.pop()
                end = max(end, last.mended_end)
        shift = last.end - last.mended_end
        merged += _join(group, first, end + shift)
    return merged


def _join(group: list[Piece], start: int, end: int) -> list[Piece]:
    """Return the pieces of a mended stretch: the first stands for all of it, so that their words stay apart."""
    rules = dict.fromkeys(["characters", *(rule for piece in group for rule in piece.rules)])
    first, *rest = [piece for piece in group if piece.out] or [Piece(0, 0, "")]
    joined = [first._replace(start=start, end=end, rules=tuple(rules))]
    return joined + [piece._replace(start=end, end=end, rules=("characters",)) for piece in rest]


@lru_cache(maxsize=8)
def _shared(language: str) -> Normaliser:
    return Normaliser(language)


def normalise(text: str, language: str = "vi") -> str:
    """Return `text` as the words that were said, by a `Normaliser` with its default settings."""
    return _shared(language)(text)
