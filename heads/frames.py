"""Frames of a frozen trunk, computed once: the encoder's output and the layers that heads mix, of every cut.

A folder holds them for one backbone, manifest, context and augmented copy, in parts of about half an hour that appear
whole, so that an interrupted pass goes on where it stopped and several runs may share the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoder import Backbone, Context, Encoded
from encoder.features import LogMel
from encoder.load import fingerprint_of
from trunkline.augment import AugmentConfig, Augmenter
from trunkline.checkpoint import read_json, write_folder, write_json
from trunkline.errors import ConfigError, DataError, StorageError
from trunkline.log import get_logger, progress
from trunkline.manifest import Manifest
from trunkline.quarantine import fault
from trunkline.rows import Cut
from trunkline.settings import settings_to_dict

logger = get_logger(__name__)

OUTPUT = -1
"""Number of the encoder's output among the rows of kept frames; the others are layers."""
PART_SECONDS = 1800.0
ENCODE_SECONDS = 60.0


class Variant(NamedTuple):
    """One way in which a cut is heard."""

    context: Context
    copy: int
    """0 is the recording as it is, n the augmented copy n."""


class Reader:
    """Waveforms and features of cuts, augmented by (seed, copy, id); it can be sent to worker processes."""

    def __init__(
        self, backbone: Backbone, augment: AugmentConfig, seed: int, max_seconds: float
    ) -> None:
        self.log_mel = LogMel(backbone.config.features)
        self.shortest = backbone.receptive_field
        self.max_seconds = max_seconds
        self.augmenter = Augmenter(augment, backbone.sample_rate, seed)

    def features(self, cut: Cut, key: str, copy: int) -> Tensor:
        """Return log-mel features (features, mels); audio shorter than a frame is followed by silence.

        Raises:
            DataError, StorageError: the audio cannot be read, is empty, or is too long for a turn.
        """
        rate = self.log_mel.config.sample_rate
        waveform = torch.from_numpy(cut.load(rate))
        if not len(waveform):
            raise DataError(f"{cut.audio_filepath} holds no samples there.")
        if len(waveform) > self.max_seconds * rate:
            raise DataError(
                f"{cut.id} is {len(waveform) / rate:.1f} s long, more than data.max_seconds={self.max_seconds:g}; "
                "cut it into turns (`trunkline data segment`)."
            )
        if copy:
            waveform = self.augmenter(waveform, key=key, epoch=copy).waveform
        waveform = functional.pad(waveform, (0, max(0, self.shortest - len(waveform))))
        features = self.log_mel(waveform)
        if copy:
            lengths = torch.tensor([len(features)])
            features = self.augmenter.mask(features[None], lengths, keys=[key], epoch=copy)[0]
        return features


class StoredFrames(Protocol):
    """Frames that somebody keeps already, such as an embedding store."""

    context: Context
    """In which they were made."""
    rows: Sequence[int]
    """Which layers each frame has, `OUTPUT` for the encoder's output."""

    def read(self, cut: Cut) -> np.ndarray | None:
        """Return (frames, rows, dim) of a cut, None where the store does not have it."""
        ...


def open_stored(store: str, reader: str, backbone: Backbone) -> StoredFrames:
    """Open stored frames by `reader`, a ``module:function`` called with the store and the backbone.

    Raises:
        ConfigError: there is no such function.
    """
    module, _, name = reader.partition(":")
    try:
        opener = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"data.store_reader {reader!r} cannot be used: {error}.") from error
    return cast(StoredFrames, opener(store, backbone))


class KeptFrames:
    """Frames of one manifest on disk; `keep` computes what is missing, `read` gives (rows, frames, dim)."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        backbone: Backbone,
        reader: Reader,
        *,
        layers: Sequence[int],
        kind: str = "float32",
        stored: StoredFrames | None = None,
    ) -> None:
        self.folder, self.manifest, self.backbone, self.reader = folder, manifest, backbone, reader
        self.rows = (OUTPUT, *sorted(layers))
        self.kind = kind
        self.stored = stored
        self.quarantined: dict[int, dict[str, Any]] = {}
        self._fingerprint = backbone.fingerprint or fingerprint_of(backbone)
        self._places: dict[Variant, dict[int, tuple[np.ndarray, int, int]]] = {}
        self._parts: dict[Variant, set[str]] = {}

    def folder_of(self, variant: Variant) -> Path:
        """Return where the frames of a variant lie: its name tells everything they depend on."""
        about: dict[str, Any] = {
            "backbone": self._fingerprint,
            "manifest": self.manifest.fingerprint,
            "rows": self.rows,
            "type": self.kind,
            "context": variant.context,
            "copy": variant.copy,
            "stored": self.stored is not None,
        }
        if variant.copy:
            about["augment"] = settings_to_dict(self.reader.augmenter.config)
            about["seed"] = self.reader.augmenter.seed
        text = json.dumps(about, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:24]

    def keep(self, cuts: np.ndarray, variant: Variant) -> None:
        """Compute and keep the frames of cuts (places in the manifest) that are not kept yet.

        With several processes the first computes and the others wait.

        Raises:
            StorageError: the folder cannot be written.
        """
        known = self._open(variant)
        missing = np.array([cut for cut in cuts.tolist() if cut not in known], dtype=np.int64)
        if not len(missing):
            return
        if int(os.environ.get("RANK", "0")):
            while len(missing):
                time.sleep(0.5)
                known = self._open(variant)
                missing = np.array([x for x in missing.tolist() if x not in known], dtype=np.int64)
            return
        seconds = self.manifest.durations[missing]
        what = f"frames, context {_told(variant.context)}"
        what += f", copy {variant.copy}" if variant.copy else ""
        with progress(total=float(seconds.sum()), description=what, unit="s") as bar:
            groups = np.floor(np.cumsum(seconds) / PART_SECONDS)
            for group in np.unique(groups):
                self._write(missing[groups == group], variant)
                bar.advance(float(seconds[groups == group].sum()))
        self._open(variant)

    def read(self, cut: int, variant: Variant) -> np.ndarray:
        """Return frames (rows, frames, dim) of a kept cut."""
        frames, first, last = self._places[variant][cut]
        return np.array(frames[first:last], dtype=np.float32).transpose(1, 0, 2)

    def _open(self, variant: Variant) -> set[int]:
        """Map the parts that are there; return the cuts they tell of."""
        places = self._places.setdefault(variant, {})
        opened = self._parts.setdefault(variant, set())
        for path in sorted(self.folder_of(variant).glob("part-*")):
            if path.name in opened:
                continue
            index = np.load(path / "index.npz", allow_pickle=False)
            frames = np.load(path / "frames.npy", mmap_mode="r", allow_pickle=False)
            ends = index["offsets"].tolist()
            for number, cut in enumerate(index["cuts"].tolist()):
                places[cut] = (frames, ends[number], ends[number + 1])
            for bad in read_json(path / "part.json")["quarantined"]:
                self.quarantined[bad["cut"]] = bad
            opened.add(path.name)
        return places.keys() | self.quarantined.keys()

    def _write(self, cuts: np.ndarray, variant: Variant) -> None:
        kept, offsets, faults = [], [0], []
        pieces: list[np.ndarray] = []
        for cut, frames in self._frames(cuts, variant, faults):
            kept.append(cut)
            pieces.append(frames.astype(self.kind))
            offsets.append(offsets[-1] + len(frames))
        shape = (0, len(self.rows), self.backbone.d_model)
        name = hashlib.sha256(cuts.tobytes()).hexdigest()[:16]
        target = self.folder_of(variant) / f"part-{name}"
        with write_folder(target, overwrite=True) as folder:
            rows = np.concatenate(pieces) if pieces else np.zeros(shape, self.kind)
            np.save(folder / "frames.npy", rows)
            np.savez(folder / "index.npz", cuts=np.array(kept, np.int64), offsets=np.array(offsets))
            write_json(folder / "part.json", {"quarantined": faults})

    def _frames(
        self, cuts: np.ndarray, variant: Variant, faults: list[dict[str, Any]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (cut, frames (frames, rows, dim)), in batches of like length; what cannot be read goes to `faults`."""
        batch: list[tuple[int, Tensor]] = []
        longest = 0
        budget = ENCODE_SECONDS * 1000 / self.backbone.config.features.frame_shift_ms
        for place in cuts[np.argsort(self.manifest.durations[cuts], kind="stable")].tolist():
            cut = self.manifest[place]
            stored = self._stored(cut, variant)
            if stored is not None:
                yield place, stored
                continue
            try:
                features = self.reader.features(cut, cut.id, variant.copy)
            except (DataError, StorageError) as error:
                logger.warning("Left out %s: %s", cut.id, error)
                faults.append({"cut": place} | fault(cut, error))
                continue
            if batch and max(longest, len(features)) * (len(batch) + 1) > budget:
                yield from self._encoded(batch, variant.context)
                batch, longest = [], 0
            batch.append((place, features))
            longest = max(longest, len(features))
        if batch:
            yield from self._encoded(batch, variant.context)

    def _stored(self, cut: Cut, variant: Variant) -> np.ndarray | None:
        if self.stored is None or variant.copy or self.stored.context != variant.context:
            return None
        absent = set(self.rows[1:]) - set(self.stored.rows)
        if absent:
            raise ConfigError(
                f"The store has no layers {sorted(absent)}, which the heads mix; set options.layers of each head to "
                f"what it has ({[row for row in self.stored.rows if row >= 0] or 'last'}), or leave data.store out."
            )
        found = self.stored.read(cut)
        if found is None:
            return None
        places = [
            list(self.stored.rows).index(row) if row in self.stored.rows else 0 for row in self.rows
        ]
        return found[:, places]

    @torch.no_grad()
    def _encoded(
        self, batch: list[tuple[int, Tensor]], context: Context
    ) -> Iterator[tuple[int, np.ndarray]]:
        encoded = encode(self.backbone, [x for _, x in batch], context, self.rows[1:])
        for row, (place, _) in enumerate(batch):
            count = int(encoded.lengths[row])
            layers = () if encoded.layers is None else encoded.layers[:, row, :count]
            stacked = torch.stack([encoded.frames[row, :count], *layers])
            yield place, stacked.transpose(0, 1).cpu().numpy()


def encode(
    backbone: Backbone, features: Sequence[Tensor], context: Context, layers: Sequence[int]
) -> Encoded:
    """Return the frames of features (features, mels) as one padded batch, without dropout."""
    device = backbone.feature_mean.device
    lengths = torch.tensor([len(item) for item in features], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True).to(device)
    return backbone.eval()(padded, lengths, context=context, layers=tuple(layers) or None)


def _told(context: Context) -> str:
    return "full" if context.is_full else ",".join(map(str, context))
