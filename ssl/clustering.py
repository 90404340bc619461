"""Targets of a corpus: sample vectors, cluster them, label every frame, and write down what made the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from encoder import Backbone, Context
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from encoder.subsampling import num_frames
from ssl.best_rq import BestRqConfig, RandomQuantiser
from ssl.corpus import Features, Labels, cut_audio, cut_features
from ssl.correlogram import correlogram_blocks
from ssl.targets import (
    ClusterHealth,
    KMeans,
    Reservoir,
    TargetConfig,
    cluster_health,
    feature_vectors,
    frame_labels,
    pitch_labels,
)
from trunkline.errors import ConfigError, DataError, StorageError, TrainingError
from trunkline.log import get_logger, progress
from trunkline.manifest import Manifest
from trunkline.quarantine import SETTING, check_share, fault

logger = get_logger(__name__)

STRETCH = 500
"""Frames of a cut (40 s) that are looked at in one piece; every stretch of a cut is labelled in the same way."""
BATCH_FRAMES = 2000


class Stretches:
    """The features of a corpus in stretches of at most `STRETCH` frames, read from the cache or the audio."""

    def __init__(
        self,
        manifest: Manifest,
        features: Features,
        backbone: Backbone,
        *,
        max_bad_fraction: float = 0.0,
    ) -> None:
        self.manifest, self.features, self.backbone = manifest, features, backbone
        self.max_bad_fraction = max_bad_fraction
        self.lost: dict[int, dict[str, Any]] = {}
        """Cuts that could be read when their features were measured, and cannot any more."""

    def of_cut(self, cut: int) -> Iterator[np.ndarray]:
        """Yield features (features, mels) float32 of consecutive stretches of frames; none of a lost cut.

        Raises:
            TrainingError: more cuts than `max_bad_fraction` cannot be read.
        """
        yield from self._guarded(cut, self._read(cut))

    def pitch_of_cut(self, cut: int) -> Iterator[np.ndarray]:
        """Yield the correlogram (features, lags) of a cut in blocks; none of a lost cut. Raises as `of_cut`."""
        config = self.backbone.config.features
        blocks = cut_audio(self.manifest[cut], config.sample_rate)
        yield from self._guarded(cut, correlogram_blocks(blocks, config))

    def _guarded(self, cut: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        if cut in self.lost:
            return
        try:
            yield from blocks
        except (DataError, StorageError) as error:
            logger.warning("Left out %s: %s", self.manifest[cut].id, error)
            self.lost[cut] = fault(self.manifest[cut], error)
            bad = [*self.features.quarantined, *self.lost.values()]
            total, limit = len(self.manifest), self.max_bad_fraction
            check_share(bad, total, limit, setting=SETTING, error=TrainingError)

    def _read(self, cut: int) -> Iterator[np.ndarray]:
        frames = num_frames(self.features.length(cut))
        blocks: Iterator[np.ndarray] | None = None
        waiting, begin = np.zeros((0, self.backbone.config.features.num_mels), np.float32), 0
        for start in range(0, frames, STRETCH):
            stop = min(start + STRETCH, frames)
            first, last = SUBSAMPLING * start, SUBSAMPLING * (stop - 1) + RECEPTIVE_FIELD
            rows = self.features.rows(cut, first, last)
            if rows is not None:
                yield rows
                continue
            blocks = blocks or cut_features(self.manifest[cut], self.backbone.log_mel)
            waiting, begin = waiting[first - begin :], first
            while len(waiting) < last - first:
                more = next(blocks, None)
                if more is None:
                    raise DataError(
                        f"{self.manifest[cut].audio_filepath} holds less audio than when its features were computed."
                    )
                waiting = np.concatenate([waiting, more])
            yield waiting[: last - first]


def cluster_mfcc(stretches: Stretches, config: TargetConfig, folder: Path, seed: int) -> Labels:
    """Cluster MFCC and label every frame with `config.labels_per_frame` clusters, and pitch if it is wanted."""
    reservoir = Reservoir(config.sample_rows, seed)
    cuts = stretches.features.cuts
    for cut in _shown(_spread(cuts, seed), "sampling MFCC"):
        for block in stretches.of_cut(cut):
            reservoir.add(feature_vectors(block, config))
    kmeans = KMeans.fit(reservoir.result(), config.clusters, seed)

    slots = config.labels_per_frame

    def label(block: np.ndarray) -> np.ndarray:
        return frame_labels(kmeans.assign(feature_vectors(block, config)), config)

    source = {"kind": "mfcc", **asdict(config), "seed": seed}
    labels, vectors = _labelled(stretches, label, slots), kmeans.centroids
    if config.pitch_labels:
        pitch = _cluster_pitch(stretches, config, seed)
        labels = _with_pitch(stretches, labels, pitch, config)
        vectors, slots = np.hstack([vectors, pitch.centroids]), slots + config.pitch_labels
    return _write(stretches, folder, labels, Codebook(vectors, config.clusters, slots, source))


def _cluster_pitch(stretches: Stretches, config: TargetConfig, seed: int) -> KMeans:
    reservoir = Reservoir(config.sample_rows, seed)
    for cut in _shown(_enough(stretches, config.sample_rows * 3, seed), "sampling pitch"):
        for block in stretches.pitch_of_cut(cut):
            reservoir.add(block)
    return KMeans.fit(reservoir.result(), config.clusters, seed)


def _with_pitch(
    stretches: Stretches,
    labels: Iterator[tuple[int, np.ndarray]],
    kmeans: KMeans,
    config: TargetConfig,
) -> Iterator[tuple[int, np.ndarray]]:
    """Put the pitch labels of every cut beside its others: (cut, (frames, slots + pitch labels))."""
    for cut, rows in labels:
        clusters = [kmeans.assign(block) for block in stretches.pitch_of_cut(cut)]
        if cut not in stretches.lost:
            found = pitch_labels(np.concatenate(clusters), config)
            if len(found) != len(rows):
                raise DataError(
                    f"{stretches.manifest[cut].audio_filepath} has changed since its features were computed; remove "
                    f"{stretches.features.folder} to compute them again."
                )
            yield cut, np.hstack([rows, found])


def _enough(stretches: Stretches, features: int, seed: int) -> list[int]:
    """Return cuts in random order until they hold so many features."""
    spread = _spread(stretches.features.cuts, seed)
    total = np.cumsum([stretches.features.length(cut) for cut in spread])
    return spread[: int(np.searchsorted(total, features)) + 1]


def quantise_randomly(
    stretches: Stretches, config: BestRqConfig, folder: Path, seed: int
) -> Labels:
    """Label every frame with the nearest entry of a random codebook (BEST-RQ)."""
    backbone = stretches.backbone
    quantiser = RandomQuantiser(backbone.config.features.num_mels, config, seed)

    def label(block: np.ndarray) -> np.ndarray:
        return quantiser.assign(backbone.normalise(torch.from_numpy(block)).numpy())

    source = {"kind": "best_rq", **asdict(config), "seed": seed}
    codebook = Codebook(quantiser.codebook, config.codewords, 1, source)
    return _write(stretches, folder, _labelled(stretches, label, 1), codebook)


def cluster_layer(
    stretches: Stretches,
    layer: int,
    clusters: int,
    sample_rows: int,
    folder: Path,
    seed: int,
    *,
    pitch: tuple[Labels, int] | None = None,
) -> Labels:
    """Cluster the frames of one encoder layer, one label a frame.

    Args:
        pitch: labels of the first round, and how many of their slots (the last ones) are pitch; these are kept, since
            layers that tell sounds apart lose it.

    Raises:
        ConfigError: the backbone has no such layer.
    """
    if not 0 <= layer <= stretches.backbone.num_layers:
        raise ConfigError(
            f"layer={layer}: the backbone has layers 0 to {stretches.backbone.num_layers}."
        )
    reservoir = Reservoir(sample_rows, seed)
    cuts = stretches.features.cuts
    order = cuts[
        np.argsort([stretches.features.length(cut) for cut in cuts], kind="stable")
    ].tolist()
    # Enough cuts to fill the sample three times; the whole corpus need not be encoded twice.
    sampled = _enough(stretches, 3 * sample_rows * SUBSAMPLING, seed)
    for _, frames in _encoded(stretches, sampled, layer, f"sampling layer {layer}"):
        reservoir.add(frames)
    kmeans = KMeans.fit(reservoir.result(), clusters, seed)
    found = {cut: np.zeros((0, 1), dtype=np.uint16) for cut in order}
    for cut, frames in _encoded(stretches, order, layer, "labelling"):
        found[cut] = np.concatenate([found[cut], kmeans.assign(frames)[:, None]])
    source = {
        "kind": "layer",
        "layer": layer,
        "clusters": clusters,
        "backbone": stretches.backbone.fingerprint,
        "seed": seed,
    }
    slots = 1
    if pitch is not None:
        first, slots = pitch[0], 1 + pitch[1]
        clusters, source["pitch_labels"] = max(clusters, first.clusters), pitch[1]
        for cut, rows in found.items():
            if cut not in stretches.lost:
                found[cut] = np.hstack([rows, first.rows(cut, 0, len(rows))[:, -pitch[1] :]])
    labels = ((cut, found[cut]) for cut in cuts.tolist() if cut not in stretches.lost)
    return _write(stretches, folder, labels, Codebook(kmeans.centroids, clusters, slots, source))


class Codebook(NamedTuple):
    """What made labels: vectors (clusters, dim), how many there are, labels a frame, and how they were found.

    With pitch, a row is a centroid of MFCC followed by one of correlograms.
    """

    vectors: np.ndarray
    clusters: int
    slots: int
    source: dict[str, Any]


def _labelled(
    stretches: Stretches, label: Callable[[np.ndarray], np.ndarray], slots: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (cut, its labels (frames, slots)) for every cut that can be read."""
    for cut in _shown(stretches.features.cuts.tolist(), "labelling"):
        blocks = [label(block) for block in stretches.of_cut(cut)]
        if cut not in stretches.lost:
            yield cut, np.concatenate(blocks) if blocks else np.zeros((0, slots), dtype=np.uint16)


@torch.no_grad()
def _encoded(
    stretches: Stretches, cuts: list[int], layer: int, title: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (cut, frames of the layer) for every stretch of the cuts, batches of like length together."""
    waiting: list[tuple[int, np.ndarray]] = []
    backbone = stretches.backbone.eval()
    device = backbone.feature_mean.device

    def flush() -> Iterator[tuple[int, np.ndarray]]:
        if not waiting:
            return
        blocks = [torch.from_numpy(block) for _, block in waiting]
        lengths = torch.tensor([len(block) for block in blocks])
        padded = pad_sequence(blocks, batch_first=True)
        encoded = backbone(
            padded.to(device), lengths.to(device), context=Context.full(), layers=[layer]
        )
        assert encoded.layers is not None
        frames = encoded.layers[0].float().cpu().numpy()
        yield from ((cut, frames[at, : encoded.lengths[at]]) for at, (cut, _) in enumerate(waiting))
        waiting.clear()

    for cut in _shown(cuts, title):
        for block in stretches.of_cut(cut):
            longest = max(len(block), *(len(b) for _, b in waiting)) if waiting else len(block)
            if waiting and longest * (len(waiting) + 1) > BATCH_FRAMES * SUBSAMPLING:
                yield from flush()
            waiting.append((cut, block))
    yield from flush()


def _spread(cuts: np.ndarray, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(cuts).tolist()


def _shown(cuts: list[int], title: str) -> Iterator[int]:
    with progress(total=len(cuts), description=title, unit="cuts") as bar:
        for cut in cuts:
            yield cut
            bar.advance(1)


def _write(
    stretches: Stretches,
    folder: Path,
    labels: Iterator[tuple[int, np.ndarray]],
    codebook: Codebook,
) -> Labels:
    counted = _Counted(labels, codebook.clusters)
    backbone = stretches.backbone

    def about() -> dict[str, Any]:
        health = cluster_health(counted.counts)
        for warning in health.warnings():
            logger.warning("Targets in %s: %s", folder, warning)
        return {
            "source": codebook.source,
            "clusters": codebook.clusters,
            "frame_rate": 1 / backbone.frame_shift,
            "sample_rate": backbone.sample_rate,
            "quantiser_sha256": hashlib.sha256(
                np.ascontiguousarray(codebook.vectors).tobytes()
            ).hexdigest(),
            "features": asdict(backbone.config.features),
            "manifest": stretches.manifest.fingerprint,
            "quarantined": list(stretches.lost.values()),
            "health": {**asdict(health), "counts": counted.counts.tolist()},
        }

    Labels.write(folder, iter(counted), codebook.slots, about, codebook.vectors)
    return Labels(folder)


def describe(labels: Labels, folder: Path, most: int = 5) -> dict[str, Any]:
    """Return what to tell about labels: what made them, how they use the clusters, the most frequent ones."""
    health = dict(labels.about["health"])
    counts = np.array(health.pop("counts"), dtype=np.int64)
    frequent = np.argsort(-counts, kind="stable")[:most]
    shares = counts / max(counts.sum(), 1)
    return {
        "targets": str(folder),
        "made_from": labels.about["source"]["kind"],
        "labels_per_frame": labels.slots,
        **health,
        "warnings": list(ClusterHealth(**health).warnings()),
        "tables": {
            "Most frequent clusters": [
                {"cluster": int(c), "labels": int(counts[c]), "share": float(shares[c])}
                for c in frequent
            ]
        },
    }


class _Counted:
    """Counts labels as they pass."""

    def __init__(self, labels: Iterator[tuple[int, np.ndarray]], clusters: int) -> None:
        self._labels = labels
        self.counts = np.zeros(clusters, dtype=np.int64)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for cut, rows in self._labels:
            self.counts += np.bincount(rows.reshape(-1), minlength=len(self.counts))
            yield cut, rows
