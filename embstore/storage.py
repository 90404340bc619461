"""Where the store's bytes lie: a folder, or a bucket, behind seven operations.

The commit protocol asks two things of a place: that a name can be created if it is absent, whole and durable
(`create`), and that a staged file takes a name at once (`move`). A folder does it with link(2) and rename(2), an object
store with a conditional PUT (`If-None-Match: *`) and an overwriting one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from trunkline.errors import StorageError, TrunklineError

STAGING = "_staging"
SYNCS = 8
"""Files and folders that are flushed at a time."""
_NEWBORN = 60.0  # seconds
LEASE = 24 * 3600.0
"""Seconds after which a staged object of a bucket, where nothing can be locked, is nobody's."""


def failpoint(name: str) -> None:
    """Die here, as by kill -9, where a test asks for it by EMBSTORE_FAIL_AT."""
    if os.environ.get("EMBSTORE_FAIL_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


class Staged:
    """A file on its way: written to `path`, then `done`, then moved to its name by a commit, or dropped."""

    def __init__(self, name: str, path: Path, handle: int) -> None:
        self.name, self.path = name, path
        self.handle = handle
        self.durable = False

    def release(self) -> None:
        """Give up the lock that tells others that somebody still needs the file."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def drop(self) -> None:
        """Remove the file, which no entry names."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.release()


class Storage(Protocol):
    """The operations; names are relative, with slashes."""

    def read(self, name: str) -> bytes:
        """Return a whole object; raises FileNotFoundError."""
        ...

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for random reading; raises FileNotFoundError."""
        ...

    def create(self, name: str, data: bytes, *, private: bool = False) -> bool:
        """Create an object, whole and durable; return False where the name is taken."""
        ...

    def stage(self) -> Staged:
        """Begin a staged file, to be written at its `path`."""
        ...

    def done(self, staged: Iterable[Staged]) -> None:
        """Make the bytes of staged files durable under their staged names."""
        ...

    def move(self, moves: Iterable[tuple[str, str]]) -> int:
        """Give each staged file its name, replacing what is there; return how many sources were not gone."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        ...

    def list(self, folder: str) -> list[str]:
        """Return the names in a folder, without those below."""
        ...

    def abandoned(self, name: str) -> bool:
        """Return whether no living process holds a staged file."""
        ...


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn the system's refusals to write into a StorageError that names the place."""
    try:
        yield
    except TrunklineError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            reason = "no space left on the disk. Free some and run again; what is committed stays"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"{error.strerror}; the store must lie where you may write"
        else:
            reason = str(error.strerror or error)
        raise StorageError(f"Cannot write {place}: {reason}.") from error


def sync(handles: Sequence[int]) -> None:
    """Flush files and folders to the disk itself, all at once: a disk that is asked once answers once."""
    others = [_threads().submit(_sync, handle) for handle in handles[1:]]
    for handle in handles[:1]:
        _sync(handle)
    for other in others:
        other.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SYNCS - 1, "sync")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of the threads


def sync_folders(paths: Iterable[Path], handles: Sequence[int] = ()) -> None:
    """Flush folders, and whatever else there is to flush with them."""
    folders: list[int] = []
    try:
        folders += (os.open(path, os.O_RDONLY) for path in paths)
        sync([*handles, *folders])
    finally:
        for folder in folders:
            os.close(folder)


def _sync(handle: int) -> None:
    # macOS only flushes the disk's own cache when asked in its own way.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(handle)
    else:
        fcntl.fcntl(handle, full)


class LocalStorage:
    """A folder on a disk of this machine, or on a network file system with hard links and locks."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        return (self.root / name).read_bytes()

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for random reading."""
        return pa.OSFile(str(self.root / name), "rb")

    def create(self, name: str, data: bytes, *, private: bool = False) -> bool:
        """Create a file by link(2), which fails where the name is taken and otherwise shows all of it at once."""
        target = self.root / name
        with writing(target):
            self._folder(target.parent)
            staged = self.stage()
            try:
                if not private:
                    os.fchmod(staged.handle, 0o644)
                staged.path.write_bytes(data)
                sync([staged.handle])
                failpoint("entry_written")
                os.link(staged.path, target)
                sync_folders([target.parent])
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise StorageError(
                        f"{target}: this file system has no hard links, without which two writers cannot agree. "
                        "Put the store on another one."
                    ) from error
                raise
            finally:
                staged.path.unlink(missing_ok=True)
                staged.release()
        return True

    def stage(self) -> Staged:
        """Begin a staged file, readable by its owner only; its name never ends in what readers look for."""
        folder = self.root / STAGING
        name = f"{STAGING}/{uuid.uuid4().hex}.part"
        with writing(folder):
            self._folder(folder)
            newborn = (self.root / name).with_suffix(".new")
            handle = os.open(newborn, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            newborn.rename(self.root / name)  # whatever has this name was locked before it had it
        return Staged(name, self.root / name, handle)

    def done(self, staged: Iterable[Staged]) -> None:
        """Make staged files durable, with the folder that has their names."""
        new = [each for each in staged if not each.durable]
        if not new:
            return
        with writing(self.root / STAGING):
            for each in new:
                os.fchmod(each.handle, 0o644)
            sync_folders([self.root / STAGING], [each.handle for each in new])
        for each in new:
            each.durable = True

    def move(self, moves: Iterable[tuple[str, str]]) -> int:
        """Give staged files their names by rename(2)."""
        moved: list[Path] = []
        for source, target in moves:
            path = self.root / target
            with writing(path), contextlib.suppress(FileNotFoundError):
                self._folder(path.parent)
                os.replace(self.root / source, path)
                moved.append(path.parent)
            failpoint("published_one")
        with writing(self.root):
            sync_folders(dict.fromkeys(moved))
        return len(moved)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with writing(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_file())
        except FileNotFoundError:
            return []

    def abandoned(self, name: str) -> bool:
        """Return whether the lock of a staged file is free; whatever clocks say, its writer is dead then.

        Only an empty newborn, which is about to be locked, is told by its age.
        """
        try:
            handle = os.open(self.root / name, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            newborn = name.endswith(".new")
            return not newborn or abs(time.time() - os.fstat(handle).st_mtime) > _NEWBORN
        except OSError:
            return False
        finally:
            os.close(handle)

    def _folder(self, path: Path) -> None:
        if path.is_dir():
            return
        self._folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folders([path.parent])


class Bucket(Protocol):
    """What is asked of an object store's client; S3, GCS and Azure have each of these as one request."""

    def get(self, name: str) -> bytes:
        """GET; raises FileNotFoundError."""
        ...

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> bool:
        """PUT, with `If-None-Match: *` where `if_absent`; return False for "412 Precondition Failed"."""
        ...

    def copy(self, source: str, target: str) -> bool:
        """Copy on the server; return False where the source is gone."""
        ...

    def delete(self, name: str) -> None:
        """DELETE, also of what is not there."""
        ...

    def list(self, prefix: str) -> list[tuple[str, float]]:
        """List names below a prefix with the seconds since each was written, by the server's clock."""
        ...


class _Upload(Staged):
    """A staged object: a local file until it is uploaded."""

    def __init__(self, name: str, path: Path, handle: int, bucket: Bucket) -> None:
        super().__init__(name, path, handle)
        self._bucket = bucket

    def release(self) -> None:
        """Give up the local file."""
        self.path.unlink(missing_ok=True)
        super().release()

    def drop(self) -> None:
        """Remove the object too, if it was uploaded."""
        self._bucket.delete(self.name)
        self.release()


class ObjectStorage:
    """A bucket. A PUT shows an object whole, so publishing is a copy and a delete; staged objects have a lease."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def read(self, name: str) -> bytes:
        """Return a whole object."""
        return self.bucket.get(name)

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for random reading."""
        return pa.BufferReader(self.bucket.get(name))

    def create(self, name: str, data: bytes, *, private: bool = False) -> bool:
        """Create an object by a conditional PUT; who may read it is the bucket's policy."""
        failpoint("entry_written")
        return self.bucket.put(name, data, if_absent=True)

    def stage(self) -> Staged:
        """Begin a staged object as a local temporary file."""
        handle, path = tempfile.mkstemp(prefix="embstore-", suffix=".part")
        return _Upload(f"{STAGING}/{uuid.uuid4().hex}.part", Path(path), handle, self.bucket)

    def done(self, staged: Iterable[Staged]) -> None:
        """Upload staged objects."""
        for each in staged:
            if not each.durable:
                self.bucket.put(each.name, each.path.read_bytes())
                each.durable = True

    def move(self, moves: Iterable[tuple[str, str]]) -> int:
        """Give staged objects their names."""
        moved = 0
        for source, target in moves:
            if self.bucket.copy(source, target):
                self.bucket.delete(source)
                moved += 1
            failpoint("published_one")
        return moved

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.bucket.delete(name)

    def list(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        depth = folder.count("/") + 1
        return sorted(
            name for name, _ in self.bucket.list(f"{folder}/") if name.count("/") == depth
        )

    def abandoned(self, name: str) -> bool:
        """Return whether the lease of a staged object is over."""
        return any(age > LEASE for found, age in self.bucket.list(name) if found == name)
