"""Which operations an item gets and how strongly: a pure function of (seed, epoch, id)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trunkline import audio
from trunkline.augment import line, noise, room, signal
from trunkline.augment.config import OPERATIONS, AugmentConfig
from trunkline.augment.masking import spec_augment
from trunkline.batching import item_rng
from trunkline.errors import DataError
from trunkline.manifest import Manifest, load_manifest

_TRIES = 10  # stretches that are drawn before a manifest counts as silent


class Augmented(NamedTuple):
    """An augmented item.

    `waveform` (samples,) is what a model hears, `clean` (samples,) the same speech, sample for
    sample, before room, noise, talkers and line: what targets of denoising are made of. `speed` is
    by how much times have to be divided; `applied` tells each operation that was done, and how.
    """

    waveform: Tensor
    clean: Tensor
    speed: float
    applied: dict[str, dict[str, Any]]


class Augmenter:
    """Augments waveforms at one sample rate.

    Every operation draws from a generator of its own, made from (seed, epoch, id, operation), so
    an item is the same whatever process, order or batch it is in, and changing one operation's
    settings leaves the others' draws as they were.

    Args:
        config: what is done, see `AugmentConfig`.
        sample_rate: Hz, of the waveforms and of all that is mixed in.
        seed: with epoch and id, decides everything.

    Raises:
        StorageError: a manifest is missing.
        DataError: a manifest cannot be read, or has no row of the wanted kind.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int = 8000, seed: int = 0) -> None:
        self.config, self.sample_rate, self.seed = config, sample_rate, seed
        self._sources = {
            name: _source(getattr(config, name))
            for name in ("reverb", "noise", "talker")
            if getattr(config, name).probability
        }
        self._steps: dict[str, Callable[[Tensor, np.random.Generator], tuple[Tensor, Any]]] = {
            name: getattr(self, f"_{name}") for name in OPERATIONS if name != "speed"
        }

    def __call__(self, waveform: Tensor, *, key: str, epoch: int = 0) -> Augmented:
        """Augment one item.

        Args:
            waveform: (samples,) float32 in [-1, 1], on any device; unchanged.
            key: the item's id.
            epoch: another epoch draws anew.
        """
        applied: dict[str, dict[str, Any]] = {}
        factor = 1.0
        if (rng := self._drawn("speed", key, epoch)) is not None:
            factor = float(rng.choice(self.config.speed.factors))
            waveform = signal.change_speed(waveform, factor)
            applied["speed"] = {"factor": factor}
        clean = waveform
        for name, step in self._steps.items():
            if waveform.numel() and (rng := self._drawn(name, key, epoch)) is not None:
                waveform, applied[name] = step(waveform, rng)
        return Augmented(waveform, clean, factor, applied)

    def mask(self, features: Tensor, lengths: Tensor, *, keys: list[str], epoch: int = 0) -> Tensor:
        """Return `spec_augment` of features (batch, frames, mels), each item by its id."""
        rngs = [item_rng(self.seed, epoch, f"{key}\0masking") for key in keys]
        return spec_augment(features, lengths, self.config.masking, rngs)

    def _drawn(self, name: str, key: str, epoch: int) -> np.random.Generator | None:
        """Return the operation's generator for an item, None when the item goes without it."""
        probability = getattr(self.config, name).probability
        if not probability:
            return None
        # The id alone seeds other things, such as where an item is cropped.
        rng = item_rng(self.seed, epoch, f"{key}\0{name}")
        return rng if rng.random() < probability else None

    def _reverb(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        config, rate = self.config.reverb, self.sample_rate
        source = self._sources["reverb"]
        if source is None:
            decay, direct = rng.uniform(*config.decay), rng.uniform(*config.direct_db)
            response = torch.from_numpy(room.make_response(rng, rate, decay, direct))
            about: dict[str, Any] = {"decay": decay, "direct_db": direct}
        else:
            response, name = _response(source, rng, rate)
            about = {"id": name}
        return room.reverberate(waveform, response.to(waveform.device), rate), about

    def _noise(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        config, rate, length = self.config.noise, self.sample_rate, waveform.shape[-1]
        snr = rng.uniform(*config.snr_db)
        source = self._sources["noise"]
        if source is None:
            kind = str(rng.choice(config.kinds))
            voices = waveform.detach().cpu().numpy()[None]
            made = noise.make_noise(rng, kind, length, rate, voices)
            about: dict[str, Any] = {"kind": kind}
        else:
            made, name = _stretch(source, rng, length, rate)
            about = {"id": name}
        noisy = noise.add_noise(waveform, noise.as_tensor(made, waveform), snr, rate)
        return noisy, about | {"snr_db": snr}

    def _talker(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        config, length = self.config.talker, waveform.shape[-1]
        ratio = rng.uniform(*config.ratio_db)
        covered = max(1, round(rng.uniform(*config.share) * length))
        source = self._sources["talker"]
        assert source is not None
        speech, name = _stretch(source, rng, covered, self.sample_rate)
        start = int(rng.integers(length - covered + 1))
        placed = np.zeros(length, np.float32)
        placed[start : start + covered] = speech
        mixed = noise.add_talker(
            waveform, noise.as_tensor(placed, waveform), ratio, self.sample_rate
        )
        seconds = [start / self.sample_rate, (start + covered) / self.sample_rate]
        return mixed, {"id": name, "ratio_db": ratio, "seconds": seconds}

    def _band(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        config = self.config.band
        tilt = rng.uniform(*config.tilt)
        limited = line.through_band(waveform, self.sample_rate, config.low, config.high, tilt)
        return signal.within_scale(limited), {"tilt": tilt}

    def _volume(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        gain = rng.uniform(*self.config.volume.gain_db)
        return signal.change_volume(waveform, gain), {"gain_db": gain}

    def _clipping(
        self, waveform: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        share = rng.uniform(*self.config.clipping.share)
        return signal.clip_peaks(waveform, share), {"share": share}

    def _codec(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        name = str(rng.choice(self.config.codec.names))
        return line.code(waveform, self.sample_rate, name), {"name": name}

    def _packets(self, waveform: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        config = self.config.packets
        count = line.packet_count(waveform.shape[-1], self.sample_rate)
        lost = line.draw_losses(rng, count, rng.uniform(*config.loss), config.burst)
        concealment = str(rng.choice(config.concealment))
        marks = torch.from_numpy(lost).to(waveform.device)
        heard = line.lose_packets(waveform, self.sample_rate, marks, concealment)
        return heard, {"lost": int(lost.sum()), "concealment": concealment}


def _source(operation: Any) -> Manifest | None:
    if operation.manifest is None:
        return None
    manifest = load_manifest(operation.manifest)
    kind = getattr(operation, "kind", None)
    return manifest if kind is None else manifest.filter(kind=kind)


def _response(source: Manifest, rng: np.random.Generator, sample_rate: int) -> tuple[Tensor, str]:
    """Draw a recorded response, normalised, and its id."""
    cut = source[int(rng.integers(len(source)))]
    key = (str(cut.audio_filepath), cut.channel, cut.start or 0.0, cut.end, sample_rate)
    return _normalised(key), cut.id


@functools.lru_cache(maxsize=256)  # of at most 1 s each
def _normalised(key: tuple[str, int | None, float, float | None, int]) -> Tensor:
    path, channel, start, end, rate = key
    samples = audio.read(path, channel=channel, start=start, end=end, sample_rate=rate)
    return room.normalise_response(torch.from_numpy(samples), rate)


def _stretch(
    source: Manifest, rng: np.random.Generator, length: int, sample_rate: int
) -> tuple[np.ndarray, str]:
    """Draw (length,) samples of a source, repeated where a cut is shorter, and the cut's id."""
    wanted = (length + 1) / sample_rate
    for _ in range(_TRIES):
        index = int(rng.integers(len(source)))
        cut, seconds = source[index], float(source.durations[index])
        first = (cut.start or 0.0) + rng.random() * max(0.0, seconds - wanted)
        samples = audio.read(
            cut.audio_filepath,
            channel=cut.channel,
            start=first,
            end=first + wanted if seconds > wanted else cut.end,
            sample_rate=sample_rate,
        )
        part = np.resize(samples, length)
        if np.any(part):
            return part, cut.id
    raise DataError(f"{source.path}: {_TRIES} stretches in a row are silent.")
