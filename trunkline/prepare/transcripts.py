"""Transcripts as they come: UTF-8 with and without a mark, UTF-16, Windows-1258, empty, binary."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path
from typing import NamedTuple

from trunkline.errors import StorageError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEGACY = "windows-1258"
_LARGEST = 10_000_000  # bytes; no transcript of a recording is longer


class Transcript(NamedTuple):
    """A transcript's text (NFC), how it was encoded, and what is wrong with it ("" for nothing)."""

    text: str
    encoding: str
    fault: str
    message: str


def read_transcript(path: Path) -> Transcript:
    """Return a transcript; a fault is "transcript_empty", "transcript_encoding" or "transcript_binary".

    UTF-16 and Windows-1258 are read and named, not refused: nothing is lost, and whoever made the
    file learns of it.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    text, encoding = _decode(raw)
    if text is None or len(raw) > _LARGEST:
        return Transcript("", "", "transcript_binary", f"{path} is no text in any known encoding.")
    text = unicodedata.normalize("NFC", text)
    if not text.strip("\ufeff \t\r\n"):
        return Transcript("", encoding, "transcript_empty", f"{path} holds no text.")
    if encoding != "utf-8":
        message = f"{path} is {encoding.upper()}, not UTF-8; write it again as UTF-8."
        return Transcript(text, encoding, "transcript_encoding", message)
    return Transcript(text, encoding, "", "")


def _decode(raw: bytes) -> tuple[str | None, str]:
    marked = next((encoding for mark, encoding in _MARKS if raw.startswith(mark)), None)
    for encoding in (marked, "utf-8", _utf16_of(raw), _LEGACY):
        if encoding is None:
            continue
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(unicodedata.category(letter) == "Cc" for letter in set(text) - set("\t\r\n\f")):
            return text, encoding
    return None, ""


def _utf16_of(raw: bytes) -> str | None:
    """Return which UTF-16 a file without a mark is: every other byte of plain letters is 0."""
    if len(raw) < 4 or len(raw) % 2:
        return None
    low, high = raw[::2].count(0), raw[1::2].count(0)
    if max(low, high) < 0.3 * len(raw) / 2:
        return None
    return "utf-16-le" if high > low else "utf-16-be"
