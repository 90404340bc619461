"""The corpus as pretraining sees it: log-mel features of every cut, and labels beside them.

`features/part-NNNNN/` holds about ten hours of cuts each; a part appears whole, so an interrupted pass over a large
corpus goes on with the next part. Features are float16 in one flat `.npy` a part, read by memory map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from encoder.config import FeatureConfig
from encoder.features import FeatureStatistics, LogMel, init_features, step_features
from trunkline.checkpoint import read_json, write_folder, write_json
from trunkline.errors import CheckpointError, DataError, StorageError, TrainingError
from trunkline.log import get_logger, progress
from trunkline.manifest import Cut, Manifest
from trunkline.quarantine import SETTING, check_share, fault

logger = get_logger(__name__)

PART_SECONDS = 36_000.0
BLOCK_SECONDS = 300.0


def cut_audio(cut: Cut, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield the samples of a cut at a rate in blocks of five minutes at most. Raises as `cut_features`."""
    return cut.blocks(sample_rate, BLOCK_SECONDS)


def cut_features(cut: Cut, log_mel: LogMel) -> Iterator[np.ndarray]:
    """Yield the log-mel features (features, mels) of a cut in blocks of five minutes at most.

    Raises:
        DataError, StorageError: the audio cannot be read.
    """
    state = init_features(1)
    for block in cut_audio(cut, log_mel.config.sample_rate):
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

    def __init__(
        self,
        folder: Path,
        parts: list[Part],
        quarantined: list[dict[str, Any]],
        mean_scale: np.ndarray,
    ) -> None:
        self.folder = folder
        self.quarantined = quarantined
        self.mean, self.variance = mean_scale
        self._places = {
            int(cut): (part, at) for part in parts for at, cut in enumerate(part.indices)
        }
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
        cls,
        manifest: Manifest,
        config: FeatureConfig,
        folder: Path,
        *,
        keep: bool,
        max_bad_fraction: float,
    ) -> Features:
        """Compute the features of every cut, or go on where an earlier call stopped.

        Raises:
            TrainingError: more cuts than `max_bad_fraction` cannot be read; each is named with file, line, reason.
            CheckpointError: the folder holds features of another manifest or another feature configuration.
        """
        origin = {"manifest": manifest.fingerprint, "features": _plain(config), "kept": keep}
        groups = _groups(manifest.durations)
        for path in sorted(folder.glob("part-*")):
            _about(path, origin)
        log_mel = LogMel(config)
        with progress(
            total=float(manifest.durations.sum()), description="features", unit="s"
        ) as bar:
            for number, group in enumerate(groups):
                path = folder / f"part-{number:05d}"
                if not path.exists():
                    _write_part(path, manifest, group, log_mel, origin, keep)
                bar.advance(float(manifest.durations[group].sum()))
        return cls.open(folder, origin, len(groups), max_bad_fraction)

    @classmethod
    def open(
        cls, folder: Path, origin: dict[str, Any], count: int, max_bad_fraction: float
    ) -> Features:
        """Open what `prepare` made."""
        parts, quarantined, statistics = [], [], FeatureStatistics(origin["features"]["num_mels"])
        for number in range(count):
            path = folder / f"part-{number:05d}"
            about = _about(path, origin)
            arrays = np.load(path / "index.npz", allow_pickle=False)
            rows = (
                np.load(path / "features.npy", mmap_mode="r", allow_pickle=False)
                if origin["kept"]
                else None
            )
            parts.append(Part(arrays["indices"], arrays["offsets"], rows))
            statistics.merge(
                int(arrays["count"]),
                torch.from_numpy(arrays["mean"]),
                torch.from_numpy(arrays["squares"]),
            )
            quarantined += about["quarantined"]
        readable = sum(len(part.indices) for part in parts)
        total = readable + len(quarantined)
        check_share(quarantined, total, max_bad_fraction, setting=SETTING, error=TrainingError)
        if not statistics.count:
            raise DataError(
                f"No cut has a single frame of speech: all {readable} are shorter than 165 ms."
            )
        return cls(
            folder,
            parts,
            quarantined,
            np.stack([statistics.mean.numpy(), statistics.variance.numpy()]),
        )


def _about(path: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """Read what a part is; another `origin` is a CheckpointError."""
    about: dict[str, Any] = read_json(path / "part.json")
    if about["origin"] != origin:
        raise CheckpointError(
            f"{path} was made from another manifest or with other feature settings; choose another 'out', or "
            f"remove {path.parent} to compute them again."
        )
    return about


def _groups(durations: np.ndarray) -> list[np.ndarray]:
    number = (np.cumsum(durations) // PART_SECONDS).astype(np.int64)
    return [np.flatnonzero(number == value) for value in np.unique(number)]


def _write_part(
    path: Path,
    manifest: Manifest,
    group: np.ndarray,
    log_mel: LogMel,
    origin: dict[str, Any],
    keep: bool,
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
                    quarantined.append(fault(cut, error))
                    continue
                indices.append(index)
                offsets.append(offsets[-1] + rows)
            _write_header(file, "<f2", (offsets[-1] if keep else 0, log_mel.config.num_mels))
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


def _write_header(file: BinaryIO, kind: str, shape: tuple[int, int]) -> None:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    file.seek(0)
    file.write(head + text.ljust(HEADER - 11).encode() + b"\n")


def _plain(config: FeatureConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


class Labels:
    """Labels of every cut, (frames, slots) each, with what made them."""

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = read_json(folder / "targets.json")
        arrays = np.load(folder / "index.npz", allow_pickle=False)
        self.cuts = arrays["cuts"]
        """(cuts,) places in the manifest of the cuts that have labels."""
        ends = zip(arrays["offsets"][:-1].tolist(), arrays["offsets"][1:].tolist(), strict=True)
        self._offsets = dict(zip(self.cuts.tolist(), ends, strict=True))
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
        labels: Iterator[tuple[int, np.ndarray]],
        slots: int,
        about: Callable[[], dict[str, Any]],
        codebook: np.ndarray,
    ) -> None:
        """Write (cut, labels (frames, slots)) as they come; `about` is asked when all are known."""
        cuts, offsets = [], [0]
        with write_folder(folder) as temporary:
            with (temporary / "labels.npy").open("wb") as file:
                file.write(b"\0" * HEADER)
                for cut, rows in labels:
                    file.write(rows.astype("<u2").tobytes())
                    cuts.append(cut)
                    offsets.append(offsets[-1] + len(rows))
                _write_header(file, "<u2", (offsets[-1], slots))
            np.savez(
                temporary / "index.npz",
                cuts=np.array(cuts, dtype=np.int64),
                offsets=np.array(offsets, dtype=np.int64),
            )
            np.save(temporary / "codebook.npy", codebook)
            write_json(temporary / "targets.json", about())
