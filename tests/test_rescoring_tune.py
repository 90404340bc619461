"""Tuning finds what helps, leaves what does not, and says how sure it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rescoring.combine import Rescorer
from rescoring.features import Features, collect
from rescoring.search import fit, fit_guards, line_search
from rescoring.semantic import SemanticModel
from rescoring.tuning import ablations, report, tune
from rescoring.weights import Weights
from rescoring.word_vectors import WordVectors
from trunkline.errors import DataError, UsageError
from trunkline.nbest import Hypothesis, NBest

VOCABULARY = [a + b + c for a in "bmtvx" for b in "aeiou" for c in ("", "n")]
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))


def made(
    lists: int = 200, size: int = 12, *, seed: int = 0, per_call: int = 4, **extra
) -> list[NBest]:
    """Lists of 12-word texts in which am hardly knows, and lm half knows, how many words are wrong."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(lists):
        reference = [VOCABULARY[x] for x in rng.integers(0, 50, size=12)]
        hyps = []
        for wrong in rng.integers(0, 5, size=size):
            text = list(reference)
            for place in rng.permutation(12)[:wrong]:
                text[place] = "sai"
            am, lm = -wrong + 3 * rng.normal(), -2.0 * wrong + 2 * rng.normal()
            other = {name: float(make(rng)) for name, make in extra.items()}
            hyps.append(Hypothesis(" ".join(text), float(am), float(lm), other))
        hyps = sorted({x.text: x for x in hyps}.values(), key=lambda x: -x.am)
        found.append(
            NBest(f"u{row}", tuple(hyps), ref=" ".join(reference), group=f"call{row // per_call}")
        )
    return found


def errors_at(base, slope, errors, t) -> int:
    rows = np.round(base + t * slope, 9).argmax(axis=1)
    return int(errors[np.arange(len(base)), rows].sum())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_line_search_finds_what_no_point_of_a_fine_grid_beats(data):
    shape = data.draw(SIZES)
    base = data.draw(arrays(np.float64, shape, elements=st.integers(-30, 30).map(lambda x: x / 10)))
    slope = data.draw(arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
    errors = data.draw(arrays(np.int64, shape, elements=st.integers(0, 4)))
    low = data.draw(st.sampled_from([0.0, -4.0]))
    best = line_search(base, slope, errors, low, 4.0)
    assert low <= best.position <= 4.0
    assert best.errors == errors_at(base, slope, errors, best.position)
    grid = np.linspace(low, 4.0, 401) + 1e-4
    assert best.errors <= min(errors_at(base, slope, errors, t) for t in grid[:-1])


def test_line_search_takes_the_middle_and_stays_at_0_where_that_is_as_good():
    base, slope = np.array([[0.0, -1.0, -4.0]]), np.array([[0.0, 1.0, 2.0]])
    # The second line wins between 1 and 3.
    assert line_search(base, slope, np.array([[2, 0, 2]]), 0.0, 10.0) == (2.0, 0)
    assert line_search(base, slope, np.array([[0, 0, 2]]), 0.0, 10.0) == (0.0, 0)


def test_tuning_finds_the_language_model_and_leaves_noise_at_0():
    lists = made(300, noise=lambda rng: 10 * rng.normal(), constant=lambda rng: 3.0)
    features = collect(lists, Rescorer())
    tuned = tune(features, terms=["lm", "noise", "constant"])
    assert tuned.weights.beta > 0
    assert tuned.weights.of("noise") == tuned.weights.of("constant") == 0
    found = report(features, tuned.chosen)
    assert found["difference"]["verdict"] == "better"
    assert 0 < found["gap_closed"] <= 1
    assert found["utterances_better"] > found["utterances_worse"]


def test_a_context_that_says_it_all_is_heard():
    # Elsewhere a cosine of two at most, beside log probabilities of tens, hardly moved a list.
    tokens = [*VOCABULARY, "sai"]
    matrix = np.random.default_rng(0).normal(size=(len(tokens), 64)).astype(np.float32)
    lists = [dataclasses.replace(x, context=x.ref) for x in made(120)]
    features = collect(lists, Rescorer(semantic=SemanticModel(WordVectors(tokens, matrix))))
    tuned = tune(features, terms=["sem"], restarts=2)
    assert tuned.weights.gamma > 0
    assert report(features, tuned.chosen)["gap_closed"] > 0.8


def test_noise_alone_leaves_every_list_as_it_was():
    lists = [
        dataclasses.replace(x, hyps=tuple(dataclasses.replace(h, lm=None) for h in x.hyps))
        for x in made(150, noise=lambda rng: rng.normal())
    ]
    features = collect(lists, Rescorer())
    tuned = tune(features, terms=["noise"])
    assert dict(tuned.weights.items()) == dict(Weights().items())
    assert not tuned.chosen.any()
    assert [Rescorer(tuned.weights).rescore(x) for x in lists] == lists
    assert report(features, tuned.chosen)["gap_closed"] == 0


def test_lists_in_an_order_that_am_does_not_explain_stay_in_it():
    lists = [
        dataclasses.replace(
            x,
            hyps=tuple(
                Hypothesis(h.text, am, extra={"noise": float(am % 3)})
                for h, am in zip(sorted(x.hyps, key=lambda h: -(h.lm or 0)), rng, strict=False)
            ),
        )
        for x, rng in zip(
            made(), np.random.default_rng(1).normal(size=(200, 12)).round(3), strict=True
        )
    ]
    tuned = tune(collect(lists, Rescorer()), terms=["noise"])
    assert tuned.weights.alpha == 0
    assert [Rescorer(tuned.weights).rescore(x) for x in lists] == lists


WEIGHTS = st.builds(
    Weights,
    beta=st.sampled_from([0.0, 0.3, 2.0]),
    length=st.sampled_from([0.0, -1.0]),
    margin=st.sampled_from([0.0, 2.0]),
    max_drop=st.sampled_from([None, 0.0, 3.0]),
)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.integers(0, 100))
def test_tuning_and_rescoring_agree_on_the_winner(weights, seed):
    lists = made(8, size=6, seed=seed)
    features = collect(lists, Rescorer())
    chosen = features.chosen(weights)
    assert [x.texts[row] for x, row in zip(lists, chosen, strict=True)] == [
        Rescorer(weights).score(x).best for x in lists
    ]


def test_lists_of_any_length_are_padded_without_effect():
    lists = [dataclasses.replace(x, hyps=x.hyps[: 1 + row % 12]) for row, x in enumerate(made(120))]
    features = collect(lists, Rescorer())
    weights = fit(features, ["lm", "len"], restarts=3)
    chosen = features.chosen(weights)
    assert np.all(features.present[np.arange(120), chosen])
    assert features.scored(chosen).wer < features.scored(np.zeros(120, dtype=int)).wer


def test_a_missing_score_is_off_for_its_list_and_counted():
    lists = made(120)
    hyps = (lists[0].hyps[0], dataclasses.replace(lists[0].hyps[1], lm=None), *lists[0].hyps[2:])
    features = collect([dataclasses.replace(lists[0], hyps=hyps), *lists[1:]], Rescorer())
    (row,) = (x for x in ablations(features, Weights(beta=1.0)) if x["term"] == "lm")
    assert (row["off_in_lists"], row["verdict"]) == (1, "worse")


def test_a_list_whose_words_the_model_does_not_know_is_left_alone():
    class Half:
        def score(self, texts):
            return np.array([-float("sai" in text) for text in texts])

        def oov_rate(self, texts):
            return float(VOCABULARY[7] in texts[0].split())

    lists, rescorer = made(150), Rescorer(Weights(beta=5.0), Half())
    features = collect(lists, rescorer)
    assert 0 < features.blocked.sum() < 150
    chosen = features.chosen(rescorer.weights)
    assert not chosen[features.blocked].any()
    for nbest, row in zip(lists, chosen, strict=True):
        assert nbest.texts[row] == rescorer.score(nbest).best


def test_guards_are_found_where_they_help():
    def row(am: list[float], lm: list[float], errors: list[int]) -> tuple[list, list]:
        return [[a, x] for a, x in zip(am, lm, strict=True)], [[x, 0, 0] for x in errors]

    # A winner far below is wrong, one close by is right.
    rows = [row([0, -1], [0, 3], [2, 0]), row([0, -20], [0, 30], [0, 2])] * 10
    values = np.array([x[0] for x in rows], dtype=float)
    features = Features(
        names=("am", "lm"),
        groups=(None,) * 20,
        values=values,
        present=np.ones((20, 2), dtype=bool),
        edits=np.array([x[1] for x in rows]),
        words=np.full(20, 5),
        blocked=np.zeros(20, dtype=bool),
        off=np.zeros((20, 2), dtype=bool),
    )
    found = fit_guards(features, Weights(beta=1.0))
    assert found.max_drop is not None and 1 <= found.max_drop < 20
    assert features.scored(features.chosen(found)).errors.sum() == 0


def test_calls_are_not_torn_apart_by_folds():
    from rescoring.tuning import _Selection

    features = collect(made(120), Rescorer())
    fold = _Selection(features, 5, seed=0).fold
    calls = {name: set(fold[np.array(features.groups) == name]) for name in set(features.groups)}
    assert {len(x) for x in calls.values()} == {1}
    assert len(set(fold)) == 5


def test_too_few_calls_make_folds_of_utterances_and_say_so():
    tuned = tune(collect(made(120, per_call=60), Rescorer()), terms=["lm"])
    assert "too few for 5 folds by call" in tuned.notes[0]


def test_what_is_too_small_to_tune_on_is_refused(caplog):
    with pytest.raises(DataError, match="99 utterances with 1188 words are too few"):
        tune(collect(made(99), Rescorer()))
    short = [
        dataclasses.replace(
            x, ref="một hai", hyps=tuple(Hypothesis("một", h.am) for h in x.hyps[:2])
        )
        for x in made(150)
    ]
    with pytest.raises(DataError, match="150 utterances with 300 words are too few"):
        tune(collect(short, Rescorer()))
    with caplog.at_level("WARNING", logger="trunkline"):
        tune(collect(made(110), Rescorer()), terms=["lm"])
    assert "110 utterances are few" in caplog.text


def test_lists_without_references_are_named():
    lists = made(3)
    with pytest.raises(DataError, match="1 lists have no ref, the first is 'u1'"):
        collect([lists[0], dataclasses.replace(lists[1], ref=None), lists[2]], Rescorer())
    with pytest.raises(DataError, match="no N-best lists"):
        collect([], Rescorer())


def test_unknown_terms_and_folds_are_refused():
    features = collect(made(120), Rescorer())
    with pytest.raises(UsageError, match="no term 'semm'"):
        tune(features, terms=["semm"])
    with pytest.raises(UsageError, match="2 folds or more"):
        tune(features, folds=1)


def test_the_report_counts_edits_by_kind():
    lists = made(120)
    features = collect(lists, Rescorer())
    found = report(features, np.zeros(120, dtype=int))
    first, rescored, *_, oracle = found["tables"]["Word error rates"]
    assert {k: v for k, v in first.items() if k != "system"} == {
        k: v for k, v in rescored.items() if k != "system"
    }
    assert first["substitutions"] == sum(x.texts[0].split().count("sai") for x in lists)
    assert (first["deletions"], first["insertions"]) == (0, 0)
    assert first["low"] < first["wer"] < first["high"]
    assert oracle["wer"] < first["wer"]
    assert (found["calls"], found["gap_closed"]) == (30, 0)


def test_the_same_seed_gives_the_same_weights():
    features = collect(made(150), Rescorer())
    assert tune(features, seed=3).weights == tune(features, seed=3).weights
