"""Acoustic fingerprints: triples of spectral peaks, which survive codecs, levels, trims and some noise.

After Wang, "An Industrial-Strength Audio Search Algorithm" (2003): peaks of a log-mel spectrogram,
each joined with two of the next few; their three bands and distances in time are a hash. Two recordings
are one when many hashes agree at one and the same offset.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

RATE = 8000  # Hz; what a telephone passes is all that counts
WINDOW, HOP = 512, 128  # samples: 64 ms every 16 ms
BANDS = 48
LOW, HIGH = 200.0, 3500.0  # Hz
REACH = 3  # a peak is the largest within so many bands and frames
CONTRAST = 1.4  # nats (6 dB) that a peak stands over the mean of its band's surroundings
DYNAMICS = 10.4  # nats (45 dB) under the loudest frame, below which there is no peak
FANOUT, FARTHEST = 5, 96  # peaks that follow one and go with it; frames to the farthest (1.5 s)
_CHUNK = 4000  # frames whose peaks are looked for at once, a minute
_COMMON = 64  # a hash that stands in more places than this tells nothing


class Fingerprint(NamedTuple):
    """`hashes` (n,) uint32 and the frames `times` (n,) int32 where each begins."""

    hashes: np.ndarray
    times: np.ndarray


class Match(NamedTuple):
    """Two recordings by number and how many hashes agree.

    `offset` is by how many seconds the second has it later; `of_shorter` and `of_longer` are the
    agreeing hashes' shares of all that the recording with fewer, and with more of them has.
    """

    first: int
    second: int
    agreeing: int
    of_shorter: float
    of_longer: float
    offset: float


def fingerprint(blocks: Iterable[np.ndarray]) -> Fingerprint:
    """Return the fingerprint of a recording, given as blocks (samples,) at 8 kHz, in bounded memory."""
    frames, bands, times = [], [], []
    base = 0
    waiting = np.zeros((0, BANDS), np.float32)
    for spectrum in (*_spectra(blocks), None):
        if spectrum is not None:
            waiting = np.concatenate([waiting, spectrum])
        while len(waiting) >= _CHUNK or (spectrum is None and len(waiting)):
            last = spectrum is None and len(waiting) <= _CHUNK
            chunk = waiting[:_CHUNK]
            time, band = _peaks(chunk)
            # Peaks near a border are told by the chunk that sees their other side.
            kept = (time >= (REACH if base else 0)) & (time < len(chunk) - (0 if last else REACH))
            frames.append(time[kept] + base)
            bands.append(band[kept])
            step = len(chunk) if last else len(chunk) - 2 * REACH
            base, waiting = base + step, waiting[step:]
            if last:
                break
    if frames:
        times, bands = np.concatenate(frames), np.concatenate(bands)
    return _triples(np.asarray(times, np.int64), np.asarray(bands, np.int64))


def matches(fingerprints: list[Fingerprint], *, least: int) -> list[Match]:
    """Return the pairs of recordings that agree in at least `least` hashes at one offset.

    A hash that stands in more than 64 places (a dialling tone, a hold melody) is left out.
    """
    if not fingerprints:
        return []
    counts = np.array([len(each.hashes) for each in fingerprints])
    owner = np.repeat(np.arange(len(fingerprints), dtype=np.int64), counts)
    hashes = np.concatenate([each.hashes for each in fingerprints])
    times = np.concatenate([each.times for each in fingerprints]).astype(np.int64)
    order = np.argsort(hashes, kind="stable")
    hashes, owner, times = hashes[order], owner[order], times[order]
    tally = _Tally(len(fingerprints))
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])) if len(hashes) else []
    sizes = np.diff(np.append(starts, len(hashes))) if len(hashes) else np.zeros(0, int)
    usable = np.repeat((sizes >= 2) & (sizes <= _COMMON), sizes)
    left = np.repeat(np.append(starts, len(hashes))[1:], sizes) - np.arange(len(hashes)) - 1
    for distance in range(1, _COMMON):
        near = np.flatnonzero(usable & (left >= distance))
        if not len(near):
            break
        one, two = near, near + distance
        other = owner[one] != owner[two]
        one, two = one[other], two[other]
        # Hashes are sorted stably, so the first owner is the smaller one.
        tally.add(owner[one], owner[two], times[two] - times[one])
    found = []
    for a, b, count, offset in tally.best():
        fewer, more = sorted((int(counts[a]), int(counts[b])))
        if count >= least:
            seconds = offset * HOP / RATE
            found.append(Match(a, b, count, count / fewer, count / more, seconds))
    return found


class _Tally:
    """Counts agreeing hashes by (first, second, offset), in merged batches."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.keys = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)
        self.waiting: list[np.ndarray] = []
        self.held = 0

    def add(self, first: np.ndarray, second: np.ndarray, offset: np.ndarray) -> None:
        # 2^22 offsets of 16 ms are 18 hours, either way.
        self.waiting.append(((first * self.items + second) << 23) + (offset + (1 << 22)))
        self.held += len(first)
        if self.held > 8_000_000:
            self._merge()

    def _merge(self) -> None:
        keys, counts = np.unique(np.concatenate(self.waiting), return_counts=True)
        joined = np.concatenate([self.keys, keys])
        self.keys, place = np.unique(joined, return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.counts = np.bincount(place, weights, len(self.keys)).astype(np.int64)
        self.waiting, self.held = [], 0

    def best(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (first, second, count, offset) of each pair's best offset, one frame either way."""
        if self.waiting:
            self._merge()
        if not len(self.keys):
            return
        pair = self.keys >> 23
        beside = np.zeros_like(self.counts)
        next_to = (pair[1:] == pair[:-1]) & (np.diff(self.keys) == 1)
        beside[:-1] += np.where(next_to, self.counts[1:], 0)
        beside[1:] += np.where(next_to, self.counts[:-1], 0)
        score = self.counts + beside
        order = np.lexsort((-score, pair))
        first = order[np.append(True, np.diff(pair[order]) != 0)]
        for index in first.tolist():
            a, b = divmod(int(pair[index]), self.items)
            offset = (int(self.keys[index]) & ((1 << 23) - 1)) - (1 << 22)
            yield a, b, int(score[index]), offset


def _spectra(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield log-mel spectra (frames, bands) of joined blocks."""
    filters, window = _filters(), np.hanning(WINDOW).astype(np.float32)
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        count = 1 + (len(rest) - WINDOW) // HOP if len(rest) >= WINDOW else 0
        if count:
            view = np.lib.stride_tricks.sliding_window_view(rest, WINDOW)[::HOP][:count]
            power = np.square(np.abs(np.fft.rfft(view * window, axis=1)))
            yield np.log(power @ filters + 1e-9).astype(np.float32)
            rest = rest[count * HOP :]


def _filters() -> np.ndarray:
    """Return triangular mel filters (bins, bands)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOW, HIGH))
    mel = np.linspace(low, high, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def _peaks(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frames and bands of the peaks of a spectrum (frames, bands), by time."""
    size = 2 * REACH + 1
    padded = np.pad(spectrum, REACH, constant_values=-np.inf)
    views = np.lib.stride_tricks.sliding_window_view
    largest = views(views(padded, size, axis=0).max(axis=-1), size, axis=1).max(axis=-1)
    around = np.pad(spectrum, ((8, 8), (0, 0)), mode="edge")
    mean = views(around, 17, axis=0).mean(axis=-1)
    loud = spectrum > spectrum.max() - DYNAMICS
    time, band = np.nonzero((spectrum >= largest) & loud & (spectrum > mean + CONTRAST))
    return time, band


def _triples(times: np.ndarray, bands: np.ndarray) -> Fingerprint:
    """Return the hashes of peaks: three bands and the two distances in time, by 32 ms."""
    order = np.lexsort((bands, times))
    times, bands = times[order], bands[order]
    hashes, starts = [], []
    for second, third in itertools.combinations(range(1, FANOUT + 1), 2):
        if len(times) <= third:
            continue
        count = len(times) - third
        first, middle, last = (
            slice(0, count), slice(second, second + count), slice(third, third + count),
        )  # fmt: skip
        near = times[last] - times[first] <= FARTHEST
        code = (bands[first] << 24) | (bands[middle] << 18) | (bands[last] << 12)
        code |= ((times[middle] - times[first]) // 2 << 6) | (times[last] - times[first]) // 2
        hashes.append(code[near])
        starts.append(times[first][near])
    if not hashes:
        return Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.int32))
    return Fingerprint(
        np.concatenate(hashes).astype(np.uint32), np.concatenate(starts).astype(np.int32)
    )
