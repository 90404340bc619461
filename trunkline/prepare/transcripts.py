"""Transcripts as they come: UTF-8 with and without a mark, UTF-16, Windows-1258, empty, binary."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path
from typing import NamedTuple

from trunkline.errors import DataError, StorageError
from trunkline.text import decode

_SPACES = set("\t\r\n\f")
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
    try:
        text, encoding = decode(raw, str(path))
    except DataError:
        text, encoding = "", ""
    controls = {letter for letter in set(text) if unicodedata.category(letter) == "Cc"}
    if (raw and not encoding) or controls - _SPACES or len(raw) > _LARGEST:
        return Transcript("", "", "transcript_binary", f"{path} is no text in any known encoding.")
    if raw.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    text = unicodedata.normalize("NFC", text)
    if not text.strip("\ufeff \t\r\n"):
        return Transcript("", encoding, "transcript_empty", f"{path} holds no text.")
    if encoding != "utf-8":
        message = f"{path} is {encoding.upper()}, not UTF-8; write it again as UTF-8."
        return Transcript(text, encoding, "transcript_encoding", message)
    return Transcript(text, encoding, "", "")
