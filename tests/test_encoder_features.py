"""Log-mel features: those of Kaldi, for one item, a batch and a stream; and their statistics."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from encoder_backbones import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import BackboneConfig, FeatureConfig
from encoder.features import (
    FeatureStatistics,
    LogMel,
    init_features,
    mel_filters,
    num_features,
    step_features,
)
from trunkline import _torchaudio
from trunkline.errors import ConfigError, DependencyError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chunkformer"
SILENCE = -15.942385


@cache
def log_mel(sample_rate: int = 8000) -> LogMel:
    return LogMel(FeatureConfig(sample_rate=sample_rate))


def voiced(seconds: float, rate: int, seed: int = 0) -> torch.Tensor:
    """(samples,) of a gliding tone with harmonics and noise, in [-1, 1]."""
    time = torch.arange(round(seconds * rate)) / rate
    tones = sum((time * 130 * k * (1 + 0.2 * time) * 6.283).sin() / k for k in range(1, 6))
    return 0.1 * tones + 0.02 * noise(len(time), seed=seed)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("loudness", [1.0, 1e-3])
def test_features_equal_kaldi_fbank(rate, loudness):
    try:
        _torchaudio.load()
    except DependencyError as error:
        pytest.skip(str(error))
    from torchaudio.compliance.kaldi import fbank

    waveform = voiced(2.345, rate) * loudness
    expected = fbank(
        waveform[None] * 32768,
        num_mel_bins=80,
        frame_length=25,
        frame_shift=10,
        dither=0,
        energy_floor=0,
        sample_frequency=rate,
    )
    torch.testing.assert_close(log_mel(rate)(waveform), expected, atol=1e-3, rtol=0)


def test_features_equal_the_reference_vectors():
    """The weakest bins are 1e8 times below the loudest, where float32 rounding of the reference itself is 0.03."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the reference vectors are not at {GOLDEN}")
    inputs = safetensors.torch.load_file(GOLDEN / "inputs.safetensors")
    features = log_mel(16000)(inputs["waveform_int16"] / 32768)
    torch.testing.assert_close(features, inputs["fbank"], atol=0.05, rtol=0)
    assert (features - inputs["fbank"]).abs().mean() < 1e-3


def test_digital_silence_is_the_logarithm_of_epsilon():
    features = log_mel()(torch.zeros(8000))
    torch.testing.assert_close(features, torch.full((98, 80), SILENCE), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("rate", "samples", "count"),
    [(8000, 0, 0), (8000, 199, 0), (8000, 200, 1), (8000, 279, 1), (8000, 280, 2), (8000, 1320, 15)]
    + [(16000, 399, 0), (16000, 400, 1), (16000, 559, 1), (16000, 560, 2), (16000, 191637, 1196)],
)
def test_only_windows_inside_the_audio_count(rate, samples, count):
    config = FeatureConfig(sample_rate=rate)
    assert num_features(samples, config) == count
    assert log_mel(rate)(torch.zeros(samples)).shape == (count, 80)


def test_a_batch_has_the_features_of_each_waveform_alone():
    batch = torch.stack([voiced(1.0, 8000, seed) * (seed + 0.1) for seed in range(3)])
    alone = torch.stack([log_mel()(waveform) for waveform in batch])
    torch.testing.assert_close(log_mel()(batch), alone, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=12), st.integers(1, 2))
def test_a_stream_has_the_features_of_the_whole_for_any_block_sizes(sizes, batch):
    waveform = voiced(sum(sizes) / 8000, 8000).expand(batch, -1)
    state, pieces = init_features(batch), []
    for block in waveform.split(sizes, dim=-1):
        before = state.samples.clone()
        features, following = step_features(log_mel(), block, state)
        assert torch.equal(state.samples, before), "a step never changes the state it was given"
        pieces.append(features)
        state = following
    assert state.samples.shape[1] < 200
    torch.testing.assert_close(torch.cat(pieces, 1), log_mel()(waveform), atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 99))
def test_statistics_equal_numpy_for_any_blocks(sizes, seed):
    features = noise(sum(sizes), 5, seed=seed) * 3 + 1000
    statistics = FeatureStatistics(5)
    for block in features.split(sizes):
        statistics.update(block)
    assert statistics.count == len(features)
    if len(features):
        values = features.double().numpy()
        np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-12)
        expected = np.maximum(values.var(0), 1e-20)
        np.testing.assert_allclose(statistics.variance, expected, rtol=1e-9, atol=1e-15)


def test_statistics_gathered_apart_merge_to_those_of_all():
    features = noise(100, 5) + torch.arange(5) * 50
    parts, whole = [FeatureStatistics(5) for _ in range(3)], FeatureStatistics(5)
    whole.update(features)
    for part, block in zip(parts, features.split([70, 0, 30]), strict=True):
        part.update(block)
    merged = FeatureStatistics(5)
    for part in parts:
        merged.merge(part.count, part.mean, part.squares)
    assert merged.count == 100
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.variance, whole.variance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_the_8_khz_presets_listen_below_4_khz(preset):
    config = BackboneConfig.preset(preset).features
    filters = mel_filters(config)
    hertz = torch.arange(len(filters)) * config.sample_rate / config.fft_size
    assert (config.sample_rate, config.upper_hz) == (8000, 4000)
    assert (filters.sum(0) > 0).all(), "every filter takes some energy"
    assert hertz[filters.sum(1) > 0].max() < 4000
    assert (filters[hertz > 4000] == 0).all()


def test_an_upper_edge_keeps_the_band_above_it_out():
    """A 16 kHz backbone for audio that was once 8 kHz must not listen to what the upsampling left there."""
    band = LogMel(FeatureConfig(sample_rate=16000, num_mels=40, high_hz=4000))
    tone = (torch.arange(16000) * (6000 / 16000 * 2 * torch.pi)).sin() * 0.5
    low = band(tone + 0.001 * noise(16000)).mean()
    assert low < log_mel(16000)(tone).max() - 10
    assert (mel_filters(band.config)[129:] == 0).all(), "bin 128 of 512 is 4 kHz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 800}, "sample_rate=800 Hz"),
        ({"frame_shift_ms": 0.0}, "frame_shift_ms=0.0"),
        ({"frame_length_ms": 0.1}, "frame_length_ms=0.1"),
        ({"high_hz": 5000.0}, "20.0-5000.0 Hz must lie within 0-4000.0 Hz"),
        ({"low_hz": 4000.0}, "4000.0-4000.0 Hz"),
        ({"num_mels": 14}, "num_mels=14"),
    ],
)
def test_features_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        FeatureConfig(**change)
