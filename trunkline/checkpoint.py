"""Folders and files that appear whole or not at all.

`write_folder` fills a temporary sibling, flushes every file to disk and renames it into place, so a reader (or a
resumed run) never sees half a checkpoint, and a full disk leaves what was there before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from trunkline.errors import CheckpointError, StorageError, TrunklineError

RENAME_EXCHANGE = 2
"""Of Linux's renameat2(2)."""


@contextlib.contextmanager
def write_folder(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    Raises:
        StorageError: `target` exists and `overwrite` is false or it is no folder, or the disk refuses the write (full,
            read-only).
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise StorageError(f"{target} exists already; remove it or choose another folder.")
    if target.exists() and not target.is_dir():
        raise StorageError(f"{target} is no folder; choose another name.")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        )
        temporary.chmod(0o755)
        yield temporary
        for path in temporary.rglob("*"):
            fsync(path)
        _swap(temporary, target)
        fsync(target.parent)
    except TrunklineError:
        raise  # some are OSErrors, and say already what is wrong
    except OSError as error:
        raise StorageError(f"Cannot write {target}: {_reason(error)}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another one, which is gone then, or is what `temporary` holds."""
    if not target.exists():
        temporary.rename(target)
        return
    if _exchange(temporary, target):
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    try:
        temporary.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that a kill never leaves a name without one; False where none offers that."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    return renameat2 is not None and renameat2(-1, names[0], -1, names[1], RENAME_EXCHANGE) == 0


@contextlib.contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Yield a UTF-8 text file that becomes `path`, by a rename, when the block ends without an error.

    Raises:
        StorageError: `path` is a device or a folder, or the disk refuses the write (full, read-only).
    """
    with _replace(Path(path), "w", "utf-8") as file:
        yield file


@contextlib.contextmanager
def write_binary_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path`; as `write_file`."""
    with _replace(Path(path), "wb", None) as file:
        yield file


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small binary file by temporary sibling and rename; raises as `write_file`."""
    with write_binary_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def _replace(path: Path, mode: str, encoding: str | None) -> Iterator[Any]:
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise StorageError(f"Cannot write {path}: it is no regular file; choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode, encoding=encoding) as file:
            yield file
        fsync(temporary)
        temporary.replace(path)
    except TrunklineError:
        raise  # some are OSErrors, and say already what is wrong
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # the error on its way out says why there may be nothing
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small UTF-8 file by temporary sibling and rename."""
    with write_file(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON, indented, keys in the order given; non-finite numbers are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a missing or malformed one is a `CheckpointError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; the folder is incomplete.") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # no UTF-8, no JSON, a number of 5,000 digits, 1,000 brackets
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {_reason(error)}") from error


def fsync(path: str | os.PathLike[str]) -> None:
    """Flush a file or a folder entry to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the disk; free some and run again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; choose a folder you may write to."
    return str(error)
