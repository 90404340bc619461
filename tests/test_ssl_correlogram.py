"""Pitch targets: a curve for every feature, the same for any blocks, with its peak at the pitch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining import prepare, write_calls

from encoder import Backbone, BackboneConfig
from encoder.config import FeatureConfig
from encoder.features import num_features
from ssl.clustering import Stretches, cluster_layer, cluster_mfcc
from ssl.corpus import Labels
from ssl.correlogram import HIGHEST_HZ, LAGS, LOWEST_HZ, correlogram, correlogram_blocks
from ssl.targets import TargetConfig, label_positions, pitch_labels
from trunkline.errors import ConfigError, DataError
from trunkline.manifest import load_manifest

PITCHES = np.geomspace(HIGHEST_HZ, LOWEST_HZ, LAGS)


def voice(pitch: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    """Return a buzz: harmonics up to 3400 Hz."""
    time = np.arange(int(seconds * rate)) / rate
    numbers = range(1, int(3400 / pitch) + 1)
    harmonics = np.stack([0.1 / k * np.sin(2 * np.pi * k * pitch * time) for k in numbers])
    return np.ones(len(harmonics), np.float32) @ harmonics.astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("pitch", [75.0, 110.0, 180.0, 260.0, 400.0])
def test_the_first_peak_is_at_the_pitch(pitch, rate):
    curve = correlogram(voice(pitch, rate), FeatureConfig(sample_rate=rate))[40]
    # A periodic sound has peaks at half its pitch, too; the first of them is the pitch.
    first = int(np.flatnonzero(curve > 0.8 * curve.max())[0])
    peak = first + int(curve[first : first + 4].argmax())
    assert PITCHES[peak] == pytest.approx(pitch, rel=0.05)
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    assert correlogram(noise, FeatureConfig(sample_rate=rate))[40].max() < 0.6 * curve.max()


def test_level_changes_nothing_and_silence_is_flat():
    config, buzz = FeatureConfig(), voice(150, 8000)
    np.testing.assert_allclose(
        correlogram(0.01 * buzz, config), correlogram(buzz, config), atol=1e-4
    )
    assert not correlogram(np.zeros(8000, np.float32), config).any()


@pytest.mark.parametrize("samples", [0, 1, 199, 200, 201, 279, 280, 400, 5000])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_there_is_one_curve_for_every_feature(samples, rate):
    config = FeatureConfig(sample_rate=rate)
    curves = correlogram(np.ones(samples, np.float32), config)
    assert curves.shape == (num_features(samples, config), LAGS)


@given(st.lists(st.integers(0, 3000), max_size=5))
@settings(max_examples=25, deadline=None)
def test_blocks_change_nothing(cuts):
    waveform = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    config = FeatureConfig()
    blocks = correlogram_blocks(np.split(waveform, sorted(cuts)), config)
    np.testing.assert_allclose(
        np.concatenate(list(blocks)), correlogram(waveform, config), atol=1e-5
    )


@pytest.mark.parametrize("labels", [1, 2, 4, 8])
def test_pitch_labels_are_those_in_the_middle_of_their_stretches(labels):
    config = TargetConfig(pitch_labels=labels)
    found = pitch_labels(np.arange(60), config)
    middle = label_positions(len(found), labels) + 8 // labels // 2
    np.testing.assert_array_equal(found, middle)
    with pytest.raises(ConfigError, match="pitch_labels=3"):
        TargetConfig(pitch_labels=3)


@pytest.fixture
def calls(tmp_path):
    return write_calls(tmp_path / "calls", number=6)


def made_labels(manifest, folder, **settings) -> tuple[Labels, Stretches]:
    """Cluster MFCC and pitch of a corpus."""
    source = load_manifest(manifest)
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig.preset("tiny"))
    stretches = Stretches(source, prepare(manifest, folder / "features"), backbone)
    config = TargetConfig(clusters=8, sample_rows=2000, **settings)
    return cluster_mfcc(stretches, config, folder / "targets", seed=0), stretches


def test_pitch_stands_beside_the_other_labels_and_stays_in_later_rounds(calls, tmp_path):
    plain, _ = made_labels(calls, tmp_path / "plain")
    labels, stretches = made_labels(calls, tmp_path / "pitch", pitch_labels=2)
    later = cluster_layer(stretches, 2, 4, 500, tmp_path / "later", 0, pitch=(labels, 2))
    assert (plain.slots, labels.slots, later.slots) == (4, 6, 3)
    assert later.clusters == 8
    used = set()
    for cut in labels.cuts.tolist():
        frames = labels.length(cut)
        rows = labels.rows(cut, 0, frames)
        np.testing.assert_array_equal(rows[:, :4], plain.rows(cut, 0, frames))
        np.testing.assert_array_equal(later.rows(cut, 0, frames)[:, 1:], rows[:, 4:])
        used |= set(rows[:, 4:].flatten().tolist())
    assert len(used) > 3
    about = json.loads((tmp_path / "later/targets.json").read_text())
    assert about["source"]["pitch_labels"] == 2


def test_audio_that_changed_since_its_features_were_made_is_named(calls, tmp_path, monkeypatch):
    import ssl.clustering

    shorter = ssl.clustering.correlogram_blocks
    monkeypatch.setattr(
        ssl.clustering,
        "correlogram_blocks",
        lambda blocks, config: shorter((block[:-4000] for block in blocks), config),
    )
    with pytest.raises(DataError, match="has changed since its features were computed"):
        made_labels(calls, tmp_path, pitch_labels=1)
