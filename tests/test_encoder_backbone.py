"""`Backbone`: sizes, batches, layers, times, whole recordings, training, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import Backbone, BackboneConfig, Context, attention
from encoder.conformer import count_parameters
from encoder.features import FeatureStatistics
from encoder.subsampling import frame_lengths, num_frames
from trunkline.errors import ConfigError, DataError, StorageError

CONTEXTS = [Context.full(), Context(4, 6, 0), Context(3, 4, 2), Context(2, 3, 9), Context(50, 0, 1)]


def encode(backbone: Backbone, items: list[torch.Tensor], context: Context, padding: float = 0.0):
    """Encode feature sequences as one padded batch."""
    batch = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=padding)
    with torch.no_grad():
        return backbone(batch, torch.tensor([len(item) for item in items]), context=context)


@pytest.mark.parametrize(
    ("preset", "least", "most"),
    [("tiny", 0.9e6, 1.3e6), ("small", 7e6, 9e6), ("base", 45e6, 51e6)],
)
def test_a_preset_has_the_size_it_is_described_with(preset, least, most):
    with torch.device("meta"):
        assert least < count_parameters(Backbone(BackboneConfig.preset(preset))) < most


def test_large_has_the_parameters_of_the_published_encoder():
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig.preset("large"))
    assert count_parameters(backbone) == 110_265_344
    assert backbone.conformer.embed.out.weight.shape == (512, 4608)
    assert (backbone.sample_rate, backbone.d_model, backbone.num_layers) == (16000, 512, 17)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 150), min_size=2, max_size=4),
    st.sampled_from(CONTEXTS),
    st.integers(0, 99),
)
def test_a_padded_batch_equals_each_item_alone(lengths, context, seed):
    backbone = strong_backbone()
    items = [noise(length, 15, seed=seed + n) for n, length in enumerate(lengths)]
    batch = encode(backbone, items, context, padding=1e4)
    assert batch.lengths.tolist() == [num_frames(length) for length in lengths]
    for item, frames, length in zip(items, batch.frames, batch.lengths, strict=True):
        alone = encode(backbone, [item], context).frames[0]
        torch.testing.assert_close(frames[:length], alone, atol=1e-4, rtol=0)
        assert not frames[length:].any(), "padding is zero"


@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@torch.no_grad()
def test_nothing_leaks_from_padding(context, garbage):
    backbone, lengths = strong_backbone(), torch.tensor([160, 63, 0])
    clean = noise(3, 160, 15)
    filled = clean.clone()
    filled[1, 63:], filled[2] = garbage, garbage
    expected = backbone(clean, lengths, context=context, layers="all")
    given = backbone(filled, lengths, context=context, layers="all")
    assert torch.equal(given.frames, expected.frames)
    assert torch.equal(given.layers, expected.layers)
    assert not given.layers[:, 1, 7:].any(), "padding is zero in every layer"


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("block", [1, 5, 16])
def test_the_size_of_query_blocks_changes_nothing(monkeypatch, context, block):
    backbone, items = strong_backbone(), [noise(250, 15), noise(90, 15, seed=1)]
    whole = encode(backbone, items, context)
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    torch.testing.assert_close(
        encode(backbone, items, context).frames, whole.frames, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_layers_are_the_input_and_the_outputs_asked_for():
    backbone, features, lengths = strong_backbone(), noise(2, 40, 15), torch.tensor([40, 25])
    every = backbone(features, lengths, layers="all").layers
    assert every.shape == (3, 2, 4, 16)
    subsampled = backbone.conformer.embed(backbone.normalise(features))
    torch.testing.assert_close(every[0, 0], subsampled[0])
    last = backbone(features, lengths, layers=[2])
    torch.testing.assert_close(backbone.conformer.after_norm(last.layers[0, 0]), last.frames[0])
    assert torch.equal(backbone(features, lengths, layers=(2, 0)).layers, every[[0, 2]])
    assert backbone(features, lengths).layers is None


@pytest.mark.parametrize("layers", [[], [3], [-1], [0.5], "last", 2])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ConfigError, match="from 0 to 2, or give 'all'"):
        strong_backbone()(noise(1, 40, 15), torch.tensor([40]), layers=layers)


def test_frames_per_feature_count_agree_for_numbers_and_tensors():
    counts = [num_frames(length) for length in range(60)]
    assert counts[14:16] == [0, 1] and counts[22:24] == [1, 2]
    assert frame_lengths(torch.arange(60)).tolist() == counts


@pytest.mark.parametrize("rate", [8000, 16000])
def test_times_are_exact_over_16_hours(rate):
    """Frame t is made of samples from 8 hops on; its centre is a whole number of half samples."""
    backbone = strong_backbone(sample_rate=rate)
    times = backbone.times(720_000)
    field = 14 * rate // 100 + rate // 40
    exact = torch.arange(720_000, dtype=torch.int64) * (8 * rate // 100) * 2 + field
    assert backbone.receptive_field == field and backbone.frame_shift == 0.08
    assert torch.equal((times * rate * 2).round().long(), exact)
    assert times[-1].item() == exact[-1].item() / (2 * rate)
    assert times[0].item() == field / 2 / rate


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (1, 1), (159, 1), (1319, 1), (1320, 1), (1959, 1), (1960, 2)]
)
def test_short_audio_has_a_frame_and_no_audio_has_none(samples, frames):
    encoded = strong_backbone().encode(0.1 * noise(samples), context=Context(2, 2, 0), layers="all")
    assert encoded.frames.shape == (1, frames, 16) and encoded.lengths.tolist() == [frames]
    assert encoded.layers.shape == (3, 1, frames, 16) and encoded.times.shape == (frames,)
    assert encoded.frames.isfinite().all()


def test_a_file_an_array_and_a_tensor_have_the_same_frames(tmp_path):
    backbone, waveform = strong_backbone(), (0.1 * noise(12000)).clamp(-1, 1).numpy()
    waveform = np.round(waveform * 32768) / 32768
    stereo = np.stack([np.zeros_like(waveform), waveform], axis=1)
    soundfile.write(tmp_path / "mono.wav", waveform, 8000)
    soundfile.write(tmp_path / "call.wav", stereo, 8000)
    expected = backbone.encode(waveform).frames
    assert expected.shape == (1, 17, 16)
    assert torch.equal(backbone.encode(torch.from_numpy(waveform).double()).frames, expected)
    assert torch.equal(backbone.encode(tmp_path / "mono.wav").frames, expected)
    assert torch.equal(
        backbone.encode(str(tmp_path / "call.wav"), channel="customer").frames, expected
    )
    with pytest.raises(DataError, match="channel"):
        backbone.encode(tmp_path / "call.wav")
    with pytest.raises((DataError, StorageError), match="none.wav"):
        backbone.encode(tmp_path / "none.wav")


def test_a_file_of_another_rate_is_resampled(tmp_path):
    tone = np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000).astype(np.float32) * 0.3
    soundfile.write(tmp_path / "wide.wav", tone, 16000, subtype="FLOAT")
    frames = strong_backbone().encode(tmp_path / "wide.wav").frames
    assert frames.shape[1] == 1 + (8000 - 1320) // 640


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 8000), np.float32), r"shape \(2, 8000\) is not one voice"),
        (np.zeros(8000, np.int16), "torch.int16 has no known scale"),
        (np.full(8000, np.nan, np.float32), "NaN or infinite"),
        (torch.full((8000,), torch.inf), "NaN or infinite"),
    ],
)
def test_a_waveform_that_cannot_be_is_refused(audio, message):
    with pytest.raises(DataError, match=message):
        strong_backbone().encode(audio)


def test_encode_has_no_dropout_and_leaves_the_mode_as_it_was():
    backbone, waveform = strong_backbone(dropout=0.5), 0.1 * noise(8000)
    expected = backbone.encode(waveform).frames
    assert not backbone.training
    backbone.train()
    assert torch.equal(backbone.encode(waveform).frames, expected)
    assert all(module.training for module in backbone.modules())
    with pytest.raises(ConfigError):
        backbone.encode(waveform, layers=[9])
    assert backbone.training, "after an error too"
    features = backbone.features(waveform)[None]
    trained = backbone(features, torch.tensor([features.shape[1]])).frames
    assert not torch.allclose(trained, expected), "training has dropout"


@pytest.mark.parametrize(
    ("features", "lengths", "message"),
    [
        ((2, 40), [40, 40], r"features has shape \(2, 40\); expected \(batch, features, 15\)"),
        ((2, 40, 16), [40, 40], r"\(2, 40, 16\)"),
        ((2, 40, 15), [40], r"lengths \[40\] do not fit"),
        ((2, 40, 15), [40, 41], r"lengths \[40, 41\] do not fit"),
        ((2, 40, 15), [40, -1], r"lengths \[40, -1\] do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(features, lengths, message):
    with pytest.raises(ConfigError, match=message):
        strong_backbone()(torch.zeros(features), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 15}, "dim=15 must be even and divisible by heads=2"),
        ({"heads": 0}, "must be positive"),
        ({"layers": 0}, "must be positive"),
        ({"kernel": 8}, "kernel=8 must be odd"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"num_mel": 80}, "Did you mean 'num_mels'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        strong_backbone(**change)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="'smal'. Did you mean 'small'"):
        BackboneConfig.preset("smal")


def test_settings_of_features_reach_the_features():
    config = BackboneConfig.preset("tiny", sample_rate=16000, layers=3)
    assert (config.features.sample_rate, config.layers, config.dim) == (16000, 3, 96)
    assert BackboneConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("context", [Context.full(), Context(4, 6, 2)], ids=str)
def test_every_parameter_receives_a_gradient(context):
    backbone = strong_backbone(dropout=0.1).train()
    frames = backbone(noise(2, 160, 15), torch.tensor([160, 90]), context=context).frames
    (frames * noise(*frames.shape, seed=1)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias of the keys adds the same to all scores of a query, which the softmax does not see.
        assert "linear_k.bias" in name or parameter.grad.abs().max() > 1e-5, name


def test_a_new_backbone_starts_close_to_the_identity():
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig.preset("tiny")).eval()
    layers = backbone.encode(0.1 * noise(16000), layers="all").layers[:, 0]
    pairs = zip(layers[1:-1].flatten(1), layers[2:].flatten(1), strict=True)
    assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.9 for pair in pairs)


def test_full_context_has_no_limit_at_5000_frames():
    """The reference stops there; the last frame must still see the first feature."""
    backbone = strong_backbone(dim=8, heads=1, layers=1, feed_forward=8)
    features = noise(8 * 5200 + 15, 15)
    frames = encode(backbone, [features], Context.full()).frames[0]
    assert frames.shape == (5201, 8) and frames.isfinite().all()
    features[:8] += 30
    changed = encode(backbone, [features], Context.full()).frames[0]
    assert (changed[-1] != frames[-1]).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_run_with_features_in_float32(dtype):
    backbone, waveform = strong_backbone(), 0.1 * noise(8000)
    expected = backbone.encode(waveform, context=Context(3, 4, 2))
    features = backbone.features(waveform)
    backbone.to(dtype)
    assert torch.equal(backbone.features(waveform), features)
    encoded = backbone.encode(waveform, context=Context(3, 4, 2))
    assert encoded.frames.dtype == dtype
    difference = (encoded.frames.float() - expected.frames).abs().mean()
    assert difference < {torch.bfloat16: 0.2, torch.float16: 0.03, torch.float64: 1e-4}[dtype]


def test_set_normalisation_gives_features_of_mean_0_and_variance_1():
    backbone, statistics = strong_backbone(), FeatureStatistics(15)
    features = noise(500, 15) * torch.arange(1, 16) - 7
    statistics.update(features)
    backbone.set_normalisation(statistics)
    normalised = backbone.normalise(features)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(15), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(0, correction=0), torch.ones(15), atol=1e-4, rtol=0)
