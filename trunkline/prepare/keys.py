"""The key of the pseudonyms: read with care, never written anywhere."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from trunkline.errors import StorageError, UsageError

_LEAST = 16  # bytes
_HEX_TO_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_HOW = "Make one with: (umask 077; head -c 32 /dev/urandom > ~/trunkline.key)"


def read_key(path: Path, data_folders: Iterable[Path]) -> bytes:
    """Return the key in a file that nobody but its owner can read and that lies outside the data.

    Raises:
        StorageError: the file is missing or cannot be read.
        UsageError: others may read it, it lies in a folder of the data, or it is too short.
    """
    if not path.is_file():
        raise StorageError(f"The key file {path} does not exist. {_HOW}")
    real = path.resolve()
    for folder in data_folders:
        lexical = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
        if lexical or real.is_relative_to(folder.resolve()):
            raise UsageError(
                f"The key file {path} lies inside the data ({folder}), which it would go along with; keep it elsewhere."
            )
    mode = stat.S_IMODE(os.stat(real).st_mode)
    if mode & 0o077:
        raise UsageError(
            f"The key file {path} can be read by others (mode {mode:03o}): chmod 600 it, and if others "
            "may have read it, make a new one."
        )
    try:
        key = real.read_bytes()
    except OSError as error:
        raise StorageError(f"Cannot read the key file {path}: {error.strerror}.") from error
    if len(key) < _LEAST:
        raise UsageError(f"The key file {path} holds {len(key)} bytes, needed are {_LEAST}. {_HOW}")
    return key


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return 24 letters that stand for a value; the same for the same key, kind and value.

    A keyed BLAKE2b of 96 bits (RFC 7693), in letters a to p so that no part of it looks like a number.
    Case, Unicode form and outer spaces do not matter, nor how a telephone number is written.
    """
    value = unicodedata.normalize("NFC", value).strip().casefold()
    if kind == "phone":
        value = plain_phone(value)
    own = hashlib.blake2b(key, digest_size=32).digest() if len(key) > 64 else key
    digest = hashlib.blake2b(value.encode(), key=own, person=kind.encode()[:16], digest_size=12)
    return digest.hexdigest().translate(_HEX_TO_LETTERS)


def plain_phone(value: str) -> str:
    """Return a telephone number in one form: digits, with 0 for the country code of Vietnam."""
    digits = "".join(letter for letter in value if letter.isdigit())
    for code in ("0084", "84"):
        if digits.startswith(code) and len(digits) >= len(code) + 9:
            return "0" + digits[len(code) :].removeprefix("0")
    return digits or value
