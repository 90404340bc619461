"""`trunkline data tag`: what is wrong, or may be, with each transcript; nothing is deleted.

A tag says what is certainly unusable, `borderline:TAG` what a training set can bear and an evaluation
set should not. `measured` keeps the numbers behind them, for expressions of one's own.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trunkline.errors import UsageError
from trunkline.prepare.timeline import channel_swaps, on_other_side, overlaps
from trunkline.rows import Row
from trunkline.syllable import parse

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

TAGS = {
    "fast_speech": "more characters a second than anybody says",
    "length_mismatch": "far more audio than the text accounts for",
    "long_word": "a word that is none: spaces are missing, or it is a path",
    "repetition": "the same words or letter again and again, as a looping recogniser writes",
    "empty_text": "a text without a letter or digit",
    "encoding": "text that was read in the wrong encoding",
    "markup": "HTML, entities or addresses in the text",
    "language": "not the language the line declares",
    "repairable": "look-alike letters, invisible or decomposed characters; the normaliser mends them",
    "overlapping_turns": "another cut of the same channel covers the same time",
    "channel_swapped": "a speaker or role on the channel of the other party",
}
BORDERLINE = "borderline:"
_OURS = {*TAGS, *(BORDERLINE + name for name in TAGS)}


@dataclass(frozen=True)
class Limits:
    """Where a tag begins, and (the second number) where it is borderline."""

    chars_per_second: tuple[float, float] = (30.0, 25.0)
    """Characters, single spaces included, a second."""
    seconds_a_char: tuple[float, float] = (0.5, 0.25)
    """Audio that the text does not account for: beyond 4 s (3 s) plus this for each character."""
    word_length: tuple[int, int] = (25, 18)
    """Letters of a word."""
    repetitions: tuple[int, int] = (15, 5)
    """Times one to four words stand in a row."""
    vietnamese_share: tuple[float, float] = (0.5, 0.8)
    """Share of the words that are Vietnamese syllables, below which a text is not Vietnamese."""
    overlap: tuple[float, float] = (0.5, 0.1)
    """Share of a turn that another turn of its channel covers."""


_SLACK = (4.0, 3.0)  # s of audio around a text that nobody wonders about
_MOJIBAKE = re.compile("[ÃÂÄÅÆáâ][\x80-\xbf\u0152-\u2122]|Ã|á»|áº|Æ°|Æ¡")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:amp|lt|gt|quot|nbsp|#\d+);|https?://|www\.")
_STUCK = re.compile(r"(\S)\1{14,}")
_WORD = re.compile(r"[^\W\d_]+")
_WRITTEN_IN_LATIN = {"vi", "en", "fr", "de", "es", "it", "pt", "nl", "id", "ms"}
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_VIETNAMESE = re.compile("[ăđơưĂĐƠƯ\u1ea0-\u1ef9]")


def measure(text: str, seconds: float) -> Row:
    """Return the numbers behind the tags of a transcript of `seconds` of audio (NaN: not known)."""
    chunks = text.split()
    length = sum(map(len, chunks)) + max(0, len(chunks) - 1)
    words = _WORD.findall(text)
    measured: Row = {
        "words": len(chunks),
        "longest_word": max(map(len, words), default=0),
        "repetitions": repetitions(chunks),
    }
    if seconds > 0:
        measured["chars_per_second"] = round(length / seconds, 2)
    if words:
        syllables = sum(parse(word.lower()) is not None for word in words)
        measured["vietnamese_share"] = round(syllables / len(words), 3)
    return measured


def repetitions(words: list[str]) -> int:
    """Return how often one to four words stand in a row at most (1: nothing is repeated)."""
    doubled = len(words) - len(set(words))
    if not words or not doubled:
        return min(1, len(words))
    most = 1
    for size in range(1, 5):
        run = 0
        for word, before in zip(words[size:], words, strict=False):
            run = run + 1 if word == before else 0
            most = max(most, run // size + 1)
    return most


def tags_of_text(text: str, seconds: float, language: str | None, limits: Limits) -> Iterator[str]:
    """Yield the tags of a transcript, from its text and length alone."""
    yield from _tags(text, seconds, language, limits, measure(text, seconds))


def _tags(
    text: str, seconds: float, language: str | None, limits: Limits, measured: Row
) -> Iterator[str]:
    if not any(map(str.isalnum, text)):
        yield "empty_text"
        return
    rate = measured.get("chars_per_second", 0.0)
    yield from _graded("fast_speech", [rate >= limit for limit in limits.chars_per_second])
    length = rate * seconds if seconds > 0 else 0.0
    beyond = [
        seconds > slack + length * each
        for slack, each in zip(_SLACK, limits.seconds_a_char, strict=True)
    ]
    yield from _graded("length_mismatch", beyond)
    longest = measured["longest_word"]
    yield from _graded("long_word", [longest >= limit for limit in limits.word_length])
    repeated = measured["repetitions"]
    if _STUCK.search(text):
        yield "repetition"
    else:
        yield from _graded("repetition", [repeated >= limit for limit in limits.repetitions])
    if _is_mojibake(text):
        yield "encoding"
    elif _needs_repair(text):
        yield BORDERLINE + "repairable"
    if _MARKUP.search(text):
        yield "markup"
    if language is not None:
        yield from _graded("language", _is_foreign(text, language, limits, measured))


def _graded(tag: str, passed: list[bool]) -> Iterator[str]:
    """Yield the tag when the first limit is passed, its borderline form when only the second is."""
    if passed[0]:
        yield tag
    elif passed[1]:
        yield BORDERLINE + tag


def _is_foreign(text: str, language: str, limits: Limits, measured: Row) -> list[bool]:
    language = language.lower().replace("_", "-").partition("-")[0]
    letters = sum(map(str.isalpha, text))
    if language not in _WRITTEN_IN_LATIN or not letters:
        return [False, False]
    if len(_LATIN.findall(text)) < 0.5 * letters:
        return [True, True]
    words = _WORD.findall(text)
    if language == "vi":
        share = measured.get("vietnamese_share", 1.0)
        # One or two words may well be names.
        return [share < limit and len(words) > 2 for limit in limits.vietnamese_share]
    share = sum(_VIETNAMESE.search(word) is not None for word in words) / max(1, len(words))
    return [share > 0.5, share > 0.25]


def _is_mojibake(text: str) -> bool:
    if "\ufffd" in text:
        return True
    if not _MOJIBAKE.search(text):
        return False
    for wrong in ("cp1252", "latin-1"):
        try:
            if text.encode(wrong).decode("utf-8") != text:
                return True
        except (UnicodeEncodeError, UnicodeDecodeError):
            continue
    return False


def _needs_repair(text: str) -> bool:
    from trunkline.text.repair import repair

    return repair(text)[0] != text


def tagger(manifest: Manifest, limits: Limits | None = None) -> Callable[[Row], Row]:
    """Return a function of each row of `manifest.rows()`, in order, to what changes in its line.

    These are `tags` (others' tags stay) and `measured`.
    """
    from trunkline.prepare.lines import seconds

    limits = limits or Limits()
    about_turns = zip(overlaps(manifest).tolist(), channel_swaps(manifest).tolist(), strict=True)

    def change(row: Row) -> Row:
        share, wrong_side = next(about_turns)
        found = [name for name in row["tags"] if name not in _OURS]
        new: Row = {}
        if (text := row["text"]) is not None:
            length = seconds(row)
            new["measured"] = measured = measure(text, length)
            found += _tags(text, length, row["language"], limits, measured)
        found += _graded("overlapping_turns", [share >= limit for limit in limits.overlap])
        if wrong_side or on_other_side(row):
            found.append("channel_swapped")
        return new | {"tags": found or None}

    return change


def fit_for(row: Row, purpose: str) -> bool:
    """Return whether a tagged row may serve `purpose`: "train", "evaluation", or "split" (its own)."""
    if purpose == "split":
        if row["split"] is None:
            raise UsageError(
                f"Line {row['line']} states no split; run `trunkline data split` first, or choose "
                "--purpose train or evaluation."
            )
        purpose = "train" if row["split"] == "train" else "evaluation"
    tags = _OURS.intersection(row["tags"])
    if purpose == "train":
        return all(name.startswith(BORDERLINE) for name in tags)
    return not tags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_in_and_out

    parser.description = (
        "Write MANIFEST with tags on what is wrong with a cut's text, turn or channel. Nothing is "
        "deleted: `trunkline data filter --purpose` chooses by the tags. Tags: "
        + "; ".join(f"{name}: {what}" for name, what in TAGS.items())
        + "."
    )
    parser.epilog = "Example: trunkline data tag calls.jsonl tagged.jsonl --chars-per-second 30,25"
    add_in_and_out(parser)
    defaults = Limits()
    for name in Limits.__dataclass_fields__:
        limits = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=_pair,
            default=limits,
            help=f"limit and borderline ({limits[0]:g},{limits[1]:g})",
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Tag a manifest."""
    from trunkline.prepare.lines import Step, arguments_of, rewritten

    limits = Limits(**{name: getattr(args, name) for name in Limits.__dataclass_fields__})
    step = Step("tag", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    counts: Counter[str] = Counter()
    untagged = 0
    change_of = tagger(manifest, limits)

    def counted(row: Row) -> Row:
        nonlocal untagged
        change = change_of(row)
        ours = _OURS.intersection(change["tags"] or ())
        counts.update(ours)
        untagged += not ours
        return change

    written = step.write(args.output, rewritten(manifest, args.output, counted))
    summary = step.finish(
        args.output, {"cuts": written, "untagged": untagged, "tags": dict(counts)}
    )
    return summary


def _pair(text: str) -> tuple[float, float]:
    try:
        hard, _, borderline = text.partition(",")
        pair = float(hard), float(borderline or hard)
        if any(limit != limit for limit in pair):
            raise ValueError("NaN")
        return pair
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LIMIT,BORDERLINE") from None
