"""Scores, their intervals and the paired test."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from trunkline.errors import DataError, UsageError
from trunkline.metrics import (
    accuracy,
    interval,
    macro_f1,
    majority_accuracy,
    paired_difference,
    uar,
    word_errors,
)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_accuracy_macro_f1_and_uar_equal_scikit_learn():
    rng = np.random.default_rng(3)
    reference = rng.choice(["a", "b", "c"], p=[0.7, 0.2, 0.1], size=200)
    answer = np.where(rng.random(200) < 0.6, reference, rng.choice(["a", "b", "d"], size=200))
    assert accuracy(reference, answer) == pytest.approx(np.mean(reference == answer))
    assert macro_f1(reference, answer) == pytest.approx(
        f1_score(reference, answer, average="macro", zero_division=0)
    )
    assert uar(reference, answer) == pytest.approx(balanced_accuracy_score(reference, answer))


def test_always_answering_the_majority_has_its_accuracy_but_a_chance_uar():
    reference, answer = ["no"] * 9 + ["yes"], ["no"] * 10
    assert majority_accuracy(["no", "no", "yes"], reference) == accuracy(reference, answer) == 0.9
    assert uar(reference, answer) == 0.5


def test_the_majority_class_is_that_of_the_training_labels():
    assert majority_accuracy(["a", "a", "b"], ["b", "b", "b", "a"]) == 0.25


def test_cuts_of_one_speaker_widen_the_interval():
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"speaker{index}" for index in range(20)], 25)
    correct = np.repeat(rng.random(20) < 0.6, 25)
    by_speaker = interval(correct, list(speakers))
    by_cut = interval(correct)
    assert (by_speaker.unit, by_speaker.groups) == ("speaker", 20)
    assert (by_cut.unit, by_cut.groups) == ("cut", 500)
    assert by_speaker.high - by_speaker.low > 3 * (by_cut.high - by_cut.low)


def test_the_interval_holds_the_true_accuracy_about_95_times_in_100():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        result = interval(rng.random(150) < 0.7, seed=seed, resamples=300)
        held += result.low <= 0.7 <= result.high
    assert 180 <= held <= 198


def test_too_few_speakers_fall_back_to_cuts_and_the_result_says_so():
    result = interval([1, 0, 1, 1] * 10, ["anna", "ben"] * 20)
    assert (result.unit, result.groups) == ("cut", 40)


def test_a_cut_without_a_speaker_stands_alone():
    speakers = [f"speaker{index}" for index in range(10)] * 2 + [None] * 5
    assert interval([1, 0, 1, 0, 1] * 5, speakers).groups == 15


def test_all_right_answers_are_not_reported_as_certainty():
    result = interval([1] * 80)
    assert 0.94 < result.low < 0.97 and result.high == 1
    assert interval([0] * 80).high == pytest.approx(1 - result.low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    correct = np.random.default_rng(6).random(90)
    assert interval(correct, seed=4) == interval(correct, seed=4) != interval(correct, seed=5)


def test_a_clear_gain_is_better_and_its_mirror_is_worse():
    rng = np.random.default_rng(2)
    strong, weak = rng.random(300) < 0.8, rng.random(300) < 0.5
    gain = paired_difference(strong, weak)
    loss = paired_difference(weak, strong)
    assert (gain.verdict, loss.verdict) == ("better", "worse")
    assert gain.difference == pytest.approx(np.mean(strong) - np.mean(weak))
    assert gain.low < gain.difference < gain.high and gain.p < 0.01


def test_equal_systems_are_seldom_called_different():
    rng = np.random.default_rng(5)
    alarms = sum(
        paired_difference(rng.random(120) < 0.7, rng.random(120) < 0.7, resamples=200).verdict
        != "not distinguishable"
        for _ in range(150)
    )
    assert alarms <= 15


def test_three_disagreements_in_one_direction_are_not_evidence():
    other = np.ones(100)
    other[:3] = 0
    result = paired_difference(np.ones(100), other)
    assert result.verdict == "not distinguishable" and result.p > 0.2


def test_a_gain_that_only_one_speaker_has_is_not_distinguishable():
    speakers = np.repeat([f"speaker{index}" for index in range(12)], 20)
    weak = np.ones(240)
    weak[:20] = 0
    assert paired_difference(np.ones(240), weak).verdict == "better"
    assert paired_difference(np.ones(240), weak, list(speakers)).verdict == "not distinguishable"


def test_identical_answers_have_no_difference():
    assert paired_difference([1, 0, 1], [1, 0, 1])[:5] == (0, 0, 0, 1.0, "not distinguishable")


def test_nothing_to_score_and_unequal_lengths_are_errors():
    with pytest.raises(DataError, match="nothing to score"):
        accuracy([], [])
    with pytest.raises(DataError, match="no training labels"):
        majority_accuracy([], ["a"])
    with pytest.raises(UsageError, match="3 reference labels but 2 answers"):
        uar(["a", "b", "c"], ["a", "b"])
    with pytest.raises(UsageError, match="the same cuts: 2 against 3"):
        paired_difference([1, 0], [1, 0, 1])
    with pytest.raises(UsageError, match="2 cuts but 1 groups"):
        interval([1, 0], ["anna"])


def test_word_errors_count_each_kind_of_edit():
    reference = ["một hai ba bốn", "một hai", "", "xin chào", "a b"]
    answer = ["một ba ba bốn năm", "hai", "thừa ra", "xin chào", ""]
    counts = word_errors(reference, answer)
    assert counts.substitutions.tolist() == [1, 0, 0, 0, 0]
    assert counts.deletions.tolist() == [0, 1, 0, 0, 2]
    assert counts.insertions.tolist() == [1, 0, 2, 0, 0]
    assert counts.words.tolist() == [4, 2, 0, 2, 2]
    assert counts.wer == pytest.approx(7 / 10)
    assert counts.at([0, 3]).wer == pytest.approx(2 / 6)


def test_a_word_error_rate_is_weighed_by_words_and_lower_is_better():
    rng = np.random.default_rng(4)
    words = rng.integers(1, 30, size=300)
    many, few = rng.binomial(words, 0.3), rng.binomial(words, 0.1)
    calls = [f"call{index // 5}" for index in range(300)]
    found = interval(many, calls, sizes=words, unit="call")
    assert found.low < many.sum() / words.sum() < found.high
    assert found.groups == 60
    result = paired_difference(few, many, calls, sizes=words, higher_is_better=False)
    assert result.verdict == "better"
    assert result.difference == pytest.approx((few.sum() - many.sum()) / words.sum())
    with pytest.raises(DataError, match="hold no words"):
        interval([1, 0], sizes=[0, 0])
