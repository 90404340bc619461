"""An optimised backbone gives the same frames, or frames that are as far off as it says, and never by surprise."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from encoder_backbones import noise, strong_backbone

import encoder.optimize
from encoder import Backbone, Context, load_backbone
from encoder.optimize import optimize
from encoder.packed import Int8Linear, PackedLinear, can_pack
from trunkline.errors import ConfigError, DependencyError, UsageError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chunkformer"
CONTEXTS = [Context.full(), Context(16, 32, 8), Context(8, 64, 0), Context(20, 41, 3)]
LOOSE = 10.0

needs_packing = pytest.mark.skipif(not can_pack(), reason="this torch is built without oneDNN")
pytestmark = needs_packing


@pytest.fixture(autouse=True)
def packed_whatever_is_faster(monkeypatch):
    """The smallest products are not faster packed, and a busy machine measures anything."""
    monkeypatch.setattr(encoder.optimize, "GAIN", 0.0)


@cache
def backbone() -> Backbone:
    """Large enough that the products of all kinds are quantised."""
    return strong_backbone(dim=64, heads=4, feed_forward=128, conv_channels=64)


def calls(seconds: float = 2.0) -> list[torch.Tensor]:
    return [0.1 * noise(int(8000 * seconds), seed=seed) for seed in (1, 2)]


def packed_layers(model: Backbone) -> list[torch.nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, PackedLinear | Int8Linear)]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}")
@pytest.mark.parametrize("setting", ["c16_l32_r8", "c64_l128_r128", "c20_l41_r3", "c8_l64_r0"])
def test_optimised_frames_equal_the_reference(setting):
    optimized = load_backbone(f"chunkformer:{GOLDEN / 'checkpoint'}").optimize()
    assert len(packed_layers(optimized)) == 4 + 3 * 10  # subsampling, and three layers
    features = safetensors.torch.load_file(GOLDEN / "inputs.safetensors")["fbank"][None]
    expected = safetensors.torch.load_file(GOLDEN / "expected.safetensors")
    context = Context(*(int(part[1:]) for part in setting.split("_")))
    with torch.no_grad():
        frames = optimized(features, torch.tensor([features.shape[1]]), context=context).frames[0]
    torch.testing.assert_close(frames, expected[f"decode.{setting}.encoder"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_every_path_of_an_optimised_backbone_gives_the_plain_frames(context):
    optimized, (first, second) = backbone().optimize(), calls()
    expected = backbone().encode(first, context=context, layers="all")
    found = optimized.encode(first, context=context, layers="all")
    torch.testing.assert_close(found.frames, expected.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.layers, expected.layers, atol=1e-3, rtol=1e-4)
    batch = optimized.encode_batch([second[:300], first, first[:0]], context=context)
    torch.testing.assert_close(batch[1].frames, expected.frames, atol=1e-4, rtol=0)
    assert batch[2].frames.shape[1] == 0
    if not context.is_full:
        features = backbone().features(first)[None]
        state, pieces = optimized.init_state(1, context), []
        for block in features.split(37, dim=1):
            given, state = optimized.step(block, state)
            pieces.append(given.frames)
        given, _ = optimized.finish(state)
        frames = torch.cat([*pieces, given.frames], dim=1)
        torch.testing.assert_close(frames, expected.frames, atol=1e-4, rtol=0)


def test_the_backbone_it_was_made_from_stays_as_it_was():
    plain = copy.deepcopy(backbone())
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    frames = plain.encode(calls()[0]).frames
    for options in ({}, {"dtype": "bfloat16"}, {"quantize": "int8", "calibration": calls()}):
        plain.optimize(limit=LOOSE, **options)
    assert not packed_layers(plain)
    assert all(torch.equal(before[k], tensor) for k, tensor in plain.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in plain.parameters())
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert torch.equal(plain.encode(calls()[0]).frames, frames)


def test_what_is_not_packed_is_shared_and_not_copied():
    plain, optimized = backbone(), backbone().optimize()
    ours, theirs = optimized.conformer.layers[1], plain.conformer.layers[1]
    assert ours.norm_ff.weight is theirs.norm_ff.weight
    assert ours is not theirs and optimized.fingerprint == plain.fingerprint


def test_an_optimised_float32_backbone_is_saved_bit_for_bit(tmp_path):
    plain, optimized = backbone(), backbone().optimize()
    assert optimized.state_dict().keys() == plain.state_dict().keys()
    assert optimized.save(tmp_path / "optimised") == plain.save(tmp_path / "plain")
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("optimised", "plain")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"dtype": "bfloat16"}, 0.03),
        ({"quantize": "int8"}, 0.05),
        ({"quantize": "int8", "dtype": "bfloat16"}, 0.06),
    ],
    ids=str,
)
def test_rounding_moves_the_frames_by_no_more_than_stated(options, limit):
    optimized = backbone().optimize(calibration=calls(), limit=limit, **options)
    other = 0.1 * noise(12000, seed=9)
    expected = backbone().encode(other, context=Context(16, 32, 8)).frames
    found = optimized.encode(other, context=Context(16, 32, 8)).frames.float()
    deviation = float((found - expected).norm() / expected.norm())
    assert 1e-4 < deviation < 1.5 * limit
    kinds = {type(layer) for layer in packed_layers(optimized)}
    assert kinds == ({Int8Linear, PackedLinear} if "quantize" in options else {PackedLinear})


def test_a_quantised_frame_does_not_depend_on_its_batch_mates():
    quiet, loud = 0.01 * noise(9000, seed=3), noise(16000, seed=4)
    optimized = backbone().optimize(quantize="int8", calibration=[loud], limit=LOOSE)
    context = Context(8, 16, 0)
    alone = optimized.encode(quiet, context=context).frames
    beside = optimized.encode_batch([loud, quiet], context=context)[1].frames
    # Another block size may move a sum by a rounding, and with it an input by one of 255 steps.
    assert float((alone - beside).norm() / alone.norm()) < 0.01


@pytest.mark.parametrize("options", [{"quantize": "int8"}, {"dtype": "bfloat16"}], ids=str)
def test_too_large_a_deviation_is_refused(options):
    with pytest.raises(ConfigError, match=r"changes the frames .* more than limit=1e-05"):
        backbone().optimize(calibration=calls(), limit=1e-5, **options)


def test_frames_that_are_no_numbers_are_refused():
    broken = copy.deepcopy(backbone())
    with torch.no_grad():
        broken.conformer.layers[0].norm_ff.weight.fill_(torch.nan)
    with pytest.raises(ConfigError, match="changes the frames of the calibration audio by nan"):
        broken.optimize(dtype="bfloat16", calibration=calls())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"quantize": "int4"}, "quantize='int4'"),
        ({"quantize": "int8"}, "needs calibration="),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        backbone().optimize(**options)


def test_an_optimised_backbone_is_not_optimised_again():
    with pytest.raises(ConfigError, match="optimised already"):
        backbone().optimize().optimize(dtype="bfloat16")


def test_rounded_weights_are_not_saved(tmp_path):
    for options in ({"dtype": "bfloat16"}, {"quantize": "int8", "calibration": calls()}):
        with pytest.raises(UsageError, match="rounded weights"):
            backbone().optimize(limit=LOOSE, **options).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_gradient_is_asked_for_in_vain():
    features = noise(1, 60, 15).requires_grad_()
    with pytest.raises(UsageError, match="gives no gradients"):
        backbone().optimize()(features, torch.tensor([60]))


def test_where_packing_is_no_faster_the_layers_stay(monkeypatch):
    monkeypatch.setattr(encoder.optimize, "GAIN", float("inf"))
    optimized = backbone().optimize()
    assert not packed_layers(optimized)
    assert torch.equal(optimized.encode(calls()[0]).frames, backbone().encode(calls()[0]).frames)


def test_a_torch_without_onednn_runs_float32_and_refuses_int8(monkeypatch):
    monkeypatch.setattr(encoder.optimize, "can_pack", lambda: False)
    assert not packed_layers(optimize(backbone()))
    with pytest.raises(DependencyError, match="oneDNN"):
        optimize(backbone(), quantize="int8", calibration=calls())
