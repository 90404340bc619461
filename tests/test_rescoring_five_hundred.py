"""On 500 simulated utterances the language model closes most of the gap, and nothing makes them worse."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from examples.rescore_calls import made_up_calls
from rescoring.combine import Rescorer
from rescoring.consensus import Phonetic
from rescoring.features import Features, collect
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.nbest import NBest
from rescoring.semantic import SemanticModel
from rescoring.simulate import Recogniser, simulate
from rescoring.tuning import report, tune
from rescoring.weights import Weights
from rescoring.word_vectors import WordVectors
from trunkline.syllable import words


@cache
def lists() -> list[NBest]:
    """Turns of made-up bank calls as a simulated recogniser hears them, with a score that means nothing."""
    turns = [
        (f"call{number}", turn) for number, call in enumerate(made_up_calls(60, 0)) for turn in call
    ]
    groups, texts = zip(*[x for x in turns if len(words(x[1])) > 3][:500], strict=True)
    rng = np.random.default_rng(1)
    return [
        dataclasses.replace(
            x,
            hyps=tuple(
                dataclasses.replace(y, extra={"noise": float(rng.normal())}) for y in x.hyps
            ),
        )
        for x in simulate(texts, Recogniser(size=30, noise=1.5), groups=groups, seed=2)
    ]


@cache
def features() -> Features:
    """Every term, with a language model of other calls, and vectors that stand for nothing."""
    sentences = [words(turn) for call in made_up_calls(200, 3) for turn in call]
    vocabulary = sorted({word for sentence in sentences for word in sentence})
    matrix = np.random.default_rng(4).normal(size=(len(vocabulary), 16)).astype(np.float32)
    models = Rescorer(
        lm=ArpaLM(train(sentences, 3).ngrams),
        semantic=SemanticModel(WordVectors(vocabulary, matrix)),
        phonetic=Phonetic(pivots=3),
    )
    return collect(lists(), models)


def test_the_language_model_closes_four_fifths_of_the_gap():
    assert len(features()) == 500
    tuned = tune(features(), terms=["lm", "len"], restarts=4)
    found = report(features(), tuned.chosen)
    assert found["gap_closed"] >= 0.8
    assert found["difference"]["verdict"] == "better"


@pytest.mark.parametrize("term", ["lm", "sem", "phon", "len", "noise"])
def test_no_term_raises_the_word_error_rate(term):
    tuned = tune(features(), terms=[term], restarts=2)
    assert report(features(), tuned.chosen)["difference"]["difference"] <= 0
    if term == "noise":
        assert tuned.weights.of("noise") == 0


def test_all_weights_0_leave_every_list_as_it_was():
    rescorer = Rescorer(Weights(alpha=0.0))
    assert all(rescorer.rescore(x) == x for x in lists())
