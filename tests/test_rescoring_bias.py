"""Phrases are found by their sound, offered and never forced; errors on phrases and elsewhere are told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rescoring.bias import (
    EXPANDED,
    StagedRescorer,
    bias_scores,
    default_threshold,
    expand,
    expander,
    phrase_errors,
    tune_threshold,
)
from rescoring.combine import Rescorer
from rescoring.phrases import PhraseList
from rescoring.weights import Weights
from tests.phrase_lists import one, simulated
from trunkline.errors import DataError, UsageError
from trunkline.nbest import Hypothesis, NBest, parse_nbest, to_json
from trunkline.syllable import words

# -- expansion


def test_a_candidate_is_offered_behind_the_list_flagged_and_told():
    given_ = one("Gặp anh Nguyển Văn Xinh, ạ!", "gặp anh nguyễn", ref="gặp anh Nguyễn Văn Sinh ạ")
    wider = expand(given_, ["Nguyễn Văn Sinh", "Lê Lợi"], kappa=10)
    assert wider.hyps[:2] == given_.hyps
    (added,) = wider.hyps[2:]
    assert added.text == "Gặp anh Nguyễn Văn Sinh, ạ!"
    distance = 0.2 * 0.1 + 0.3 * 0.1  # hỏi and ngã, s and x
    assert added.extra[EXPANDED] == pytest.approx(distance, abs=1e-6)
    assert added.am == pytest.approx(-10 - 10 * distance, abs=1e-5)
    (told,) = wider.extra[EXPANDED]
    assert told["hypothesis"] == 2
    assert told["replaced"][0] | {"distance": 0} == {
        "heard": "nguyển văn xinh",
        "phrase": "Nguyễn Văn Sinh",
        "distance": 0,
    }
    assert given_.extra == {} and len(given_) == 2
    assert parse_nbest(str(to_json(wider)).replace("'", '"'), "x:1").texts == wider.texts


def test_the_lists_own_phrases_are_looked_for_too():
    assert "Sinh" in expand(one("xinh ơi", bias=("Sinh",))).texts[1]


def test_nothing_near_leaves_the_very_list():
    given_ = one("tôi muốn hỏi số dư")
    assert expand(given_, ["Nguyễn Văn Sinh"]) is given_
    assert expand(given_) is given_
    assert expand(one("😀"), ["Sinh"]).texts == ["😀"]
    assert expand(one("hello, how are you"), ["Nguyễn Văn Sinh"]).texts == ["hello, how are you"]


def test_what_is_right_already_is_left_alone_unless_a_longer_phrase_fits():
    assert len(expand(one("gặp Lan nhé"), ["Lan", "Nan", "Lang"])) == 1
    wider = expand(one("gặp trần thị lan nhé"), ["Lan", "Trần Thị Nan"])
    assert wider.texts[1:] == ["gặp Trần Thị Nan nhé"]


def test_candidates_are_capped_distinct_and_start_with_all_replacements():
    near = ["Sinh", "Xin", "Sin", "Xính", "Sình", "Xỉnh", "Sĩnh"]
    wider = expand(one("xinh gặp nan", "sinh gặp lan"), [*near, "Lan"], threshold=0.3, limit=5)
    assert len(wider) == 2 + 5
    normal = [tuple(words(x)) for x in wider.texts]
    assert len(set(normal)) == len(normal)
    first = wider.extra[EXPANDED][0]["replaced"]
    assert len(first) == 1 or {x["phrase"] for x in first} > {"Lan"}
    assert len(expand(one("xinh gặp nan"), near, threshold=0.3, limit=0)) == 1


def test_a_candidate_has_the_scores_that_the_list_has():
    hyps = (
        Hypothesis("xinh ơi", -1.0, lm=-5.0, extra={"rnn": -3.0}),
        Hypothesis("ơi", -2.0, -6.0, {"rnn": -4.0}),
    )
    added = expand(NBest("u", hyps), ["Sinh"]).hyps[2]
    assert (added.lm, added.extra["rnn"]) == (-5.0, -3.0)


def test_the_acoustically_best_hypothesis_is_copied_wherever_it_stands():
    hyps = Hypothesis("tới đây", -9.0), Hypothesis("xinh ơi", -1.0)
    assert expand(NBest("u", hyps), ["Sinh"]).texts[2] == "Sinh ơi"


def test_what_models_put_first_is_copied_and_bias_has_no_say_in_it():
    # The second text is right but for the name; the third has the name, and another error.
    hyps = (
        Hypothesis("hỏi số đư của xinh", -9.0, lm=-50.0),
        Hypothesis("hỏi số dư của xinh", -10.0, lm=-10.0),
        Hypothesis("hỏi xố dư của sinh", -10.0, lm=-12.0),
    )
    rescorer = Rescorer(Weights(beta=1.0, bias=5.0), phrases=["Sinh"])
    assert rescorer.score(NBest("u", hyps)).best == "hỏi xố dư của sinh"
    wider = expander(rescorer)(NBest("u", hyps))
    assert wider.texts[3:] == ["hỏi số dư của Sinh"]
    assert rescorer.score(wider).best == "hỏi số dư của Sinh"
    assert expand(NBest("u", hyps), ["Sinh"], row=0).texts[3] == "hỏi số đư của Sinh"


def test_lists_without_phrases_are_not_even_scored():
    given_ = one("xinh ơi")
    assert expander(Rescorer())(given_) is given_
    with pytest.raises(DataError, match="^u1: .*has no word"):
        expander(Rescorer())(one("xinh ơi", bias=("?",)))


def test_a_candidate_competes_and_loses_without_weight():
    wider = expand(one("gặp xinh nhé"), ["Sinh"])
    assert len(wider) == 2
    assert Rescorer(Weights()).score(wider).best == "gặp xinh nhé"
    assert Rescorer(Weights(bias=1.0), phrases=["Sinh"]).score(wider).best == "gặp Sinh nhé"


@pytest.mark.parametrize(
    "wrong", [{"threshold": -0.1}, {"threshold": 2}, {"kappa": -1}, {"limit": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="threshold must be from 0 to 1"):
        expand(one("a"), ["b"], **wrong)


def test_long_lists_have_narrow_thresholds():
    found = [default_threshold(x) for x in (1, 100, 1000, 10_000, 10**6)]
    assert found == pytest.approx([0.16, 0.16, 0.08, 0.04, 0.04])
    with pytest.raises(UsageError, match="1 phrase or more"):
        default_threshold(0)


# -- the term bias


def test_the_term_counts_words_of_phrases():
    listed = ["Nguyễn Văn Sinh", "Lan"]
    texts = ["gặp nguyễn văn sinh và lan", "gặp nguyễn văn xinh", "gặp nguyển văn xinh", "tôi", ""]
    whole, near, far, none, empty = bias_scores(texts, listed)
    assert whole == 4 and none == empty == 0
    assert 0 < far < near < 3
    assert near == pytest.approx(3 * (1 - 0.03 / 3 / 0.05), abs=1e-4)
    assert bias_scores(texts, PhraseList(listed)) == pytest.approx([whole, near, far, none, empty])


def test_overlapping_phrases_count_once():
    assert bias_scores(["trần thị lan"], ["Trần Thị Lan", "Thị Lan", "Lan"]) == pytest.approx([3])


# -- errors on phrases and elsewhere


def test_errors_are_told_apart():
    found = phrase_errors(
        ["gặp nguyễn văn an nhé", "số dư", "alo"],
        ["gặp nguyễn vân an nhé ạ", "số lan dư", "alo lan anh"],
        ["Nguyễn Văn An", "Lan Anh", "Lan"],
    )
    # Added words are errors on phrases when they are one themselves.
    assert found.biased_words.tolist() == [3, 0, 0]
    assert found.unbiased_words.tolist() == [2, 2, 1]
    assert found.biased_errors.tolist() == [1, 1, 2]
    assert found.unbiased_errors.tolist() == [1, 0, 0]
    assert found.biased_rate == pytest.approx(4 / 3) and found.unbiased_rate == pytest.approx(0.2)
    assert math.isnan(phrase_errors(["a"], ["a"], ["b"]).biased_rate)
    with pytest.raises(UsageError, match="1 references but 2 answers"):
        phrase_errors(["a"], ["a", "b"], ["c"])


# -- on simulated lists


def test_a_list_of_a_hundred_phrases_halves_errors_on_them_and_adds_none_elsewhere():
    lists, listed = simulated(100)
    dev, test = lists[:120], lists[120:]
    rescorer, index = Rescorer(Weights(bias=4.0), phrases=listed), PhraseList(listed)
    threshold = tune_threshold(
        dev, index, lambda x: rescorer.score(x).best, thresholds=(0.04, 0.12)
    )
    references = [x.ref or "" for x in test]
    before = phrase_errors(references, [x.texts[0] for x in test], index)
    chosen = [rescorer.score(expand(x, index, threshold=threshold.value)).best for x in test]
    after = phrase_errors(references, chosen, index)
    assert before.biased_rate > 0.2
    assert after.biased_rate <= 0.5 * before.biased_rate
    assert after.unbiased_rate <= before.unbiased_rate


def test_the_threshold_follows_what_dev_says():
    lists, listed = simulated(100)
    rescorer, index = Rescorer(Weights(bias=4.0), phrases=listed), PhraseList(listed)
    found = tune_threshold(
        lists[:60], index, lambda x: rescorer.score(x).best, thresholds=(0.0, 0.1, 0.1)
    )
    assert [row["threshold"] for row in found.rows] == [0.0, 0.1]
    assert found.rows[1]["errors"] < found.rows[0]["errors"] and found.value == 0.1
    unheard = tune_threshold(lists[:60], index, lambda x: x.texts[0], thresholds=(0.0, 0.1))
    assert unheard.value == 0.0  # the smallest of equals
    with pytest.raises(DataError, match="No list has a reference"):
        tune_threshold([one("a")], index, lambda x: x.texts[0])


# -- meaning first, sound second


def test_sound_is_asked_only_where_meaning_does_not_settle():
    class Fixed:
        def score(self, texts):
            return np.array([-1.0 if "số dư" in text else -5.0 for text in texts])

        def oov_rate(self, texts):
            return 0.0

    listed = PhraseList(["Sinh"])
    staged = StagedRescorer(
        Rescorer(Weights(beta=1.0), Fixed()),
        Rescorer(Weights(bias=2.0), phrases=["Sinh"]),
        listed,
        sure=2.0,
    )
    settled = staged.score(one("hỏi số đư", "hỏi số dư"))
    assert (settled.stage, settled.result.best) == ("meaning", "hỏi số dư")
    open_ = staged.score(one("gặp xinh nhé", "gặp xin nhé"))
    assert (open_.stage, open_.result.best) == ("sound", "gặp Sinh nhé")
    with pytest.raises(UsageError, match="sure must be 0 or more"):
        StagedRescorer(staged.meaning, staged.sound, listed, sure=-1)
