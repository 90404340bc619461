"""Every labelled cut as test once: folds by speaker, and their joint score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl.folds import answered_together, folded_cuts, joined, picked, rotated_cuts
from ssl.pooled import Pooled
from ssl.probing import LabelledCuts, Row, best, probe, scored
from tests.probing import command, made_corpus, made_features
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Cut, Manifest, load_manifest


class Listed(list[Cut]):
    """Cuts in the place of a manifest."""

    path = Path("listed.jsonl")


def spoken(speakers: int) -> list[Cut]:
    """Eight cuts of each speaker, of two tones."""
    return [
        Cut(
            f"{index}",
            Path("none.wav"),
            f"{index}",
            speaker=f"s{index % speakers}",
            extra={"tone": "ab"[index // speakers % 2]},
        )
        for index in range(8 * speakers)
    ]


@given(speakers=st.integers(4, 9), number=st.integers(3, 9), seed=st.integers(0, 3))
def test_folds_test_every_cut_once_and_keep_speakers_together(speakers, number, seed):
    cuts = spoken(speakers)
    manifest = cast("Manifest", Listed(cuts))
    if number > speakers:
        with pytest.raises(UsageError, match=f"must be 3 to {speakers}"):
            folded_cuts(manifest, "tone", number, seed=seed)
        return
    folds = folded_cuts(manifest, "tone", number, seed=seed)
    assert len(folds) == number
    assert sorted(cut.id for fold in folds for cut in fold.test) == sorted(cut.id for cut in cuts)
    for fold in folds:
        parts = [{cut.speaker for cut in part} for part in (fold.train, fold.dev, fold.test)]
        assert all(parts) and not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert len(fold.train) + len(fold.dev) + len(fold.test) == len(cuts)
    again = folded_cuts(manifest, "tone", number, seed=seed)
    assert [[cut.id for cut in fold.test] for fold in again] == [
        [cut.id for cut in fold.test] for fold in folds
    ]


@given(speakers=st.integers(3, 9), number=st.integers(1, 9), seed=st.integers(0, 3))
def test_where_dev_rotates_every_speaker_of_train_and_dev_is_dev_once(speakers, number, seed):
    cuts = spoken(speakers)
    known = [cut for cut in cuts if cut.speaker != "s0"]
    splits = LabelledCuts("tone", known[:9], known[9:], cuts[::speakers], ["a note"])
    if not 2 <= number < speakers:
        with pytest.raises(UsageError, match=f"must be 2 to {speakers - 1}, as train and dev have"):
            rotated_cuts(splits, number, seed=seed)
        return
    rotations = rotated_cuts(splits, number, seed=seed)
    assert len(rotations) == number
    assert sorted(cut.id for part in rotations for cut in part.dev) == sorted(c.id for c in known)
    for part in rotations:
        assert part.test == splits.test and part.notes[0] == "a note"
        assert sorted(cut.id for cut in part.train + part.dev) == sorted(cut.id for cut in known)
        assert not {cut.speaker for cut in part.train} & {cut.speaker for cut in part.dev}


def test_what_is_left_to_train_on_must_have_two_classes():
    cuts = [cut for cut in spoken(3) if cut.speaker == "s0" or cut.label("tone") == "a"]
    with pytest.raises(DataError, match="one 'tone' only; take more parts"):
        rotated_cuts(LabelledCuts("tone", cuts, [], cuts, []), 3)


def test_classifiers_answer_together_by_the_mean_of_their_probabilities():
    cuts = [Cut(tone, Path("none.wav"), tone, extra={"tone": tone}) for tone in "abc"]

    def row(classes: str, probabilities: list[list[float]], dev: float) -> Row:
        table = np.array(probabilities)
        answers = [classes[index] for index in table.argmax(axis=1)]
        return Row(
            "1", "mlp", 0.1, dev, dev, 1 - dev, **scored(answers, cuts, "tone"),
            classes=tuple(classes), probabilities=table,
        )  # fmt: skip

    # The second has never heard an "a".
    rows = [
        row("abc", [[0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]], 0.5),
        row("bc", [[0.6, 0.4], [0.9, 0.1], [0.1, 0.9]], 0.7),
    ]
    together = answered_together(rows, cuts, "tone")
    expected = [[0.25, 0.45, 0.3], [0.2, 0.6, 0.2], [0.05, 0.45, 0.5]]
    assert together.probabilities == pytest.approx(np.array(expected))
    assert together.answers == ("b", "b", "c") and together.correct.tolist() == [False, True, True]
    assert (together.dev_accuracy, together.dev_loss) == pytest.approx((0.6, 0.4))
    assert (together.layer, together.weight_decay) == ("1", None)
    assert answered_together(rows[:1], cuts, "tone") is rows[0]


def test_folds_of_one_class_or_too_few_are_refused(tmp_path):
    manifest = load_manifest(made_corpus(tmp_path))
    with pytest.raises(UsageError, match="must be 3 to 48, as .* has 48 cuts"):
        folded_cuts(manifest, "pitch", 2)
    with pytest.raises(DataError, match="one 'always' only"):
        folded_cuts(manifest, "always", 3)


def test_a_score_over_folds_is_that_of_all_answers_together():
    features = made_features(1)
    cuts = features["train"].cuts[:60] + features["dev"].cuts + features["test"].cuts
    whole = Pooled(
        torch.cat(
            [features["train"].vectors[:60], features["dev"].vectors, features["test"].vectors]
        ),
        cuts,
    )
    folds = folded_cuts(cast("Manifest", Listed(cuts)), "tone", 4)
    rows = [
        best(probe({name: picked(whole, getattr(fold, name)) for name in ("train", "dev", "test")},
                   "tone", ("0", "1", "2"), heads=("linear",)))
        for fold in folds
    ]  # fmt: skip
    tested = [cut for fold in folds for cut in fold.test]
    row = joined(rows, tested, "tone")
    right = [answer == cut.label("tone") for answer, cut in zip(row.answers, tested, strict=True)]
    assert row.correct.tolist() == right and row.accuracy == pytest.approx(np.mean(right))
    assert row.layer == "1" and row.accuracy > 0.9 and row.interval.groups == 240
    assert joined(rows[:1], tested, "tone") is rows[0]


def test_the_command_lets_dev_rotate(tmp_path):
    manifest = made_corpus(tmp_path, speakers=4)
    options = ["--backbone", "mfcc", "--backbone", "random:tiny", "--head", "linear", "--json"]
    options += ["--manifest", str(manifest), "--label", "pitch"]
    done = command(*options, "--rotate", "3")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rotations"], report["test_cuts"]) == (3, 15)
    assert any("of train and dev is dev once; the 3 classifiers" in x for x in report["notes"])
    mfcc = report["tables"]["Layer chosen on dev"][0]
    assert mfcc["accuracy"] > 0.8 and mfcc["over"] == "15 cuts"
    done = command(*options, "--rotate", "1")
    assert done.returncode == 2 and "--rotate 1: must be 2 to 4, as train" in done.stderr
    done = command(*options, "--rotate", "2", "--folds", "4")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rotations"], report["folds"], report["test_cuts"]) == (2, 4, 48)


def test_the_command_tests_every_speaker_in_turn(tmp_path):
    manifest = made_corpus(tmp_path, speakers=4)
    options = [
        "--backbone",
        "mfcc",
        "--backbone",
        "random:tiny@0-1",
        "--folds",
        "4",
    ]
    options += ["--manifest", str(manifest), "--label", "pitch", "--head", "linear", "--json"]
    done = command(*options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["folds"], report["test_cuts"]) == (4, 48) and "dev_cuts" not in report
    assert any("Each of 4 speakers is test once" in note for note in report["notes"])
    mfcc, untrained = (
        row for row in report["tables"]["Layer chosen on dev"] if row["among"] == "linear"
    )
    assert mfcc["over"] == "48 cuts" and mfcc["accuracy"] > 0.8
    assert untrained["draws"] == 2
    compared = report["tables"]["Paired comparison (difference of accuracies, 95 % interval)"]
    assert compared[0]["groups"] == 48
