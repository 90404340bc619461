"""Sentences out of text files: plain text, JSONL and TSV, compressed or not, one sentence a line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from trunkline.errors import DataError, StorageError
from trunkline.syllable import words

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def read_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield one text a line: the whole line, of ``.tsv`` its last column, of ``.jsonl`` the value of "text".

    Files that end in ``.gz``, ``.xz`` or ``.bz2`` are unpacked. JSONL rows without a text, as a manifest may have
    them, are left out.

    Raises:
        StorageError: the file is missing or cannot be read.
        DataError: a line is not UTF-8 text or not JSON; the message names it.
    """
    path = Path(path)
    kind = Path(path.stem).suffix if path.suffix in _OPENERS else path.suffix
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            yield from _texts(file, path, kind)
    except FileNotFoundError as error:
        raise StorageError(f"{path}: there is no such file.") from error
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path} is a broken {path.suffix} file: {error}") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error}") from error


def _texts(file: IO[bytes], path: Path, kind: str) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number} is not UTF-8 text: {error.reason}.") from error
        if kind == ".tsv":
            yield line.rpartition("\t")[2]
        elif kind == ".jsonl":
            if (text := _json_text(line, f"{path}:{number}")) is not None:
                yield text
        else:
            yield line


def _json_text(line: str, where: str) -> str | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}).") from error
    text = row.get("text") if isinstance(row, dict) else row
    if text is not None and not isinstance(text, str):
        raise DataError(f'{where}: "text" must be a string.')
    return text


def read_sentences(paths: Iterable[str | os.PathLike[str]]) -> Iterator[list[str]]:
    """Yield the words of each line of the files (`trunkline.syllable.words`); lines without any are left out.

    Raises:
        DataError: a file has no word at all; else as `read_lines`.
    """
    for path in paths:
        empty = True
        for text in read_lines(path):
            if found := words(text):
                empty = False
                yield found
        if empty:
            raise DataError(f'{path} has no word in it (of JSONL, "text" is read).')
