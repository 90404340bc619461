"""Recordings that libsndfile cannot read (m4a, amr, wma, webm), by PyAV (`media` extra)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from trunkline.audio import AudioFault, AudioInfo
from trunkline.errors import DependencyError

try:
    import av
    from av.error import FFmpegError
except ImportError as error:
    raise DependencyError(
        "Reading m4a, amr, wma and webm needs PyAV: pip install trunkline[media]"
    ) from error

# Decoding begins this many seconds earlier than a seek, so that the codec's overlap has settled.
_PREROLL = 0.5


class MediaReader:
    """An open m4a, amr, wma or webm file; see `trunkline.audio.Reader`.

    MP4 states its length and seeks; the others only estimate both, so they are decoded once to be
    counted and always read from their beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._container = av.open(str(path))
        except FFmpegError as error:
            raise AudioFault(
                "unreadable", f"{path} is not a recording in a known format ({error.strerror})."
            ) from error
        if not self._container.streams.audio:
            self._container.close()
            raise AudioFault("unreadable", f"{path} has no audio track.")
        self._stream = stream = self._container.streams.audio[0]
        first = next(self._decode(), None)
        if first is None:
            raise AudioFault("empty", f"{path} holds no samples.")
        self._rate, self._channels = first.sample_rate, first.layout.nb_channels
        self._unit = stream.time_base or Fraction(1, self._rate)  # s
        self._seeks = "mp4" in self._container.format.name and stream.duration is not None
        if self._seeks:
            samples = round((stream.duration or 0) * self._unit * self._rate)
        else:
            samples = sum(frame.samples for frame in self._rewound())
        codec = f"{self._container.format.name.split(',')[0]}/{stream.codec_context.name}".upper()
        self.info = AudioInfo(
            path, samples, self._rate, self._channels, samples / self._rate, codec
        )

    def blocks(self, first: int, last: int, size: int) -> Iterator[np.ndarray]:
        """Yield samples `first` to `last` as float32 arrays (at most size, channels)."""
        waiting: list[np.ndarray] = []
        held = 0
        for part in self._parts(first, last):
            waiting.append(part)
            held += len(part)
            while held >= size:
                joined = np.concatenate(waiting)
                yield joined[:size]
                waiting, held = [joined[size:]], held - size
        if held:
            yield np.concatenate(waiting)

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def _parts(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Yield what each decoded frame holds of samples `first` to `last`, (samples, channels)."""
        to_float = av.AudioResampler(format="fltp")
        cursor = None if self._seeks else 0
        for frame in self._rewound(first):
            if (frame.sample_rate, frame.layout.nb_channels) != (self._rate, self._channels):
                raise AudioFault(
                    "unreadable",
                    f"{self._path} changes its sample rate or channels midway; split it first.",
                )
            if cursor is None:
                cursor = round((frame.pts or 0) * self._unit * self._rate)
            for piece in to_float.resample(frame):
                samples = piece.to_ndarray().T[max(0, first - cursor) : max(0, last - cursor)]
                if len(samples):
                    yield samples
                cursor += piece.samples
            if cursor >= last:
                return

    def _rewound(self, first: int = 0) -> Iterator[av.AudioFrame]:
        if self._seeks:
            seconds = max(0.0, first / self._rate - _PREROLL)
            self._container.seek(int(seconds / self._unit), stream=self._stream)
        else:
            self._container.close()
            self._container = av.open(str(self._path))
            self._stream = self._container.streams.audio[0]
        return self._decode()

    def _decode(self) -> Iterator[av.AudioFrame]:
        try:
            yield from self._container.decode(self._stream)
        except FFmpegError as error:
            raise AudioFault(
                "truncated", f"{self._path} is damaged or truncated ({error.strerror})."
            ) from error
