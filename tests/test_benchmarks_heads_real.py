"""The rows of the benchmark of heads are settings that can be, and its tests compare rows that there are."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.heads_real import Bench, write_segments
from benchmarks.heads_real_draws import compared, mean_scores
from benchmarks.heads_real_lm import write_language_model
from benchmarks.heads_real_rows import COMPARISONS, ROWS
from benchmarks.heads_real_tables import TITLES, heads_parts
from heads.config import HeadsConfig
from heads.predictions import Prediction
from heads.registry import find_head
from trunkline.errors import DataError, UsageError
from trunkline.settings import load_settings, read_settings


@pytest.mark.parametrize("row", [row for row in ROWS if row.heads], ids=lambda row: row.name)
def test_every_row_has_settings_that_can_be(row, tmp_path):
    (tmp_path / "en_librispeech_mini").mkdir()
    (tmp_path / "en_librispeech_mini/manifest.jsonl").write_text("")
    arguments = argparse.Namespace(
        data=tmp_path, work=tmp_path / "work", out=tmp_path / "out.json", backbone=tmp_path
    )
    config = load_settings(HeadsConfig, None, Bench(arguments).settings(row))
    assert set(config.heads) == set(row.heads)
    for name, head in config.heads.items():
        read_settings(find_head(config.kind_of(name)).Options, head.options)


def test_comparisons_name_rows_and_groups_have_titles():
    contexts = {row.name: row.contexts for row in ROWS}
    assert len(contexts) == len(ROWS)
    for (row_a, context_a), (row_b, context_b), _, _ in COMPARISONS:
        assert context_a in contexts[row_a]
        assert context_b in contexts[row_b]
    assert {row.group for row in ROWS} == set(TITLES)


def test_utterances_are_cut_into_stretches_and_test_stays_whole(tmp_path):
    folder = tmp_path / "en_librispeech_mini"
    folder.mkdir()
    rows = [
        {
            "audio_filepath": "a.opus",
            "duration": 10.0,
            "speaker": "1",
            "split": "train",
            "text": None,
        },
        {
            "audio_filepath": "b.opus",
            "duration": 10.0,
            "speaker": "2",
            "split": "test",
            "text": "x",
        },
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text)
    path = write_segments(tmp_path, tmp_path / "work/voices.jsonl")
    made = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in made] == ["a.opus#0", "a.opus#1", "a.opus#2", "b.opus"]
    assert made[0]["end"] == made[1]["start"] == pytest.approx(10 / 3, abs=1e-3)
    assert made[3]["duration"] == 10.0
    assert (path.parent / made[0]["audio_filepath"]).resolve() == Path(folder / "a.opus").resolve()


def test_a_language_model_knows_the_transcripts_of_train_alone(tmp_path):
    rows = [{"text": "cà phê", "split": "train"}, {"text": "trở lại", "split": "test"}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):  # and is made anew where it is there
        model = write_language_model(tmp_path / "manifest.jsonl", tmp_path / "row/lm.arpa")
    text = model.read_text(encoding="utf-8")
    assert "cà phê" in text and "trở" not in text


def test_a_head_is_judged_again_only_after_it_was_made(tmp_path):
    arguments = argparse.Namespace(
        data=tmp_path, work=tmp_path, out=tmp_path / "out.json", backbone=tmp_path
    )
    row = next(row for row in ROWS if row.lm_of)
    assert row.lm_of in {row.name for row in ROWS}
    with pytest.raises(UsageError, match=f"{row.name} judges the head of {row.lm_of}; make that"):
        Bench(arguments).make(row)


def write_answers(folder: Path, right: list[bool], context: str = "full") -> Path:
    folder.mkdir(parents=True)
    rows = [
        Prediction(
            "digit", "classes", context, f"cut{n}", "one", "one" if good else "two", speaker="s"
        )
        for n, good in enumerate(right)
    ]
    with (folder / "predictions.jsonl").open("w") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    return folder


def test_several_draws_are_their_mean_and_are_compared_with_their_doubt(tmp_path):
    rng = np.random.default_rng(0)
    ours = write_answers(tmp_path / "ours", list(rng.random(200) < 0.6))
    shares = [0.3, 0.4, 0.5, 0.6, 0.7]
    draws = [
        write_answers(tmp_path / f"draw-{n}", list(rng.random(200) < share))
        for n, share in enumerate(shares)
    ]
    lucky, mean = (compared(([ours], "full"), (each, "full")) for each in (draws[:1], draws))
    assert lucky["verdict"] == "better" and mean["verdict"] == "not distinguishable"
    assert mean["b"] == pytest.approx(np.mean(shares), abs=0.05)
    parts = [
        {"digit": [{"context": "full", "cuts": 200, "accuracy": share, "uar": share / 2}]}
        for share in shares
    ]
    (row,) = mean_scores(parts, [draws])["digit"]
    assert (row["accuracy"], row["uar"], row["cuts"]) == (0.5, 0.25, 200)
    assert (row["draws"], row["lowest"], row["highest"]) == (5, 0.3, 0.7)
    assert row["low"] < 0.42 and row["high"] > 0.58  # cuts alone would give 0.47 to 0.53
    write_answers(tmp_path / "others", [True] * 30)
    with pytest.raises(DataError, match="other cuts"):
        compared(([ours], "full"), ([tmp_path / "others"], "full"))


def test_results_become_tables():
    score = {
        "head": "intent", "context": "full", "accuracy": 0.5, "low": 0.4, "high": 0.6, "macro_f1": 0.45,
    }  # fmt: skip
    row = {
        "group": "vi_diadiem", "trunk": "pretrained, frozen", "note": "", "labelled": 10, "cpu_seconds": 3.0,
        "scores": {"intent": [score]},
    }  # fmt: skip
    test = {
        "row_a": "x", "row_b": "y", "a": 0.5, "b": 0.4, "head": "intent", "score": "accuracy",
        "difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.01, "verdict": "better",
    }  # fmt: skip
    found = {"rows": {"x": row}, "comparisons": [test], "cpus": 2, "backbone": "abc"}
    parts = list(heads_parts(found))
    tables = [part for part in parts if not isinstance(part, str)]
    assert tables[0][0]["score"] == "accuracy 50.0 (40.0-60.0)"
    assert tables[0][0]["also"] == "macro f1 45.0"
    assert tables[1][0]["difference"] == "+10.0 (+5.0 to +15.0)"
