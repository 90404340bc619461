"""Rescoring changes what the weights say, nothing else, and explains itself."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rescoring.combine import Rescorer
from rescoring.consensus import Consensus, Phonetic, word_distances
from rescoring.weights import Weights
from trunkline.errors import CheckpointError, ConfigError, DataError, UsageError
from trunkline.nbest import Hypothesis, NBest
from trunkline.syllable import words

ROOT = Path(__file__).parent.parent
WORDS = ["tôi", "muốn", "gửi", "tiền", "tiến", "gởi", "hàng", "hang", "hỏi", "hòi"]
SCORES = st.integers(-40_000, 0).map(lambda x: x / 1000)
TEXTS = st.lists(st.sampled_from(WORDS), min_size=0, max_size=5).map(" ".join)
HYPOTHESES = st.builds(Hypothesis, TEXTS, SCORES, SCORES)
LISTS = st.lists(HYPOTHESES, min_size=1, max_size=8, unique_by=lambda x: x.text).map(
    lambda hyps: NBest("u", tuple(hyps))
)
WEIGHTS = st.builds(
    Weights,
    beta=st.sampled_from([0.0, 0.5, 1.25]),
    delta=st.sampled_from([0.0, 2.0]),
    length=st.sampled_from([-0.5, 0.0, 1.5]),
    max_drop=st.sampled_from([None, 5.0]),
    margin=st.sampled_from([0.0, 1.0]),
)
RESCORERS = st.builds(
    Rescorer,
    WEIGHTS,
    phonetic=st.sampled_from([Phonetic(), Phonetic(pivots=2)]),
    consensus=st.sampled_from([None, None, Consensus(), Consensus("phonetic")]),
)


def nbest(*hyps: tuple[str, float] | tuple[str, float, float], **about) -> NBest:
    return NBest("u", tuple(Hypothesis(*x) for x in hyps), **about)


def decisive(rescorer: Rescorer, found: NBest) -> bool:
    """Tell whether no rounding or tie decides: permuting may settle a tie in another way."""
    result = rescorer.score(found)
    scores = result.totals if result.risk is None else -result.risk
    am = np.array([x.am for x in found.hyps])
    drop = rescorer.weights.max_drop
    near_limit = drop is not None and np.any(np.abs(am.max() - am - drop) < 1e-3)
    best = am.argmax()
    near_margin = abs(result.totals.max() - result.totals[best] - rescorer.weights.margin) < 1e-3
    distinct = len(set(np.round(scores, 3))) == len(scores) == len(set(am))
    return distinct and not near_limit and not (near_margin and rescorer.weights.margin)


@given(LISTS)
def test_with_all_weights_0_the_output_equals_the_input(found):
    assert Rescorer(Weights(alpha=0.0)).rescore(found) == found
    by_am = dataclasses.replace(found, hyps=tuple(sorted(found.hyps, key=lambda x: -x.am)))
    assert Rescorer().rescore(by_am) == by_am


@settings(max_examples=60, deadline=None)
@given(LISTS, RESCORERS, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(found, rescorer, random):
    assume(decisive(rescorer, found))
    shuffled = list(found.hyps)
    random.shuffle(shuffled)
    again = rescorer.rescore(dataclasses.replace(found, hyps=tuple(shuffled)))
    assert again.texts == rescorer.rescore(found).texts


@settings(max_examples=60, deadline=None)
@given(LISTS, RESCORERS, st.integers(-1000, 1000))
def test_a_constant_added_to_am_does_not_matter(found, rescorer, constant):
    assume(decisive(rescorer, found))
    moved = tuple(dataclasses.replace(x, am=x.am + constant) for x in found.hyps)
    again = rescorer.rescore(dataclasses.replace(found, hyps=moved))
    assert again.texts == rescorer.rescore(found).texts


@settings(max_examples=60, deadline=None)
@given(LISTS, RESCORERS, st.data())
def test_a_copy_of_a_hypothesis_does_not_matter(found, rescorer, data):
    assume(decisive(rescorer, found))
    copied = data.draw(st.sampled_from(found.hyps))
    place = data.draw(st.integers(0, len(found)))
    hyps = (*found.hyps[:place], copied, *found.hyps[place:])
    again = rescorer.rescore(dataclasses.replace(found, hyps=hyps))
    # Merging am by log-sum-exp and the posterior see each text once.
    assert list(dict.fromkeys(again.texts)) == rescorer.rescore(found).texts


@given(HYPOTHESES, RESCORERS)
def test_a_list_of_one_stays_as_it_is(hypothesis, rescorer):
    assert rescorer.rescore(NBest("u", (hypothesis,))) == NBest("u", (hypothesis,))


def test_the_total_is_the_weighted_sum_of_the_terms():
    found = nbest(("tôi muốn gửi tiền", -10.0, -3.0), ("tôi muốn gửi", -9.0, -8.0))
    result = Rescorer(Weights(beta=0.5, length=2.0)).score(found)
    assert result.totals.tolist() == [-10 - 1.5 + 8, -9 - 4 + 6]
    assert (result.best, result.order.tolist()) == ("tôi muốn gửi tiền", [0, 1])


def test_am_of_unequal_alignments_of_a_text_is_summed():
    found = nbest(("một", -1.0), ("hai", -1.5), ("Hai", -1.6), ("hai!", -1.5))
    result = Rescorer().score(found)
    assert result.terms["am"][1:] == pytest.approx([np.logaddexp(-1.5, -1.6)] * 3)
    assert result.best == "hai"


def test_equal_totals_keep_the_recognisers_order():
    found = nbest(("một", -1.0, -2.0), ("hai", -2.0, -1.0))
    assert Rescorer(Weights(beta=1.0)).score(found).order.tolist() == [0, 1]


def test_a_missing_score_switches_the_term_off_for_its_list():
    # The seed read a missing lm as 0, the best that a log probability can be.
    partly = nbest(("một hai", -1.0, -5.0), ("một", -3.0))
    result = Rescorer(Weights(beta=10.0)).score(partly)
    assert (result.best, result.off) == ("một hai", ("lm",))
    assert "lm" not in result.terms


class Fixed:
    """A language model that answers what it was told."""

    def __init__(self, answer, oov: float = 0.0):
        self.answer, self.oov = answer, oov

    def score(self, texts):
        return np.array([self.answer[text] for text in texts])

    def oov_rate(self, texts):
        return self.oov


def test_a_model_is_asked_for_what_the_list_lacks():
    found = nbest(("Một", -1.0), ("hai", -2.0, -3.0))
    model = Fixed({"một": -9.0, "hai": -1.0})
    assert Rescorer(Weights(beta=1.0), model).score(found).best == "hai"


def test_a_language_model_that_does_not_know_the_words_is_not_heard():
    found = nbest(("một", -1.0), ("hai", -2.0))
    answer = {"một": -9.0, "hai": -1.0}
    result = Rescorer(Weights(beta=1.0), Fixed(answer, oov=0.31)).score(found)
    assert (result.best, result.kept) == ("một", "oov")
    assert Rescorer(Weights(beta=1.0), Fixed(answer, oov=0.30)).score(found).best == "hai"


def test_the_1_best_stays_when_it_is_beaten_by_too_little_or_from_too_far_below():
    found = nbest(("một", -1.0, -5.0), ("hai", -2.0, -1.0))
    assert Rescorer(Weights(beta=1.0)).score(found).best == "hai"
    kept = Rescorer(Weights(beta=1.0, margin=3.5)).score(found)
    assert (kept.best, kept.kept) == ("một", "margin")
    assert Rescorer(Weights(beta=1.0, max_drop=0.5)).score(found).best == "một"


class Vectors:
    """Counts how often it is asked what."""

    def __init__(self):
        self.asked = []

    def coherence(self, texts):
        self.asked.append("coherence")
        return np.array([float(len(text)) for text in texts])

    def context(self, texts, context):
        self.asked.append(context)
        return np.array([float(context in text) for text in texts])


@pytest.mark.parametrize(
    ("context", "asked"), [("hai", "hai"), (None, "coherence"), (" ", "coherence")]
)
def test_meaning_is_that_of_the_context_where_there_is_one(context, asked):
    found, vectors = nbest(("một", -1.0), ("hai hai", -1.5), context=context), Vectors()
    assert Rescorer(Weights(gamma=5.0), semantic=vectors).score(found).best == "hai hai"
    assert vectors.asked == [asked]


def test_terms_are_not_scaled_inside_a_list():
    # The seed's cosines, at most 2 apart, drowned in log probabilities or ruled them, by the list.
    found = nbest(("một", -100.0, -1.0), ("hai", -200.0, -2.0))
    result = Rescorer(Weights(beta=1.0)).score(found)
    assert np.ptp(result.terms["am"]) == 100 and np.ptp(result.terms["lm"]) == 1


def test_a_text_is_near_a_list_of_its_sound_alikes():
    found = nbest(("bàn", -1.0), ("sân", -1.1), ("xân", -1.2), ("sâng", -1.2))
    result = Rescorer(Weights(delta=5.0)).score(found)
    assert result.best in ("sân", "xân", "sâng")
    assert result.terms["phon"].max() <= 0


def test_a_second_recognisers_text_draws_what_sounds_like_it():
    found = nbest(("cảm ơn anh", -1.0), ("cám ơn ăn", -1.5), extra={"second": "cám ơn anh"})
    result = Rescorer(Weights(delta=1.0)).score(found)
    assert result.terms["phon"][0] > result.terms["phon"][1]


def test_a_consensus_takes_the_middle_of_the_list():
    found = nbest(("a b c", -1.0), ("x y z", -0.9), ("a b d", -1.1), ("a e c", -1.1))
    assert Rescorer(consensus=Consensus("word", scale=1.0)).score(found).best == "a b c"
    assert Rescorer().score(found).best == "x y z"


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_word_distances_are_those_of_the_word_errors(texts):
    from trunkline.metrics import word_errors

    tokens = [words(text) for text in texts]
    found = word_distances(tokens)
    for row, reference in enumerate(texts):
        assert found[row].tolist() == word_errors([reference] * len(texts), texts).errors.tolist()


def test_other_scores_have_weights_of_their_own():
    hyps = (
        Hypothesis("một", -1.0, extra={"snr": 1.0}),
        Hypothesis("hai", -2.0, extra={"snr": 3.0}),
    )
    assert Rescorer(Weights(extra={"snr": 1.0})).score(NBest("u", hyps)).best == "hai"
    score = Rescorer(
        Weights(extra={"long": 2.0}), scorers={"long": lambda texts: [len(x) for x in texts]}
    )
    assert score.score(nbest(("Một.", -1.0), ("Mười một.", -3.0))).best == "Mười một."


@pytest.mark.parametrize("answer", [[np.nan, 0.0], [0.0], [[0.0], [1.0]]])
def test_a_scorer_that_answers_nonsense_is_named(answer):
    rescorer = Rescorer(Weights(extra={"odd": 1.0}), scorers={"odd": lambda texts: answer})
    with pytest.raises(DataError, match=r"^u: "):
        rescorer.score(nbest(("một", -1.0), ("hai", -2.0)))


def test_an_explanation_shows_every_term_of_every_hypothesis():
    found = nbest(("gửi tiền", -10.0, -3.0), ("gửi tiến", -9.0, -8.0), ref="gửi tiền")
    explained = Rescorer(Weights(beta=1.0)).explain(found)
    assert [row["text"] for row in explained.rows] == ["gửi tiền", "gửi tiến"]
    for row in explained.rows:
        assert {"am", "x am", "lm", "x lm", "phon", "len", "total", "was"} <= row.keys()
        assert row["total"] == pytest.approx(row["x am"] + row["x lm"])
    table = str(explained)
    assert "ref" in table and len(table.splitlines()) == 7


def test_texts_in_other_languages_emoji_and_nothing_at_all_are_texts():
    found = nbest(
        ("", -3.0, -1.0), ("😀", -2.0, -1.0), ("привет мир", -1.0, -2.0), ("你好", -1.5, -2.0)
    )
    rescorer = Rescorer(Weights(beta=1.0, delta=1.0, length=0.5), consensus=Consensus("phonetic"))
    assert sorted(rescorer.rescore(found).texts) == sorted(found.texts)


def test_weights_are_saved_and_read(tmp_path):
    weights = Weights(beta=0.5, extra={"snr": -1.0}, max_drop=7.5, tuning={"lists": 500})
    weights.save(tmp_path / "weights.json")
    assert Weights.load(tmp_path / "weights.json") == weights
    assert Weights.load(tmp_path / "weights.json").tuning == {"lists": 500}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", CheckpointError, "not valid JSON"),
        ("[]", ConfigError, "no weights of schema"),
        ('{"schema": "trunkline.weights/1", "betta": 1}', ConfigError, "Did you mean 'beta'?"),
        ('{"schema": "trunkline.weights/1", "beta": "1"}', ConfigError, "finite number, not '1'"),
        ('{"schema": "trunkline.weights/1", "beta": NaN}', ConfigError, "finite number"),
        (
            '{"schema": "trunkline.weights/1", "margin": -1}',
            ConfigError,
            "margin must be 0 or more",
        ),
        ('{"schema": "trunkline.weights/1", "extra": {"am": 1}}', ConfigError, "term of its own"),
        ('{"schema": "trunkline.weights/1", "extra": [1]}', ConfigError, "extra must map"),
    ],
)
def test_bad_weights_are_named(tmp_path, text, error, message):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(error, match="weights.json") as caught:
        Weights.load(path)
    assert message in str(caught.value)


def test_a_weight_without_its_model_is_an_error():
    with pytest.raises(UsageError, match="no semantic model"):
        Rescorer(Weights(gamma=1.0))


@pytest.mark.parametrize("make", [
    lambda: Phonetic("west"), lambda: Phonetic(pivots=0), lambda: Consensus("letters"),
    lambda: Consensus(scale=0.0), lambda: Rescorer(scorers={"lm": len}),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(UsageError):
        make()


def test_importing_rescoring_is_quick_and_needs_no_torch():
    code = (
        "import sys, time; began = time.process_time(); import rescoring; from rescoring import Rescorer, Weights; "
        "print(time.process_time() - began, [x for x in ('torch', 'gensim', 'faiss', 'pyarrow') if x in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert float(seconds) < 0.3, seconds
    assert loaded.strip() == "[]"
