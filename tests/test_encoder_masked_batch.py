"""Batches of recordings of any lengths: each as alone, and nothing computed for padding."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder_golden import GOLDEN, assert_equal, context, vectors
from test_encoder_golden import backbone as golden_backbone

from encoder import Context
from encoder.subsampling import num_frames
from trunkline.errors import DataError, StorageError, UsageError

CONTEXTS = [Context.full(), Context(4, 6, 0), Context(3, 4, 2), Context(2, 3, 9), Context(50, 0, 1)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 400), max_size=8),
    st.sampled_from(CONTEXTS),
    st.sampled_from([1, 5, 40, 1000]),
)
def test_each_item_has_the_frames_it_has_alone(lengths, limits, block):
    backbone = strong_backbone()
    items = [noise(length, 15, seed=n) for n, length in enumerate(lengths)]
    batch = backbone.encode_batch(items, context=limits, layers="all", block=block)
    assert len(batch) == len(items)
    for item, found in zip(items, batch, strict=True):
        with torch.no_grad():
            alone = backbone(item[None], torch.tensor([len(item)]), context=limits, layers="all")
        assert found.lengths.tolist() == [num_frames(len(item))]
        torch.testing.assert_close(found.frames, alone.frames, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.layers, alone.layers, atol=1e-4, rtol=1e-5)
        assert torch.equal(found.times, alone.times)


@pytest.mark.parametrize("block", [4, 30, 512])
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}")
def test_a_batch_gives_the_frames_of_the_reference(block):
    expected = vectors("expected")
    spans = expected["batch.spans"].tolist()
    items = [vectors("inputs")["fbank"][start:end] for start, end in spans]
    batch = golden_backbone().encode_batch(items, context=context("c16_l32_r8"), block=block)
    assert [len(item.frames[0]) for item in batch] == expected["batch.lengths"].tolist()
    assert_equal(torch.cat([item.frames[0] for item in batch]), expected["batch.encoder"])


def computed_rows(backbone, run) -> int:
    """How many frames go through the first layer's feed-forward."""
    rows = []
    hook = backbone.conformer.layers[0].feed_forward.register_forward_hook(
        lambda module, inputs, output: rows.append(inputs[0].shape[:-1].numel())
    )
    run()
    hook.remove()
    return sum(rows)


@pytest.mark.parametrize("limits", CONTEXTS, ids=str)
def test_a_long_and_short_ones_cost_what_they_cost_alone(limits):
    """A padded batch would compute 9 times 1,000 frames; here every frame is computed once."""
    backbone = strong_backbone()
    items = [noise(8007, 15), *(noise(63, 15, seed=n) for n in range(8))]
    frames = sum(num_frames(len(item)) for item in items)
    assert frames == 1000 + 8 * 7
    assert computed_rows(backbone, lambda: backbone.encode_batch(items, context=limits)) == frames


def test_a_long_recording_computes_no_frame_twice_whatever_its_blocks():
    backbone, items = strong_backbone(), [noise(2007, 15)]
    for block in (1, 7, 64):
        for limits in (Context(4, 6, 2), Context(16, 8, 16)):
            rows = computed_rows(
                backbone, lambda n=block, c=limits: backbone.encode_batch(items, context=c, block=n)
            )
            assert rows == 250


def test_files_waveforms_and_features_may_stand_in_one_batch(tmp_path):
    backbone, limits = strong_backbone(), Context(4, 6, 2)
    waveform = np.round((0.1 * noise(12_000)).clamp(-1, 1).numpy() * 32768) / 32768
    stereo = np.stack([np.zeros_like(waveform), waveform], axis=1)
    soundfile.write(tmp_path / "call.wav", stereo, 8000)
    features = backbone.features(torch.from_numpy(waveform).float())
    expected = backbone.encode(waveform, context=limits).frames
    (file,) = backbone.encode_batch([tmp_path / "call.wav"], channel="customer", context=limits)
    listed = backbone.encode([waveform, features, torch.from_numpy(waveform)], context=limits)
    for encoded in [file, *listed]:
        torch.testing.assert_close(encoded.frames, expected, atol=1e-5, rtol=0)


def test_an_empty_batch_and_empty_items_are_no_error():
    backbone = strong_backbone()
    assert backbone.encode_batch([]) == [] and backbone.encode([]) == []
    nothing, short = backbone.encode_batch([noise(0), noise(14, 15)], layers=[1])
    assert nothing.frames.shape == short.frames.shape == (1, 0, 16)
    assert nothing.layers.shape == short.layers.shape == (1, 1, 0, 16)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (noise(2, 8000), DataError, r"\(2, 8000\) is neither a waveform \(samples,\) nor features"),
        (noise(20, 14), DataError, r"\(20, 14\) is neither"),
        (torch.full((20, 15), torch.nan), DataError, "features of an item hold NaN"),
        (torch.full((8000,), torch.nan), DataError, "NaN or infinite samples"),
        (np.zeros(8000, np.int16), DataError, "no known scale"),
        ("nowhere.wav", StorageError, "nowhere.wav does not exist"),
    ],
)
def test_an_item_that_cannot_be_is_refused(item, error, message):
    with pytest.raises(error, match=message):
        strong_backbone().encode_batch([noise(8000), item])


def test_the_channel_of_a_waveform_in_a_batch_is_an_error():
    with pytest.raises(UsageError, match="chooses a voice of a file"):
        strong_backbone().encode_batch([noise(8000)], channel=0)
