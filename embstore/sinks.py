"""Frames on their way to disk, piece by piece, so that a long call needs no more memory than a short one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embstore.schema import Space
from embstore.state import StoredFile, npy_name
from embstore.storage import Storage, writing
from trunkline.checkpoint import sha256_file

if TYPE_CHECKING:
    from embstore.writer import Shard


class FramesSink:
    """The frames of one cut on their way into a shard, in bounded memory."""

    def __init__(self, shard: Shard, space: Space, key: tuple[str, str, int], start: float) -> None:
        self._shard, self._space, self._key = shard, space, key
        self._begin = round(start * 1000)
        self.count = 0

    def write(self, frames: np.ndarray) -> None:
        """Add frames (frames, dim)."""
        space, count = self._space, len(frames)
        numbers = np.arange(self.count, self.count + count)
        times = self._begin + np.rint((space.first_time + numbers * space.frame_shift) * 1000)
        names = ("call_id", "cut_id", "channel", "space")
        columns: dict[str, Any] = {
            name: pa.repeat(value, count)
            for name, value in zip(names, (*self._key, space.name), strict=True)
        }
        columns |= {"frame": numbers, "t_ms": times.astype(np.int64)}
        self._shard.write("frames", space, columns, frames)
        self.count += count


class NpySink:
    """The `.npy` file of one cut: (frames, dim) float16."""

    def __init__(self, storage: Storage, space: Space, pair: bytes) -> None:
        self.space, self.pair = space, pair
        self.staged = storage.stage()
        self._rows = 0
        try:
            with writing(self.staged.path):
                self._file = self.staged.path.open("wb")
                self._header()
        except BaseException:
            self.staged.drop()
            raise

    def write(self, frames: np.ndarray) -> None:
        """Add frames (frames, dim)."""
        with writing(self.staged.path):
            self._file.write(np.ascontiguousarray(frames, "<f2").tobytes())
        self._rows += len(frames)

    def close(self) -> StoredFile:
        """Finish the file and say what it is."""
        with writing(self.staged.path):
            self._file.seek(
                0
            )  # numpy leaves room for a longer first axis: the header keeps its length
            self._header()
            self._file.close()
        size, digest = self.staged.path.stat().st_size, sha256_file(self.staged.path)
        path = npy_name(self.space.name, self.pair)
        return StoredFile(path, "npy", self.space.name, self._rows, size, digest, self.staged.name)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self.staged.drop()

    def _header(self) -> None:
        shape = {"descr": "<f2", "fortran_order": False, "shape": (self._rows, self.space.dim)}
        np.lib.format.write_array_header_1_0(self._file, shape)
