"""Checks of foreign vector files before anything reads them: word2vec's formats and fastText's text, never a pickle."""

from __future__ import annotations

import math
import os
from pathlib import Path

from trunkline.errors import DataError, StorageError

_PICKLES = (".kv", ".model", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
_FASTTEXT_MAGIC = b"\xba\x16\x4f\x2f"


def check_vectors(path: str | os.PathLike[str], *, binary: bool) -> tuple[int, int]:
    """Return the number of vectors and their dimension as the header says, after a look at the file.

    Text files are read through, so that a fault is told with its line.

    Raises:
        StorageError: the file is missing.
        DataError: it is a pickle (gensim's own ``.kv`` and ``.model`` are), which could run code when it is opened;
            fastText's own binary; or no vector file at all.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            _refuse_code(path, start)
            header = file.readline(200)
            count, dim = _header(path, header)
            if not binary:
                number = 1
                for number, line in enumerate(file, start=2):
                    _check_line(line, f"{path}:{number}", dim)
                if number - 1 != count:
                    raise DataError(f"{path}:1 says {count} vectors, but {number - 1} follow.")
            return count, dim
    except FileNotFoundError as error:
        raise StorageError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error}") from error


def _refuse_code(path: Path, start: bytes) -> None:
    advice = "Export the vectors in word2vec's format (gensim: save_word2vec_format), and give that file."
    # A pickle of protocol 2 or later begins with 0x80 and the protocol's number; torch files are zips.
    if path.suffix in _PICKLES or (start[:1] == b"\x80" and start[1:2] <= b"\x06"):
        raise DataError(
            f"{path} is a pickle (gensim's .kv and .model are), which can run code when opened. {advice}"
        )
    if start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a zip archive, perhaps with a pickle in it. {advice}")
    if start.startswith(_FASTTEXT_MAGIC):
        raise DataError(f"{path} is fastText's own binary; give its text file (.vec).")


def _header(path: Path, line: bytes) -> tuple[int, int]:
    fields = line.split()
    if len(fields) != 2 or not all(x.isdigit() for x in fields) or int(fields[1]) < 1:
        shown = line.decode(errors="replace").strip()[:40]
        raise DataError(
            f"{path}:1 must have the number of vectors and their dimension, not {shown!r}."
        )
    return int(fields[0]), int(fields[1])


def _check_line(line: bytes, where: str, dim: int) -> None:
    # The token may itself hold a no-break space, which is no separator: only ASCII blanks are.
    fields = line.rstrip().split(b" ")
    if len(fields) != dim + 1:
        raise DataError(
            f"{where} has {len(fields) - 1} numbers after its token, the header says {dim} "
            "(a token must not have a space in it)."
        )
    try:
        fields[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text.") from error
    try:
        finite = all(map(math.isfinite, map(float, fields[1:])))
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error
    if not finite:
        raise DataError(f"{where} has a number that is not finite.")
