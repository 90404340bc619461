"""How far each layer can go, how late frames come, and that they could not come earlier."""

from __future__ import annotations

import math

import pytest
import torch
from encoder_backbones import CONTEXTS, contexts, noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoder import Context
from encoder.schedule import all_progress, given_frames, progress


@pytest.mark.parametrize("limits", [*CONTEXTS, Context(32, 40, 24), Context(64, 128, 128)], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_frames_come_late_by_exactly_the_look_ahead(limits, layers):
    """A chunk is given with the frame at the end of its look-ahead, and not one before."""
    ahead = limits.look_ahead(layers, 15)
    for chunk in range(1, 4):
        end = chunk * limits.chunk
        assert given_frames(end + ahead, limits, 15, layers) >= end
        assert given_frames(end + ahead - 1, limits, 15, layers) < end


@pytest.mark.parametrize("limits", [Context(3, 2, 0), Context(3, 2, 2), Context(4, 0, 9)], ids=str)
@torch.no_grad()
def test_no_frame_could_come_earlier_than_it_does(limits):
    """The last frame of a chunk does depend on the last frame of its look-ahead."""
    backbone = strong_backbone(layers=2).double()
    end = 2 * limits.chunk
    last = end + limits.look_ahead(2, 15) - 1
    frames = noise(1, last + 20, 16).double()
    valid = torch.ones(1, frames.shape[1], dtype=torch.bool)

    def stack(frames: Tensor) -> Tensor:
        for layer in backbone.conformer.layers:
            frames = layer(frames, valid, limits)
        return frames[0, :end]

    before = stack(frames)
    changed, later = frames.clone(), frames.clone()
    changed[:, last] = noise(16, seed=1)
    later[:, last + 1 :] = noise(16, seed=1)
    assert not torch.equal(stack(changed), before)
    assert torch.equal(stack(later), before)


def test_latency_is_what_the_slowest_frame_waits():
    backbone = strong_backbone(sample_rate=8000)
    for limits in CONTEXTS:
        waits = []
        for frame in range(3 * limits.chunk):
            taken = frame + 1
            while given_frames(taken, limits, 15, 2) <= frame:
                taken += 1
            # From the first sample of the frame to the last of the one that lets it out.
            waits.append((taken - 1 - frame) * 0.08 + backbone.receptive_field / 8000)
        assert limits.latency(backbone) == pytest.approx(max(waits))
    assert Context(8, 40, 0).latency(backbone) == pytest.approx(7 * 0.08 + 0.165)
    assert Context.full().latency(backbone) == math.inf


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), contexts)
def test_progress_never_waits_for_what_it_need_not(taken, limits):
    """The same as a search frame by frame, from the definition of what each frame sees."""
    found, half = progress(taken, limits, 15), 7
    attended = 0
    while (attended // limits.chunk + 1) * limits.chunk + limits.right <= taken:
        attended += limits.chunk
    given_out = 0
    while given_out < attended:
        end = (given_out // limits.chunk + 1) * limits.chunk
        if min(given_out + half + 1, end + min(half, limits.right)) > attended:
            break
        given_out += 1
    assert found == (taken, attended, given_out)
    ended = all_progress(taken, limits, 15, 3, ended=True)
    assert all(layer == (taken, taken, taken) for layer in ended)
