"""The corpus as pretraining sees it: log-mel features of every cut, labels beside them, and crops of both.

`features/part-NNNNN/` holds about ten hours of cuts each; a part appears whole, so an interrupted pass over a large
corpus goes on with the next part. Features are float16 in one flat `.npy` a part, read by memory map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, FeatureConfig
from encoder.features import FeatureStatistics, LogMel, init_features, step_features
from encoder.subsampling import num_frames
from ssl.masking import MaskConfig, counted_frames, mask_features, mask_frames
from trunkline import audio
from trunkline.batching import item_rng
from trunkline.checkpoint import read_json, write_folder, write_json
from trunkline.errors import CheckpointError, DataError, StorageError, TrainingError
from trunkline.log import get_logger, progress
from trunkline.manifest import Cut, Manifest

logger = get_logger(__name__)

PART_SECONDS = 36_000.0
BLOCK_SECONDS = 300.0


def cut_features(cut: Cut, log_mel: LogMel) -> Iterator[np.ndarray]:
    """Yield the log-mel features (features, mels) of a cut in blocks of five minutes at most.

    Raises:
        DataError, StorageError: the audio cannot be read.
    """
    state = init_features(1)
    rate = log_mel.config.sample_rate
    blocks = audio.blocks(
        cut.audio_filepath,
        channel=cut.channel,
        start=cut.start or 0.0,
        end=cut.end,
        sample_rate=rate,
        block_seconds=BLOCK_SECONDS,
    )
    for block in blocks:
        features, state = step_features(log_mel, torch.from_numpy(block)[None], state)
        yield features[0].numpy()


class Part(NamedTuple):
    """Some cuts of the corpus: which, where their rows begin, and the rows."""

    indices: np.ndarray
    """(cuts,) places in the manifest."""
    offsets: np.ndarray
    """(cuts + 1,) first row of each cut."""
    rows: np.ndarray | None
    """(rows, mels) float16, memory-mapped; None if features are not kept."""


class Features:
    """Features of a manifest, made once by `Features.prepare`."""

    def __init__(self, folder: Path, parts: list[Part], quarantined: list[dict[str, Any]], mean_scale: np.ndarray):
        self.folder = folder
        self.quarantined = quarantined
        self.mean, self.variance = mean_scale
        self._places = {int(cut): (part, at) for part in parts for at, cut in enumerate(part.indices)}
        self.cuts = np.array(sorted(self._places), dtype=np.int64)
        self.lengths = np.array([self.length(cut) for cut in self.cuts], dtype=np.int64)
        """(cuts,) features of each readable cut."""

    def length(self, cut: int) -> int:
        """Number of features of a cut of the manifest."""
        part, at = self._places[int(cut)]
        return int(part.offsets[at + 1] - part.offsets[at])

    def rows(self, cut: int, start: int, stop: int) -> np.ndarray | None:
        """Features [start, stop) of a cut as float32, or None if they are not kept."""
        part, at = self._places[int(cut)]
        if part.rows is None:
            return None
        first = int(part.offsets[at])
        return part.rows[first + start : first + stop].astype(np.float32)

    @classmethod
    def prepare(
        cls, manifest: Manifest, config: FeatureConfig, folder: Path, *, keep: bool, max_bad_fraction: float
    ) -> Features:
        """Compute the features of every cut, or go on where an earlier call stopped.

        Raises:
            TrainingError: more cuts than `max_bad_fraction` cannot be read; each is named with file, line, reason.
            CheckpointError: the folder holds features of another manifest or another feature configuration.
        """
        origin = {"manifest": manifest.fingerprint, "features": _plain(config), "kept": keep}
        groups = _groups(manifest.durations)
        log_mel = LogMel(config)
        with progress(total=float(manifest.durations.sum()), description="features", unit="s") as bar:
            for number, group in enumerate(groups):
                path = folder / f"part-{number:05d}"
                if not path.exists():
                    _write_part(path, manifest, group, log_mel, origin, keep)
                bar.advance(float(manifest.durations[group].sum()))
        return cls.open(folder, origin, len(groups), max_bad_fraction)

    @classmethod
    def open(cls, folder: Path, origin: dict[str, Any], count: int, max_bad_fraction: float) -> Features:
        """Open what `prepare` made."""
        parts, quarantined, statistics = [], [], FeatureStatistics(origin["features"]["num_mels"])
        for number in range(count):
            path = folder / f"part-{number:05d}"
            about = read_json(path / "part.json")
            if about["origin"] != origin:
                raise CheckpointError(
                    f"{path} was made from another manifest or with other feature settings; choose another 'out', or "
                    f"remove {folder} to compute them again."
                )
            arrays = np.load(path / "index.npz", allow_pickle=False)
            rows = np.load(path / "features.npy", mmap_mode="r", allow_pickle=False) if origin["kept"] else None
            parts.append(Part(arrays["indices"], arrays["offsets"], rows))
            statistics.merge(int(arrays["count"]), torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["squares"]))
            quarantined += about["quarantined"]
        readable = sum(len(part.indices) for part in parts)
        _check_share(quarantined, readable, max_bad_fraction)
        if not statistics.count:
            raise DataError(f"No cut has a single frame of speech: all {readable} are shorter than 165 ms.")
        return cls(folder, parts, quarantined, np.stack([statistics.mean.numpy(), statistics.variance.numpy()]))


def _groups(durations: np.ndarray) -> list[np.ndarray]:
    number = (np.cumsum(durations) // PART_SECONDS).astype(np.int64)
    return [np.flatnonzero(number == value) for value in np.unique(number)]


def _write_part(
    path: Path, manifest: Manifest, group: np.ndarray, log_mel: LogMel, origin: dict[str, Any], keep: bool
) -> None:
    statistics = FeatureStatistics(log_mel.config.num_mels)
    indices, offsets, quarantined = [], [0], []
    with write_folder(path) as folder:
        with (folder / "features.npy").open("wb") as file:
            file.write(b"\0" * HEADER)
            for index in group.tolist():
                cut, begin, rows = manifest[index], file.tell(), 0
                try:
                    for features in cut_features(cut, log_mel):
                        statistics.update(torch.from_numpy(features))
                        rows += len(features)
                        if keep:
                            file.write(features.astype(np.float16).tobytes())
                except (DataError, StorageError) as error:
                    file.seek(begin)
                    file.truncate()
                    logger.warning("Left out %s: %s", cut.id, error)
                    where = {"file": str(cut.audio_filepath), "line": cut.line}
                    quarantined.append({"id": cut.id, **where, "reason": str(error)})
                    continue
                indices.append(index)
                offsets.append(offsets[-1] + rows)
            _write_header(file, (offsets[-1] if keep else 0, log_mel.config.num_mels))
        np.savez(
            folder / "index.npz",
            indices=np.array(indices, dtype=np.int64),
            offsets=np.array(offsets, dtype=np.int64),
            count=statistics.count,
            mean=statistics.mean.numpy(),
            squares=statistics.squares.numpy(),
        )
        write_json(folder / "part.json", {"origin": origin, "quarantined": quarantined})


HEADER = 128
"""Bytes of the `.npy` header, written last because the number of rows is known last."""


def _write_header(file: Any, shape: tuple[int, int]) -> None:
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    file.seek(0)
    file.write(head + text.ljust(HEADER - 11).encode() + b"\n")


def _check_share(quarantined: Sequence[dict[str, Any]], readable: int, limit: float) -> None:
    total = readable + len(quarantined)
    if len(quarantined) > max(1.0 if limit else 0.0, limit * total):
        named = "; ".join(f"{fault['file']} (line {fault['line']}): {fault['reason']}" for fault in quarantined[:5])
        raise TrainingError(
            f"{len(quarantined)} of {total} cuts cannot be read, more than train.max_bad_fraction={limit} allows: "
            f"{named}. Run `trunkline data check` for the whole list."
        )


def _plain(config: FeatureConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


class Labels:
    """Labels of every cut, (frames, slots) each, with what made them."""

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = read_json(folder / "targets.json")
        arrays = np.load(folder / "index.npz", allow_pickle=False)
        self._offsets = dict(zip(arrays["cuts"].tolist(), zip(arrays["offsets"][:-1], arrays["offsets"][1:]), strict=True))
        self._rows = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)

    @property
    def slots(self) -> int:
        """Labels of one frame."""
        return int(self._rows.shape[1])

    @property
    def clusters(self) -> int:
        """Different labels there can be."""
        return int(self.about["clusters"])

    def rows(self, cut: int, start: int, stop: int) -> np.ndarray:
        """Labels of frames [start, stop) of a cut."""
        first, _ = self._offsets[cut]
        return np.asarray(self._rows[first + start : first + stop])

    def length(self, cut: int) -> int:
        """Frames of a cut."""
        first, last = self._offsets[cut]
        return int(last - first)

    @staticmethod
    def write(
        folder: Path,
        cuts: np.ndarray,
        labels: Iterator[np.ndarray],
        about: Callable[[], dict[str, Any]],
        codebook: np.ndarray,
    ) -> None:
        """Write the labels of `cuts` in their order; `about` is asked when all are known."""
        with write_folder(folder) as temporary:
            blocks = list(labels)
            offsets = np.cumsum([0, *(len(block) for block in blocks)])
            np.savez(temporary / "index.npz", cuts=cuts, offsets=offsets)
            np.save(temporary / "labels.npy", np.concatenate(blocks).astype(np.uint16))
            np.save(temporary / "codebook.npy", codebook)
            write_json(temporary / "targets.json", about())


class Crops:
    """Stretches of about `crop` frames: the items of pretraining, as a `trunkline.batching.Dataset`.

    A cut of n frames gives max(1, n // crop) items. Where an item begins is drawn anew in every epoch, around its
    place in the cut, so that every frame is seen and no boundary stays.
    """

    def __init__(
        self,
        manifest: Manifest,
        features: Features,
        labels: Labels,
        mask: MaskConfig,
        config: FeatureConfig,
        *,
        cuts: np.ndarray,
        crop: int,
        seed: int,
    ) -> None:
        self.manifest, self.features, self.labels, self.mask = manifest, features, labels, mask
        self.crop, self.seed, self.config = crop, seed, config
        frames = np.array([num_frames(features.length(cut)) for cut in cuts.tolist()], dtype=np.int64)
        for cut, count in zip(cuts.tolist(), frames.tolist(), strict=True):
            if abs(labels.length(cut) - count) > 1:
                raise DataError(
                    f"Cut {manifest[cut].id} has {count} frames but {labels.length(cut)} labels; the targets were made "
                    "from other audio. Remove the targets folder to make them again."
                )
        usable = frames >= 2
        self.left_out = int((~usable).sum())
        """Cuts of fewer than two frames (245 ms): nothing in them can be masked and predicted."""
        counts = np.maximum(frames[usable] // crop, 1)
        self.cuts = np.repeat(cuts[usable], counts)
        self.number = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.zeros(0, int)
        self.frames = np.repeat(frames[usable], counts)
        names = [manifest[cut].id for cut in cuts[usable].tolist()]
        self.ids = [f"{name}#{k}" for name, count in zip(names, counts.tolist(), strict=True) for k in range(count)]

    @property
    def durations(self) -> np.ndarray:
        """Seconds of each item."""
        return np.minimum(self.frames, self.crop) * (SUBSAMPLING * self.config.frame_shift_ms / 1000)

    def source(self, index: int) -> dict[str, Any]:
        """Say where an item comes from."""
        cut = self.manifest[int(self.cuts[index])]
        return {"file": str(cut.audio_filepath), "line": cut.line}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        cut, total = int(self.cuts[index]), int(self.frames[index])
        rng = item_rng(self.seed, epoch, self.ids[index])
        length = min(self.crop, total)
        place = int(self.number[index]) * self.crop + rng.integers(-self.crop // 2, self.crop // 2 + 1)
        start = int(np.clip(place if total >= 2 * self.crop else rng.integers(total - length + 1), 0, total - length))
        first, last = SUBSAMPLING * start, SUBSAMPLING * (start + length - 1) + RECEPTIVE_FIELD
        features = self.features.rows(cut, first, last)
        if features is None:
            features = self._read(cut, first, last)
        masked = mask_frames(length, self.mask, rng)
        return {
            "id": self.ids[index],
            "features": features,
            "masked": masked,
            "targets": self.labels.rows(cut, start, start + length).astype(np.int64),
            "seconds": length * SUBSAMPLING * self.config.frame_shift_ms / 1000,
        }

    def _read(self, cut: int, first: int, last: int) -> np.ndarray:
        entry, config = self.manifest[cut], self.config
        begin = (entry.start or 0.0) + first * config.hop / config.sample_rate
        samples = (last - first - 1) * config.hop + config.window
        waveform = audio.read(
            entry.audio_filepath,
            channel=entry.channel,
            start=begin,
            end=begin + (samples + 1) / config.sample_rate,
            sample_rate=config.sample_rate,
        )
        waveform = np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
        return LogMel(config)(torch.from_numpy(waveform)).numpy()


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Pad items into one batch and measure what was masked; see `ssl.hubert.Batch`."""
    feature_masks = [mask_features(item["masked"], len(item["features"])) for item in items]
    counted = [counted_frames(mask, len(item["masked"])) for mask, item in zip(feature_masks, items, strict=True)]
    frames = sum(len(item["masked"]) for item in items)

    def padded(key: str) -> torch.Tensor:
        return pad_sequence([torch.from_numpy(item[key]) for item in items], batch_first=True)

    return {
        "ids": [item["id"] for item in items],
        "features": padded("features"),
        "lengths": torch.tensor([len(item["features"]) for item in items]),
        "masked": padded("masked"),
        "targets": padded("targets"),
        "audio_seconds": float(sum(item["seconds"] for item in items)),
        "fractions": {
            "masked_features_fraction": float(np.concatenate(feature_masks).mean()),
            "counted_frames_fraction": sum(int(whole.sum()) for whole, _ in counted) / frames,
            "partly_masked_fraction": sum(int(part.sum()) for _, part in counted) / frames,
        },
    }


def hold_out(manifest: Manifest, cuts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide cuts into those to train on and at most `most` (and 2 %) to validate on, by a hash of their ids."""
    keys = [hashlib.blake2b(manifest[cut].id.encode(), digest_size=8).digest() for cut in cuts.tolist()]
    order = sorted(range(len(cuts)), key=keys.__getitem__)
    count = min(most, len(cuts) // 50)
    return np.sort(cuts[order[count:]]), np.sort(cuts[order[:count]])
