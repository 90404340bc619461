"""The commands around N-best lists: from text to lists, to weights, to a better order, and why."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples import rescore_calls
from rescoring import explain, rescore, simulate, tune
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.weights import Weights
from tests.phrase_lists import simulated
from trunkline.nbest import Hypothesis, NBest, read_nbest, write_nbest
from trunkline.syllable import words

ROOT = Path(__file__).parent.parent
TURNS = [
    f"{polite} {request} {end}".strip()
    for request in (
        "tôi muốn hỏi số dư tài khoản",
        "cho tôi khóa thẻ tín dụng",
        "lãi suất tiết kiệm là bao nhiêu",
        "tôi chuyển tiền mà chưa nhận được",
        "tôi muốn đổi số điện thoại",
        "tôi cần vay tiền mua nhà",
    )
    for polite in ("dạ", "em ơi", "alo", "chị ơi")
    for end in ("", "ạ", "em nhé", "với", "giúp tôi")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Text, a language model folder and simulated lists."""
    made = tmp_path_factory.mktemp("rescoring")
    (made / "turns.txt").write_text("\n".join(TURNS), encoding="utf-8")
    ArpaLM(train([words(turn) for turn in TURNS], order=3).ngrams).save(made / "lm")
    command = [
        "--text",
        str(made / "turns.txt"),
        "--out",
        str(made / "lists.jsonl"),
        "--size",
        "20",
    ]
    assert simulate.main([*command, "--quiet"]) == 0
    return made


@pytest.fixture(scope="module")
def weights(folder) -> Path:
    """Weights that `tune` wrote."""
    path = folder / "weights.json"
    command = [str(folder / "lists.jsonl"), "--lm", str(folder / "lm"), "--terms", "lm,len"]
    assert tune.main([*command, "--out", str(path), "--quiet"]) == 0
    return path


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_simulated_lists_are_lists(folder, capsys):
    lists = list(read_nbest(folder / "lists.jsonl"))
    assert [x.ref for x in lists] == TURNS
    assert max(map(len, lists)) == 20
    command = ["--text", str(folder / "turns.txt"), "--out", str(folder / "again.jsonl")]
    assert simulate.main([*command, "--size", "20", "--json"]) == 0
    assert told(capsys)["note"] == "simulated, not recognised"
    assert (folder / "again.jsonl").read_bytes() == (folder / "lists.jsonl").read_bytes()


def test_tuned_weights_tell_how_they_came_about(folder, weights):
    found = Weights.load(weights)
    assert found.beta > 0
    assert found.tuning["lm"] == str(folder / "lm")
    assert found.tuning["found"]["difference"]["verdict"] == "better"


def test_rescoring_lowers_the_word_error_rate_and_says_by_how_much(folder, weights, capsys):
    out = folder / "rescored.jsonl"
    command = [str(folder / "lists.jsonl"), "--out", str(out), "--weights", str(weights)]
    assert rescore.main([*command, "--lm", str(folder / "lm"), "--json"]) == 0
    summary = told(capsys)
    assert summary["wer_after"] < summary["wer_before"]
    assert summary["difference"]["verdict"] == "better"
    given, new = list(read_nbest(folder / "lists.jsonl")), list(read_nbest(out))
    assert [sorted(x.texts) for x in given] == [sorted(x.texts) for x in new]
    for before, after in zip(given, new, strict=True):
        about = after.extra["rescored"]
        assert about["totals"] == sorted(about["totals"], reverse=True)
        assert [before.hyps[place - 1] for place in about["was"]] == list(after.hyps)


def test_without_weights_the_lists_come_out_as_they_went_in(folder, capsys):
    out = folder / "unchanged.jsonl"
    assert rescore.main([str(folder / "lists.jsonl"), "--out", str(out), "--json"]) == 0
    assert told(capsys)["new_1-best"] == 0
    plain = [
        dataclasses.replace(x, extra={"simulated": x.extra["simulated"]}) for x in read_nbest(out)
    ]
    assert plain == list(read_nbest(folder / "lists.jsonl"))


def test_a_term_that_no_list_has_is_reported(folder, capsys):
    command = [str(folder / "lists.jsonl"), "--out", str(folder / "off.jsonl"), "--set", "beta=1"]
    assert rescore.main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["off_in_lists"] == {"lm": len(TURNS)}
    assert "The term lm has a weight, but no list has its score" in captured.err


def test_names_from_a_list_are_heard(tmp_path, capsys):
    heard = NBest(
        "u", (Hypothesis("cho em gặp chị bùi thị hiện", -5.0),), ref="cho em gặp chị Bùi Thị Hiền"
    )
    write_nbest(tmp_path / "lists.jsonl", [heard])
    (tmp_path / "names.txt").write_text("Bùi Thị Hiền\nC++ (a|b)* [x\n", encoding="utf-8")
    command = [str(tmp_path / "lists.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    command += ["--phrases", str(tmp_path / "names.txt"), "--set", "bias=2", "--json"]
    assert rescore.main(command) == 0
    summary = told(capsys)
    assert (summary["hypotheses_added"], summary["wer_after"]) == (1, 0)
    (found,) = read_nbest(tmp_path / "out.jsonl")
    assert "Bùi Thị Hiền" in found.texts[0]
    assert "expanded" in found.hyps[0].extra


def test_weights_for_phrases_are_tuned_with_candidates(tmp_path, capsys):
    lists, listed = simulated(100)
    write_nbest(tmp_path / "dev.jsonl", lists[:200])
    (tmp_path / "names.txt").write_text("\n".join(listed), encoding="utf-8")
    command = [str(tmp_path / "dev.jsonl"), "--phrases", str(tmp_path / "names.txt")]
    command += ["--terms", "bias", "--restarts", "2"]
    weights = tmp_path / "weights.json"
    assert tune.main([*command, "--out", str(weights), "--json", "--quiet"]) == 0
    tuned = told(capsys)
    assert Weights.load(weights).bias > 0
    assert tuned["difference"]["verdict"] == "better"
    # More than the lists hold: the text that is right was not among them.
    assert tune.main([*command, "--no-expand", "--json", "--quiet"]) == 0
    assert tuned["difference"]["difference"] < told(capsys)["difference"]["difference"]


def test_an_explanation_names_every_term(folder, weights, capsys):
    command = [str(folder / "lists.jsonl"), "--weights", str(weights), "--lm", str(folder / "lm")]
    assert explain.main([*command, "--utt", "simulated-000003", "--top", "2", "--json"]) == 0
    ((title, rows),) = told(capsys)["tables"].items()
    assert title.startswith("simulated-000003; ref: ")
    assert len(rows) == 2
    assert {"place", "was", "total", "am", "x am", "lm", "x lm", "phon", "len", "text"} <= rows[
        0
    ].keys()
    assert explain.main([*command, "--quiet"]) == 0
    assert "x lm" in capsys.readouterr().out


BAD = {
    "no such utterance": (explain, ["few.jsonl", "--utt", "simulated-00003"], 2, "Did you mean"),
    "no such file": (rescore, ["none.jsonl", "--out", "x.jsonl"], 1, "none.jsonl"),
    "onto itself": (rescore, ["lists.jsonl", "--out", "lists.jsonl"], 2, "a file that is read"),
    "weights onto lists": (tune, ["lists.jsonl", "--out", "lists.jsonl"], 2, "a file that is read"),
    "weights onto a folder": (tune, ["lists.jsonl", "--out", "lm"], 2, "lm is a folder"),
    "lists onto text": (simulate, ["--text", "a.txt", "--out", "a.txt"], 2, "a file that is read"),
    "none to show": (explain, ["lists.jsonl", "--top", "0"], 2, "--top must be 1 or more"),
    "among many": (explain, ["lists.jsonl", "--utt", "x"], 2, "The first of 120 is"),
    "no name": (
        rescore,
        ["lists.jsonl", "--out", "x", "--set", "extra.=1"],
        2,
        "no weight 'extra.'",
    ),
    "half a character": (rescore, ["half.jsonl", "--out", "x.jsonl"], 1, "half.jsonl:1 has half a"),
    "device": (rescore, ["lists.jsonl", "--out", os.devnull], 1, "is no regular file"),
    "seed": (tune, ["lists.jsonl", "--seed", "-1"], 2, "seed and restarts must be 0 or more"),
    "dice": (simulate, ["--text", "a.txt", "--out", "x", "--seed", "-1"], 2, "seed must be 0 or"),
    "endless": (
        simulate,
        ["--text", "a.txt", "--out", "x", "--noise", "inf"],
        2,
        "from 0 to 1e+06",
    ),
    "no weights": (rescore, ["lists.jsonl", "--out", "x.jsonl", "--weights", "none"], 1, "none"),
    "no number": (rescore, ["lists.jsonl", "--out", "x", "--set", "beta=x"], 2, "NAME=NUMBER"),
    "no weight": (
        rescore,
        ["lists.jsonl", "--out", "x", "--set", "bata=1"],
        2,
        "Did you mean 'beta'?",
    ),
    "no model": (
        rescore,
        ["lists.jsonl", "--out", "x", "--set", "gamma=1"],
        2,
        "no semantic model",
    ),
    "no dialect": (rescore, ["lists.jsonl", "--out", "x", "--dialect", "nort"], 2, "'north'"),
    "threshold": (rescore, ["lists.jsonl", "--out", "x", "--threshold", "2"], 2, "from 0 to 1"),
    "too few": (tune, ["few.jsonl"], 1, "too few to tune on"),
    "no ref": (tune, ["noref.jsonl"], 1, "tuning and scoring need what was said"),
    "bad line": (tune, ["bad.jsonl"], 1, "bad.jsonl:2: nbest[0]: am must be a finite number"),
    "no term": (tune, ["lists.jsonl", "--terms", "lmm"], 2, "no term 'lmm'"),
    "no text": (simulate, ["--text", "none.txt", "--out", "x.jsonl"], 1, "none.txt"),
    "no words": (simulate, ["--text", "empty.txt", "--out", "x.jsonl"], 1, "No text holds words"),
}


@pytest.mark.parametrize(("module", "arguments", "status", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_a_sentence(
    folder, monkeypatch, capsys, module, arguments, status, message
):
    monkeypatch.chdir(folder)
    lists = list(read_nbest("lists.jsonl"))
    write_nbest("few.jsonl", lists[:20])
    write_nbest("noref.jsonl", [dataclasses.replace(x, ref=None) for x in lists])
    good = '{"utt_id": "a", "nbest": [{"text": "a", "am": 0}], "ref": "a"}\n'
    Path("bad.jsonl").write_text(good + '{"utt_id": "b", "nbest": [{"text": "a", "am": NaN}]}\n')
    Path("empty.txt").write_text("...\n")
    Path("a.txt").write_text("a b\n")
    Path("half.jsonl").write_text('{"utt_id": "a", "nbest": [{"text": "\\ud83d", "am": 0}]}\n')
    assert module.main([*arguments, "--quiet"]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert message in captured.err.splitlines()[-1]
    assert not Path("x.jsonl").exists()


def test_a_command_runs_as_a_process(folder, weights):
    command = [sys.executable, "-m", "rescoring.rescore", str(folder / "lists.jsonl")]
    command += ["--out", str(folder / "process.jsonl"), "--weights", str(weights)]
    done = subprocess.run(
        [*command, "--lm", str(folder / "lm")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "wer_after" in done.stdout


def test_the_example_of_bank_calls_runs(capsys, monkeypatch):
    monkeypatch.setattr(rescore_calls, "TRAINING_CALLS", 60)
    assert rescore_calls.main(["--calls", "30", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["simulated"] is True
    assert summary["difference"]["verdict"] == "better"
    assert "hypotheses, the best first" in captured.err
