"""ARPA files: the text form of back-off language models that SRILM, KenLM and other decoders read."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from rescoring.ngrams import BOS, EOS, Ngrams, Order
from trunkline.checkpoint import write_binary_file
from trunkline.errors import DataError, StorageError

_LINES_AT_ONCE = 100_000
_GZIP_MAGIC = b"\x1f\x8b"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)$")


def write_arpa(ngrams: Ngrams, path: str | os.PathLike[str]) -> None:
    """Write a model as ARPA text, compressed where the name ends in ``.gz``; the file appears whole or not at all.

    Numbers have nine digits, which is what float32 needs to be read back the same.
    """
    with write_binary_file(path) as file:
        lines = (text.encode() for text in _lines(ngrams))
        if Path(path).suffix == ".gz":
            # No name and no time in the header: the same model gives the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=5, fileobj=file, mtime=0) as packed:
                packed.writelines(lines)
        else:
            file.writelines(lines)


def _lines(ngrams: Ngrams) -> Iterator[str]:
    """Yield the text in pieces."""
    yield "\\data\\\n"
    for length, order in enumerate(ngrams.orders, start=1):
        yield f"ngram {length}={len(order.word)}\n"
    vocabulary = ngrams.vocabulary
    texts: list[str] = []
    for length, order in enumerate(ngrams.orders, start=1):
        yield f"\n\\{length}-grams:\n"
        words = [vocabulary[x] for x in order.word.tolist()]
        if length > 1:
            prefixes = (texts[x] for x in order.prefix.tolist())
            words = [f"{a} {b}" for a, b in zip(prefixes, words, strict=True)]
        texts = words
        probs = order.log_prob.tolist()
        if length < len(ngrams.orders):
            rows = zip(probs, texts, order.backoff.tolist(), strict=True)
            yield from (f"{p:.9g}\t{text}\t{b:.9g}\n" for p, text, b in rows)
        else:
            yield from (f"{p:.9g}\t{text}\n" for p, text in zip(probs, texts, strict=True))
    yield "\n\\end\\\n"


class _Reader:
    """The lines of a file, with the number of the last one for messages."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.number = path, file, 0

    def filled(self) -> bytes:
        """Return the next line that is not blank, stripped; b"" at the end of the file."""
        for line in self.file:
            self.number += 1
            if line := line.strip():
                return line
        return b""

    def take(self, count: int) -> list[bytes]:
        """Return the next `count` lines, fewer at the end of the file."""
        lines = list(itertools.islice(self.file, count))
        self.number += len(lines)
        return lines

    def fault(self, what: str, number: int | None = None) -> DataError:
        return DataError(f"{self.path}:{self.number if number is None else number}: {what}")


class _Section(NamedTuple):
    """The n-grams of one length as they stand in the file: words (n-grams, n)."""

    words: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray
    first_line: int


def read_arpa(path: str | os.PathLike[str]) -> Ngrams:
    """Read a model from ARPA text, compressed by gzip or not.

    Raises:
        StorageError: the file is missing or cannot be read.
        DataError: it is no ARPA file, or an altered one: counts that are not met, a number or a section that is none,
            an n-gram twice or without its beginning, no ``\\end\\``. The message names the line.
    """
    with _opened(path) as reader:
        return _read(reader)


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Return the words of an ARPA file's 1-grams; raises as `read_arpa` does, but reads no further."""
    with _opened(path) as reader:
        counts, _ = _read_counts(reader)
        ids: dict[bytes, int] = {}
        _read_section(reader, 1, counts[0], ids)
        return [word.decode() for word in ids]


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Reader]:
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                yield _Reader(path, file)  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise StorageError(f"{path}: there is no such language model.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a broken gzip file ({error}); copy it again.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error}") from error


def _read(reader: _Reader) -> Ngrams:
    counts, heading = _read_counts(reader)
    ids: dict[bytes, int] = {}
    keys: list[np.ndarray] = []  # of each length, sorted: prefix row * vocabulary + word
    orders: list[Order] = []
    for length, count in enumerate(counts, start=1):
        expected = b"\\%d-grams:" % length
        if heading != expected:
            raise reader.fault(
                f"expected the section {expected.decode()}, found {_shown(heading)}."
            )
        section = _read_section(reader, length, count, ids)
        order, sorted_keys = _sorted(reader, section, keys, max(counts[0], 1))
        orders.append(order)
        keys.append(sorted_keys)
        heading = reader.filled()
        if heading and not heading.startswith(b"\\"):
            raise reader.fault(
                f"the header says {count} {length}-grams, but there are more; the file was altered."
            )
    if heading != b"\\end\\":
        raise reader.fault(
            f"expected \\end\\, found {_shown(heading)}; the file is cut off or altered."
        )
    vocabulary = [word.decode() for word in ids]
    for mark in (BOS, EOS):
        if mark not in vocabulary:
            raise DataError(
                f"{reader.path} has no {mark} among its 1-grams; it cannot score sentences."
            )
    return Ngrams(vocabulary, orders)


def _read_counts(reader: _Reader) -> tuple[list[int], bytes]:
    """Return the numbers of n-grams in the header, and the line after it."""
    line = reader.filled()
    while line and line != b"\\data\\":
        line = reader.filled()  # SRILM and others may write comments before the header
    if not line:
        raise DataError(f"{reader.path} is no ARPA file: it has no line \\data\\.")
    counts: list[int] = []
    while match := _COUNT.match(line := reader.filled()):
        if int(match[1]) != len(counts) + 1:
            raise reader.fault(
                f"expected the number of {len(counts) + 1}-grams, found {_shown(line)}."
            )
        counts.append(int(match[2]))
    if not counts:
        raise reader.fault(f"expected 'ngram 1=NUMBER', found {_shown(line)}.")
    return counts, line


def _read_section(reader: _Reader, length: int, count: int, ids: dict[bytes, int]) -> _Section:
    """Return `count` n-grams; unigrams are added to `ids`."""
    first = reader.number + 1
    words = np.empty((count, length), dtype=np.int64)
    numbers = np.empty((2, count))
    done = 0
    while done < count:
        lines = reader.take(min(_LINES_AT_ONCE, count - done))
        fields = [line.split() for line in lines]
        if len(fields) < 1 or any(not length < len(x) <= length + 2 for x in fields):
            raise _find_fault(reader, fields, first, done, length, count, ids)
        try:
            if length == 1:
                _add_words(fields, ids)
            rows = slice(done, done + len(fields))
            numbers[0, rows] = [float(x[0]) for x in fields]
            numbers[1, rows] = [float(x[-1]) if len(x) == length + 2 else 0.0 for x in fields]
            for k in range(length):
                words[rows, k] = [ids[x[k + 1]] for x in fields]
        except (ValueError, KeyError):
            raise _find_fault(reader, fields, first, done, length, count, ids) from None
        if not (np.isfinite(numbers[:, rows]).all() and (numbers[0, rows] <= 0).all()):
            raise _find_fault(reader, fields, first, done, length, count, ids)
        done += len(fields)
    return _Section(words, numbers[0].astype(np.float32), numbers[1].astype(np.float32), first)


def _add_words(fields: Sequence[Sequence[bytes]], ids: dict[bytes, int]) -> None:
    """Number the words of unigrams; a ValueError (as of undecodable text) for one that comes twice."""
    for _, word, *_ in fields:
        word.decode()
        if ids.setdefault(word, len(ids)) != len(ids) - 1:
            raise ValueError(word)


def _find_fault(
    reader: _Reader,
    fields: Sequence[Sequence[bytes]],
    first: int,
    done: int,
    length: int,
    count: int,
    ids: dict[bytes, int],
) -> DataError:
    """Return the error of the first faulty line after `done` good ones; called only when there is one."""
    seen: set[bytes] = set()
    for number, row in enumerate(fields, start=first + done):
        if not row or row[0].startswith(b"\\"):
            return reader.fault(
                f"the header says {count} {length}-grams, but the section ends here; "
                "the file is cut off or altered.",
                number,
            )
        if not length < len(row) <= length + 2:
            return reader.fault(
                f"expected a number, {length} word{'s' * (length > 1)} and perhaps a back-off, "
                f"found {_shown(b' '.join(row))}.",
                number,
            )
        for value in (row[0], *row[length + 1 :]):
            if not _is_number(value):
                return reader.fault(f"{_shown(value)} is no finite number.", number)
        if float(row[0]) > 0:
            return reader.fault(f"the log10 probability {_shown(row[0])} is above 0.", number)
        for word in row[1 : length + 1]:
            try:
                word.decode()
            except UnicodeDecodeError:
                return reader.fault(f"{word!r} is not UTF-8 text.", number)
            if length > 1 and word not in ids:
                return reader.fault(f"the word {_shown(word)} is not among the 1-grams.", number)
        if length == 1 and (row[1] in seen or ids.get(row[1], done) < done):
            return reader.fault(f"the 1-gram {_shown(row[1])} stands here a second time.", number)
        seen.add(row[1])
    return reader.fault(
        f"the file ends here, but the header says {count} {length}-grams; it is cut off."
    )


def _is_number(value: bytes) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _sorted(
    reader: _Reader, section: _Section, keys: Sequence[np.ndarray], vocabulary: int
) -> tuple[Order, np.ndarray]:
    """Return the n-grams sorted by prefix and last word, with their keys."""
    words = section.words
    length = words.shape[1]
    prefix = words[:, 0] if length > 1 else np.zeros(len(words), dtype=np.int64)
    for k in range(1, length - 1):
        wanted = prefix * vocabulary + words[:, k]
        rows = np.searchsorted(keys[k], wanted)
        missing = (
            np.take(keys[k], rows, mode="clip") != wanted if len(keys[k]) else wanted == wanted
        )
        if missing.any():
            line = section.first_line + int(np.argmax(missing))
            raise reader.fault(
                f"the first {k + 1} words of this {length}-gram are not among the {k + 1}-grams.",
                line,
            )
        prefix = rows
    unsorted = prefix * vocabulary + words[:, -1]
    by_key = np.argsort(unsorted, kind="stable")
    found = unsorted[by_key]
    if (twice := np.flatnonzero(found[1:] == found[:-1])).size:
        line = section.first_line + int(by_key[twice + 1].min())
        raise reader.fault(f"this {length}-gram stands here a second time.", line)
    arrays = (prefix.astype(np.int32), words[:, -1].astype(np.int32), *section[1:3])
    return Order(*(x[by_key] for x in arrays)), found


def _shown(text: bytes) -> str:
    return repr(text.decode(errors="replace")[:60]) if text else "the end of the file"
