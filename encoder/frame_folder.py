"""A folder of frames: one `.npy` a cut, an index of JSON lines, and what could not be read.

    encode.json        backbone, context, layer, times: what every file has in common
    index.jsonl        a line a cut: id, file, frames, and where its audio lies
    frames/*.npy       (frames, dim) of one cut
    quarantine.jsonl   a line a cut that could not be read: id, file, line, reason

A file appears whole, and its line after it, so that a run that was stopped anywhere goes on with nothing lost or
doubled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trunkline.checkpoint import fsync, read_json, write_json, write_text
from trunkline.errors import DataError, StorageError, UsageError
from trunkline.quarantine import fault
from trunkline.rows import Cut


class FrameFolder:
    """Where frames are written to, now or in a run before."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Open or make a folder.

        Args:
            folder: where.
            about: what all its frames have in common; that of a run before must be the same.

        Raises:
            UsageError: the folder holds frames of other settings.
            StorageError: it cannot be written.
        """
        self.folder = folder
        settings = folder / "encode.json"
        if settings.exists():
            known = read_json(settings)
            if other := [key for key in about if known.get(key) != about[key]]:
                raise UsageError(
                    f"{folder} holds frames of another {other[0]} ({known.get(other[0])}, not {about[other[0]]}); "
                    "choose another folder."
                )
        elif folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
            raise UsageError(f"{folder} holds other files; choose an empty or a new folder.")
        else:
            write_json(settings, about)
        self.index = {row["id"]: row for row in self._read_index()}
        lines = "".join(map(_line, self.index.values()))
        write_text(folder / "index.jsonl", lines)  # without a line that a kill cut short
        write_text(folder / "quarantine.jsonl", "")
        with _storage(folder):
            (folder / "frames").mkdir(exist_ok=True)

    def _read_index(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "index.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if (self.folder / row["file"]).exists():
                    yield row

    def writer(self, cut: Cut) -> FrameFile:
        """Begin the file of a cut."""
        return FrameFile(self, cut)

    def quarantine(self, cut: Cut, error: Exception) -> dict[str, Any]:
        """Note a cut that cannot be read."""
        row = fault(cut, error)
        self._append("quarantine.jsonl", row)
        return row

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with _storage(self.folder), (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(_line(row))


class FrameFile:
    """One cut's frames on their way to disk, piece by piece; nothing is there until `close`."""

    def __init__(self, home: FrameFolder, cut: Cut) -> None:
        self._home, self._cut = home, cut
        digest = hashlib.sha256(cut.id.encode()).hexdigest()[:8]
        self.name = f"frames/{re.sub(r'[^A-Za-z0-9_-]+', '_', cut.id)[-60:]}-{digest}.npy"
        self._path = home.folder / self.name
        self._temporary = self._path.with_suffix(".tmp")
        self._file: BinaryIO | None = None
        self._dtype, self._dim = np.dtype(np.float32), 0
        self.frames = 0

    def write(self, frames: np.ndarray) -> None:
        """Add frames (frames, dim)."""
        with _storage(self._path):
            if self._file is None:
                self._file = self._temporary.open("wb")
                self._dtype, self._dim = frames.dtype, frames.shape[1]
                self._header()
            self._file.write(np.ascontiguousarray(frames).tobytes())
        self.frames += len(frames)

    def close(self) -> None:
        """Put the file and its line into the folder."""
        assert self._file is not None
        with _storage(self._path):
            self._file.seek(0)
            self._header()
            self._file.close()
            fsync(self._temporary)
            self._temporary.replace(self._path)
        cut = self._cut
        row: dict[str, Any] = {"id": cut.id, "file": self.name, "frames": self.frames}
        row["audio_filepath"] = str(cut.audio_filepath)
        for key in ("call_id", "channel", "start", "end", "split"):
            if getattr(cut, key) is not None:
                row[key] = getattr(cut, key)
        self._home.index[cut.id] = row
        self._home._append("index.jsonl", row)  # noqa: SLF001  (the folder's other half)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _header(self) -> None:
        # numpy keeps room for a longer first axis, so the header keeps its length when the number is known.
        assert self._file is not None
        shape = {
            "descr": self._dtype.str,
            "fortran_order": False,
            "shape": (self.frames, self._dim),
        }
        np.lib.format.write_array_header_1_0(self._file, shape)


def check_ids(ids: np.ndarray, source: Path) -> None:
    """Raise a DataError if two cuts have one id, as one would take the other's place."""
    names, counts = np.unique(ids.astype(str), return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{source}: several cuts have the id {str(names[counts > 1][0])!r}; give each its own."
        )


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
