"""One cut on its way into all the spaces that lack it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from embstore.poolings import Window, WindowPooler, pooler
from embstore.schema import FRAMES, Space
from embstore.sinks import FramesSink, NpySink
from embstore.writer import Record, Segment, Shard
from trunkline.rows import Cut


class Job(NamedTuple):
    """A cut, and the spaces that lack it."""

    cut: Cut
    pair: bytes
    spaces: list[Space]
    duration: float


class CutSinks:
    """Where the frames of one cut go: pooled and by window for each pooling, and as they are."""

    def __init__(self, shard: Shard, job: Job, windows: Sequence[Window]) -> None:
        self._shard, self._job = shard, job
        self.count = 0
        self._sums = [s for s in job.spaces if s.pooling != FRAMES and ":" not in s.pooling]
        self._learnt = [space for space in job.spaces if ":" in space.pooling]
        self._poolers = [pooler(space.pooling) for space in self._sums]
        self._windows = WindowPooler(windows, [space.pooling for space in self._sums])
        self._kept = next((space for space in job.spaces if space.pooling == FRAMES), None)
        self._frames: FramesSink | None = None
        self._npy: NpySink | None = None
        if self._kept is not None:
            files = self._kept.settings.get("files", "parquet").split("+")
            cut = job.cut
            if "parquet" in files:
                own = (cut.call_id, cut.id, cut.channel or 0, cut.start or 0.0)
                self._frames = shard.frames(self._kept, *own)
            if "npy" in files:
                self._npy = shard.npy(self._kept, job.pair)

    def write(self, frames: np.ndarray) -> None:
        """Take frames (frames, dim), the next ones of the cut."""
        space = self._job.spaces[0]
        for each in self._poolers:
            each.update(frames)
        numbers = np.arange(self.count, self.count + len(frames))
        self._windows.update(frames, space.first_time + numbers * space.frame_shift)
        if self._frames is not None and len(frames):
            self._frames.write(frames)
        if self._npy is not None:
            self._npy.write(frames)
        self.count += len(frames)

    def finish(self, record: Record, pooled: Mapping[str, np.ndarray]) -> None:
        """Add the cut to each space."""
        record.n_frames = self.count
        if self._kept is not None:
            self._shard.add(self._kept, record)
            if self._npy is not None:
                self._shard.take(self._npy)
        segments = self._windows.finish()
        for number, space in enumerate(self._sums):
            record.pooled = self._poolers[number].result()
            record.segments = [
                Segment(
                    record.start + window.start, record.start + window.end,
                    vectors[number], window.speech_ratio,
                )
                for window, vectors in segments
            ]  # fmt: skip
            self._shard.add(space, record)
        record.segments = ()
        for space in self._learnt:
            record.pooled = pooled[space.pooling]
            self._shard.add(space, record)

    def abort(self) -> None:
        """Leave nothing of the cut in the shard."""
        if self._npy is not None:
            self._npy.discard()
        if self._kept is not None and self._frames is not None and self._frames.count:
            self._shard.spoil(self._kept, self._job.pair)
