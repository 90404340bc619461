"""The encoder computes what the reference implementation of ChunkFormer computes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from encoder import Backbone, Context, load_backbone

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chunkformer"
SETTINGS = ["full", "c16_l32_r8", "c64_l128_r128", "c32_l40_r24", "c20_l41_r3", "c8_l64_r0"]
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}"
)


@cache
def backbone() -> Backbone:
    return load_backbone(f"chunkformer:{GOLDEN / 'checkpoint'}")


@cache
def vectors(name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")


def context(setting: str) -> Context:
    return Context.full() if setting == "full" else Context(*map(int, re.findall(r"\d+", setting)))


def assert_equal(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, atol=2e-5, rtol=0)


def test_every_setting_of_the_reference_is_compared():
    found = {
        re.fullmatch(r"(?:decode\.)?(full|c.*)\.encoder", name) for name in vectors("expected")
    }
    assert {match[1] for match in found if match} == set(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_frames_equal_the_reference(setting):
    features = vectors("inputs")["fbank"][None]
    encoded = backbone()(features, torch.tensor([features.shape[1]]), context=context(setting))
    prefix = "" if setting == "full" else "decode."
    assert_equal(encoded.frames[0], vectors("expected")[f"{prefix}{setting}.encoder"])


@torch.no_grad()
def test_a_padded_batch_equals_the_reference():
    expected = vectors("expected")
    items = [
        vectors("inputs")["fbank"][start:end] for start, end in expected["batch.spans"].tolist()
    ]
    lengths = torch.tensor([len(item) for item in items])
    features = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=9.0)
    encoded = backbone()(features, lengths, context=context("c16_l32_r8"))
    assert encoded.lengths.tolist() == expected["batch.lengths"].tolist()
    frames = [item[:length] for item, length in zip(encoded.frames, encoded.lengths, strict=True)]
    assert_equal(torch.cat(frames), expected["batch.encoder"])


@torch.no_grad()
def test_the_subsampled_input_and_every_layer_equal_the_reference():
    features = vectors("inputs")["fbank"][None]
    encoded = backbone()(features, torch.tensor([features.shape[1]]), layers="all")
    expected = vectors("layers")
    names = ["full.embed", "full.layer0", "full.layer1", "full.layer2"]
    for number, name in enumerate(names):
        # The subsampled input has values up to 30, after a factor of sqrt(64).
        torch.testing.assert_close(encoded.layers[number, 0], expected[name], atol=2e-5, rtol=2e-6)


@torch.no_grad()
def test_frames_from_the_waveform_are_as_close_as_the_features():
    """Our features differ from the reference's by float32 rounding in the weakest bins, so the frames do a little."""
    waveform = vectors("inputs")["waveform_int16"] / 32768
    frames = backbone().encode(waveform, context=context("c8_l64_r0")).frames[0]
    difference = (frames - vectors("expected")["decode.c8_l64_r0.encoder"]).abs()
    assert difference.mean() < 1e-3
