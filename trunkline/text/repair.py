"""Characters that are not what they look like: Unicode forms, look-alikes, invisible marks, and bytes of old files."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from trunkline import syllable
from trunkline.errors import DataError


class Chunk(NamedTuple):
    """A run without spaces that was mended: its place in the text given, and in the mended text."""

    start: int
    end: int
    mended_start: int
    mended_end: int


# C1 controls are Windows-1252 punctuation that was read as Latin-1.
_PUNCTUATION = {
    0x82: "'", 0x84: '"', 0x85: "...", 0x91: "'", 0x92: "'", 0x93: '"', 0x94: '"', 0x96: "-", 0x97: "-",
}  # fmt: skip
_CONTROLS = [*range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0x85), *range(0x86, 0xA0)]
_INVISIBLE = [
    0x034F,
    0x2060,
    *range(0x200E, 0x2010),
    *range(0x202A, 0x202F),
    *range(0xFE00, 0xFE10),
]
_TABLE = dict.fromkeys(_CONTROLS + _INVISIBLE) | _PUNCTUATION | {0x01CE: "ă", 0x01CD: "Ă"}

# Letters of other alphabets that look Latin, mended only inside a word that has Latin letters too.
_CYRILLIC = dict(zip("аеорсухіјѕАВЕКМНОРСТУХІЈЅ", "aeopcyxijsABEKMHOPCTYXIJS", strict=True))
_GREEK = dict(zip("ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovABEZHIKMNOPTYX", strict=True))
_ALIKE = str.maketrans(_CYRILLIC | _GREEK)

_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_OTHER = re.compile(r"[\u0370-\u03ff\u0400-\u04ff]")
_WORD = re.compile(r"[^\W\d_]+")
_CHUNK = re.compile(r"\S+")
# The smallest parts of a chunk that can be mended alone: a word, or another character with its marks.
_MARKS = "\u0300-\u036f\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff\xad"
_PART = re.compile(rf"[\w{_MARKS}]+|\S[{_MARKS}]*")
_SUSPECT = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\xd0\xf0\u0189\u0256\u01cd\u01ce\u034f\u0370-\u04ff"
    "\u200b-\u200f\u202a-\u202e\u2060\ufe00-\ufe0f\ufeff\ufb00-\ufb06\uff01-\uff5e]"
)
_WIDE = re.compile("[\ufb00-\ufb06\uff01-\uff5e]")


def repair(text: str) -> tuple[str, list[Chunk]]:
    """Return `text` in NFC with its look-alike and invisible characters mended, and where that was needed.

    Beside what `trunkline.syllable.mend` does: full-width letters and ligatures, Windows-1252 punctuation, controls,
    and Cyrillic or Greek letters inside Latin words. Words wholly in another alphabet stay.
    """
    if text.isascii():
        clean = not _SUSPECT.search(text)
    else:
        clean = unicodedata.is_normalized("NFC", text) and not _SUSPECT.search(text)
    if clean:
        return text, []
    parts: list[str] = []
    chunks: list[Chunk] = []
    done = length = 0
    for start, end, mended in _mended(text):
        parts += [text[done:start], mended]
        length += start - done
        chunks.append(Chunk(start, end, length, length + len(mended)))
        length += len(mended)
        done = end
    return "".join([*parts, text[done:]]), chunks


def _mended(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the stretches that need mending, as small as may be, and what they become."""
    for chunk in _CHUNK.finditer(text):
        mended = _repair_chunk(chunk[0])
        if mended == chunk[0]:
            continue
        parts = [(part, _repair_chunk(part[0])) for part in _PART.finditer(text, *chunk.span())]
        if (
            "".join(new for _, new in parts) != mended
        ):  # marks of other scripts join what looks apart
            yield *chunk.span(), mended
            continue
        for part, new in parts:
            if new != part[0]:
                yield *part.span(), new


def _repair_chunk(chunk: str) -> str:
    for _ in range(
        4
    ):  # what one step uncovers another may mend; 2 steps are the most that were seen
        before = chunk
        chunk = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), chunk)
        chunk = syllable.mend(chunk.translate(_TABLE))
        chunk = _WORD.sub(_repair_word, chunk)
        if chunk == before:
            break
    return chunk


def _repair_word(match: re.Match[str]) -> str:
    word = match[0]
    if not (_OTHER.search(word) and _LATIN.search(word)):
        return word
    mended = word.translate(_ALIKE)
    return word if _OTHER.search(mended) else mended


def decode(data: bytes, source: str = "the text") -> tuple[str, str]:
    """Return the text that bytes hold, and the encoding found: utf-8, utf-16(-le, -be), utf-32 or cp1258.

    A byte order mark decides. Without one, bytes of which every other one is often 0 are UTF-16, and bytes that are
    not UTF-8 are Windows-1258 when that makes Vietnamese syllables of most words with marks.

    Raises:
        DataError: the bytes are none of these; the message names `source` and the first bad byte's line.
    """
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16, so it comes first
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            try:
                return data.decode(name), name.removesuffix("-sig")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{source} begins with a mark of {name} but is not valid {name}: {error.reason} "
                    f"at byte {error.start}. Was it cut off, or joined from two files?"
                ) from error
    if (unmarked := _utf16_without_mark(data)) is not None:
        return unmarked
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        text = _windows_1258(data)
        if text is not None:
            return text, "cp1258"
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}:{line} is neither UTF-8 nor UTF-16 with a byte order mark nor Windows-1258 (byte "
            f"{data[error.start]:#04x}); save it as UTF-8 and run again."
        ) from error


def _utf16_without_mark(data: bytes) -> tuple[str, str] | None:
    low, high = data[::2].count(0), data[1::2].count(0)
    if len(data) % 2 or len(data) < 4 or max(low, high) < 0.15 * len(data):
        return None
    name = "utf-16-le" if high > low else "utf-16-be"
    try:
        return data.decode(name), name
    except UnicodeDecodeError:
        return None


def _windows_1258(data: bytes) -> str | None:
    try:
        text = unicodedata.normalize("NFC", data.decode("cp1258"))
    except UnicodeDecodeError:
        return None
    marked = [word for word in _WORD.findall(text) if not word.isascii()]
    good = sum(syllable.parse(word) is not None for word in marked)
    return text if marked and good >= 0.8 * len(marked) else None
