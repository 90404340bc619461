"""Targets: MFCC as Kaldi computes them, labels inside the receptive field, even samples, nearest clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining import call

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, FeatureConfig
from encoder.features import LogMel
from encoder.subsampling import num_frames
from ssl.targets import (
    MFCC_DIM,
    KMeans,
    Reservoir,
    TargetConfig,
    cluster_health,
    differences,
    feature_vectors,
    frame_labels,
    label_positions,
    mfcc_features,
    mfcc_from_log_mel,
)
from trunkline import _torchaudio
from trunkline.errors import ConfigError, DataError


@pytest.mark.parametrize("rate", [8000, 16000])
def test_mfcc_are_those_of_kaldi_without_the_level(rate):
    kaldi_mfcc = _torchaudio.load().compliance.kaldi.mfcc
    waveform = torch.from_numpy(call(0, 3.0, rate))
    config = FeatureConfig(sample_rate=rate)
    kaldi = kaldi_mfcc(
        waveform[None] * 32768,
        sample_frequency=rate,
        num_mel_bins=config.num_mels,
        dither=0.0,
        use_energy=False,
    )
    kaldi[:, 0] -= torch.quantile(kaldi[:, 0], 0.95)
    ours = mfcc_features(waveform, rate)
    assert ours.shape == (len(kaldi), MFCC_DIM)
    np.testing.assert_allclose(ours[:, :13], kaldi.numpy(), atol=2e-2)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_differences_are_the_slope_of_the_line_through_five_features(length, seed):
    features = torch.from_numpy(np.random.default_rng(seed).standard_normal((length, 3)))
    padded = np.pad(features.numpy(), ((2, 2), (0, 0)), mode="edge")
    expected = [np.polyfit(np.arange(-2, 3), padded[t : t + 5], deg=1)[0] for t in range(length)]
    np.testing.assert_allclose(differences(features).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("labels", [1, 2, 4, 8])
def test_labels_divide_the_middle_of_the_receptive_field_among_them(labels):
    first = label_positions(3, labels)
    stretch = SUBSAMPLING // labels
    assert first.shape == (3, labels)
    covered = (first[:, :, None] + np.arange(stretch)).reshape(3, -1)
    start = SUBSAMPLING * np.arange(3)[:, None]
    np.testing.assert_array_equal(covered, start + 4 + np.arange(8))
    assert (covered - start).max() < RECEPTIVE_FIELD


@pytest.mark.parametrize("labels", [1, 2, 4, 8])
@pytest.mark.parametrize("pooling", ["decimate", "mean"])
@pytest.mark.parametrize("features", [0, 14, 15, 22, 23, 200])
def test_every_frame_has_its_labels(labels, pooling, features):
    config = TargetConfig(clusters=5, labels_per_frame=labels, pooling=pooling)
    log_mel = np.random.default_rng(features).standard_normal((features, 80)).astype(np.float32)
    vectors = feature_vectors(log_mel, config)
    assert vectors.shape == (features, MFCC_DIM)
    assert frame_labels(np.arange(features), config).shape == (num_frames(features), labels)


def test_decimation_takes_the_feature_in_the_middle_of_each_stretch():
    features = np.arange(40)
    for labels, first in (
        (1, [8]),
        (2, [6, 10]),
        (4, [5, 7, 9, 11]),
        (8, [4, 5, 6, 7, 8, 9, 10, 11]),
    ):
        picked = frame_labels(features, TargetConfig(labels_per_frame=labels))
        assert picked[0].tolist() == first
        np.testing.assert_array_equal(np.diff(picked, axis=0), SUBSAMPLING)


@pytest.mark.parametrize("labels", [1, 2, 4, 8])
def test_the_mean_is_over_the_stretch_of_its_label(labels):
    config = TargetConfig(labels_per_frame=labels, pooling="mean")
    log_mel = np.random.default_rng(0).standard_normal((60, 80)).astype(np.float32)
    single, pooled = mfcc_from_log_mel(log_mel), feature_vectors(log_mel, config)
    stretch = SUBSAMPLING // labels
    for first in frame_labels(np.arange(60), config).reshape(-1):
        np.testing.assert_allclose(
            pooled[first], single[first : first + stretch].mean(axis=0), atol=1e-4
        )


@pytest.mark.parametrize("gain", [0.05, 0.5, 2.0])
def test_a_soft_and_a_loud_copy_have_the_same_labels(gain):
    waveform, config = torch.from_numpy(call(1, 4.0)), TargetConfig(clusters=10)
    log_mel = LogMel(FeatureConfig())
    vectors = [feature_vectors(log_mel(w).numpy(), config) for w in (waveform, gain * waveform)]
    kmeans = KMeans.fit(vectors[0], 10, seed=0)
    ours, theirs = (frame_labels(kmeans.assign(v), config) for v in vectors)
    assert (ours == theirs).mean() > 0.99
    assert len(np.unique(ours)) == 10


def test_a_reservoir_keeps_an_even_sample_in_bounded_memory():
    rows, offered, rounds = 50, 1000, 200
    counts = np.zeros(10)
    for seed in range(rounds):
        reservoir, at = Reservoir(rows, seed), 0
        for size in (1, 3, 30, 100, 300, 566):  # blocks below, across and above the limit
            reservoir.add(np.arange(at, at + size, dtype=np.float32)[:, None])
            at += size
        kept = reservoir.result()[:, 0]
        assert kept.shape == (rows,)
        assert len(np.unique(kept)) == rows
        counts += np.histogram(kept, bins=10, range=(0, offered))[0]
    expected = rows * rounds / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_a_reservoir_of_few_vectors_keeps_all_of_them():
    reservoir = Reservoir(100, 0)
    for start in (0, 5):
        reservoir.add(np.arange(start, start + 5, dtype=np.float32)[:, None])
    assert reservoir.result()[:, 0].tolist() == list(range(10))
    with pytest.raises(DataError, match="nothing to cluster"):
        Reservoir(100, 0).result()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 20), st.integers(1, 60), st.integers(0, 1000))
def test_a_vector_goes_to_the_nearest_cluster(clusters, number, seed):
    rng = np.random.default_rng(seed)
    centroids, vectors = rng.standard_normal((clusters, 4)), rng.standard_normal((number, 3, 4))
    distances = ((vectors[:, :, None] - centroids) ** 2).sum(axis=-1)
    found = KMeans(centroids).assign(vectors)
    assert found.dtype == np.uint16
    chosen = np.take_along_axis(distances, found[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, distances.min(axis=-1), atol=1e-5)


def test_clusters_that_lie_apart_are_found_again_and_alike_for_a_seed():
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(6)
    vectors = (centres[rng.integers(6, size=600)] + 0.1 * rng.standard_normal((600, 6))).astype(
        np.float32
    )
    one, two = (KMeans.fit(vectors, 6, seed=4).centroids for _ in range(2))
    np.testing.assert_array_equal(one, two)
    nearest = np.linalg.norm(one[:, None] - centres, axis=-1).min(axis=0)
    assert nearest.max() < 0.1


def test_fewer_vectors_than_clusters_are_refused():
    with pytest.raises(DataError, match="3 vectors cannot make 8 clusters"):
        KMeans.fit(np.zeros((3, 39), np.float32), 8, seed=0)


def test_dead_and_dominating_clusters_are_found():
    counts = np.array([60, 20, 20, 0, 0])
    health = cluster_health(counts)
    assert (health.dead, health.largest_share) == (2, pytest.approx(0.6))
    shares = counts[:3] / 100
    assert health.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    dead, dominating = health.warnings()
    assert "2 of 5 clusters are dead" in dead
    assert "60% of the labels" in dominating
    even = cluster_health(np.full(100, 7))
    assert even.perplexity == pytest.approx(100)
    assert not list(even.warnings())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"labels_per_frame": 3}, "labels_per_frame=3"),
        ({"clusters": 1}, "clusters=1"),
        ({"clusters": 70_000}, "clusters=70000"),
        ({"sample_rows": 10}, "sample_rows=10"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changes, key):
    with pytest.raises(ConfigError, match=f"targets.{key}"):
        TargetConfig(**changes)
