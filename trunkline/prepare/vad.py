"""Where somebody speaks: by energy over the noise floor, or by Silero's voice activity detector.

Both work on frames of one channel and give stretches in seconds, in bounded memory. Energy needs no
package and suits lines with little noise; `silero` (extra `vad`, its model lies in the package) tells
speech from other sounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from trunkline.errors import DependencyError, UsageError, nearest

METHODS = ("energy", "silero")

Stretch = tuple[float, float]  # start and end in seconds

_FRAME = 0.02  # s
_RATE = 8000  # Hz; both detectors work on the telephone band
_LEAST, _STEADY = 5.0, 6.0  # dB between the 5th and 95th percentile that a voice has at least
_CONTEXT = 0.06  # s over which energy is averaged
_OVER_FLOOR = 12.0  # dB over the noise floor that speech begins with
_HOLD = 6.0  # dB over the floor that speech goes on with
_QUIETEST = -55.0  # dB of full scale; below it nobody speaks, whatever the floor
_FLOOR = 20.0  # percentile of a channel's energies that is its noise floor ...
_LOUD, _BELOW_LOUD = (
    95.0,
    20.0,
)  # ... but never less than 20 dB below its 95th: some hold only speech
_SILERO_FRAME = 256  # samples at 8 kHz
_SILERO_ON, _SILERO_OFF = 0.5, 0.35


def speech(
    blocks: Iterable[np.ndarray], *, method: str = "energy", padding: float = 0.1
) -> list[Stretch]:
    """Return the stretches of speech in the blocks (samples,) of one channel at 8,000 Hz.

    `padding` seconds are added on each side; stretches that then touch are one.

    Raises:
        DependencyError: Silero is asked for and not installed.
    """
    if method not in METHODS:
        raise UsageError(f"Unknown detector {method!r}.{nearest(method, METHODS)}")
    frames = by_energy(blocks) if method == "energy" else by_silero(blocks)
    return join(frames, padding)


def by_energy(blocks: Iterable[np.ndarray]) -> list[Stretch]:
    """Return stretches louder than the noise floor of the whole channel, with hysteresis."""
    size = round(_FRAME * _RATE)
    energies = [np.square(frames).mean(axis=1) for frames in _framed(blocks, size)]
    energy = np.concatenate(energies) if energies else np.zeros(0)
    if not len(energy):
        return []
    width = round(_CONTEXT / _FRAME)
    smooth = np.convolve(energy, np.full(width, 1 / width), mode="same")
    level = 10 * np.log10(smooth + 1e-12)
    heard = level[level > -90.0]  # digital silence between packets is no noise floor
    if not len(heard):
        return []
    least, quiet, loud = np.percentile(heard, [_LEAST, _FLOOR, _LOUD])
    if loud - least < _STEADY:
        return []  # a hum or hiss: speech is never that even
    floor = min(float(quiet), float(loud) - _BELOW_LOUD)
    on = level >= max(floor + _OVER_FLOOR, _QUIETEST)
    stay = level >= max(floor + _HOLD, _QUIETEST - 3.0)
    return _stretches(on, stay, _FRAME)


def by_silero(blocks: Iterable[np.ndarray]) -> list[Stretch]:
    """Return stretches where Silero's detector is sure of speech, with hysteresis."""
    try:
        from silero_vad import load_silero_vad  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError(
            "--vad silero needs the package silero-vad: pip install 'trunkline[vad]'."
        ) from error
    import torch

    model = load_silero_vad()
    model.reset_states()
    with torch.inference_mode():
        sure = [
            float(model(torch.from_numpy(frame), _RATE))
            for frames in _framed(blocks, _SILERO_FRAME)
            for frame in frames
        ]
    probability = np.array(sure)
    on, stay = probability >= _SILERO_ON, probability >= _SILERO_OFF
    return _stretches(on, stay, _SILERO_FRAME / _RATE)


def join(stretches: Iterable[Stretch], gap: float) -> list[Stretch]:
    """Return stretches widened by `gap` on each side (not before 0), joined where they touch."""
    joined: list[Stretch] = []
    for start, end in stretches:
        start, end = max(0.0, start - gap), end + gap
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _framed(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield arrays (frames, size) of the blocks' samples; what is left at the end is dropped."""
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block]) if len(rest) else block
        whole = len(samples) // size * size
        yield samples[:whole].reshape(-1, size)
        rest = samples[whole:]


def _stretches(on: np.ndarray, stay: np.ndarray, frame: float) -> list[Stretch]:
    """Return the runs of `stay` that hold an `on`, in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], stay, [False]]).astype(np.int8)))
    return [
        (float(a * frame), float(b * frame))
        for a, b in edges.reshape(-1, 2).tolist()
        if on[a:b].any()
    ]
