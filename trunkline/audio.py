"""Recordings in: one voice, float32 in [-1, 1], at the rate that was asked for.

WAV, FLAC, Ogg, Opus and MP3 are read by libsndfile; m4a, amr and wma by `trunkline.media`. Every
reader here goes through `_stream`, block by block, so a whole file, its blocks and a stretch of it
are the same samples, and a 16-hour call needs the memory of one block. Resampling (soxr, high
quality) happens once, with one state per call.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile
import soxr

from trunkline.errors import DataError, StorageError, UsageError, nearest

ROLES = {"agent": 0, "customer": 1}
MEDIA_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".amr", ".awb", ".3gp", ".wma", ".webm"})
SUFFIXES = MEDIA_SUFFIXES | {
    ".wav",
    ".wave",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
    ".w64",
}

PathLike = str | os.PathLike[str]
Channel = int | str

_SLACK = 0.1  # s; how far a declared end may lie past the file: manifests round, codecs pad
_LOUDEST = 8.0  # overshoot up to here is clipped; beyond it, float audio is not scaled to 1 at all
_UNKNOWN = 1 << 62  # libsndfile's length of a FLAC whose header tells none; it cannot read those


class AudioInfo(NamedTuple):
    """What a header says: `num_samples` per channel, `sample_rate` in Hz, `duration` in seconds."""

    path: Path
    num_samples: int
    sample_rate: int
    channels: int
    duration: float
    codec: str


class AudioFault(DataError):
    """A recording is not what it should be; `kind` is one word for it, as in a check's report."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[AudioFault], tuple[str, str]]:
        return type(self), (self.kind, str(self))


class Reader(Protocol):
    """An open recording."""

    info: AudioInfo

    def blocks(self, first: int, last: int, size: int) -> Iterator[np.ndarray]:
        """Yield samples `first` to `last` as float32 arrays (at most size, channels)."""
        ...

    def close(self) -> None:
        """Release the file."""


def info(path: PathLike) -> AudioInfo:
    """Return what the header says, without decoding.

    Raises:
        StorageError: the file is missing or may not be read.
        DataError: it is no recording, holds no samples, or its header promises more data than there
            is.
        DependencyError: an m4a, amr or wma file without the `media` extra.
    """
    with contextlib.closing(_open(path)) as reader:
        return reader.info


def read(
    path: PathLike,
    *,
    channel: Channel | None = None,
    start: float = 0.0,
    end: float | None = None,
    sample_rate: int | None = None,
) -> np.ndarray:
    """Return one voice of a recording, (samples,) float32 in [-1, 1].

    `start` and `end` are seconds; only that part is decoded. `channel` is an index, "agent" (0) or
    "customer" (1).

    Raises:
        DataError: as `info`; or several channels and none chosen, a stretch outside the file, a
            damaged file,
            NaN or infinite samples (named by position).
    """
    stretch = blocks(
        path, channel=channel, start=start, end=end, sample_rate=sample_rate, block_seconds=60.0
    )
    return _join(path, list(stretch))


def read_channels(
    path: PathLike, *, start: float = 0.0, end: float | None = None, sample_rate: int | None = None
) -> np.ndarray:
    """Return every channel, (channels, samples) float32 in [-1, 1]; raises as `read`."""
    with contextlib.closing(_open(path)) as reader:
        stretch = list(_stream(reader, slice(None), start, end, sample_rate, 60.0))
    return np.ascontiguousarray(_join(path, stretch).T)


def blocks(
    path: PathLike,
    *,
    channel: Channel | None = None,
    start: float = 0.0,
    end: float | None = None,
    sample_rate: int | None = None,
    block_seconds: float = 10.0,
) -> Iterator[np.ndarray]:
    """Yield the samples of `read` in blocks (samples,) of about `block_seconds`, in bounded memory.

    Joined, the blocks are bit for bit what `read` returns, whatever their size (MP3: to 1e-6, its
    decoder rounds with its position). Raises as `read`.
    """
    with contextlib.closing(_open(path)) as reader:
        index = _channel_index(reader.info, channel)
        for block in _stream(
            reader, slice(index, index + 1), start, end, sample_rate, block_seconds
        ):
            yield block[:, 0]


def resample(waveform: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Return (samples[, channels]) float32 at `target_rate` Hz, anti-aliased, in [-1, 1]."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if source_rate == target_rate:
        return waveform
    _check_rate(target_rate)
    return np.clip(soxr.resample(waveform, source_rate, target_rate), -1.0, 1.0)


def is_dual_mono(path: PathLike) -> bool:
    """Return whether a two-channel file holds one signal twice, to 16-bit rounding."""
    with contextlib.closing(_open(path)) as reader:
        if reader.info.channels != 2:
            return False
        stretch = _stream(reader, slice(None), 0.0, None, None, 10.0)
        return all(np.abs(block[:, 0] - block[:, 1]).max() <= 2 / 32768 for block in stretch)


def _stream(
    reader: Reader,
    pick: slice,
    start: float,
    end: float | None,
    sample_rate: int | None,
    block_seconds: float,
) -> Iterator[np.ndarray]:
    """Yield checked, resampled float32 blocks (samples, channels) of the picked channels."""
    about = reader.info
    first, last = _span(about, start, end)
    if block_seconds <= 0:
        raise UsageError(f"block_seconds must be above 0, not {block_seconds}.")
    size = max(1, round(block_seconds * about.sample_rate))
    stream = None
    if sample_rate is not None and sample_rate != about.sample_rate:
        _check_rate(sample_rate)
        channels = len(range(*pick.indices(about.channels)))
        stream = soxr.ResampleStream(about.sample_rate, sample_rate, channels, dtype="float32")
    position = first
    for block in reader.blocks(first, last, size):
        picked = np.ascontiguousarray(block[:, pick])
        _check_samples(about, picked, position)
        position += len(picked)
        if stream is not None:
            picked = stream.resample_chunk(picked, last=position >= last)
        if len(picked):
            yield np.clip(picked, -1.0, 1.0)
    if position < last:
        raise AudioFault(
            "truncated",
            f"{about.path} is truncated: its header promises {about.duration:.3f} s, "
            f"it ends at {position / about.sample_rate:.3f} s. Export it again.",
        )


def _join(path: PathLike, parts: list[np.ndarray]) -> np.ndarray:
    if not parts:
        raise AudioFault(
            "span", f"{path}: the stretch is too short to hold one sample at the rate asked for."
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _span(about: AudioInfo, start: float, end: float | None) -> tuple[int, int]:
    inside = start >= 0 and (end is None or start < end <= about.duration + _SLACK)
    if not inside:
        raise AudioFault(
            "span",
            f"{about.path} lasts {about.duration:.3f} s; there is no stretch from {start} s to "
            f"{'its end' if end is None else f'{end} s'}.",
        )
    first = round(start * about.sample_rate)
    last = (
        about.num_samples if end is None else min(about.num_samples, round(end * about.sample_rate))
    )
    if first >= last:
        raise AudioFault(
            "span",
            f"{about.path} lasts {about.duration:.3f} s; no sample lies from {start} s to {end} s.",
        )
    return first, last


def _channel_index(about: AudioInfo, channel: Channel | None) -> int:
    if channel is None:
        if about.channels > 1:
            raise AudioFault(
                "channel",
                f"{about.path} has {about.channels} channels and none was chosen: give 0 (agent) "
                'or 1 (customer), in a manifest as "channel": 0.',
            )
        return 0
    if isinstance(channel, str) and channel not in ROLES:
        raise UsageError(
            f"Unknown channel {channel!r}.{nearest(channel, ROLES)} An index works too."
        )
    index = ROLES[channel] if isinstance(channel, str) else channel
    if not 0 <= index < about.channels:
        raise AudioFault(
            "channel",
            f"{about.path} has {about.channels} channel(s), so there is no channel {channel!r}.",
        )
    return index


def _check_rate(sample_rate: int) -> None:
    if sample_rate <= 0:
        raise UsageError(f"sample_rate must be above 0 Hz, not {sample_rate}.")


def _check_samples(about: AudioInfo, block: np.ndarray, position: int) -> None:
    # A sum is non-finite if any sample is: one pass and no mask for the blocks that are in order.
    if not np.isfinite(block.sum(dtype=np.float64)):
        row = int(np.argwhere(~np.isfinite(block))[0, 0])
        where = position + row
        raise AudioFault(
            "nan",
            f"{about.path} holds NaN or infinite samples, the first at sample {where} "
            f"({where / about.sample_rate:.3f} s). Export it again.",
        )
    peak = float(np.abs(block).max(initial=0.0))
    if peak > _LOUDEST:
        raise AudioFault(
            "scale",
            f"{about.path} holds samples up to {peak:.6g}; float audio must be scaled to [-1, 1].",
        )


def _open(path: PathLike) -> Reader:
    path = Path(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        # A pipe that nobody writes to would be waited for without end.
        raise AudioFault("unreadable", f"{path} is a pipe or device, not a recording.")
    try:
        with path.open("rb") as file:
            _check_header(path, file)
    except IsADirectoryError as error:
        raise AudioFault("unreadable", f"{path} is a folder, not a recording.") from error
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    if path.suffix.lower() not in MEDIA_SUFFIXES:
        reader = _SoundFileReader(path)
        if reader.info.num_samples < _UNKNOWN:
            return reader
        reader.close()
    from trunkline.media import MediaReader

    return MediaReader(path)


def _check_header(path: Path, file: BinaryIO) -> None:
    """Refuse an empty file, and a WAV cut short, which libsndfile would take as it is."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise AudioFault("empty", f"{path} is empty (0 bytes).")
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    long_size = None  # RF64: the true length of the data chunk
    while len(chunk := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        if name == b"ds64":
            body = file.read(length)
            long_size = struct.unpack_from("<Q", body, 8)[0] if len(body) >= 16 else None
            continue
        if name != b"data":
            file.seek(length + length % 2, os.SEEK_CUR)
            continue
        there = size - file.tell()
        if length == 0xFFFFFFFF and long_size is not None:
            length = long_size
        elif (
            length >= 0x7FFFF000
        ):  # what programs write that stream into a pipe: the length is not known
            return
        if length == 0 and there > 0:
            raise AudioFault(
                "truncated",
                f"{path} has an unfinished WAV header (0 bytes, but {there} follow); repair it.",
            )
        if length > there:
            raise AudioFault(
                "truncated",
                f"{path} is truncated: its header promises {length} bytes, it holds {there}.",
            )
        return


class _SoundFileReader:
    def __init__(self, path: Path) -> None:
        try:
            # As bytes where the system's names are bytes: one that is no UTF-8 is opened as well.
            name: Any = path if os.name == "nt" else os.fsencode(path)
            self._file = soundfile.SoundFile(name)
        except soundfile.LibsndfileError as error:
            raise AudioFault(
                "unreadable", f"{path} is not a recording in a known format ({error.error_string})"
            ) from error
        file = self._file
        # libsndfile 1.2 lands beside the mark when it seeks in Vorbis.
        self._seekable = file.seekable() and file.subtype != "VORBIS"
        # Its Opus decoder rounds the last samples differently in a read that begins inside the
        # last packet (at most 120 ms), so no read begins there.
        self._tail = file.samplerate // 4 if file.subtype == "OPUS" else 0
        frames = file.frames
        if frames == 0:
            file.close()
            raise AudioFault("empty", f"{path} holds no samples.")
        codec = f"{file.format}/{file.subtype}"
        self.info = AudioInfo(
            path, frames, file.samplerate, file.channels, frames / file.samplerate, codec
        )

    def blocks(self, first: int, last: int, size: int) -> Iterator[np.ndarray]:
        frames = self.info.num_samples
        cursor = 0
        try:
            if self._seekable:
                cursor = self._file.seek(max(0, min(first, frames - self._tail)))
            while cursor < last:
                want = min(size, last - cursor)
                if frames - (cursor + want) < self._tail:
                    want = frames - cursor
                block = self._file.read(want, dtype="float32", always_2d=True)
                kept = block[max(0, first - cursor) : max(0, last - cursor)]
                if len(kept):
                    yield kept
                cursor += len(block)
                if len(block) < want:
                    return
        except soundfile.LibsndfileError as error:
            raise AudioFault(
                "truncated",
                f"{self.info.path} is damaged or truncated ({error.error_string}) Export it again.",
            ) from error

    def close(self) -> None:
        self._file.close()
