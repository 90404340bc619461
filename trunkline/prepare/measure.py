"""What one recording is like: level, noise, speech, clipping, and what its channels share.

Everything is measured block by block, so a 16-hour call needs the memory of ten seconds and one
number for each 20 ms. All thresholds stand at the top.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import audio
from trunkline.errors import DependencyError, StorageError

FRAME = 0.02  # s
BLOCK = 10.0  # s

SILENT = 1e-3  # peak, -60 dB of full scale
QUIET = -50.0  # dB of full scale, level of the speech
NOISY = 5.0  # dB, speech over noise
FLAT, FLAT_SHARE = 0.97, 1e-3  # mu-law's largest value is 0.98
OFFSET = 0.02  # mean of the samples
SHORT = 0.1  # s
STEADY = 3.0  # dB between loud and soft frames, below which there is no speech
SPEECH_OVER_FLOOR = 9.0  # dB
SPEECH_UNDER_LOUD = 35.0  # dB
ONE_SIGNAL = 2 / 32768  # difference of dual-mono channels
LEAK_LAG = 0.05  # s; as far may a leak be late or early
LEAK_MARGIN = 6.0  # dB by which the other side must be louder where a leak is looked for
LEAK_COHERENCE = 0.5
LEAK_LEVEL = -40.0  # dB; a weaker leak is none
NARROW = 0.53  # share of the band that an upsampled recording fills at most
NARROW_LEVEL = -75.0  # dB of what lies above it

_FORMATS = {
    ".wav": ("WAV", "WAVEX", "RF64"), ".wave": ("WAV", "WAVEX", "RF64"), ".flac": ("FLAC",),
    ".mp3": ("MPEG",), ".ogg": ("OGG",), ".oga": ("OGG",), ".opus": ("OGG",),
    ".aiff": ("AIFF",), ".aif": ("AIFF",), ".au": ("AU",), ".w64": ("W64",),
}  # fmt: skip

Row = dict[str, Any]


def measure_file(path: Path) -> list[Row]:
    """Return a row for each channel; one row that says why where a recording cannot be read.

    A row's `faults` are [kind, message] pairs.
    """
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    try:
        about = audio.info(path)
    except audio.AudioFault as error:
        return [_unread(size, error.kind, str(error))]
    except (StorageError, DependencyError) as error:
        return [_unread(size, "unreadable", str(error))]
    common = {
        "bytes": size,
        "channels": about.channels,
        "duration": round(about.duration, 6),
        "sample_rate": about.sample_rate,
        "codec": about.codec,
    }
    meters = [Meter(about.sample_rate) for _ in range(about.channels)]
    pair = Pair(about.sample_rate) if about.channels == 2 else None
    streams: list[Any] = [  # generators, to be closed
        audio.blocks(path, channel=channel, block_seconds=BLOCK)
        for channel in range(about.channels)
    ]
    try:
        for blocks in zip(*streams, strict=True):
            for meter, block in zip(meters, blocks, strict=True):
                meter.add(block)
            if pair is not None:
                pair.add(*blocks)
    except audio.AudioFault as error:
        return [common | _unread(size, error.kind, str(error))]
    except (StorageError, DependencyError) as error:
        return [common | _unread(size, "unreadable", str(error))]
    finally:
        for stream in streams:
            stream.close()
    rows = [common | {"channel": index} | meter.row() for index, meter in enumerate(meters)]
    _add_file_faults(path, about, rows, pair)
    return rows


class Meter:
    """Measures one channel, block by block."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.size = max(1, round(FRAME * sample_rate))
        self.count, self.peak, self.flat, self.total = 0, 0.0, 0, 0.0
        self.powers: list[np.ndarray] = []
        self.spectrum = np.zeros(257)
        self._rest = np.zeros(0, np.float32)
        self._hash = hashlib.sha256(f"{sample_rate} ".encode())

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples (samples,)."""
        self._hash.update(np.round(block * 32768).clip(-32768, 32767).astype("<i2").tobytes())
        self.count += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.flat += int(((block[1:] == block[:-1]) & (np.abs(block[1:]) >= FLAT)).sum())
        self.total += float(block.sum(dtype=np.float64))
        waiting = np.concatenate([self._rest, block])
        whole = len(waiting) // self.size * self.size
        frames, self._rest = waiting[:whole].reshape(-1, self.size), waiting[whole:]
        self.powers.append(np.var(frames, axis=1))  # without an offset, which is no sound
        self._add_spectrum(block)

    def _add_spectrum(self, block: np.ndarray) -> None:
        # The loudest half second of a block tells how wide its band is.
        size = min(len(block), self.sample_rate // 2) // 512 * 512
        if size:
            power = np.add.reduceat(np.square(block), np.arange(0, len(block), size))
            first = min(int(power.argmax()) * size, len(block) - size)
            frames = block[first : first + size].reshape(-1, 512) * np.hanning(512)
            self.spectrum += (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=0)

    def row(self) -> Row:
        """Return what was measured, with its faults."""
        powers = np.concatenate(self.powers) if self.powers else np.zeros(0)
        if not len(powers):  # shorter than one frame
            powers = np.array([float(np.var(self._rest))]) if self.count else powers
        level, noise, share = _speech(powers)
        snr = level - noise if math.isfinite(noise) and share else None
        narrow = self._is_narrow()
        row: Row = {
            "peak_dbfs": _decibel(self.peak**2),
            "level_dbfs": round(level, 2) if share else None,
            "noise_dbfs": round(noise, 2) if math.isfinite(noise) else None,
            "snr_db": None if snr is None else round(snr, 2),
            "speech_share": round(share, 4),
            "clipped_share": round(self.flat / self.count, 6),
            "offset": round(self.total / self.count, 5),
            "content_hash": self._hash.hexdigest(),
        }
        return row | {"faults": list(self._faults(row, powers, narrow))}

    def _is_narrow(self) -> bool:
        """Return whether a wide-band rate holds a telephone's band only."""
        if self.sample_rate < 16000:
            return False
        first = int(NARROW * len(self.spectrum))
        return bool(
            self.spectrum[first:].sum() < 10 ** (NARROW_LEVEL / 10) * self.spectrum.sum()
            and self.spectrum.sum() > 0
        )

    def _faults(self, row: Row, powers: np.ndarray, narrow: bool) -> Any:
        seconds = self.count / self.sample_rate
        if seconds < SHORT:
            yield ["short", f"lasts {1000 * seconds:.0f} ms"]
        if self.peak < SILENT:
            yield ["silent", f"the loudest sample is {self.peak:.2g} of full scale"]
            return
        if row["clipped_share"] > FLAT_SHARE:
            yield ["clipped", f"{row['clipped_share']:.1%} of the samples are flat tops"]
        if abs(row["offset"]) > OFFSET:
            yield ["offset", f"the samples' mean is {row['offset']:+.3f}, not 0"]
        if narrow:
            yield ["upsampled", f"{self.sample_rate} Hz hold nothing above {self._edge()} Hz"]
        if len(powers) >= 1 / FRAME and not row["speech_share"]:
            yield ["no_speech", "the level never changes: a tone, noise or hum"]
        elif row["snr_db"] is not None and row["snr_db"] < NOISY and len(powers) >= 1 / FRAME:
            yield ["noisy", f"speech stands {row['snr_db']:.1f} dB over noise"]
        if row["level_dbfs"] is not None and row["level_dbfs"] < QUIET:
            yield ["quiet", f"speech is at {row['level_dbfs']:.0f} dB of full scale"]

    def _edge(self) -> int:
        return round(NARROW * self.sample_rate / 2)


class Pair:
    """What two channels share: all of it (dual mono), or the one leaking into the other."""

    def __init__(self, sample_rate: int) -> None:
        self.size = max(1, round(FRAME * sample_rate))
        self.lags = round(LEAK_LAG * sample_rate)
        self.apart = 0.0
        self.loud = [0.0, 0.0]
        self.cross = np.zeros((2, 2 * self.lags + 1))
        self.energy = np.zeros((2, 2))  # of the listener and of the one who leaks

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Take in the next samples of both, (samples,) each."""
        self.apart = max(self.apart, float(np.abs(left - right).max()))
        count = len(left) // self.size
        if not count or self.apart <= ONE_SIGNAL:
            return
        sides = [side[: count * self.size].astype(np.float64) for side in (left, right)]
        power = [np.square(side).reshape(count, -1).mean(axis=1) for side in sides]
        for side in (0, 1):
            self.loud[side] = max(self.loud[side], float(np.percentile(power[side], 95)))
        for listener in (0, 1):
            self._add(listener, sides, power)

    def _add(self, listener: int, sides: list[np.ndarray], power: list[np.ndarray]) -> None:
        talker = 1 - listener
        alone = (power[talker] > 0.05 * self.loud[talker]) & (
            power[listener] < 10 ** (-LEAK_MARGIN / 10) * power[talker]
        )
        if not alone.any():
            return
        mask = np.repeat(alone, self.size)
        heard, said = sides[listener] * mask, sides[talker] * mask
        size = 1 << (len(heard) + self.lags).bit_length()
        cross = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(said, size).conj(), size)
        self.cross[listener] += np.concatenate([cross[-self.lags :], cross[: self.lags + 1]])
        self.energy[listener] += np.sum(heard**2), np.sum(said**2)

    @property
    def one_signal(self) -> bool:
        """Whether both channels hold one signal, to 16-bit rounding."""
        return self.apart <= ONE_SIGNAL

    def leak(self, listener: int) -> float | None:
        """Return how loud the other side is in a channel, dB, None where it is not heard."""
        heard, said = self.energy[listener]
        if not heard or not said:
            return None
        cross = float(np.abs(self.cross[listener]).max())
        level = 20 * math.log10(max(cross / said, 1e-9))
        found = cross > LEAK_COHERENCE * math.sqrt(heard * said) and level > LEAK_LEVEL
        return round(level, 1) if found else None


def _speech(powers: np.ndarray) -> tuple[float, float, float]:
    """Return level of speech and of noise in dB of full scale, and the share of frames with speech."""
    sounding = powers[powers > 1e-10]  # digital silence is no noise
    if not len(sounding):
        return -math.inf, -math.inf, 0.0
    soft, loud = np.percentile(sounding, [10, 95])
    if 10 * math.log10(loud / soft) < STEADY and len(sounding) == len(powers):
        return 10 * math.log10(loud), 10 * math.log10(soft), 0.0
    threshold = max(
        min(soft * 10 ** (SPEECH_OVER_FLOOR / 10), loud / 2),
        loud * 10 ** (-SPEECH_UNDER_LOUD / 10),
    )
    speaking = powers >= threshold
    level = float(np.mean(powers[speaking]))
    noise = float(soft)
    return (
        10 * math.log10(max(level - noise, 1e-12)),
        10 * math.log10(noise),
        float(np.mean(speaking)),
    )


def _add_file_faults(
    path: Path, about: audio.AudioInfo, rows: Sequence[Row], pair: Pair | None
) -> None:
    allowed = _FORMATS.get(path.suffix.lower())
    if allowed and about.codec.split("/")[0] not in allowed:
        message = f"named {path.suffix}, holds {about.codec}"
        for row in rows:
            row["faults"].append(["suffix", message])
    silent = [any(kind == "silent" for kind, _ in row["faults"]) for row in rows]
    if any(silent) and not all(silent):
        for row, dead in zip(rows, silent, strict=True):
            if dead:
                row["faults"] = [["dead_channel", "silent, though another channel is not"]]
    if pair is None:
        return
    one = pair.one_signal and not all(silent)
    for index, row in enumerate(rows):
        row["dual_mono"] = one
        if one:
            row["faults"].append(["dual_mono", "both channels hold the same signal"])
        elif (leak := pair.leak(index)) is not None:
            row["crosstalk_db"] = leak
            row["faults"].append(["crosstalk", f"the other side is heard at {leak:.0f} dB"])


def _unread(size: int, kind: str, message: str) -> Row:
    return {"bytes": size, "faults": [[kind, message]]}


def _decibel(power: float) -> float | None:
    return round(10 * math.log10(power), 2) if power > 0 else None
