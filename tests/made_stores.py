"""Stores of made-up vectors, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embstore import EmbeddingStore, Record, Segment, Space

DIM = 16
SPACE = Space(backbone="ab" * 32, dim=DIM, columns={"meta_agent": "string"})


def vectors(count: int, seed: int = 0, clusters: int = 20) -> np.ndarray:
    """(count, DIM) float32 around a few centres that every seed shares."""
    centres = np.random.default_rng(99).standard_normal((clusters, DIM))
    generator = np.random.default_rng(seed)
    points = centres[generator.integers(0, clusters, count)]
    return (points + 0.5 * generator.standard_normal((count, DIM))).astype(np.float32)


def calls(count: int, first: int = 0) -> dict[str, list[object]]:
    """Columns of `count` calls; even ones are the agent's channel."""
    numbers = range(first, first + count)
    return {
        "call_id": [f"call-{number}" for number in numbers],
        "channel": [number % 2 for number in numbers],
        "duration_ms": [1000 * (1 + number % 5) for number in numbers],
        "meta_agent": [None if number % 10 == 9 else f"A{number % 3}" for number in numbers],
    }


def store_of(path: Path, *counts: int, space: Space = SPACE) -> EmbeddingStore:
    """A store with pooled vectors, one file for each of `counts`; vectors of file n are `vectors(count, n)`."""
    store = EmbeddingStore.create(path)
    for number, count in enumerate(counts):
        add(store, count, number, sum(counts[:number]), space)
    return store


def add(store: EmbeddingStore, count: int, seed: int, first: int, space: Space = SPACE) -> None:
    """Add a file of calls to a store."""
    store.append_columns(space, calls(count, first), vectors(count, seed))


def store_of_segments(path: Path, count: int = 12, segments: int = 5) -> EmbeddingStore:
    """A store of calls of both channels, 10 s segments, and pooled vectors that are the means of these."""
    store = EmbeddingStore.create(path)
    rows = vectors(2 * count * segments, 7).reshape(count, 2, segments, DIM)
    store.append(
        SPACE,
        (
            Record(
                call_id=f"call-{call}",
                cut_id=f"call-{call}.{channel}",
                channel=channel,
                duration=10.0 * segments,
                pooled=rows[call, channel].mean(0),
                segments=[
                    Segment(10.0 * number, 10.0 * (number + 1), vector)
                    for number, vector in enumerate(rows[call, channel])
                ],
            )
            for call in range(count)
            for channel in (0, 1)
        ),
    )
    return store
