"""What is hidden from the encoder: spans of frames, laid on features so that nothing of them is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from ssl.masking import MaskConfig, counted_frames, mask_features, mask_frames
from trunkline.errors import ConfigError

configs = st.builds(
    MaskConfig,
    probability=st.floats(0.01, 1.0),
    span=st.integers(1, 12),
    min_spans=st.integers(1, 3),
)
items = st.tuples(st.integers(0, 120), configs, st.integers(0, 2**32 - 1))


def feature_mask(frames: int, mask: np.ndarray) -> np.ndarray:
    return mask_features(mask, SUBSAMPLING * (frames - 1) + RECEPTIVE_FIELD if frames else 0)


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the stretches of masked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@settings(deadline=None)
@given(items)
def test_spans_lie_within_the_item_and_are_whole(item):
    frames, config, seed = item
    mask = mask_frames(frames, config, np.random.default_rng(seed))
    assert mask.shape == (frames,)
    assert mask.dtype == bool
    if frames >= 2:
        assert min(runs(mask)) >= min(config.span, frames // 2)


@settings(deadline=None)
@given(items)
def test_the_whole_receptive_field_of_a_masked_frame_is_hidden_and_nothing_else(item):
    frames, config, seed = item
    mask = mask_frames(frames, config, np.random.default_rng(seed))
    hidden = feature_mask(frames, mask)
    expected = np.zeros_like(hidden)
    for frame in range(frames):
        if mask[frame]:
            expected[SUBSAMPLING * frame : SUBSAMPLING * frame + RECEPTIVE_FIELD] = True
    np.testing.assert_array_equal(hidden, expected)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_counting_agrees_with_looking_at_every_frame(frames, seed, share):
    features = SUBSAMPLING * (frames - 1) + RECEPTIVE_FIELD if frames else 0
    hidden = np.random.default_rng(seed).random(features) < share
    whole, part = counted_frames(hidden, frames)
    for frame in range(frames):
        seen = hidden[SUBSAMPLING * frame : SUBSAMPLING * frame + RECEPTIVE_FIELD]
        assert whole[frame] == seen.all()
        assert part[frame] == (seen.any() and not seen.all())


@settings(deadline=None)
@given(items)
def test_every_masked_frame_is_counted(item):
    frames, config, seed = item
    mask = mask_frames(frames, config, np.random.default_rng(seed))
    whole, _ = counted_frames(feature_mask(frames, mask), frames)
    assert whole[mask].all()


@pytest.mark.parametrize(("probability", "span"), [(0.65, 5), (0.5, 10), (0.8, 1)])
def test_the_share_of_masked_frames_is_what_independent_spans_give(probability, span):
    config = MaskConfig(probability, span)
    rng = np.random.default_rng(0)
    share = np.mean([mask_frames(2000, config, rng).mean() for _ in range(20)])
    # Starts are drawn without repetition: a frame is open if none of the span's starts before it was drawn.
    assert share == pytest.approx(1 - (1 - probability / span) ** span, abs=0.01)


@settings(deadline=None)
@given(items)
def test_the_same_generator_draws_the_same_mask(item):
    frames, config, seed = item
    one, two = (mask_frames(frames, config, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_an_item_of_one_frame_is_never_masked():
    rng = np.random.default_rng(0)
    assert not any(mask_frames(1, MaskConfig(1.0, 1), rng).any() for _ in range(50))
    assert not mask_frames(0, MaskConfig(1.0, 1), rng).any()


@given(st.integers(2, 9), st.integers(0, 1000))
def test_a_short_item_keeps_something_to_predict_from(frames, seed):
    mask = mask_frames(frames, MaskConfig(probability=0.3), np.random.default_rng(seed))
    assert 0 < mask.sum() < frames


@pytest.mark.parametrize(
    "changes", [{"probability": 0}, {"probability": 1.1}, {"span": 0}, {"min_spans": 0}]
)
def test_settings_that_mask_nothing_are_refused(changes):
    with pytest.raises(ConfigError, match=r"mask\."):
        MaskConfig(**changes)
