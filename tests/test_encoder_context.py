"""What a frame sees: `Context`, the masks, and which outputs move when one input frame does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_backbones import noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import Context
from encoder.masks import attention_mask, length_mask, visible_range
from trunkline.errors import ConfigError

KERNEL = 15
CONTEXTS = [
    pytest.param(Context(4, 8, 0), id="no look-ahead"),
    pytest.param(Context(5, 2, 3), id="look-ahead shorter than half the kernel"),
    pytest.param(Context(4, 3, 7), id="look-ahead of half the kernel"),
    pytest.param(Context(6, 4, 9), id="look-ahead longer than half the kernel"),
    pytest.param(Context(4, 0, 0), id="nothing outside the chunk"),
    pytest.param(Context(4, 0, 2), id="no frames to the left"),
    pytest.param(Context(1, 5, 0), id="chunks of one frame"),
    pytest.param(Context(1, 3, 2), id="chunks of one frame with look-ahead"),
    pytest.param(Context(64, 3, 2), id="chunk longer than the recording"),
    pytest.param(Context.full(), id="full"),
]


def reach(total: int, context: Context) -> np.ndarray:
    """(outputs, inputs) of one layer, counted frame by frame from the definition: convolution after attention."""
    half = KERNEL // 2
    attention = np.zeros((total, total), dtype=bool)
    convolution = np.zeros((total, total), dtype=bool)
    for i in range(total):
        if context == Context.full():
            first, last, end = 0, total - 1, total
        else:
            chunk = i // context.chunk
            first = chunk * context.chunk - context.left
            last = (chunk + 1) * context.chunk + context.right - 1
            end = (chunk + 1) * context.chunk + min(half, context.right)
        for j in range(total):
            attention[i, j] = first <= j <= last
            convolution[i, j] = abs(i - j) <= half and j < end
    return (convolution.astype(int) @ attention.astype(int)) > 0


def moved(function, inputs: torch.Tensor) -> np.ndarray:
    """(outputs, inputs): whether an output frame differs at all after a change of one input frame."""
    before = function(inputs)
    columns = []
    for number in range(inputs.shape[1]):
        changed = inputs.clone()
        changed[:, number] += 1 + noise(inputs.shape[2], seed=number)
        columns.append((function(changed) != before).any(dim=-1)[0])
    return torch.stack(columns, dim=1).numpy()


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_an_output_moves_with_exactly_the_frames_its_context_reaches(context, layers):
    total = 23
    backbone = strong_backbone(layers=2).double()
    valid = torch.ones(1, total, dtype=torch.bool)

    def stack(frames: torch.Tensor) -> torch.Tensor:
        for layer in list(backbone.conformer.layers)[:layers]:
            frames = layer(frames, valid, context)
        return frames

    expected = np.linalg.matrix_power(reach(total, context).astype(int), layers) > 0
    np.testing.assert_array_equal(moved(stack, noise(1, total, 16).double()), expected)


@pytest.mark.parametrize("context", [Context(2, 1, 1), Context(3, 2, 0)], ids=str)
@torch.no_grad()
def test_a_feature_moves_the_frames_that_reach_a_frame_made_of_it(context):
    """Frame t is made of features 8t to 8t + 14, so seven features of each frame belong to the next one too."""
    total, features = 7, 8 * 6 + 15
    backbone = strong_backbone(layers=1).double()
    made_of = np.array([[8 * t <= f <= 8 * t + 14 for f in range(features)] for t in range(total)])

    def encode(features: torch.Tensor) -> torch.Tensor:
        return backbone(features, torch.tensor([features.shape[1]]), context=context).frames

    # In double precision, with a large change: a ReLU may hide a small one.
    found = moved(lambda x: encode(30 * x), noise(1, features, 15).double())
    expected = (reach(total, context).astype(int) @ made_of.astype(int)) > 0
    np.testing.assert_array_equal(found, expected)


def test_the_mask_is_the_drawing_in_its_documentation():
    positions = torch.arange(6)
    mask = attention_mask(positions, positions, Context(2, 2, 1))
    rows = ["".join("1" if seen else "." for seen in row) for row in mask.tolist()]
    drawing = attention_mask.__doc__.split("::")[1].split("\n")
    assert rows == [line.replace(" ", "") for line in drawing if line.strip()]
    assert rows[0] == "111..." and rows[5] == "..1111"


def test_full_context_needs_no_mask():
    assert attention_mask(torch.arange(3), torch.arange(3), Context.full()) is None
    assert visible_range(1, 2, 30, Context.full()) == (0, 30)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_visible_range_holds_what_a_block_of_queries_sees_and_no_more(data):
    total = data.draw(st.integers(1, 60))
    first = data.draw(st.integers(0, total - 1))
    last = data.draw(st.integers(first + 1, total))
    sizes = st.integers(0, 70)
    context = Context(1 + data.draw(sizes), data.draw(sizes), data.draw(sizes))
    mask = attention_mask(torch.arange(first, last), torch.arange(total), context)
    seen = mask.any(dim=0).nonzero().flatten().tolist()
    assert visible_range(first, last, total, context) == (seen[0], seen[-1] + 1)


def test_a_length_mask_is_true_for_real_frames():
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [
        [0, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]


@pytest.mark.parametrize(
    ("text", "context"),
    [("full", Context.full()), ("8,40,0", Context(8, 40, 0)), ("1, 0, 3", Context(1, 0, 3))],
)
def test_a_context_is_read_as_typed(text, context):
    assert Context.parse(text) == context


@pytest.mark.parametrize("text", ["", "8", "8,40", "8,40,0,1", "a,b,c", "8.5,1,1", "Full"])
def test_a_context_that_is_not_understood_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match="write 'full' or chunk,left,right"):
        Context.parse(text)


@pytest.mark.parametrize("text", ["0,1,1", "8,-1,0", "8,0,-1", "-2,-1,-1", "-1,4,0"])
def test_a_context_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match=r"Context\.full\(\)"):
        Context.parse(text)
    backbone = strong_backbone()
    with pytest.raises(ConfigError, match=r"Context\.full\(\)"):
        backbone(noise(1, 20, 15), torch.tensor([20]), context=Context(*map(int, text.split(","))))
