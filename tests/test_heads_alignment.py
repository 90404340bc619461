"""Forced alignment finds the best of all paths, times are exact, and word confidences can be believed."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.alignment import (
    force_align,
    frames_needed,
    has_native_alignment,
    span_seconds,
    word_spans,
)
from heads.confidence import (
    WordCalibration,
    confidence_scores,
    fit_word_calibration,
    matches,
    normalised_cross_entropy,
    word_posteriors,
)
from heads.decoding import collapse
from tests.encoder_backbones import strong_backbone
from trunkline.errors import DataError
from trunkline.tokenizer import train_tokenizer


def log_probs(seed: int, frames: int, symbols: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, symbols)).astype(np.float32) * 2
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


cases = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.lists(st.integers(1, 3), max_size=4),
)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_the_alignment_is_the_best_path_of_the_text(case):
    seed, frames, tokens = case
    table = log_probs(seed, frames, 4)
    if frames_needed(tokens) > frames:
        with pytest.raises(DataError, match=f"{frames_needed(tokens)} frames"):
            force_align(table, tokens)
        return
    paths = itertools.product(range(4), repeat=frames)
    totals = {
        path: sum(float(table[t, c]) for t, c in enumerate(path))
        for path in paths
        if collapse(path, 0) == tokens
    }
    found = force_align(table, tokens, native=False)
    assert found.log_prob == pytest.approx(max(totals.values()), abs=1e-4)
    assert collapse(found.path, 0) == tokens == [span.token for span in found.spans]
    for span in found.spans:
        assert set(found.path[span.start : span.end]) == {span.token}
        assert span.log_prob == pytest.approx(
            float(table[span.start : span.end, span.token].mean()), abs=1e-5
        )


@pytest.mark.skipif(
    not has_native_alignment(),
    reason="torchaudio's native part does not load beside this torch",
)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=20), st.booleans())
@settings(max_examples=100, deadline=None)
def test_our_search_and_torchaudios_give_the_same_path(seed, tokens, with_ties):
    table = log_probs(seed, 60, 10)
    table = np.round(table) if with_ties else table
    ours, theirs = (force_align(table, tokens, native=native) for native in (False, True))
    assert ours.path.tolist() == theirs.path.tolist()


def test_a_repeated_word_is_aligned_twice():
    table = np.log(np.full((7, 3), 0.01))
    for frame, symbol in enumerate([0, 1, 1, 0, 0, 1, 0]):
        table[frame, symbol] = np.log(0.98)
    spans = force_align(table, [1, 1]).spans
    assert [(span.start, span.end) for span in spans] == [(1, 3), (5, 6)]


@pytest.mark.parametrize(
    ("table", "tokens", "told"),
    [
        (np.zeros((3, 4)), [0], "Token 0"),
        (np.zeros((3, 4)), [4], "Token 4"),
        (np.zeros((3, 4)), [1, 1, 1], "5 frames"),
        (np.full((3, 4), np.nan), [1], "NaN"),
        (np.zeros(3), [1], "shape"),
        (np.full((2, 2), -np.inf), [1], "probability 0"),
    ],
)
def test_what_cannot_be_aligned_is_an_error_that_says_why(table, tokens, told):
    with pytest.raises(DataError, match=told):
        force_align(table, tokens)


def test_words_span_their_letters_and_no_space():
    tokenizer = train_tokenizer("characters", ["xin chào"])
    ids = tokenizer.encode("xin chào")
    table = np.full((20, len(tokenizer)), -9.0)
    table[:, 0] = -1.0
    for place, token in enumerate(ids):
        table[2 * place + 1, token] = 0.0
    words = word_spans(force_align(table, ids).spans, tokenizer)
    assert [(x.word, x.start, x.end) for x in words] == [("xin", 1, 6), ("chào", 9, 16)]


def test_times_do_not_drift_in_an_hour():
    backbone = strong_backbone()
    frames = 45_000
    times = backbone.times(frames).numpy()
    start, end = span_seconds(frames - 1, frames, times, backbone.frame_shift)
    shift = round(backbone.frame_shift * backbone.sample_rate)
    first_sample = (frames - 1) * shift + backbone.receptive_field / 2 - shift / 2
    assert start * backbone.sample_rate == pytest.approx(first_sample, abs=1e-6)
    assert (end - start) * backbone.sample_rate == pytest.approx(shift, abs=1e-6)
    assert span_seconds(0, 1, times, backbone.frame_shift)[0] >= 0


words = st.lists(st.sampled_from("abc"), max_size=6)


@given(words, words)
@settings(max_examples=100, deadline=None)
def test_matches_are_those_of_an_alignment_with_the_fewest_edits(a, b):
    found = matches(a, b)
    assert len(found) == len(a)
    # Every alignment with the fewest edits has max(len) - edits or fewer equal pairs; no equal word stands alone.
    assert sum(found) <= sum(min(a.count(x), b.count(x)) for x in "abc")
    assert (sum(found) == len(a)) == (b == a or _is_subsequence(a, b))


def _is_subsequence(a: list[str], b: list[str]) -> bool:
    rest = iter(b)
    return all(x in rest for x in a)


def test_posteriors_are_the_share_of_the_list_that_has_the_word_there():
    texts = ["tôi muốn khóa thẻ", "tôi muốn mở thẻ", "tôi khóa thẻ"]
    scores = [math.log(0.5), math.log(0.3), math.log(0.2)]
    assert word_posteriors(texts, scores) == pytest.approx([1.0, 0.8, 0.7, 1.0])
    assert word_posteriors([""], [0.0]).tolist() == []


def test_calibration_repairs_confidences_that_are_too_high():
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.95, size=4000)
    correct = random.random(4000) < truth
    # Overconfident: the logit is three times what it should be.
    logit = 3 * np.log(truth / (1 - truth))
    claimed = 1 / (1 + np.exp(-logit))
    clarity = random.normal(-0.5, 0.2, size=4000)
    fitted = fit_word_calibration(claimed[:2000], clarity[:2000], correct[:2000])
    before = confidence_scores(claimed[2000:], correct[2000:])
    after = confidence_scores(fitted.of(claimed[2000:], clarity[2000:]), correct[2000:])
    assert before["ece"] > 0.1 > 0.05 > after["ece"]
    assert before["nce"] < 0 < after["nce"]
    assert WordCalibration.from_json(json.loads(json.dumps(fitted._asdict()))) == fitted


def test_nce_is_one_for_certainty_zero_for_the_prior_and_nothing_where_there_is_nothing_to_tell():
    correct = [True, True, True, False]
    assert normalised_cross_entropy([1, 1, 1, 0], correct) == pytest.approx(1.0, abs=1e-5)
    assert normalised_cross_entropy([0.75] * 4, correct) == pytest.approx(0.0, abs=1e-12)
    assert confidence_scores([0.9, 0.8], [True, True])["nce"] is None
    with pytest.raises(DataError, match="no words"):
        normalised_cross_entropy([], [])
    with pytest.raises(DataError, match="no words"):
        fit_word_calibration([], [], [])


def test_an_alignment_takes_tensors_and_no_text_at_all():
    found = force_align(torch.zeros(5, 3), [])
    assert found.path.tolist() == [0] * 5
    assert found.spans == []
