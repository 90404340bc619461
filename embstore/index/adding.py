"""What an index is made of as its vectors come: a FAISS index in memory, or the file of an exact one straight away.

The file of an exact index is its vectors with a few numbers before and after them. Writing it as they come takes the
memory of a few batches instead of that of the index.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np


class Adding(Protocol):
    """Takes vectors, which get ids from 0 on, and leaves the file that FAISS reads."""

    def add(self, vectors: np.ndarray) -> None:
        """Add (rows, dim) float32."""
        ...

    def finish(self) -> None:
        """Write what is left to write."""
        ...


class InMemory:
    """A FAISS index that takes ids."""

    def __init__(self, path: Path, index: Any) -> None:
        self.path, self.index = path, index

    def add(self, vectors: np.ndarray) -> None:
        """Add (rows, dim) float32."""
        first = self.index.ntotal
        ids = np.arange(first, first + len(vectors), dtype=np.int64)
        self.index.add_with_ids(vectors, ids)

    def finish(self) -> None:
        """Write the index."""
        faiss.write_index(self.index, str(self.path))


class FlatFile:
    """An exact index of inner products, with the bytes that FAISS itself would write."""

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        self.rows, self.dim = rows, dim
        self._left = rows
        self._file = path.open("wb")
        self._file.write(_before(rows, dim))

    def add(self, vectors: np.ndarray) -> None:
        """Add (rows, dim) float32."""
        self._left -= len(vectors)
        self._file.write(np.ascontiguousarray(vectors, "<f4").data)

    def finish(self) -> None:
        """Write the ids."""
        assert self._left == 0, f"{self._left} of {self.rows} vectors are missing"
        self._file.write(_after(self.rows))
        self._file.close()


def exact_index(dim: int) -> Any:
    """Return an empty exact index that takes ids.

    IDMap, not IDMap2: its way back from ids to places would be rebuilt at every opening.
    """
    return faiss.IndexIDMap(faiss.IndexFlatIP(dim))


def exact(path: Path, rows: int, dim: int) -> Adding:
    """Return what takes the vectors of an exact index; in memory, should this FAISS have another format."""
    if _before(0, dim) + _after(0) == faiss.serialize_index(exact_index(dim)).tobytes():
        return FlatFile(path, rows, dim)
    return InMemory(path, exact_index(dim))


def _before(rows: int, dim: int) -> bytes:
    """Return what stands before the vectors: two indexes, one of ids and in it one of vectors, each with its sizes."""
    unused, trained = 1 << 20, True
    sizes = struct.pack("<iqqq?i", dim, rows, unused, unused, trained, faiss.METRIC_INNER_PRODUCT)
    return b"IxMp" + sizes + b"IxFI" + sizes + struct.pack("<Q", rows * dim)


def _after(rows: int) -> bytes:
    """Return what stands after the vectors: the ids."""
    return struct.pack("<Q", rows) + np.arange(rows, dtype="<i8").tobytes()
