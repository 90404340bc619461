"""Exact search over vectors that come in batches."""

from __future__ import annotations

import faiss
import numpy as np

# Below this many numbers in a batch of queries (queries x dim) FAISS 1.15 compares one by one, above it multiplies
# matrices. Its own 128,000 makes 200 queries of 512 numbers 8 times slower than this does.
MATRIX_FROM = 8192
faiss.cvar.distance_compute_blas_threshold = min(
    MATRIX_FROM, faiss.cvar.distance_compute_blas_threshold
)


class Neighbours:
    """The k nearest of each query among all vectors shown so far, by inner product."""

    def __init__(self, queries: np.ndarray, k: int) -> None:
        self.queries = np.ascontiguousarray(queries, np.float32)
        self.k = k
        self._heap = faiss.ResultHeap(len(queries), k, keep_max=True)

    def look(self, vectors: np.ndarray, first: int | np.ndarray) -> None:
        """Take vectors (rows, dim) with their numbers (rows,), or the number of the first, into account."""
        if not len(vectors):
            return
        scores, places = faiss.knn(
            self.queries,
            np.ascontiguousarray(vectors, np.float32),
            min(self.k, len(vectors)),
            faiss.METRIC_INNER_PRODUCT,
        )
        numbers = places + first if isinstance(first, int) else first[places]
        self._heap.add_result(scores, numbers)

    def found(self) -> np.ndarray:
        """Return the numbers of the nearest (queries, k), best first; -1 where there were fewer."""
        return self.scored()[1]

    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """Return inner products and numbers (queries, k), best first; to be called once, at the end."""
        self._heap.finalize()
        return self._heap.D, self._heap.I
