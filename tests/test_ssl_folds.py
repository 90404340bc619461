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

from ssl.folds import folded_cuts, joined, picked
from ssl.pooled import Pooled
from ssl.probing import best, probe
from tests.probing import command, made_corpus, made_features
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Cut, Manifest, load_manifest


class Listed(list[Cut]):
    """Cuts in the place of a manifest."""

    path = Path("listed.jsonl")


@given(speakers=st.integers(4, 9), number=st.integers(3, 9), seed=st.integers(0, 3))
def test_folds_test_every_cut_once_and_keep_speakers_together(speakers, number, seed):
    cuts = [
        Cut(
            f"{index}",
            Path("none.wav"),
            f"{index}",
            speaker=f"s{index % speakers}",
            extra={"tone": "ab"[index // speakers % 2]},
        )
        for index in range(8 * speakers)
    ]
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
