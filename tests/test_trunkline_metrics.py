"""Scores, their intervals and the paired test."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from trunkline.errors import DataError, UsageError
from trunkline.metrics import (
    accuracy,
    character_errors,
    class_scores,
    confidence_bins,
    confusion_matrix,
    equal_error_rate,
    error_tradeoff,
    expected_calibration_error,
    interval,
    macro_f1,
    majority_accuracy,
    min_dcf,
    paired_difference,
    set_scores,
    split_word_errors,
    statistic_difference,
    statistic_interval,
    trial_difference,
    trial_interval,
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


def _draws_of(rng: np.random.Generator, mean: float, draws: int, spread: float) -> np.ndarray:
    """Answers, (draws, cuts), of systems whose accuracies lie around a mean."""
    return rng.random((draws, 400)) < np.clip(rng.normal(mean, spread, (draws, 1)), 0, 1)


@pytest.mark.parametrize("draws", [5, 20])
def test_several_draws_are_compared_with_the_doubt_of_draws_not_made(draws):
    rng = np.random.default_rng(8)
    alarms = {"draws": 0, "their mean": 0}
    for _ in range(60):
        one, many = rng.random(400) < 0.5, _draws_of(rng, 0.5, draws, 0.08)
        for name, other in (("draws", many), ("their mean", many.mean(axis=0))):
            result = paired_difference(one, other, resamples=200)
            alarms[name] += result.verdict != "not distinguishable"
    assert alarms["draws"] <= 7
    assert alarms["their mean"] > alarms["draws"] or draws == 20
    gain = paired_difference(rng.random(400) < 0.7, _draws_of(rng, 0.5, draws, 0.08))
    assert gain.verdict == "better"


def test_draws_widen_intervals_and_equal_draws_change_nothing():
    rng = np.random.default_rng(9)
    many, other = _draws_of(rng, 0.5, 6, 0.1), rng.random(400) < 0.6
    mean, drawn = interval(many.mean(axis=0)), interval(many)
    assert drawn.low < mean.low < many.mean() < mean.high < drawn.high
    assert (drawn.unit, drawn.groups) == ("cut", 400)
    alike = paired_difference(other, np.repeat(many[:1], 6, axis=0))
    single = paired_difference(other, many[0])
    assert alike.difference == pytest.approx(single.difference)
    assert (alike.low, alike.high) == pytest.approx((single.low, single.high), abs=0.01)


def test_the_spread_of_few_draws_is_not_taken_too_narrow():
    means = np.array([0.3, 0.4, 0.5, 0.6, 0.7])  # of draws in which all cuts are alike
    found = interval(np.repeat(means[:, None], 50, axis=1), resamples=4000)
    error = np.std(means, ddof=1) / np.sqrt(len(means))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.12)


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


def test_error_rates_equal_jiwer_also_with_empty_texts():
    rng = np.random.default_rng(8)
    words = ["a", "lô", "vâng", "dạ", "không"]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(120)]
    answers = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(120)]
    assert "" in texts and "" in answers
    assert word_errors(texts, answers).wer == pytest.approx(jiwer.wer(texts, answers))
    assert character_errors(texts, answers).wer == pytest.approx(jiwer.cer(texts, answers))
    assert word_errors(texts, answers).ser == np.mean(np.array(texts) != np.array(answers))


def test_no_words_in_the_references_is_no_error_rate():
    with pytest.raises(DataError, match="hold no words"):
        _ = word_errors(["", ""], ["thừa", ""]).wer


def test_class_scores_equal_scikit_learn():
    rng = np.random.default_rng(2)
    reference = rng.choice(["a", "b", "c"], size=90)
    answer = np.where(rng.random(90) < 0.7, reference, rng.choice(["a", "b", "c"], size=90))
    matrix, names = confusion_matrix(reference, answer)
    assert np.array_equal(matrix, sklearn_confusion(reference, answer))
    expected = precision_recall_fscore_support(reference, answer)
    rows = class_scores(matrix, names)
    found = np.array([(row.precision, row.recall, row.f1, row.support) for row in rows]).T
    np.testing.assert_allclose(found, expected)


def test_a_class_that_never_occurs_has_no_recall_and_a_class_outside_the_list_is_an_error():
    matrix, names = confusion_matrix(["a", "a"], ["a", "b"], ["a", "b", "c"])
    rows = {row.name: row for row in class_scores(matrix, names)}
    assert rows["b"].recall is None and rows["b"].precision == 0 and rows["c"].precision is None
    with pytest.raises(DataError, match="'z' is none of the classes a, b"):
        confusion_matrix(["a", "z"], ["a", "b"], ["a", "b"])


def test_sets_of_labels_equal_scikit_learn():
    rng = np.random.default_rng(4)
    truth, found = rng.random((60, 5)) < 0.4, rng.random((60, 5)) < 0.4
    sets = [[{f"l{i}" for i in np.flatnonzero(row)} for row in side] for side in (truth, found)]
    scores = set_scores(*sets)
    assert scores.exact == np.mean((truth == found).all(axis=1))
    assert scores.micro_f1 == pytest.approx(f1_score(truth, found, average="micro"))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, found, average="macro"))
    assert set_scores([set(), set()], [set(), set()]) == (1, 1, 1)


def test_calibration_error_is_the_distance_of_confidence_from_accuracy():
    assert expected_calibration_error([0.9] * 10, [1] * 9 + [0]) == pytest.approx(0)
    assert expected_calibration_error([0.9] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.4)
    assert expected_calibration_error([0.95, 0.55], [0, 1]) == pytest.approx((0.95 + 0.45) / 2)
    bins = confidence_bins([0.0, 1.0, 0.999], [0, 1, 0])
    assert [(each.answers, each.accuracy) for each in bins] == [(1, 0), (2, 0.5)]
    with pytest.raises(DataError, match="between 0 and 1"):
        confidence_bins([1.2], [1])


def test_error_rates_of_trials_equal_their_definition_at_every_threshold():
    rng = np.random.default_rng(7)
    targets = rng.random(80) < 0.4
    scores = np.round(rng.normal(size=80) + 1.5 * targets, 1)  # with ties
    tradeoff = error_tradeoff(scores, targets)
    for threshold, miss, alarm in zip(*tradeoff, strict=True):
        assert miss == pytest.approx(np.mean(scores[targets] < threshold))
        assert alarm == pytest.approx(np.mean(scores[~targets] >= threshold))
    costs = [
        (0.01 * np.mean(scores[targets] < t) + 0.99 * np.mean(scores[~targets] >= t)) / 0.01
        for t in [*scores, np.inf]
    ]
    assert min_dcf(tradeoff) == pytest.approx(min(costs))


def test_the_equal_error_rate_of_known_trials():
    perfect = error_tradeoff([0.9, 0.8, 0.1], [True, True, False])
    assert equal_error_rate(perfect) == 0 == min_dcf(perfect)
    assert equal_error_rate(error_tradeoff([0.1, 0.9], [True, False])) == 1
    assert equal_error_rate(error_tradeoff([0.5] * 4, [True, False] * 2)) == 0.5
    one_in_four = error_tradeoff([1, 2, 3, 4, 0, 0.1, 0.2, 2.5], [True] * 4 + [False] * 4)
    assert 0 < equal_error_rate(one_in_four) < 0.5


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_the_trade_off_is_monotone_and_whole_weights_count_as_copies(trials):
    scores, targets = (np.array(side) for side in zip(*trials, strict=True))
    if targets.all() or not targets.any():
        with pytest.raises(DataError, match="both needed"):
            error_tradeoff(scores, targets)
        return
    weights = np.arange(len(scores)) % 3 + 1
    weighted = error_tradeoff(scores, targets, weights)
    copied = error_tradeoff(np.repeat(scores, weights), np.repeat(targets, weights))
    np.testing.assert_allclose(weighted.miss, copied.miss)
    np.testing.assert_allclose(weighted.false_alarm, copied.false_alarm)
    assert (np.diff(weighted.miss) >= 0).all() and (np.diff(weighted.false_alarm) <= 0).all()
    assert 0 <= equal_error_rate(weighted) <= 1 and 0 <= min_dcf(weighted) <= 1


def verification_trials(rng, speakers=14, noise=1.0):
    voices = rng.normal(size=(speakers, 8))
    cuts = [
        (name, voices[name] + noise * rng.normal(size=8)) for name in range(speakers) for _ in "ab"
    ]
    pairs = [(a, b) for i, a in enumerate(cuts) for b in cuts[i + 1 :]]
    scores = [a[1] @ b[1] / np.linalg.norm(a[1]) / np.linalg.norm(b[1]) for a, b in pairs]
    sides = [f"s{a[0]}" for a, _ in pairs], [f"s{b[0]}" for _, b in pairs]
    return np.array(scores), np.array(sides[0]) == np.array(sides[1]), sides


def test_the_interval_of_an_equal_error_rate_draws_speakers():
    scores, targets, sides = verification_trials(np.random.default_rng(1))
    rate = equal_error_rate(error_tradeoff(scores, targets))
    found = trial_interval(equal_error_rate, scores, targets, sides, resamples=200)
    assert (found.unit, found.groups) == ("speaker", 14)
    assert found.low <= rate <= found.high
    assert trial_interval(equal_error_rate, scores, targets, resamples=50).unit == "trial"


def test_a_system_with_less_noise_verifies_better():
    scores, targets, sides = verification_trials(np.random.default_rng(1), noise=0.2)
    poor = verification_trials(np.random.default_rng(3), noise=4.0)[0]
    gain = trial_difference(equal_error_rate, scores, poor, targets, sides, resamples=200)
    assert gain.verdict == "better" and gain.difference < 0
    same = trial_difference(equal_error_rate, scores, scores, targets, sides, resamples=50)
    assert same.verdict == "not distinguishable" and same.p == 1


def test_the_interval_and_the_comparison_of_a_macro_f1():
    rng = np.random.default_rng(9)
    truth = rng.integers(3, size=200)
    strong = np.where(rng.random(200) < 0.9, truth, rng.integers(3, size=200))
    weak = np.where(rng.random(200) < 0.4, truth, rng.integers(3, size=200))
    calls = [f"call{index // 8}" for index in range(200)]

    def score(answer):
        return lambda rows: macro_f1(truth[rows], answer[rows])

    found = statistic_interval(score(weak), 200, calls, unit="call", resamples=200)
    assert found.low < macro_f1(truth, weak) < found.high and found.groups == 25
    gain = statistic_difference(
        lambda rows: score(strong)(rows) - score(weak)(rows), 200, calls, resamples=200
    )
    assert gain.verdict == "better"
    mirrored = statistic_difference(
        lambda rows: score(weak)(rows) - score(strong)(rows), 200, resamples=200
    )
    assert mirrored.verdict == "worse" and mirrored.unit == "cut"


def test_errors_are_split_between_some_words_and_all_others():
    reference, answer = ["gọi cho lan", "lan ơi"], ["gọi cho nam lan", "bình"]
    some, others = split_word_errors(reference, answer, {"lan", "bình"})
    whole = word_errors(reference, answer)
    for part, other, total in zip(some, others, whole, strict=True):
        assert (part + other).tolist() == total.tolist()
    assert some.words.tolist() == [1, 1] and some.errors.tolist() == [0, 1]
    assert others.insertions.tolist() == [1, 0]  # `nam` is no word of the list
    inserted = split_word_errors(["vâng"], ["vâng bình"], {"bình"})[0]
    assert inserted.insertions.tolist() == [1] and inserted.words.tolist() == [0]
