"""Does every operation do what it says? Its effect is measured on speech whose truth is known.

Earlier pipelines changed speed by resampling up and back (the identity), and reverberated with a
gain of 36 (clipping): both look like augmentation until their output is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trunkline.augment.augmenter import Augmenter
from trunkline.augment.config import OPERATIONS, AugmentConfig
from trunkline.augment.masking import spec_augment
from trunkline.augment.signal import speech_level
from trunkline.batching import item_rng

EDGE = 3400.0  # Hz; nothing lies above it on a telephone line
SECONDS = 4.0
PITCH = 140.0  # Hz, of the test signal

_SNR = 0.5  # dB by which a stated ratio may be missed
_SILENT_EDGE = -40.0  # dB; as much as may be left above the band
_IDENTITY = -60.0  # dB; a smaller change is none
_ROOM = 6.0  # dB by which a room may change the level of the whole, since it fills the pauses
_REPEATS = 5

Apply = Callable[[Tensor, int], Tensor]


class Effect(NamedTuple):
    """What an operation did to the test signal.

    `duration` and `pitch` are ratios; `level` the change of RMS, dB; `change` the difference to the
    input over the input, dB (None where lengths differ); `snr` speech over what was added, dB;
    `above_edge` energy above 3.4 kHz over all, dB; `peak` of full scale; `flat` the share of samples
    within 2 % of the peak; `cost` ms of processor time a second of audio.
    """

    duration: float
    pitch: float
    level: float
    change: float | None
    snr: float | None
    above_edge: float
    peak: float
    flat: float
    cost: float


@dataclass(frozen=True)
class Trial:
    """An operation at one setting, and what it has to do; None: not looked at."""

    operation: str
    setting: str
    apply: Apply
    """(waveform, trial number) -> waveform."""
    speed: float = 1.0
    snr_db: float | None = None
    gain_db: float | None = None
    level_within: float | None = None
    limited: bool = False
    clips: float = 0.0
    """Share of the samples that have to be flat tops."""


def voice(sample_rate: int, seconds: float = SECONDS) -> Tensor:
    """Return a made voice (samples,): syllables and pauses of a harmonic tone of 140 Hz over faint noise."""
    time_axis = np.arange(round(seconds * sample_rate)) / sample_rate
    harmonics = np.arange(1, int(0.48 * sample_rate / PITCH))
    tone = sum(np.cos(2 * np.pi * PITCH * k * time_axis + 0.7 * k * k) / k**0.7 for k in harmonics)
    envelope = np.clip(np.sin(2 * np.pi * 3 * time_axis), 0, None) ** 0.5
    envelope *= np.sin(2 * np.pi * 0.6 * time_axis) > -0.6
    noise = np.random.default_rng(0).standard_normal(len(time_axis))
    signal = tone * envelope
    return torch.from_numpy((0.25 * signal / np.abs(signal).max() + 1e-5 * noise).astype("float32"))


def measure(before: Tensor, after: Tensor, sample_rate: int, cost: float = 0.0) -> Effect:
    """Return the effect of an operation that made `after` of `before`, both (samples,)."""
    same = before.shape == after.shape
    level = _rms(after) / _rms(before)
    scale = 1.0 if float(after.abs().max()) < 0.999 else float(after @ before / (before @ before))
    rest = after / scale - before if same else None
    peak = float(after.abs().max())
    return Effect(
        duration=len(after) / len(before),
        pitch=pitch(after, sample_rate) / pitch(before, sample_rate),
        level=_decibel(level),
        change=_decibel(_rms(after - before) / _rms(before)) if same else None,
        snr=None
        if rest is None
        else _decibel(speech_level(before, sample_rate) / max(_rms(rest), 1e-15)),
        above_edge=above_edge(after, sample_rate),
        peak=peak,
        flat=float((after.abs() >= 0.98 * peak).float().mean()),
        cost=cost,
    )


def judge(trial: Trial, effect: Effect, before: Effect, max_cost: float) -> list[str]:
    """Return what is wrong with an effect, nothing when it is what the trial asks for.

    `before` is the effect of doing nothing.
    """
    wrong = []
    if effect.change is not None and effect.change < _IDENTITY:
        wrong.append("changes nothing")
    if abs(effect.duration * trial.speed - 1) > 1e-3:
        wrong.append(f"duration x {effect.duration:.4f}, not x {1 / trial.speed:.4f}")
    if trial.speed != 1 and abs(effect.pitch / trial.speed - 1) > 0.01:
        wrong.append(f"pitch x {effect.pitch:.4f}, not x {trial.speed:.4f}")
    if trial.snr_db is not None and not abs((effect.snr or math.inf) - trial.snr_db) <= _SNR:
        wrong.append(f"ratio {effect.snr or math.inf:.2f} dB, not {trial.snr_db:.2f}")
    if trial.gain_db is not None and abs(effect.level - trial.gain_db) > 0.1 and effect.peak < 0.99:
        wrong.append(f"level {effect.level:+.2f} dB, not {trial.gain_db:+.2f}")
    if trial.level_within is not None and abs(effect.level) > trial.level_within:
        wrong.append(f"level {effect.level:+.1f} dB, more than {trial.level_within:g} either way")
    if trial.limited and effect.above_edge > _SILENT_EDGE:
        wrong.append(f"{effect.above_edge:.0f} dB left above {EDGE:g} Hz")
    if effect.peak > 1 + 1e-6:
        wrong.append(f"peak {effect.peak:.2f}: it would clip")
    if not trial.clips and effect.flat > 2 * before.flat + 2e-3:
        wrong.append(f"clips: {effect.flat:.2%} flat tops")
    if effect.flat < trial.clips:
        wrong.append(f"{effect.flat:.2%} flat tops, not {trial.clips:.2%}")
    if effect.cost > max_cost:
        wrong.append(f"{effect.cost:.1f} ms a second, more than {max_cost:g}")
    return wrong


def examine(trial: Trial, sample_rate: int, max_cost: float) -> tuple[Effect, list[str]]:
    """Run a trial and return its effect and what is wrong with it."""
    before = voice(sample_rate)
    trial.apply(before, 0)  # what is loaded and made once is no cost of an item
    began = time.process_time()
    outputs = [trial.apply(before, number) for number in range(_REPEATS)]
    cost = 1000 * (time.process_time() - began) / (_REPEATS * SECONDS)
    still = measure(before, before, sample_rate)
    effects = [measure(before, after, sample_rate, cost) for after in outputs]
    faults = [judge(trial, effect, still, max_cost) for effect in effects]
    worst = max(range(_REPEATS), key=lambda number: len(faults[number]))
    return effects[worst], faults[worst]


def trials(config: AugmentConfig, sample_rate: int) -> Iterator[Trial]:
    """Yield a trial of every operation with a probability, at the ends of its settings."""
    for name in OPERATIONS:
        operation = getattr(config, name)
        if not operation.probability:
            continue
        for changes, expected in _SETTINGS[name](operation):
            alone = replace(operation, probability=1.0, **changes)
            augmenter = Augmenter(AugmentConfig(**{name: alone}), sample_rate)
            setting = ", ".join(f"{key} {_told(value)}" for key, value in changes.items())
            yield Trial(name, setting, _through(augmenter), **expected)


def check_masking(config: AugmentConfig) -> tuple[dict[str, Any], list[str]]:
    """Return what SpecAugment masks of a batch with padding, and what is wrong with it."""
    masking, lengths = config.masking, torch.tensor([400, 150, 7])
    features = torch.randn(3, 400, 80, generator=torch.Generator().manual_seed(0))
    masked = features
    began = time.process_time()
    for epoch in range(_REPEATS):
        rngs = [item_rng(0, epoch, str(item)) for item in range(3)]
        masked = spec_augment(features, lengths, masking, rngs)
    cost = 1000 * (time.process_time() - began) / (_REPEATS * float(lengths.sum()) * 0.01)
    changed = masked != features
    wrong = []
    time_share = 0.0
    for item, length in enumerate(lengths.tolist()):
        if changed[item, length:].any():
            wrong.append(f"masks the padding of item {item}")
        whole = changed[item, :length].all(dim=1)
        time_share = max(time_share, float(whole.float().mean()))
    if time_share > masking.time_share:
        wrong.append(f"masks {time_share:.0%} of the time, more than {masking.time_share:.0%}")
    if (masking.time_masks or masking.band_masks) and not changed.any():
        wrong.append("changes nothing")
    return {"masked": round(float(changed.float().mean()), 3), "cost": cost}, wrong


def pitch(waveform: Tensor, sample_rate: int) -> float:
    """Return the pitch in Hz, 70 to 300, of a voice that holds one: the peak of its autocorrelation."""
    size = 1 << (2 * len(waveform) - 1).bit_length()
    power = torch.fft.rfft(waveform.double(), size).abs().square()
    shortest, longest = int(sample_rate / 300), int(sample_rate / 70)
    wave = torch.fft.irfft(power, size)[: longest + 2].numpy()
    lag = shortest + int(wave[shortest : longest + 1].argmax())
    left, middle, right = wave[lag - 1 : lag + 2]
    return sample_rate / (lag + 0.5 * (left - right) / (left - 2 * middle + right + 1e-12))


def above_edge(waveform: Tensor, sample_rate: int) -> float:
    """Return the energy above 3.4 kHz over that of the whole, in dB."""
    window = torch.hann_window(len(waveform), dtype=torch.float64)
    power = torch.fft.rfft(waveform.double() * window).abs().square()
    first = math.ceil(EDGE * len(waveform) / sample_rate)
    return 0.5 * _decibel(float(power[first:].sum() / power.sum().clamp_min(1e-30)))


def _through(augmenter: Augmenter) -> Apply:
    return lambda waveform, number: augmenter(waveform, key="check", epoch=number).waveform


Settings = Iterator[tuple[dict[str, Any], dict[str, Any]]]  # changes of an operation, expectations


def _speed(operation: Any) -> Settings:
    for factor in operation.factors:
        if factor != 1:
            yield {"factors": (factor,)}, {"speed": factor}


def _reverb(operation: Any) -> Settings:
    if operation.manifest is None:
        for decay in operation.decay:
            yield {"decay": (decay, decay)}, {"level_within": _ROOM}
    else:
        yield {}, {"level_within": _ROOM}


def _noise(operation: Any) -> Settings:
    kinds = operation.kinds if operation.manifest is None else (None,)
    for kind in kinds:
        for snr in sorted(set(operation.snr_db)):
            changes = {} if kind is None else {"kinds": (kind,)}
            yield changes | {"snr_db": (snr, snr)}, {"snr_db": snr}


def _talker(operation: Any) -> Settings:
    for ratio in sorted(set(operation.ratio_db)):
        yield {"ratio_db": (ratio, ratio)}, {}


def _band(operation: Any) -> Settings:
    for tilt in sorted(set(operation.tilt)):
        yield {"tilt": (tilt, tilt)}, {"limited": operation.high <= EDGE}


def _volume(operation: Any) -> Settings:
    for gain in sorted(set(operation.gain_db)):
        if gain:
            yield {"gain_db": (gain, gain)}, {"gain_db": gain}


def _clipping(operation: Any) -> Settings:
    for share in sorted(set(operation.share)):
        if share:
            yield {"share": (share, share)}, {"clips": 0.9 * share}


def _codec(operation: Any) -> Settings:
    return (({"names": (name,)}, {"level_within": 1.0}) for name in operation.names)


def _packets(operation: Any) -> Settings:
    for concealment in operation.concealment:
        # One packet in twenty at least, so that a test signal of 200 loses some.
        loss = max(operation.loss[1], 0.05)
        yield {"concealment": (concealment,), "loss": (loss, loss)}, {}


_SETTINGS: dict[str, Callable[[Any], Settings]] = {
    "speed": _speed,
    "reverb": _reverb,
    "noise": _noise,
    "talker": _talker,
    "band": _band,
    "volume": _volume,
    "clipping": _clipping,
    "codec": _codec,
    "packets": _packets,
}


def _told(value: Any) -> str:
    """Write a setting for the table: a range of one value, or a list of one name, as that."""
    first = value[0]
    return first if isinstance(first, str) else f"{first:g}"


def _rms(waveform: Tensor) -> float:
    return float(waveform.double().square().mean().sqrt())


def _decibel(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-15))
