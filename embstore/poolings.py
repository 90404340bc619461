"""One vector of many frames, as they come: running sums, so that memory does not grow with a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from trunkline.errors import UsageError, nearest


class Pooler(Protocol):
    """Takes frames (frames, dim) piece by piece; `result` is the vector of all of them."""

    def update(self, frames: np.ndarray) -> None:
        """Take more frames."""
        ...

    def result(self) -> np.ndarray | None:
        """Return the vector (dim,) float32, None of no frames."""
        ...


class Moments:
    """Mean, standard deviation (of the population: that of one frame is 0), or both in one vector."""

    def __init__(self, pooling: str) -> None:
        self._parts = pooling.split("+")
        self._count, self._mean, self._spread = 0, np.zeros(1), np.zeros(1)

    def update(self, frames: np.ndarray) -> None:
        """Merge the moments of a piece into those of all before (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        if not len(frames):
            return
        mean = frames.mean(axis=0, dtype=np.float64)
        total = self._count + len(frames)
        delta = mean - self._mean
        if "std" in self._parts:
            apart = frames - mean
            spread = np.einsum("nd,nd->d", apart, apart)  # squares and sums at once
            between = np.square(delta) * (self._count * len(frames) / total)
            self._spread = self._spread + spread + between
        self._mean = self._mean + delta * (len(frames) / total)
        self._count = total

    def result(self) -> np.ndarray | None:
        """Return the vector."""
        if not self._count:
            return None
        values = {"mean": self._mean, "std": np.sqrt(self._spread / self._count)}
        return np.concatenate(
            [values[part] for part in self._parts], dtype=np.float32, casting="same_kind"
        )


class Max:
    """The largest value of each number."""

    def __init__(self) -> None:
        self._max: np.ndarray | None = None

    def update(self, frames: np.ndarray) -> None:
        """Take more frames."""
        if len(frames):
            largest = frames.max(axis=0)
            self._max = largest if self._max is None else np.maximum(self._max, largest)

    def result(self) -> np.ndarray | None:
        """Return the vector."""
        return None if self._max is None else self._max.astype(np.float32)


def pooler(pooling: str) -> Pooler:
    """Return a new pooler: "mean", "std", "mean+std" or "max"."""
    if pooling == "max":
        return Max()
    if pooling in WIDTHS:
        return Moments(pooling)
    raise UsageError(f"Unknown pooling {pooling!r}.{nearest(pooling, WIDTHS)}")


WIDTHS = {"mean": 1, "std": 1, "mean+std": 2, "max": 1}
"""How many times the width of a frame a pooled vector has."""


class Window(NamedTuple):
    """A stretch of a cut in seconds from its start, which becomes one vector."""

    start: float
    end: float
    speech_ratio: float | None = None


class WindowPooler:
    """Pools the frames of each window of a cut; a frame is in a window when its centre is."""

    def __init__(self, windows: Sequence[Window], poolings: Sequence[str]) -> None:
        self._windows = sorted(windows, key=_span)
        self._poolings = poolings
        self._open: dict[int, list[Pooler]] = {}
        self._next = 0
        self.vectors: list[tuple[Window, list[np.ndarray]]] = []
        """Each window that holds a frame, with a vector for each pooling."""

    def update(self, frames: np.ndarray, times: np.ndarray) -> None:
        """Take frames (frames, dim) and their centres (frames,) in seconds from the start of the cut."""
        if not len(times):
            return
        while self._next < len(self._windows) and self._windows[self._next].start <= times[-1]:
            self._open[self._next] = [pooler(name) for name in self._poolings]
            self._next += 1
        for number, poolers in list(self._open.items()):
            window = self._windows[number]
            first, last = np.searchsorted(times, [window.start, window.end])
            for each in poolers:
                each.update(frames[first:last])
            if window.end <= times[-1]:
                self._close(number)

    def finish(self) -> list[tuple[Window, list[np.ndarray]]]:
        """Close what is open, and return all windows in order."""
        for number in list(self._open):
            self._close(number)
        return sorted(self.vectors, key=lambda pair: _span(pair[0]))

    def _close(self, number: int) -> None:
        vectors = [each.result() for each in self._open.pop(number)]
        if all(vector is not None for vector in vectors):
            self.vectors.append((self._windows[number], vectors))  # type: ignore[arg-type]


def _span(window: Window) -> tuple[float, float]:
    return window.start, window.end
