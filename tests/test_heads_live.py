"""A live line: answers come with their frames, vectors come beside the sound, and the end is that of the whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from encoder_backbones import noise, strong_backbone
from heads_contract import make_head, same

from encoder import Context
from heads import MultiHeadModel
from heads.frame import Stretch, merged
from trunkline.errors import DataError, UsageError

LIMITS = Context(4, 6, 2)
BACKBONE = strong_backbone()
RATE = BACKBONE.sample_rate
CALL = 0.1 * noise(4 * RATE).numpy()


def blocks(size: int) -> Iterator[np.ndarray]:
    """The call as a line brings it."""
    for start in range(0, len(CALL), size):
        yield CALL[start : start + size]


@pytest.mark.parametrize("size", [160, 3_001])
@pytest.mark.parametrize("kind", ["vad", "phones"])
def test_stretches_are_told_as_their_frames_come_and_add_up_to_those_of_the_call(kind, size):
    head = make_head(kind, BACKBONE, hidden=0)
    model = MultiHeadModel(BACKBONE, {kind: head})
    with torch.no_grad():  # every class is the likeliest somewhere
        head.output.bias -= model.outputs(CALL, context=LIMITS)[kind].logits[0].mean(0)
    session, found, heard = model.stream(LIMITS), [], 0.0
    latency = LIMITS.latency(BACKBONE)
    for block in blocks(size):
        heard += len(block) / RATE
        shown = session.feed(block)
        for stretch in shown.get(kind, ()):
            # Not before it is said, and no later than the context and a block demand.
            assert stretch.start <= heard
            found.append(stretch)
        told = session._line.frames * BACKBONE.frame_shift
        assert heard - told <= latency + size / RATE
    assert found, "made-up frames have stretches"
    last = session.finish()[kind]
    expected = model.track(CALL, context=LIMITS)[kind]
    assert same(last, expected) and len(expected) > 1
    whole = merged(found)
    # What only the end made known is of the last frames, which waited for what they may still see.
    known = [x for x in expected if x.end <= told]
    assert len(known) > len(expected) / 2
    assert same([tuple(x) for x in whole[: len(known)]], [tuple(x) for x in known])


def test_stretches_of_one_class_that_touch_are_one():
    parts = [Stretch("a", 0.0, 0.1, 0.9), Stretch("a", 0.1, 0.4, 0.5), Stretch("b", 0.4, 0.5, 1.0)]
    parts += [Stretch("b", 0.6, 0.7, 1.0)]
    assert same(
        [tuple(x) for x in merged(parts)],
        [("a", 0.0, 0.4, 0.6), ("b", 0.4, 0.5, 1.0), ("b", 0.6, 0.7, 1.0)],
    )
    assert merged([]) == []


@pytest.mark.parametrize("kind", ["ctc", "aed"])
def test_text_is_shown_as_far_as_it_was_said(kind):
    model = MultiHeadModel(BACKBONE, {"text": make_head(kind, BACKBONE)})
    session = model.stream(LIMITS)
    shown = [known["text"].text for block in blocks(2_000) if (known := session.feed(block))]
    assert len(shown) > 5
    head = model.head("text")
    output = session._line.end()["text"]
    state = head.begin_text()
    assert shown[-1] == head.step_text(output, state)[0]
    assert any(shown)
    assert same(session.finish()["text"], model.transcribe(CALL, context=LIMITS))


def test_some_heads_can_be_asked_alone_while_the_call_goes_on():
    heads = {kind: make_head(kind, BACKBONE) for kind in ("intent", "speaker")}
    session = MultiHeadModel(BACKBONE, heads).stream(LIMITS)
    session.feed(CALL)
    assert set(session.so_far("intent")) == {"intent"}
    assert set(session.so_far()) == {"intent", "speaker"}
    with pytest.raises(UsageError, match="Did you mean 'intent'"):
        session.so_far("intend")


VECTOR = [2.0, -1.0, 0.5]


@pytest.fixture(scope="module")
def fused() -> MultiHeadModel:
    """Two classification heads, of which one fuses a vector with the sound."""
    return MultiHeadModel(
        BACKBONE,
        {
            "why": make_head("intent", BACKBONE, vector="text_vector", vector_dim=3),
            "mood": make_head("sentiment", BACKBONE),
        },
    )


def test_a_vector_counts_for_its_head_alone_on_every_way_in(fused):
    given = {"why": VECTOR}
    plain, found = fused.classify(CALL), fused.classify(CALL, vectors=given)
    assert same(found["mood"], plain["mood"])
    assert not same(found["why"].probabilities, plain["why"].probabilities)
    head = fused.head("why")
    with torch.no_grad():
        encoded = fused.share("why", fused.trunk.encode(CALL))
        alone = head.decode(head(encoded, head.vectors([VECTOR])))[0]
    assert same(found["why"], alone)
    assert same(fused.run(CALL, vectors={"why": np.array(VECTOR)}), found)
    listed = fused.classify([CALL, CALL, CALL[:8000]], vectors=[None, given, {"why": None}])
    assert same(listed[:2], [plain, found])
    assert same(listed[2], fused.classify(CALL[:8000]))


def test_a_live_line_takes_vectors_at_the_beginning_and_later(fused):
    expected = fused.classify(CALL, context=LIMITS, vectors={"why": VECTOR})
    early = fused.stream(LIMITS, vectors={"why": VECTOR})
    late = fused.stream(LIMITS)
    for block in blocks(5_000):
        early.feed(block)
        late.feed(block)
    before = late.so_far("why")
    late.give({"why": VECTOR})
    assert not same(late.so_far("why"), before)
    assert same(early.so_far("why"), late.so_far("why"))
    assert same(early.finish(), expected)
    late.give({"why": None})
    assert same(late.finish(), fused.classify(CALL, context=LIMITS))


def test_vectors_that_do_not_fit_are_named(fused):
    with pytest.raises(UsageError, match="'whi', no head here. Did you mean 'why'"):
        fused.classify(CALL, vectors={"whi": VECTOR})
    with pytest.raises(UsageError, match="'mood', a head without fusion"):
        fused.stream(LIMITS, vectors={"mood": VECTOR})
    with pytest.raises(DataError, match="vector_dim=3"):
        fused.classify(CALL, vectors={"why": [1.0]})
    with pytest.raises(DataError, match="finite"):
        fused.stream(LIMITS).give({"why": [1.0, float("nan"), 0.0]})
    with pytest.raises(UsageError, match="a list as long"):
        fused.classify([CALL, CALL], vectors={"why": VECTOR})
    with pytest.raises(UsageError, match="a list as long"):
        fused.classify([CALL, CALL], vectors=[{"why": VECTOR}])
    with pytest.raises(UsageError, match="for one recording"):
        fused.classify(CALL, vectors=[{"why": VECTOR}])
