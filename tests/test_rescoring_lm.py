"""Language models: estimated as lmplz does, written and read as ARPA text, scored the same with and without KenLM."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescoring.arpa import read_arpa
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM, CallableLM, KenLM, load_lm
from rescoring.mixture import Interpolated, write_mixture
from rescoring.ngrams import Ngrams
from tests.language_models import LMPLZ, SENTENCES, TEXT, TEXTS
from trunkline.errors import (
    CheckpointError,
    DataError,
    DependencyError,
    StorageError,
    UsageError,
)


def table(ngrams: Ngrams) -> dict[str, tuple[float, float]]:
    found, texts = {}, []
    for order in ngrams.orders:
        words = [ngrams.vocabulary[x] for x in order.word]
        texts = [
            f"{texts[p]} {w}" if texts else w for p, w in zip(order.prefix, words, strict=True)
        ]
        found |= {
            text: (float(prob), float(backoff))
            for text, prob, backoff in zip(texts, order.log_prob, order.backoff, strict=True)
        }
    return found


@pytest.fixture(scope="module")
def lmplz(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lmplz.arpa"
    path.write_text(LMPLZ, encoding="utf-8")
    return path


def test_a_case_computed_by_hand():
    # Unigrams count the words before them: a, b, c one, </s> two; with D = 0.5, 1, 1.5 half of the mass is shared by
    # the five events a b c </s> <unk>. p(a | <s>) = (2 - 1) / 2 + 1 / 2 * p(a), and so on.
    model = ArpaLM(train([["a", "b"], ["a", "c"]], 2).ngrams)
    scores = np.exp(model.score(["a b", "a a", "x", ""]))
    a, end, unk = 0.2, 0.3, 0.1
    assert scores == pytest.approx(
        [
            (0.5 + 0.5 * a) * (0.25 + 0.5 * a) * (0.5 + 0.5 * end),
            (0.5 + 0.5 * a) * (0.5 * a) * (0.5 * end),
            (0.5 * unk) * end,
            0.5 * end,
        ],
        rel=1e-6,
    )


def test_the_model_is_that_of_lmplz_with_pruning_and_fallback(lmplz):
    trained = train(SENTENCES, 3, prune=[0, 0, 1])
    ours, theirs = table(trained.ngrams), table(read_arpa(lmplz))
    assert ours.keys() == theirs.keys()
    for ngram, numbers in theirs.items():
        assert ours[ngram] == pytest.approx(numbers, abs=1e-6), ngram
    assert trained.fallbacks == [1, 2]
    assert trained.discounts[2] == pytest.approx((0.73913, 1.26087, 0.0434783), abs=1e-5)
    assert (trained.sentences, trained.words) == (8, 30)


def test_without_fallback_a_small_text_is_refused_as_lmplz_does():
    with pytest.raises(DataError, match="discounts of 1-grams cannot be estimated"):
        train(SENTENCES, 3, fallback=None)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 5), st.lists(st.integers(0, 2), max_size=3))
def test_probabilities_add_up_to_one_after_every_history(text, order, prune):
    order = min(order, max(map(len, text)) + 2)
    thresholds = sorted([0, *prune][:order])
    model = ArpaLM(train(text, order, prune=thresholds).ngrams)
    for rows in model.ngrams.orders:
        assert np.isfinite([rows.log_prob, rows.backoff]).all()
    events = [x for x in model.ngrams.vocabulary if x not in ("<s>", "</s>", "<unk>")]
    histories = [[], ["a"], ["zzz"], *(sentence[:k] for sentence in text for k in (1, 2, 3))]
    for history in histories:
        # The last word's score; the end's is that after the history alone.
        total = math.exp(model.word_scores([history])[0][-1])
        for word in [*events, "zzz"]:
            total += math.exp(model.word_scores([[*history, word]])[0][len(history)])
        assert total == pytest.approx(1.0, abs=2e-5)


def test_texts_are_normalised_as_training_text_is(lmplz):
    model = load_lm(lmplz)
    same = [
        "tôi muốn khóa thẻ",
        "TÔI  muốn, khóa thẻ!",
        "tôi muo\u0302\u0301n kho\u0301a the\u0309",
    ]
    assert len(set(model.score(same).tolist())) == 1
    assert model.oov_rate(["tôi xyz", "thẻ qwe"]) == 0.5
    assert model.oov_rate(["", "?"]) == 0.0
    assert model.score([]).shape == (0,)


def test_perplexity_counts_the_end_and_reports_unknown_words(lmplz):
    model = load_lm(lmplz)
    found = model.perplexity([["tôi", "xyz"], ["thẻ"]])
    first, second = model.word_scores([["tôi", "xyz"], ["thẻ"]])
    assert found.including_oov == pytest.approx(math.exp(-(sum(first) + sum(second)) / 5))
    assert found.excluding_oov == pytest.approx(math.exp(-(first[0] + first[2] + sum(second)) / 4))
    assert (found.words, found.oov, found.sentences) == (3, 1, 2)
    with pytest.raises(DataError, match="no sentence"):
        model.perplexity([])
    with pytest.raises(UsageError, match="list of words, not the text 'tôi muốn'"):
        model.perplexity(["tôi muốn"])


def test_a_folder_opens_to_the_same_model_and_tells_when_it_was_altered(lmplz, tmp_path):
    model = load_lm(lmplz)
    model.save(tmp_path / "lm")
    again = load_lm(tmp_path / "lm")
    assert np.array_equal(again.score(TEXT.splitlines()), model.score(TEXT.splitlines()))
    with pytest.raises(StorageError, match="exists already"):
        model.save(tmp_path / "lm")
    file = tmp_path / "lm" / "log_prob-2.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="log_prob-2.npy was altered"):
        load_lm(tmp_path / "lm")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"order": 0}, UsageError),
        ({"order": 7}, UsageError),
        ({"prune": [1]}, UsageError),
        ({"prune": [0, 2, 1]}, UsageError),
        ({"fallback": (0.5, 1.0)}, UsageError),
        ({"fallback": (0.5, 1.0, 4.0)}, UsageError),
        ({"order": 6, "sentences": [["a"]]}, DataError),
        ({"sentences": ["a b", "a c"]}, UsageError),
        ({"sentences": []}, DataError),
        ({"sentences": [[]]}, DataError),
        ({"sentences": [["a", "<s>"]]}, DataError),
        ({"sentences": [["a", "b c"]]}, DataError),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments, error):
    with pytest.raises(error):
        train(**({"sentences": [["a", "b"]]} | arguments))


def test_a_mixture_adds_up_to_one_and_its_weight_is_the_best():
    first = ArpaLM(train(SENTENCES[:4], 2).ngrams)
    second = ArpaLM(train(SENTENCES[4:], 3).ngrams)
    dev = [*SENTENCES[3:6], ["anh", "xyz"]]
    tuned = Interpolated(first, second).tuned(dev)
    assert 0.1 < tuned.weight < 0.9
    best = tuned.perplexity(dev).excluding_oov
    for weight in (0.0, tuned.weight - 0.02, tuned.weight + 0.02, 1.0):
        assert Interpolated(first, second, weight).perplexity(dev).excluding_oov > best
    # A model of other words gets nothing, first or second.
    other = ArpaLM(train([["x", "y"], ["z"]], 2).ngrams)
    assert Interpolated(first, other).tuned(dev).weight > 0.9
    assert Interpolated(other, first).tuned(dev).weight < 0.1
    words = tuned.read_vocabulary()
    for history in ([], ["tôi"], ["mất"]):
        total = math.exp(tuned.word_scores([history])[0][-1])
        for word in [*words, "xyz"]:
            total += math.exp(tuned.word_scores([[*history, word]])[0][len(history)])
        assert total == pytest.approx(1.0, abs=1e-5)


def test_a_mixture_of_a_model_with_itself_is_that_model(lmplz):
    model = load_lm(lmplz)
    texts = TEXT.splitlines()
    for weight in (0.0, 0.3, 1.0):
        assert Interpolated(model, model, weight).score(texts) == pytest.approx(model.score(texts))
    with pytest.raises(UsageError, match="from 0 to 1"):
        Interpolated(model, model, 1.5)
    with pytest.raises(DataError, match="no sentence"):
        Interpolated(model, model).tuned([])


def test_a_mixture_is_kept_in_a_file_beside_its_models(lmplz, tmp_path):
    write_mixture(tmp_path / "mix.json", [lmplz, lmplz], 0.25)
    mixed = load_lm(tmp_path / "mix.json")
    assert isinstance(mixed, Interpolated)
    assert mixed.weight == 0.25
    assert mixed.oov_rate(["tôi xyz"]) == 0.5
    for value in ({"schema": "other"}, {"schema": "trunkline.lm-mixture/1", "models": [1, 2]}):
        (tmp_path / "bad.json").write_text(json.dumps(value))
        with pytest.raises(CheckpointError):
            load_lm(tmp_path / "bad.json")


def test_any_function_serves_as_a_language_model_when_it_answers_with_numbers():
    model = CallableLM(lambda texts: [-float(len(text)) for text in texts])
    assert model.score(["ab", "c"]).tolist() == [-2.0, -1.0]
    assert model.oov_rate(["ab"]) == 0.0
    for wrong in (lambda texts: [0.0], lambda texts: [math.nan] * len(texts)):
        with pytest.raises(DataError, match="one finite number for each of 2 texts"):
            CallableLM(wrong).score(["a", "b"])


def test_kenlm_agrees_with_the_arrays(lmplz):
    pytest.importorskip("kenlm", reason="kenlm is not installed (pip install 'trunkline[lm]')")
    ours, theirs = ArpaLM.load(lmplz), KenLM(lmplz)
    texts = [*TEXT.splitlines(), "", "tôi xyz thẻ", "thẻ thẻ thẻ", "xyz"]
    assert theirs.score(texts) == pytest.approx(ours.score(texts), abs=1e-4)
    assert theirs.oov_rate(texts) == ours.oov_rate(texts)
    assert theirs.read_vocabulary() == ours.read_vocabulary()
    assert theirs.order == 3


def test_kenlm_that_is_not_installed_is_told_with_what_to_do(lmplz, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(DependencyError, match=r"pip install 'trunkline\[lm\]'"):
        KenLM(lmplz)


def test_a_list_of_100_hypotheses_is_scored_in_milliseconds(lmplz):
    model = load_lm(lmplz)
    words = [w for line in SENTENCES for w in line]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 20)) for _ in range(100)]
    model.score(texts)
    times = []
    for _ in range(7):
        start = time.process_time()
        model.score(texts)
        times.append(time.process_time() - start)
    assert min(times) < 0.01  # 3 ms on a quiet core: benchmarks/language_model.py
