"""Pooling: masked, the same whatever the pieces; the learned mix of layers."""

from __future__ import annotations

import pytest
import torch
from encoder_backbones import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.layer_mix import LayerMix
from heads.pooling import POOLINGS, SMALLEST_VARIANCE, Pooling, with_recent


def pooling(name: str, dim: int = 6) -> Pooling:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Pooling(name, dim, attention=5)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(POOLINGS),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from([0.0, 100.0]),
)
def test_pieces_of_any_size_pool_to_what_the_whole_does(name, lengths, size, offset):
    pool, frames = pooling(name), noise(len(lengths), 30, 6) + offset
    expected = pool(frames, torch.tensor(lengths))
    state = pool.init_state(len(lengths))
    for start in range(0, 30, size):
        piece = frames[:, start : start + size]
        state = pool.step(piece, (torch.tensor(lengths) - start).clamp(0, piece.shape[1]), state)
    assert state.lengths.tolist() == lengths
    torch.testing.assert_close(pool.finish(state), expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_is_what_its_formula_says(name):
    pool, frames = pooling(name), noise(2, 9, 6)
    found = pool(torch.cat([frames, torch.full((2, 4, 6), torch.nan)], 1), torch.tensor([9, 4]))
    for item, length in enumerate((9, 4)):
        valid = frames[item, :length]
        if name == "max":
            expected = valid.amax(0)
        elif name == "mean":
            expected = valid.mean(0)
        else:
            weights = pool.score(valid).softmax(0)
            mean = (weights * valid).sum(0)
            variance = (weights * (valid - mean).square()).sum(0)
            expected = torch.cat([mean, variance.clamp_min(SMALLEST_VARIANCE).sqrt()])
        torch.testing.assert_close(found[item], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_no_frame_pools_to_nothing_and_gradients_stay_finite(name):
    pool, frames = pooling(name), noise(3, 7, 6).requires_grad_()
    pooled = pool(frames, torch.tensor([0, 1, 7]))
    assert pooled.isfinite().all() and not pooled[0, :6].any()
    pooled.square().sum().backward()
    assert frames.grad.isfinite().all() and not frames.grad[0].any()
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.floats(0.2, 1e3))
def test_a_mix_of_layers_does_not_care_how_large_a_layers_numbers_are(count, scale):
    mix, layers = LayerMix(count), noise(count, 2, 5, 8)
    lengths = torch.tensor([5, 2])
    assert torch.isclose(mix.weights().sum(), torch.tensor(1.0))
    mixed = mix(layers, lengths)
    scaled = torch.cat([layers[:1] * scale, layers[1:]])
    torch.testing.assert_close(mix(scaled, lengths), mixed, atol=2e-3, rtol=0)
    assert not mixed[1, 2:].any()


def test_a_learned_weight_chooses_a_layer():
    mix, layers = LayerMix(3), noise(3, 1, 4, 8)
    with torch.no_grad():
        mix.logits[2] = 50.0
    expected = torch.nn.functional.layer_norm(layers[2], (8,))
    torch.testing.assert_close(mix(layers, torch.tensor([4])), expected)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=2), min_size=1, max_size=5),
    st.integers(0, 4),
)
def test_frames_stand_beside_those_before_them_whatever_the_pieces(pieces, before):
    """Streams of a batch advance each by its own number of frames; padding holds anything."""
    streams = [
        noise(sum(lengths), 3, seed=n) for n, lengths in enumerate(zip(*pieces, strict=True))
    ]
    recent, found, done = torch.zeros(2, before, 3), [[], []], [0, 0]
    for lengths in pieces:
        frames = torch.full((2, max(lengths), 3), torch.nan)
        for n, length in enumerate(lengths):
            frames[n, :length] = streams[n][done[n] : done[n] + length]
            done[n] += length
        windows, recent = with_recent(frames, torch.tensor(lengths), recent)
        for n, length in enumerate(lengths):
            found[n].append(windows[n, :length])
    for stream, parts in zip(streams, found, strict=True):
        padded = torch.cat([torch.zeros(before, 3), stream])
        expected = [padded[n : n + before + 1].flatten() for n in range(len(stream))]
        assert torch.equal(
            torch.cat(parts), torch.stack(expected) if expected else torch.cat(parts)
        )
