"""Searches over CTC log probabilities find what trying every path finds."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heads.decoding import (
    BeamOptions,
    Decoded,
    PrefixBeamSearch,
    collapse,
    greedy,
    to_nbest,
    transcripts,
)
from heads.decoding.boosting import PhraseBoost
from heads.decoding.fusion import NgramFusion
from heads.decoding.joint import CTCPrefixes, JointOptions, joint_search
from heads.recognition import ctc_items
from rescoring.lm import load_lm
from tests.language_models import LMPLZ
from trunkline.errors import ConfigError, DataError, UsageError
from trunkline.nbest import read_nbest, write_nbest
from trunkline.tokenizer import train_tokenizer

EVERYTHING = BeamOptions(beam=10**6, margin=1e9, symbols=10**6, nbest=10**6)
LETTERS = train_tokenizer("characters", ["ab a b ba"])
WRITTEN = [0, *(LETTERS.pieces.index(x) for x in ("\u2581", "a", "b"))]


def log_probs(seed: int, frames: int, symbols: int, scale: float = 3.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, symbols)) * scale
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def letters(seed: int, frames: int) -> np.ndarray:
    """Log probabilities of `LETTERS` in which only the blank, the space, a and b can be."""
    table = np.full((frames, len(LETTERS)), -np.inf)
    table[:, WRITTEN] = log_probs(seed, frames, len(WRITTEN), 2.0)
    return table


def every_text(table: np.ndarray, symbols: list[int]) -> dict[tuple[int, ...], float]:
    """ln P of each token sequence, summed over all its paths one by one."""
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(symbols, repeat=len(table)):
        tokens = tuple(collapse(path, 0))
        score = sum(table[t, c] for t, c in enumerate(path))
        totals[tokens] = np.logaddexp(totals.get(tokens, -np.inf), score)
    return totals


tables = st.builds(
    log_probs,
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(2, 4),
    st.floats(0.1, 6.0),
)


@given(tables)
@settings(max_examples=60, deadline=None)
def test_the_beam_gives_every_text_its_probability_over_all_paths(table):
    expected = every_text(table, list(range(table.shape[1])))
    found = PrefixBeamSearch(options=EVERYTHING)(table)
    assert {x.tokens for x in found} == set(expected)
    for x in found:
        assert x.log_prob == pytest.approx(expected[x.tokens], abs=1e-9)
    assert [x.score for x in found] == sorted((x.score for x in found), reverse=True)
    assert np.logaddexp.reduce([x.log_prob for x in found]) == pytest.approx(0.0, abs=1e-9)


@given(tables, st.integers(1, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_narrow_beam_claims_no_more_than_is_there(table, beam, best_only):
    expected = every_text(table, list(range(table.shape[1])))
    options = BeamOptions(beam=beam, margin=1e9, nbest=beam, best_only=best_only)
    found = PrefixBeamSearch(options=options)(table)
    assert 1 <= len(found) <= beam
    assert len({x.tokens for x in found}) == len(found)
    for x in found:
        assert x.log_prob <= expected[x.tokens] + 1e-9


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 9), max_size=8),
    st.integers(1, 20),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_stream_in_any_pieces_gives_exactly_what_the_whole_gives(seed, cuts, beam, best_only):
    table = log_probs(seed, sum(cuts), 6, 2.0)
    search = PrefixBeamSearch(options=BeamOptions(beam=beam, best_only=best_only))
    state = search.begin()
    at = 0
    for size in cuts:
        state = search.step(table[at : at + size], state)
        at += size
    assert search.finish(state) == search(table)
    assert search.partial(state) == max(search(table), key=lambda x: x.score).tokens


def exactly(table: np.ndarray, tokens: Sequence[int]) -> float:
    """ln P of a token sequence by the forward algorithm."""
    losses, _ = ctc_items(
        torch.from_numpy(table)[None], torch.tensor([len(table)]), [list(tokens)], 0
    )
    return -float(losses[0]) * len(tokens)


def test_a_search_for_the_best_text_alone_finds_likelier_ones_with_the_same_beam():
    """Prefixes with the same ending do not crowd out the others."""
    gained = []
    for seed in range(40):
        table = log_probs(seed, 30, 6, 1.0)
        every, best = (
            PrefixBeamSearch(options=BeamOptions(beam=3, margin=1e9, best_only=only))(table)[0]
            for only in (False, True)
        )
        gained.append(exactly(table, best.tokens) - exactly(table, every.tokens))
    assert np.mean(gained) > 0.1
    assert np.mean(np.array(gained) >= 0) > 0.7


def test_beside_a_scorer_all_prefixes_stay():
    table = letters(3, 12)
    scorer = PhraseBoost(["ab"], LETTERS, boost=2.0)
    every, best = (
        PrefixBeamSearch(options=BeamOptions(best_only=only), scorers=[scorer])(table)
        for only in (False, True)
    )
    assert every == best


def test_a_step_leaves_the_state_it_was_given_as_it_is():
    table = log_probs(0, 30, 8)
    search = PrefixBeamSearch(options=BeamOptions(beam=5))
    state = search.step(table[:10], search.begin())
    before = search.finish(state)
    ends = [search.finish(search.step(table[10:], state)) for _ in range(2)]
    assert ends[0] == ends[1] == search(table)
    assert search.finish(state) == before


def test_a_digit_said_twice_is_written_twice():
    # chín, blank, chín: a blank between makes two of them; without it there is one.
    spoken = np.log(np.full((5, 3), 0.01))
    for frame, symbol in enumerate([1, 1, 0, 1, 1]):
        spoken[frame, symbol] = np.log(0.98)
    assert greedy(spoken).tokens == (1, 1)
    assert PrefixBeamSearch()(spoken)[0].tokens == (1, 1)
    joined = spoken.copy()
    joined[2] = spoken[1]
    assert greedy(joined).tokens == (1,)
    assert PrefixBeamSearch()(joined)[0].tokens == (1,)


def test_the_best_text_need_not_be_that_of_the_best_path():
    table = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert greedy(table).tokens == ()
    best = PrefixBeamSearch()(table)[0]
    assert best.tokens == (1,)
    assert math.exp(best.log_prob) == pytest.approx(0.64)


def test_minutes_of_frames_do_not_underflow():
    table = np.tile(log_probs(1, 100, 5), (60, 1))
    best = PrefixBeamSearch(options=BeamOptions(beam=4))(table)[0]
    assert math.isfinite(best.log_prob)
    assert best.log_prob >= greedy(table).log_prob


def test_nothing_heard_is_nothing_written():
    assert PrefixBeamSearch()(np.zeros((0, 4)))[0] == Decoded((), 0.0, 0.0)
    assert greedy(np.zeros((0, 4))).tokens == ()
    silent = np.log(np.full((50, 4), 1e-4))
    silent[:, 0] = np.log(1 - 3e-4)
    assert PrefixBeamSearch()(silent)[0].tokens == ()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((2, 0)), "shape"),
        (np.array([[0.0, -1.0], [np.nan, -1.0]]), "Frame 1"),
        (np.full((1, 2), -np.inf), "Frame 0"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(table, told):
    for search in (greedy, PrefixBeamSearch()):
        with pytest.raises(DataError, match=told):
            search(table)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="beam"):
        BeamOptions(beam=0)
    with pytest.raises(ConfigError, match="margin"):
        BeamOptions(margin=0.0)


class Bigrams:
    """A language model that depends on the word before, with scores out of the air."""

    order = 2

    def word_scores(self, sentences):
        return [
            np.array([self.score(a, b) for a, b in itertools.pairwise(["<s>", *words, "</s>"])])
            for words in sentences
        ]

    @functools.cache  # noqa: B019
    def score(self, before: str, word: str) -> float:
        return -float(np.random.default_rng(sum(map(ord, before + "|" + word))).random()) * 5


def phrases_said(text: str, phrases: list[str]) -> int:
    """Words of the phrases in a text, counted one place after the other."""
    words = text.split()
    total = 0
    for phrase in (x.split() for x in phrases):
        places = range(len(words) - len(phrase) + 1)
        total += len(phrase) * sum(words[i : i + len(phrase)] == phrase for i in places)
    return total


@given(st.integers(0, 10**6), st.sampled_from([["a", "ab a", "a b", "b"], ["ba"], ["a b a", "b"]]))
@settings(max_examples=15, deadline=None)
def test_language_model_and_phrases_add_what_the_whole_text_is_worth(seed, phrases):
    table = letters(seed, 5)
    lm = Bigrams()
    scorers = [
        NgramFusion(lm, LETTERS, weight=0.7, word_bonus=0.3),
        PhraseBoost(phrases, LETTERS, boost=1.5),
    ]
    found = PrefixBeamSearch(options=EVERYTHING, scorers=scorers)(table)
    acoustic = every_text(table, WRITTEN)
    assert {x.tokens for x in found} == set(acoustic)
    for x in found:
        text = LETTERS.decode(x.tokens)
        words = text.split()
        assert x.log_prob == pytest.approx(acoustic[x.tokens], abs=1e-9)
        assert x.lm == pytest.approx(0.7 * lm.word_scores([words])[0].sum() + 0.3 * len(words))
        if text == " ".join(words):  # spaces twice, or first, are no words of a phrase
            assert x.boost == pytest.approx(1.5 * phrases_said(text, phrases))
        assert x.score == pytest.approx(x.log_prob + x.lm + x.boost)


def test_an_arpa_model_of_rescoring_fits_the_search(tmp_path):
    (tmp_path / "toy.arpa").write_text(LMPLZ, encoding="utf-8")
    lm = load_lm(tmp_path / "toy.arpa")
    known = sorted(lm.read_vocabulary())[:3]
    tokenizer = train_tokenizer("syllables", [" ".join(known)])
    ids = [tokenizer.encode(word)[0] for word in known]
    table = np.full((7, len(tokenizer)), -30.0)
    for frame in range(7):
        table[frame, 0 if frame % 2 else ids] = -1.1
    found = PrefixBeamSearch(scorers=[NgramFusion(lm, tokenizer, weight=1.0)])(table)
    assert len(found) > 1
    for x in found:
        text = tokenizer.decode(x.tokens)
        assert x.lm == pytest.approx(float(lm.score([text])[0]), abs=1e-5)


def test_a_phrase_that_was_only_begun_leaves_no_bonus_behind():
    boost = PhraseBoost(["ab a"], LETTERS, boost=4.0)
    state, total = boost.start(), 0.0
    for token in LETTERS.encode("ab b"):
        total += float(boost.gains([state], np.array([token]))[0, 0])
        state = boost.advance(state, token)
    assert total + float(boost.final([state])[0]) == pytest.approx(0.0)


def test_a_boosted_phrase_wins_over_what_sounds_alike():
    table = np.full((6, len(LETTERS)), -20.0)
    table[:, 0] = -5.0
    for frame, letter in zip((0, 2, 4), "aba", strict=True):
        table[frame, LETTERS.encode(letter)[0]] = -0.5
        table[frame, LETTERS.encode("b" if letter == "a" else "a")[0]] = -1.0
    plain = LETTERS.decode(PrefixBeamSearch()(table)[0].tokens)
    scorers = [PhraseBoost(["aab"], LETTERS, boost=3.0)]
    boosted = LETTERS.decode(PrefixBeamSearch(scorers=scorers)(table)[0].tokens)
    assert (plain, boosted) == ("aba", "aab")


def test_phrases_that_cannot_be_written_are_named(caplog):
    PhraseBoost(["a b", "xyz"], LETTERS)
    assert "xyz" in caplog.text
    with pytest.raises(DataError, match="no phrase"):
        PhraseBoost(["xyz", " "], LETTERS)
    with pytest.raises(UsageError, match="boost"):
        PhraseBoost(["a"], LETTERS, boost=-1.0)


def test_texts_that_are_spelled_in_two_ways_become_one_hypothesis(tmp_path):
    a, space = LETTERS.encode("a")[0], LETTERS.encode("a b")[1]
    found = transcripts(
        [Decoded((a,), -1.0, -1.0), Decoded((a, space), -2.0, -2.0), Decoded((), -3.0, -3.0)],
        LETTERS,
    )
    assert [x.text for x in found] == ["a", ""]
    assert found[0].log_prob == pytest.approx(np.logaddexp(-1.0, -2.0))
    nbest = to_nbest("cut1", found, ref="a", lm=[-4.0, -1.0])
    write_nbest(tmp_path / "nbest.jsonl", [nbest])
    assert list(read_nbest(tmp_path / "nbest.jsonl")) == [nbest]
    assert [x.lm for x in nbest.hyps] == [-4.0, -1.0]
    with pytest.raises(UsageError, match="no hypothesis"):
        to_nbest("cut1", [])


@given(tables)
@settings(max_examples=40, deadline=None)
@example(log_probs(3, 1, 3))
def test_ctc_prefix_scores_are_those_of_all_texts_that_begin_so(table):
    expected = every_text(table, list(range(table.shape[1])))
    ctc = CTCPrefixes(table, 0)
    prefix: tuple[int, ...] = ()
    candidates = np.arange(1, table.shape[1])[None]
    for _ in range(3):
        scores, label, quiet = ctc.extend(np.array([prefix[-1] if prefix else -1]), candidates)
        for k, token in enumerate(candidates[0]):
            longer = (*prefix, int(token))
            begun = [p for x, p in expected.items() if x[: len(longer)] == longer]
            if begun:
                assert scores[0, k] == pytest.approx(np.logaddexp.reduce(begun), abs=1e-9)
            else:
                assert scores[0, k] == -np.inf
        ctc.keep(label[:, 0, :1], quiet[:, 0, :1])
        prefix = (*prefix, 1)
        whole = expected.get(prefix, -np.inf)
        assert ctc.complete()[0] == pytest.approx(whole, abs=1e-9)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_joint_search_finds_the_best_of_all_texts(seed):
    table = log_probs(seed, 4, 4, 1.5)
    eos, longest = 3, 3
    table[:, eos] = -np.inf
    attention = {
        tokens: log_probs(seed + 1 + hash(tokens) % 1000, 1, 4, 1.5)[0]
        for n in range(longest + 1)
        for tokens in itertools.product((1, 2), repeat=n)
    }
    written = [()]

    def next_token(rows, newest):
        if newest[0] != eos:
            written[:] = [(*written[r], int(c)) for r, c in zip(rows, newest, strict=True)]
        return np.stack([attention[x] for x in written])

    options = JointOptions(beam=100, weight=0.4, shortest=0, longest=longest)
    found = joint_search(table, next_token, options, blank=0, eos=eos)
    ctc = every_text(table, [0, 1, 2])
    expected = {}
    for tokens, acoustic in ctc.items():
        if len(tokens) <= longest:
            steps = [attention[tokens[:n]][x] for n, x in enumerate((*tokens, eos))]
            expected[tokens] = 0.6 * sum(steps) + 0.4 * acoustic
    assert {x.tokens for x in found} == set(expected)
    for x in found:
        assert x.score == pytest.approx(expected[x.tokens], abs=1e-9)
    assert found[0].score == pytest.approx(max(expected.values()))
