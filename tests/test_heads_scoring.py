"""Scores of predictions: slices, spelling variants, intervals, what is written, and the paired comparison."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.compare import compare, main
from heads.evaluation import Evaluation
from heads.frame_scoring import FrameScorer
from heads.frame_spans import filled, seconds_by_class
from heads.predictions import (
    Prediction,
    ScoredTrial,
    read_predictions,
    read_scored_trials,
)
from heads.scorers import ClassScorer, NumberScorer, SetScorer, TextScorer
from heads.scoring import ScoreOptions
from heads.slices import SliceOptions, slices_of
from heads.spelling import SpellingVariants
from trunkline.errors import ConfigError, DataError, StorageError, UsageError
from trunkline.metrics import macro_f1, uar

QUICK = ScoreOptions(resamples=100)
WORDS = ["a", "lô", "vâng", "không", "chuyển", "khoản"]


def text_rows(errors: float = 0.3, count: int = 60, seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(0)
    wrong = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        said = list(rng.choice(WORDS, size=rng.integers(0, 7)))
        heard = [wrong.choice(WORDS) if wrong.random() < errors else word for word in said]
        rows.append(
            Prediction(
                "ctc", "text", "full", f"cut{number}", " ".join(said), " ".join(heard),
                call=f"call{number // 4}", channel=number % 2, duration=0.4 * len(said) + 0.2,
                words=len(said), snr=float(number % 40),
            )
        )  # fmt: skip
    return rows


def class_rows(right: float = 0.7, count: int = 80, seed: int = 0) -> list[Prediction]:
    rng, luck = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    for number in range(count):
        truth = str(rng.choice(["pay", "ask", "leave"], p=[0.6, 0.3, 0.1]))
        answer = truth if luck.random() < right else "ask"
        rows.append(
            Prediction(
                "intent", "classes", "full", f"cut{number}", truth, answer,
                confidence=float(luck.uniform(0.4, 1)), speaker=f"s{number % 16}", duration=1.0,
            )
        )  # fmt: skip
    return rows


def values(scorer) -> dict[str, float]:
    return {score.metric: score.value for score in scorer.scores()}


def test_error_rates_are_those_of_jiwer_and_empty_texts_are_counted():
    rows = text_rows()
    rows[3] = replace(rows[3], answer=None)
    rows[5] = replace(rows[5], reference="", answer="thừa ra")
    found = TextScorer(rows, QUICK)
    references, answers = [x.reference for x in rows], [x.answer or "" for x in rows]
    assert values(found)["wer"] == pytest.approx(jiwer.wer(references, answers))
    assert values(found)["cer"] == pytest.approx(jiwer.cer(references, answers))
    assert values(found)["ser"] == np.mean(
        [a != b for a, b in zip(references, answers, strict=True)]
    )
    counts = found.counts()
    assert counts["empty_references"] == references.count("")
    assert counts["empty_hypotheses"] == answers.count("")
    assert counts["words_where_nothing_was_said"] == 2
    main_score = found.main_score()
    assert main_score.low < main_score.value < main_score.high and main_score.over == "15 calls"


def test_references_without_words_have_no_rate_but_their_insertions_count():
    rows = [replace(row, reference="", answer="ồn") for row in text_rows(count=12)]
    scorer = TextScorer(rows, QUICK)
    assert scorer.main_score() is None and "wer" not in values(scorer)
    assert scorer.counts()["words_where_nothing_was_said"] == 12


def test_words_of_phrases_have_a_rate_of_their_own(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("chuyển khoản\n")
    rows = text_rows()
    scores = values(TextScorer(rows, replace(QUICK, phrases=str(path))))
    named = [(x.reference.split().count(w), x) for x in rows for w in ("chuyển", "khoản")]
    assert sum(count for count, _ in named) > 10
    assert 0 < scores["b_wer"] < 1 and 0 < scores["u_wer"] < 1
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no phrases"):
        TextScorer(rows, replace(QUICK, phrases=str(path))).scores()
    with pytest.raises(StorageError, match="Cannot read the phrases"):
        TextScorer(rows, replace(QUICK, phrases=str(tmp_path / "none"))).scores()


def test_spelling_variants_are_no_errors_on_either_side(tmp_path):
    path = tmp_path / "spelling.txt"
    path.write_text("# variants\nalo = a lô  # greeting\nok = okay = ô kê\n")
    variants = SpellingVariants.load(path)
    assert len(variants) == 3
    assert variants("alo  ok alo") == "a lô ô kê a lô"
    assert variants("halo alove") == "halo alove"
    row = replace(text_rows()[0], reference="alo em", answer="a lô em")
    assert values(TextScorer([row], QUICK))["wer"] > 0
    assert values(TextScorer([row], replace(QUICK, spelling=str(path))))["wer"] == 0
    case = replace(text_rows()[0], reference="A lô, em!", answer="a lô em")
    assert values(TextScorer([case], replace(QUICK, normalise="neutral")))["wer"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alo\n", "spelling.txt:1: 'alo' is no 'variant = spelling'"),
        ("= a lô\n", "spelling.txt:1"),
        ("alo = a lô\nalo = a lo\n", "spelling.txt:2: 'alo' is counted as 'a lô' already"),
        ("a = b\nb = c\n", "'a' is counted as 'b', which holds a variant itself"),
    ],
)
def test_a_spelling_map_that_contradicts_itself_is_refused(tmp_path, text, message):
    path = tmp_path / "spelling.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        SpellingVariants.load(path)
    with pytest.raises(StorageError, match="Cannot read the spelling map"):
        SpellingVariants.load(tmp_path / "none.txt")


@given(st.lists(st.sampled_from(["alo", "a", "lô", "ok", "x"]), max_size=8))
def test_rewriting_twice_changes_nothing_more(words):
    variants = SpellingVariants({"alo": "a lô", "ok": "ô kê", "a a": "à"})
    once = variants(" ".join(words))
    if "a a" not in once:
        assert variants(once) == once


def test_every_cut_is_in_one_slice_of_each_dimension():
    rows = [*text_rows(), replace(text_rows()[0], id="x", words=None, snr=None, channel=None)]
    parts = slices_of(rows, SliceOptions())
    assert set(parts) == {"channel", "duration", "words", "snr"}  # no speaker, no language is known
    for slices in parts.values():
        assert sorted(np.concatenate(list(slices.values())).tolist()) == list(range(len(rows)))
    assert set(parts["channel"]) == {"agent (0)", "customer (1)", "not known"}
    assert {"below 1", "1", "2", "3 to 4", "5 to 8", "not known"} == set(parts["words"])
    assert "5 to 10 dB" in parts["snr"] and "below 1 s" in parts["duration"]


def test_many_speakers_are_shown_as_the_most_frequent_and_the_others():
    rows = [replace(row, speaker=f"s{i % 9 if i < 40 else 0}") for i, row in enumerate(text_rows())]
    parts = slices_of(rows, SliceOptions(by=("speaker",), most=3))["speaker"]
    assert list(parts)[0] == "s0" and list(parts)[-1] == "others" and len(parts) == 4
    with pytest.raises(ConfigError, match="no slices by 'chanel'.*'channel'"):
        SliceOptions(by=("chanel",))
    with pytest.raises(ConfigError, match="duration: edges must rise"):
        SliceOptions(duration=(2.0, 1.0))


def test_the_slices_add_up_to_the_whole():
    scorer = TextScorer(text_rows(), QUICK)
    for dimension in ("words", "channel", "snr"):
        rows = scorer.slice_rows((dimension,))
        errors = sum(row["wer"] * row["size"] for row in rows if row["wer"] is not None)
        assert errors == pytest.approx(scorer.values.sum())


def test_classes_have_macro_f1_uar_majority_calibration_and_what_is_kept():
    rows = [replace(row, abstained=row.confidence < 0.5) for row in class_rows()]
    rows[0] = replace(rows[0], answer=None, confidence=0.0, abstained=True)
    scorer = ClassScorer(rows, QUICK, baseline="pay")
    truth = [row.reference for row in rows]
    found = ["(none)" if row.answer is None else row.answer for row in rows]
    scores = values(scorer)
    assert scores["accuracy"] == np.mean([a == b for a, b in zip(truth, found, strict=True)])
    assert scores["macro_f1"] == pytest.approx(macro_f1(truth, found))
    assert scores["uar"] == pytest.approx(uar(truth, found))
    assert scores["majority_accuracy"] == truth.count("pay") / len(truth)
    kept = [row for row in rows if not row.abstained]
    assert scores["answered"] == len(kept) / len(rows)
    assert scores["precision_of_answered"] == np.mean([x.answer == x.reference for x in kept])
    assert 0 <= scores["ece"] <= 1 and scorer.counts()["no_answer"] == 1
    assert {row["name"] for row in scorer.tables()["Per class"]} == {
        "pay",
        "ask",
        "leave",
        "(none)",
    }
    assert scorer.main_score().over == "16 speakers"
    worst = [row["confidence"] for row in scorer.worst()]
    assert worst == sorted(worst, reverse=True)


def test_slots_are_scored_whole_and_by_f1():
    rows = [
        Prediction("o", "sets", "full", "1", ["size=big", "x=tea"], ["size=big", "x=tea"]),
        Prediction("o", "sets", "full", "2", ["x=tea"], ["x=tea", "size=big"]),
        Prediction("o", "sets", "full", "3", [], None),
    ]
    scorer = SetScorer(rows, QUICK, baseline=["x=tea"])
    scores = values(scorer)
    assert scores["exact"] == pytest.approx(2 / 3)
    assert scores["micro_f1"] == pytest.approx(6 / 7)
    assert scores["majority_exact"] == pytest.approx(1 / 3)
    assert [row["name"] for row in scorer.tables()["Per label"]] == ["size=big", "x=tea"]


def test_numbers_have_an_error_beside_that_of_the_training_mean():
    rows = [Prediction("n", "numbers", "full", str(i), float(i), i + 0.5) for i in range(12)]
    rows[0] = replace(rows[0], answer=None)
    scores = values(NumberScorer(rows, QUICK, baseline=6.0))
    assert scores["mae"] == 0.5 == scores["rmse"] and scores["correlation"] == pytest.approx(1)
    assert scores["baseline_mae"] == pytest.approx(np.mean(np.abs(np.arange(1, 12) - 6)))
    with pytest.raises(DataError, match="no cut has an answer"):
        NumberScorer([rows[0]], QUICK)


def test_frames_are_scored_by_time():
    assert filled([[1.0, 2.0, "a"]], "none", 3.0) == [[0, 1, "none"], [1, 2, "a"], [2, 3, "none"]]
    assert filled([[1.0, 2.0, "a"]], "", 3.0) == [[1, 2, "a"]]
    truth = [[0.0, 1.0, "none"], [1.0, 3.0, "speech"]]
    said = [[0.0, 1.5, "none"], [1.5, 2.5, "speech"]]
    seconds = {("none", "none"): 1.0, ("speech", "none"): 0.5, ("speech", "speech"): 1.0}
    assert seconds_by_class(truth, said) == {**seconds, ("speech", "(none)"): 0.5}
    rows = [Prediction("vad", "frames", "full", "1", truth, said)]
    rows.append(
        Prediction("vad", "frames", "full", "2", [[0.0, 1.0, "none"]], [[0.0, 1.0, "none"]])
    )
    scorer = FrameScorer(rows, QUICK)
    assert values(scorer)["frame_accuracy"] == pytest.approx(3 / 4)
    assert scorer.right().tolist() == [False, True]
    table = {row["name"]: row for row in scorer.tables()["Per class"]}
    assert table["speech"]["recall"] == pytest.approx(0.5) and table["speech"]["precision"] == 1
    with pytest.raises(DataError, match="no label says anything"):
        FrameScorer([Prediction("vad", "frames", "full", "1", [], said)], QUICK)


def trial_rows(noise: float, seed: int = 0) -> list[ScoredTrial]:
    rng = np.random.default_rng(seed)
    return [
        ScoredTrial("voice", "full", f"a{i}", f"b{j}", i == j, (i == j) + noise * rng.normal(),
                    (f"s{i}", f"s{j}"))
        for i in range(14) for j in range(14)
    ]  # fmt: skip


def test_what_is_written_is_read_back_and_complete(tmp_path):
    rows = class_rows() + [replace(row, context="8,40,0") for row in class_rows(0.3, seed=2)]
    evaluation = Evaluation(text_rows() + rows, trial_rows(0.4), QUICK, {"intent": "pay"})
    evaluation.notes = ["a note with <brackets>"]
    evaluation.write(tmp_path, "A test", {"manifest": "test.jsonl"})
    assert read_predictions(tmp_path) == text_rows() + rows
    assert read_scored_trials(tmp_path) == trial_rows(0.4)
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["metric"] for line in lines} >= {"wer", "accuracy", "macro_f1", "uar", "eer"}
    assert {line["by"] for line in lines} == {"", "words", "duration", "snr", "channel", "speaker"}
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["scores"]) == len(lines) and scores["manifest"] == "test.jsonl"
    contexts = {(row["head"], row["context"]): row for row in scores["contexts"]}
    assert contexts["intent", "8,40,0"]["than the first"] == "worse"
    assert contexts["intent", "full"]["majority_accuracy"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "a note with &lt;brackets&gt;" in page
    assert not re.search(r"https?://|<script|<link|src=|url\(", page)
    drawn = [ElementTree.fromstring(x) for x in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    titles = {chart.attrib["aria-label"] for chart in drawn}
    assert titles >= {"Confusion matrix", "wer by number of words", "calibration"}
    assert any("Detection error" in title for title in titles)


def test_a_better_system_is_called_better_with_examples_of_both_directions():
    good, poor = class_rows(0.95, seed=1), class_rows(0.4, seed=2)
    report = compare(good, poor, QUICK, examples=3)
    assert report["verdict"].startswith("A is better than B (accuracy, p = ")
    rows = report["tables"]["Comparison (difference a - b, 95 % interval)"]
    assert [row["score"] for row in rows] == ["accuracy", "macro_f1"]
    assert all(row["verdict"] == "better" for row in rows)
    better = next(rows for title, rows in report["tables"].items() if title.startswith("Better"))
    assert len(better) == 3 and all(row["a"] == row["reference"] != row["b"] for row in better)
    mirrored = compare(poor, good, QUICK)
    assert mirrored["verdict"].startswith("A is worse than B")
    same = compare(good, good, QUICK)
    assert same["verdict"].startswith("A is not distinguishable from B")
    texts = compare(text_rows(0.05, seed=3), text_rows(0.6, seed=4), QUICK)
    assert texts["verdict"].startswith("A is better than B (wer")
    voices = compare(trial_rows(0.2), trial_rows(2.0, seed=1), QUICK)
    assert voices["verdict"].startswith("A is better than B (eer")


def test_comparing_what_cannot_be_compared_is_refused():
    rows = class_rows()
    with pytest.raises(DataError, match="different kinds"):
        compare(rows, text_rows(), QUICK)
    with pytest.raises(DataError, match="no cut in common"):
        compare(rows, [replace(row, id=f"other{row.id}") for row in rows], QUICK)
    with pytest.raises(DataError, match="'cut0' has the label"):
        compare(rows, [replace(rows[0], reference="else"), *rows[1:]], QUICK)
    assert "1 that only one" in compare(rows, rows[1:], QUICK)["note"]


def test_the_command_compares_folders_and_names_what_is_missing(tmp_path, capsys):
    for name, right in (("good", 0.95), ("poor", 0.4)):
        Evaluation(class_rows(right, seed=1), [], QUICK).write(tmp_path / name, name, {})
    folders = [str(tmp_path / "good"), str(tmp_path / "poor")]
    assert main([*folders, "resamples=100", "--out", str(tmp_path / "c.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"].startswith("A is better than B")
    assert json.loads((tmp_path / "c.json").read_text())["verdict"] == report["verdict"]
    assert main([*folders, "--head", "intnet"]) == 2
    assert "has no head 'intnet'. Did you mean 'intent'?" in capsys.readouterr().err
    assert main([*folders, "--context", "8,40,0"]) == 2
    assert "was not evaluated in context '8,40,0'" in capsys.readouterr().err
    assert main([folders[0], str(tmp_path)]) == 1
    assert "holds no predictions.jsonl" in capsys.readouterr().err
    path = tmp_path / "good" / "predictions.jsonl"
    path.write_text(path.read_text() + '{"head": 1}\n')
    assert main(folders) == 1
    assert "predictions.jsonl:81 is no line that heads.evaluate wrote" in capsys.readouterr().err


def test_intervals_by_what_no_cut_names_are_refused():
    with pytest.raises(ConfigError, match="names no speaker"):
        TextScorer(text_rows(), replace(QUICK, by="speaker"))
    by_cut = TextScorer(text_rows(), replace(QUICK, by="cut"))
    assert by_cut.main_score().over == "60 cuts"
    with pytest.raises(DataError, match="nothing to score"):
        Evaluation([], [], QUICK)
    with pytest.raises(ConfigError, match="fewer than 100"):
        ScoreOptions(resamples=5)
    with pytest.raises(UsageError):
        trials = trial_rows(0.1)
        from heads.trial_scoring import TrialScorer

        TrialScorer(trials, QUICK).compare(TrialScorer(trials[1:], QUICK))
