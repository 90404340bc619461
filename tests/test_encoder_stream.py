"""Streams: `init_state`, `step`, `finish`; joined, split, reset, idle; and how far they look ahead."""

from __future__ import annotations

import math
import random

import pytest
import torch
from encoder_backbones import CONTEXTS, contexts, noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder_golden import GOLDEN, SETTINGS, assert_equal, context, vectors
from test_encoder_golden import backbone as golden_backbone
from torch import Tensor

from encoder import (
    Backbone,
    Context,
    StreamState,
    join_states,
    load_backbone,
    reset_states,
    split_states,
)
from encoder.subsampling import num_frames
from trunkline.errors import ConfigError, DataError, UsageError


def alone(backbone: Backbone, features: Tensor, context: Context):
    """The frames of one recording in one pass: what training and the reference compute."""
    with torch.no_grad():
        return backbone(
            features[None], torch.tensor([len(features)]), context=context, layers="all"
        )


class Line:
    """Collects what each stream of a batch is given, while streams come and go."""

    def __init__(self) -> None:
        self.frames: list[Tensor] = []
        self.layers: list[Tensor] = []
        self.times: list[Tensor] = []

    def take(self, encoded, place: int) -> None:
        count = int(encoded.lengths[place])
        assert not encoded.frames[place, count:].any(), "padding is zero"
        self.frames.append(encoded.frames[place, :count])
        self.times.append(encoded.times[place, :count])
        if encoded.layers is not None:
            self.layers.append(encoded.layers[:, place, :count])

    def check(self, expected) -> None:
        torch.testing.assert_close(torch.cat(self.frames), expected.frames[0], atol=1e-5, rtol=0)
        assert torch.equal(torch.cat(self.times), expected.times)
        if self.layers:
            found = torch.cat(self.layers, dim=1)
            torch.testing.assert_close(found, expected.layers[:, 0], atol=1e-4, rtol=1e-5)


def feed(backbone: Backbone, state: StreamState, blocks: list[Tensor]):
    """Step with blocks of features of any sizes, padded with garbage."""
    lengths = torch.tensor([len(block) for block in blocks])
    batch = torch.nn.utils.rnn.pad_sequence(blocks, batch_first=True, padding_value=math.nan)
    return backbone.step(batch, state, lengths)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_stream_gives_the_frames_of_one_pass_whatever_its_blocks(data):
    backbone, limits = strong_backbone(), data.draw(contexts)
    features = noise(data.draw(st.integers(0, 400)), 15, seed=data.draw(st.integers(0, 9)))
    line, state = Line(), backbone.init_state(1, limits)
    start = 0
    while start < len(features):
        size = data.draw(st.sampled_from([1, 7, 8, 9, 64, 100, 333]))
        encoded, state = backbone.step(features[None, start : start + size], state)
        line.take(encoded, 0)
        start += size
    encoded, state = backbone.finish(state)
    line.take(encoded, 0)
    line.check(alone(backbone, features, limits))


@pytest.mark.parametrize("limits", CONTEXTS, ids=str)
def test_streams_come_go_and_starve_in_one_batch(limits):
    """Each stream has its own age, its own pauses and its own end; a place is used again after a reset."""
    backbone, draw = strong_backbone(), random.Random(str(limits))
    recordings = [noise(length, 15, seed=length) for length in (0, 5, 15, 22, 100, 333, 600, 250)]
    places, queue = 3, list(range(len(recordings)))
    lines = [Line() for _ in recordings]
    state = backbone.init_state(places, limits, layers="all")
    shapes = [leaf.shape for leaf in leaves(state)]
    at: dict[int, int] = {place: queue.pop(0) for place in range(places)}
    position = dict.fromkeys(range(len(recordings)), 0)
    while at:
        blocks = []
        for place in range(places):
            size = draw.choice([0, 0, 8, 8, 64, 3, 120]) if place in at else 0
            number = at.get(place, 0)
            blocks.append(recordings[number][position[number] : position[number] + size])
            if place in at:
                position[number] += len(blocks[-1])
        encoded, state = feed(backbone, state, blocks)
        for place, number in at.items():
            lines[number].take(encoded, place)
        ended = [place for place, n in at.items() if position[n] == len(recordings[n])]
        encoded, state = backbone.finish(state, ended)
        for place in ended:
            lines[at.pop(place)].take(encoded, place)
        again = ended[: len(queue)]
        state = reset_states(state, again)
        at |= {place: queue.pop(0) for place in again}
        assert [leaf.shape for leaf in leaves(state)] == shapes, "shapes do not depend on age"
    for line, features in zip(lines, recordings, strict=True):
        line.check(alone(backbone, features, limits))


def leaves(state) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def same(state: StreamState, other: StreamState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(other), strict=True))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_streams_may_be_joined_and_split_between_any_two_steps(data):
    backbone, limits = strong_backbone(), data.draw(st.sampled_from(CONTEXTS))
    count = data.draw(st.integers(1, 4))
    recordings = [noise(data.draw(st.integers(0, 200)), 15, seed=number) for number in range(count)]
    states = [backbone.init_state(1, limits) for _ in recordings]
    lines, position = [Line() for _ in recordings], [0] * count
    for _ in range(data.draw(st.integers(1, 5))):
        order = data.draw(st.permutations(range(count)))
        together = order[: data.draw(st.integers(1, count))]
        size = data.draw(st.sampled_from([0, 8, 30, 64]))
        blocks = [recordings[n][position[n] : position[n] + size] for n in together]
        encoded, joined = feed(backbone, join_states([states[n] for n in together]), blocks)
        for place, (number, state) in enumerate(zip(together, split_states(joined), strict=True)):
            states[number] = state
            position[number] += len(blocks[place])
            lines[number].take(encoded, place)
    for number, features in enumerate(recordings):
        encoded, state = backbone.step(features[None, position[number] :], states[number])
        lines[number].take(encoded, 0)
        lines[number].take(backbone.finish(state)[0], 0)
        lines[number].check(alone(backbone, features, limits))


def test_join_and_split_undo_each_other_bit_for_bit():
    backbone = strong_backbone()
    state = backbone.init_state(5, Context(3, 4, 2), layers=[1])
    _, state = feed(backbone, state, [noise(n, 15, seed=n) for n in (0, 20, 64, 200, 3)])
    assert same(join_states(split_states(state)), state)
    assert same(join_states(split_states(state, [2, 0, 3])), state)
    for one, again in zip(split_states(state), split_states(join_states([state])), strict=True):
        assert same(one, again)


def test_a_step_leaves_its_state_as_it_was():
    backbone, limits = strong_backbone(), Context(3, 4, 2)
    _, state = backbone.step(noise(2, 90, 15), backbone.init_state(2, limits))
    before = [leaf.clone() for leaf in leaves(state)]
    first, _ = backbone.step(noise(2, 50, 15, seed=1), state)
    again, _ = backbone.step(noise(2, 50, 15, seed=1), state)
    backbone.finish(state)
    reset_states(state)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(state), strict=True))
    assert torch.equal(first.frames, again.frames)


def test_streams_in_step_are_computed_together_and_equal_each_alone():
    """A server steps all calls with blocks of one size; calls of different ages share the work from some age on."""
    backbone, limits = strong_backbone(), Context(4, 6, 2)
    old, young = noise(1, 64 * 40, 15), noise(1, 64 * 30, 15, seed=1)
    _, first = backbone.step(old, backbone.init_state(1, limits))
    _, second = backbone.step(young, backbone.init_state(1, limits))
    block = noise(2, 64, 15, seed=2)
    together, _ = backbone.step(block, join_states([first, second]))
    for place, state in enumerate((first, second)):
        single, _ = backbone.step(block[place : place + 1], state)
        torch.testing.assert_close(together.frames[place], single.frames[0], atol=1e-5, rtol=0)
        assert torch.equal(together.times[place], single.times[0])


def test_a_stream_that_is_idle_for_an_hour_goes_on_as_if_it_were_not():
    """Its time is that of its samples; 5,600 steps of 640 ms without any change nothing."""
    backbone, limits = strong_backbone(layers=1), Context(4, 6, 0)
    _, state = backbone.step(noise(1, 90, 15), backbone.init_state(1, limits))
    idle = state
    for _ in range(5600):
        encoded, idle = backbone.step(torch.zeros(1, 0, 15), idle)
        assert encoded.frames.shape == (1, 0, 16)
    assert same(idle, state)
    beside = join_states([state, backbone.init_state(1, limits)])
    for _ in range(20):
        _, beside = feed(backbone, beside, [torch.zeros(0, 15), noise(64, 15)])
    assert same(split_states(beside)[0], state)


@pytest.mark.parametrize("setting", SETTINGS[1:])
@pytest.mark.parametrize("size", [8, 61, 400])
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}")
def test_a_stream_gives_the_frames_of_the_reference(setting, size):
    backbone, features = golden_backbone(), vectors("inputs")["fbank"]
    state, frames = backbone.init_state(1, context(setting)), []
    for block in features.split(size):
        encoded, state = backbone.step(block[None], state)
        frames.append(encoded.frames[0])
    frames.append(backbone.finish(state)[0].frames[0])
    assert_equal(torch.cat(frames), vectors("expected")[f"decode.{setting}.encoder"])


def test_a_stream_may_run_in_another_type_of_weights():
    backbone = strong_backbone().to(torch.bfloat16)
    features, limits = noise(1, 200, 15), Context(3, 4, 2)
    encoded, state = backbone.step(features, backbone.init_state(1, limits))
    rest, _ = backbone.finish(state)
    frames = torch.cat([encoded.frames, rest.frames], dim=1)
    expected = backbone(features, torch.tensor([200]), context=limits).frames
    assert frames.dtype == torch.bfloat16
    assert (frames - expected).abs().float().mean() < 0.1


def test_positions_follow_weights_that_change_between_steps():
    """The table of positions is kept from step to step; training in between must not leave it behind."""
    backbone, limits, features = strong_backbone(), Context(3, 4, 2), noise(200, 15)
    backbone.step(features[None], backbone.init_state(1, limits))
    with torch.no_grad():
        for layer in backbone.conformer.layers:
            layer.self_attn.linear_pos.weight.mul_(-2)
    line = Line()
    encoded, state = backbone.step(features[None], backbone.init_state(1, limits))
    line.take(encoded, 0)
    line.take(backbone.finish(state)[0], 0)
    line.check(alone(backbone, features, limits))


def test_dropout_is_off_and_the_mode_stays():
    backbone, limits, features = (
        strong_backbone(dropout=0.5).train(),
        Context(3, 4, 2),
        noise(1, 99, 15),
    )
    first, _ = backbone.step(features, backbone.init_state(1, limits))
    again, _ = backbone.step(features, backbone.init_state(1, limits))
    assert torch.equal(first.frames, again.frames) and not first.frames.requires_grad
    assert all(module.training for module in backbone.modules())


@pytest.mark.parametrize("limits", [Context(0, 1, 1), Context(4, -1, 0), Context(4, 0, -2)])
def test_a_context_that_cannot_be_begins_no_stream(limits):
    with pytest.raises(ConfigError, match="cannot be"):
        strong_backbone().init_state(1, limits)


def test_full_context_begins_no_stream():
    with pytest.raises(
        ConfigError, match=r"no frame would come before its end.*Context\(8, 40, 0\)"
    ):
        strong_backbone().init_state(1, Context.full())


def test_a_stream_fed_after_its_end_is_refused_and_named():
    backbone, limits = strong_backbone(), Context(4, 6, 0)
    _, state = backbone.finish(backbone.init_state(3, limits), [1])
    with pytest.raises(UsageError, match="Stream 1 has been finished; begin a new one"):
        backbone.step(noise(3, 10, 15), state)
    with pytest.raises(UsageError, match="Stream 1 has been finished"):
        backbone.finish(state, [1])
    _, state = backbone.step(noise(3, 10, 15), state, torch.tensor([10, 0, 10]))
    _, state = backbone.finish(state)
    assert state.finished.all()
    _, state = backbone.step(noise(3, 10, 15), reset_states(state))
    assert state.received.tolist() == [10, 10, 10]


def test_states_of_other_models_contexts_and_layers_do_not_join():
    backbone, other = strong_backbone(), strong_backbone(seed=1)
    state = backbone.init_state(1, Context(4, 6, 0))
    for stranger, what in (
        (other.init_state(1, Context(4, 6, 0)), "another backbone"),
        (backbone.init_state(1, Context(4, 6, 1)), "another context"),
        (backbone.init_state(1, Context(4, 6, 0), layers=[1]), "another choice of layers"),
    ):
        with pytest.raises(UsageError, match=f"State 1 has {what}"):
            join_states([state, stranger])
    with pytest.raises(UsageError, match="The state belongs to another backbone"):
        other.step(noise(1, 10, 15), state)
    with pytest.raises(UsageError, match="no states"):
        join_states([])
    with pytest.raises(UsageError, match=r"\[2\] do not add up to the 1 stream"):
        split_states(state, [2])


def test_a_backbone_saved_during_a_stream_still_knows_it_and_so_does_its_copy_on_disk(tmp_path):
    backbone, limits = strong_backbone(), Context(4, 6, 0)
    _, state = backbone.step(noise(1, 40, 15), backbone.init_state(1, limits))
    backbone.save(tmp_path / "backbone")
    backbone.step(noise(2, 40, 15), join_states([state, backbone.init_state(1, limits)]))
    one, other = (load_backbone(tmp_path / "backbone") for _ in range(2))
    encoded, _ = one.step(noise(1, 40, 15), other.init_state(1, limits))
    assert encoded.lengths.tolist() == [num_frames(40)]


@pytest.mark.parametrize(
    ("shape", "lengths", "error", "message"),
    [
        ((2, 40), None, ConfigError, r"shape \(2, 40\); this state needs \(2 streams"),
        ((3, 40, 15), None, ConfigError, r"\(3, 40, 15\)"),
        ((2, 40, 16), None, ConfigError, r"\(2, 40, 16\)"),
        ((2, 40, 15), [40, 41], ConfigError, r"lengths \[40, 41\]"),
        ((2, 40, 15), [-1, 4], ConfigError, r"lengths \[-1, 4\]"),
        ((2, 40, 15), [4], ConfigError, "one length per stream"),
    ],
)
def test_features_that_do_not_fit_are_refused(shape, lengths, error, message):
    backbone = strong_backbone()
    state = backbone.init_state(2, Context(4, 6, 0))
    with pytest.raises(error, match=message):
        backbone.step(torch.zeros(shape), state, None if lengths is None else torch.tensor(lengths))


def test_features_that_are_no_numbers_are_refused_before_they_spoil_the_state():
    backbone = strong_backbone()
    state = backbone.init_state(2, Context(4, 6, 0))
    features = noise(2, 20, 15)
    features[1, 7] = math.nan
    with pytest.raises(DataError, match="features of stream 1 hold NaN"):
        backbone.step(features, state)
    backbone.step(features, state, torch.tensor([20, 7]))


@pytest.mark.parametrize("streams", [[2], [-1], ["a"]])
def test_streams_that_are_not_there_are_named(streams):
    backbone = strong_backbone()
    state = backbone.init_state(2, Context(4, 6, 0))
    with pytest.raises(UsageError, match="The state has 2 streams, 0 to 1"):
        backbone.finish(state, streams)
    with pytest.raises(UsageError, match="The state has 2 streams, 0 to 1"):
        reset_states(state, streams)
