"""Which frames of a recording heard any sound at all: no head may make an answer of a muted line.

A frame is silent if all samples that it is computed from lie below -80 dBFS. What a head answers then is for
`Head.hush` to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from encoder import Backbone

Samples = TypeVar("Samples", np.ndarray, Tensor)

SILENCE = 1e-4
"""Samples below this (-80 dBFS) are no sound: a closed microphone, a muted line."""
_INT16 = 32768.0


class Levels:
    """Listens to the samples of one recording on their way to the encoder, and is asked frame by frame.

    Time is cut into grains, of which both the distance of frames and their receptive field are multiples; of each
    only is kept whether it is loud, and only until its frames have been asked for.
    """

    def __init__(self, backbone: Backbone, sample_rate: int | None = None) -> None:
        """Begin; `sample_rate` (Hz) is that of the samples, by default the backbone's."""
        hop = round(backbone.frame_shift * backbone.sample_rate)
        grain = math.gcd(hop, backbone.receptive_field)
        self._step, self._reach = hop // grain, backbone.receptive_field // grain
        # Sample n lies in grain n * rate // (given * grain), by whole numbers for any rate of the line.
        self._rate, self._given = (
            backbone.sample_rate,
            (sample_rate or backbone.sample_rate) * grain,
        )
        self._samples = 0
        self._first = 0
        self._loud = np.zeros(0, dtype=bool)

    def heard(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield blocks of samples (samples,) as they are, having listened to them."""
        for block in blocks:
            self.listen(block)
            yield block

    def listen(self, pcm: np.ndarray | Tensor | bytes) -> None:
        """Take the next samples (samples,): floats in [-1, 1], int16, or bytes of int16, low byte first."""
        if isinstance(pcm, bytes | bytearray | memoryview):
            pcm = np.frombuffer(pcm, dtype="<i2")
        samples = pcm.detach().cpu().numpy() if isinstance(pcm, Tensor) else pcm
        if not len(samples):
            return
        threshold = SILENCE * _INT16 if samples.dtype.kind == "i" else SILENCE
        loud = (samples >= threshold) | (samples <= -threshold)
        begin, self._samples = self._samples, self._samples + len(samples)
        low = begin * self._rate // self._given
        high = (self._samples - 1) * self._rate // self._given + 1
        starts = -(-np.arange(low, high) * self._given // self._rate) - begin
        grains = np.logical_or.reduceat(loud, starts.clip(min=0))
        self._grow(high - self._first)
        self._loud[low - self._first : high - self._first] |= grains

    def silent(self, frames: int) -> Tensor:
        """Return (frames,) bool for the next frames: whether each heard nothing, what was not fed being silence."""
        if not frames:
            return torch.zeros(0, dtype=torch.bool)
        self._grow((frames - 1) * self._step + self._reach)
        windows = np.lib.stride_tricks.sliding_window_view(self._loud, self._reach)
        loud = windows[:: self._step][:frames].any(axis=1)
        self._loud = self._loud[frames * self._step :]
        self._first += frames * self._step
        return torch.from_numpy(~loud)

    def _grow(self, grains: int) -> None:
        self._loud = np.pad(self._loud, (0, max(0, grains - len(self._loud))))


def answer_silence(scores: Tensor, silent: Tensor, column: int) -> Tensor:
    """Return log scores (1, frames, columns) that are certain of one column where `silent` (frames,) bool says so."""
    scores = scores.clone()
    rows = silent.nonzero()[:, 0].to(scores.device)
    scores[0, rows] = -torch.inf
    scores[0, rows, column] = 0.0
    return scores


def silent_frames(backbone: Backbone, waveform: np.ndarray | Tensor, frames: int) -> Tensor:
    """Return (frames,) bool: which frames of a waveform (samples,) at the backbone's rate heard nothing."""
    levels = Levels(backbone)
    levels.listen(waveform)
    return levels.silent(frames)
