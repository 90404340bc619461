"""What pretraining predicts: clusters of MFCC in the first iteration, of encoder layers in later ones.

MFCC are those of Kaldi (13 with first and second differences, every 10 ms), without the level of the recording:
the first coefficient is taken relative to its 95th percentile in the cut, so that a soft call and a loud one get
the same labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoder.config import SUBSAMPLING, FeatureConfig
from encoder.features import LogMel
from encoder.subsampling import num_frames
from trunkline.errors import ConfigError, DataError

MFCC_DIM = 39
FIRST_LABEL = 4
"""The eight features in the middle of a frame's receptive field begin this many features after its start."""


@dataclass(frozen=True)
class TargetConfig:
    """Clusters of the first iteration."""

    clusters: int = 100
    labels_per_frame: int = 4
    """1, 2, 4 or 8 labels a frame of 80 ms, each with its own prediction."""
    pooling: Literal["decimate", "mean"] = "decimate"
    """One label is that of the 10 ms in the middle of its stretch, or of the mean over the stretch."""
    sample_rows: int = 100_000
    """Vectors kept for k-means, drawn evenly from everything seen."""
    pitch_labels: int = 0
    """0, or 1, 2, 4 or 8 labels a frame more, of pitch and voicing (see `ssl.correlogram`)."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("labels_per_frame", (1, 2, 4, 8)),
            ("pitch_labels", (0, 1, 2, 4, 8)),
        ):
            if getattr(self, name) not in allowed:
                *others, last = allowed
                raise ConfigError(
                    f"targets.{name}={getattr(self, name)}: choose {', '.join(map(str, others))} or {last}."
                )
        if not 2 <= self.clusters <= 65_535:
            raise ConfigError(f"targets.clusters={self.clusters} must be between 2 and 65535.")
        if self.sample_rows < self.clusters:
            raise ConfigError(
                f"targets.sample_rows={self.sample_rows} is fewer than {self.clusters} clusters."
            )


def mfcc_from_log_mel(log_mel: np.ndarray | Tensor, num_ceps: int = 13) -> np.ndarray:
    """Return the 39 MFCC (features, 39) of log-mel features (features, mels).

    Cosine transform and lifter (22) as in Kaldi, then first and second differences.
    """
    energies = torch.as_tensor(log_mel).float()
    if energies.shape[0] == 0:
        return np.zeros((0, MFCC_DIM), dtype=np.float32)
    mels = energies.shape[1]
    orders = torch.arange(num_ceps, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / mels * orders * (torch.arange(mels, dtype=torch.float64) + 0.5))
    basis *= math.sqrt(2.0 / mels)
    basis[0] /= math.sqrt(2.0)
    basis *= 1 + 11 * torch.sin(math.pi * orders / 22)
    static = energies @ basis.float().T
    static[:, 0] -= torch.quantile(static[:, 0], 0.95)
    first = differences(static)
    return torch.cat([static, first, differences(first)], dim=1).numpy()


def differences(features: Tensor) -> Tensor:
    """Return the slope over five features (features, dim), ends repeated (HTK book, equation 5.16)."""
    padded = functional.pad(features.T[None], (2, 2), mode="replicate")[0].T
    length = features.shape[0]
    return (
        padded[3 : 3 + length]
        - padded[1 : 1 + length]
        + 2 * (padded[4 : 4 + length] - padded[:length])
    ) / 10


def mfcc_features(waveform: np.ndarray | Tensor, sample_rate: int) -> np.ndarray:
    """Return the 39 MFCC (features, 39) of a waveform (samples,) in [-1, 1], every 10 ms."""
    return mfcc_from_log_mel(
        LogMel(FeatureConfig(sample_rate=sample_rate))(torch.as_tensor(waveform))
    )


def label_positions(frames: int, labels_per_frame: int) -> np.ndarray:
    """Return the first feature that each label stands for: (frames, labels).

    Frame t is computed from features 8t to 8t + 14; its labels divide features 8t + 4 to 8t + 11 among them.
    """
    stretch = SUBSAMPLING // labels_per_frame
    return (
        SUBSAMPLING * np.arange(frames)[:, None]
        + FIRST_LABEL
        + stretch * np.arange(labels_per_frame)
    )


def feature_vectors(log_mel: np.ndarray, config: TargetConfig) -> np.ndarray:
    """Return what is clustered, one vector for each feature (features, 39): its MFCC, or their mean from here on."""
    vectors = mfcc_from_log_mel(log_mel)
    stretch = SUBSAMPLING // config.labels_per_frame
    if config.pooling == "mean" and stretch > 1 and len(vectors):
        padded = np.pad(vectors, ((0, stretch - 1), (0, 0)), mode="edge")
        vectors = np.lib.stride_tricks.sliding_window_view(padded, stretch, axis=0).mean(axis=-1)
    return vectors


def frame_labels(clusters: np.ndarray, config: TargetConfig) -> np.ndarray:
    """Pick the labels of frames (frames, labels) from the clusters of `feature_vectors` (features,)."""
    shift = SUBSAMPLING // config.labels_per_frame // 2 if config.pooling == "decimate" else 0
    return clusters[label_positions(num_frames(len(clusters)), config.labels_per_frame) + shift]


def pitch_labels(clusters: np.ndarray, config: TargetConfig) -> np.ndarray:
    """Pick the pitch labels of frames (frames, labels) from the clusters of a cut's correlogram (features,)."""
    shift = SUBSAMPLING // config.pitch_labels // 2
    return clusters[label_positions(num_frames(len(clusters)), config.pitch_labels) + shift]


class Reservoir:
    """An even sample of at most `rows` vectors from a stream of any length (Vitter's algorithm R, in blocks)."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seen = 0
        self.sample: np.ndarray | None = None
        self._rng = np.random.default_rng(seed)

    def add(self, vectors: np.ndarray) -> None:
        """Offer vectors (number, dim)."""
        if self.sample is None:
            self.sample = np.empty((self.rows, vectors.shape[1]), dtype=np.float32)
        room = min(max(self.rows - self.seen, 0), len(vectors))
        self.sample[self.seen : self.seen + room] = vectors[:room]
        rest = vectors[room:]
        places = (
            self._rng.random(len(rest))
            * np.arange(self.seen + room + 1, self.seen + len(vectors) + 1)
        ).astype(int)
        taken = places < self.rows
        self.sample[places[taken]] = rest[taken]
        self.seen += len(vectors)

    def result(self) -> np.ndarray:
        """Return the vectors kept."""
        if self.sample is None:
            raise DataError(
                "There is nothing to cluster: no cut is long enough to give a frame (165 ms)."
            )
        return self.sample[: min(self.seen, self.rows)]


class KMeans:
    """Centroids (clusters, dim), and the nearest one of any vector.

    faiss supplies both; where cores are shared it needs OpenMP to wait passively (see `trunkline/__init__.py`).
    """

    def __init__(self, centroids: np.ndarray) -> None:
        import faiss

        self.centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        self._index = faiss.IndexFlatL2(self.centroids.shape[1])
        self._index.add(self.centroids)

    @classmethod
    def fit(cls, vectors: np.ndarray, clusters: int, seed: int) -> KMeans:
        """Cluster vectors (number, dim) with faiss, k-means++ start, 25 rounds.

        Raises:
            DataError: fewer vectors than clusters.
        """
        import faiss

        if len(vectors) < clusters:
            raise DataError(
                f"{len(vectors)} vectors cannot make {clusters} clusters; give more audio or ask for fewer."
            )
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            clusters,
            niter=25,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=max(1, -(-len(vectors) // clusters)),
        )
        kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
        kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32))
        assert kmeans.centroids is not None
        return cls(kmeans.centroids)

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """Return the cluster of each vector (..., dim) as uint16."""
        flat = np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]), dtype=np.float32)
        if not len(flat):
            return np.zeros(vectors.shape[:-1], dtype=np.uint16)
        _, nearest = self._index.search(flat, 1)
        return nearest[:, 0].astype(np.uint16).reshape(vectors.shape[:-1])


@dataclass(frozen=True)
class ClusterHealth:
    """How labels use the clusters."""

    clusters: int
    dead: int
    """Clusters that no label names."""
    largest_share: float
    """Share of the most frequent label; above 0.25 it dominates."""
    perplexity: float
    """exp(entropy): how many equally used clusters would be as informative."""

    def warnings(self) -> Iterator[str]:
        """Say what looks wrong."""
        if self.dead > self.clusters * 0.05:
            yield f"{self.dead} of {self.clusters} clusters are dead; use fewer clusters or more audio."
        if self.largest_share > 0.25:
            yield f"One cluster holds {self.largest_share:.0%} of the labels; the audio may be mostly silence."


def cluster_health(counts: np.ndarray) -> ClusterHealth:
    """Judge how often each cluster was used, counts (clusters,)."""
    shares = counts / max(counts.sum(), 1)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    return ClusterHealth(
        len(counts), int((counts == 0).sum()), float(shares.max()), float(np.exp(entropy))
    )
