"""The command that evaluates heads: one small run, asked in every way, and what it says of bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import strong_backbone

from encoder import Context, load_backbone
from heads import TrunkSpec, find_head, load_head, save_head
from heads.evaluate import main
from heads.predict import over_call
from heads.predictions import read_predictions, read_scored_trials
from tests.language_models import LMPLZ
from trunkline.manifest import load_manifest

ROOT = Path(__file__).parent.parent
RATE = 8000
TURNS = 3
CALLS = 6
QUICK = ["contexts=[full]", "score.resamples=100"]


def tone(path: Path, seed: int, seconds: float) -> None:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 900) * time) + 0.02 * rng.normal(
        size=time.size
    )
    soundfile.write(path, wave.astype(np.float32), RATE)


def rows() -> list[dict]:
    intents = ["pay", "ask", "leave"]
    return [
        {
            "id": f"call{call}-{turn}",
            "audio_filepath": f"call{call}-{turn}.wav",
            "call_id": f"call{call}",
            "channel": 0,
            "start": 0.0,
            "duration": 0.5 + 0.1 * ((call + turn) % 4),
            "text": "dạ vâng" if turn else "a lô",
            "speaker": f"s{call % 3}",
            "labels": {
                "intent": intents[(call * turn) % 3],
                "mood": "good" if call % 2 else "bad",
                "vad": [[0.1, 0.4, "speech"]],
            },
            "split": "test",
        }
        for call in range(CALLS)
        for turn in range(TURNS)
    ]


def write_rows(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder as heads.train leaves it, with recordings and their manifest."""
    folder = tmp_path_factory.mktemp("run")
    for number, row in enumerate(rows()):
        tone(folder / row["audio_filepath"], number, row["duration"])
    write_rows(folder / "manifest.jsonl", rows())
    backbone = strong_backbone(conv_channels=4)
    backbone.save(folder / "trunk")
    backbone = load_backbone(folder / "trunk")
    labels = {
        "intent": ("intent", {}, [row["labels"]["intent"] for row in rows()]),
        "mood": ("sentiment", {"label": "mood"}, ["good", "bad"]),
        "voice": ("speaker", {}, ["s0", "s1", "s2"]),
        "text": ("ctc", {}, [row["text"] for row in rows()]),
        "vad": ("vad", {}, [row["labels"]["vad"] for row in rows()]),
    }
    for name, (kind, options, examples) in labels.items():
        cls = find_head(kind)
        settings = cls.Options(**options)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            head = cls(settings, TrunkSpec.of(backbone), cls.prepare(settings, examples))
        save_head(head, folder / "run" / "heads" / name, backbone)
    result = {"summary": {"backbone": str(folder / "trunk")}}
    (folder / "run" / "result.json").write_text(json.dumps(result))
    return folder


def command(run: Path, out: Path, *arguments: str, manifest: str | None = None) -> int:
    source = [str(run / "run"), "--manifest", manifest or str(run / "manifest.jsonl")]
    return main([*source, "--out", str(out), "--json", "--quiet", *arguments])


def table(capsys) -> dict[tuple[str, str], dict]:
    report = json.loads(capsys.readouterr().out)
    return {(row["head"], row["context"]): row for row in report["tables"]["Scores"]}


def test_a_run_is_evaluated_in_full_limited_and_streaming_contexts(run, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "heads.evaluate", str(run / "run")]
    words += ["--manifest", str(run / "manifest.jsonl"), "--split", "test", "--out", str(tmp_path)]
    result = subprocess.run(
        [*words, "score.resamples=100", "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = {(x["head"], x["context"]): x for x in json.loads(result.stdout)["tables"]["Scores"]}
    contexts = ["full", "64,128,128", "8,40,0"]
    assert set(found) == {
        (h, c) for h in ("intent", "mood", "voice", "text", "vad") for c in contexts
    }
    assert found["intent", "full"]["over"] == "18 cuts"  # three speakers are too few to draw
    assert found["text", "8,40,0"]["words"] == 36 and "than the first" in found["text", "8,40,0"]
    assert found["vad", "full"]["seconds"] == round(sum(row["duration"] for row in rows()))
    assert found["voice", "full"]["trials"] == 18 * 17 / 2
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {
        "predictions.jsonl",
        "trials.jsonl",
        "scores.csv",
        "scores.json",
        "report.html",
    }


def test_the_predictions_are_what_the_head_alone_answers(run, tmp_path):
    assert command(run, tmp_path, "--head", "intent", "contexts=[full,'4,8,2']") == 0
    found = {(row.id, row.context): row for row in read_predictions(tmp_path)}
    backbone = load_backbone(run / "trunk")
    head = load_head(run / "run" / "heads" / "intent", backbone)
    for cut in load_manifest(run / "manifest.jsonl"):
        for context in (Context.full(), Context(4, 8, 2)):
            with torch.no_grad():
                encoded = backbone.encode(cut.load(RATE), context=context, layers="all")
                answer = head.decode(head(encoded))[0]
            row = found[cut.id, "full" if context.is_full else "4,8,2"]
            assert row.answer == answer.label and row.reference == cut.label("intent")
            assert row.confidence == pytest.approx(answer.confidence, abs=1e-5)
            assert row.duration == cut.duration and row.speaker == cut.speaker


def test_a_call_is_answered_from_all_its_turns(run, tmp_path, capsys):
    assert command(run, tmp_path, "--head", "mood", "per=call", *QUICK) == 0
    assert table(capsys)["mood", "full"]["cuts"] == CALLS
    found = {row.id: row for row in read_predictions(tmp_path)}
    backbone = load_backbone(run / "trunk")
    head = load_head(run / "run" / "heads" / "mood", backbone)
    turns = [cut for cut in load_manifest(run / "manifest.jsonl") if cut.call_id == "call2"]
    with torch.no_grad():
        parts = [backbone.encode(cut.load(RATE), layers="all") for cut in turns]
        expected = head.decode(over_call(head, parts))[0]
    assert found["call2/0"].answer == expected.label
    assert found["call2/0"].confidence == pytest.approx(expected.confidence, abs=1e-5)
    assert command(run, tmp_path, "--head", "intent", "per=call", *QUICK) == 1
    assert "turns of call 'call1' have different 'intent'" in capsys.readouterr().err
    assert command(run, tmp_path, "--head", "text", "per=call", *QUICK) == 2
    assert "per=call is for heads that pool" in capsys.readouterr().err


def test_rules_are_scored_beside_the_head_and_say_what_they_refused(run, tmp_path, capsys):
    rules = {"rules": [{"label": name, "after": ["ask"]} for name in ("pay", "leave")]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    option = f"rules={tmp_path / 'rules.json'}"
    assert command(run, tmp_path / "out", "--head", "intent", option, *QUICK) == 0
    assert set(table(capsys)) == {("intent", "full"), ("intent", "full with rules")}
    rows_ = read_predictions(tmp_path / "out")
    ruled = [x for x in rows_ if x.context == "full with rules"]
    assert [x.id for x in ruled] == [x.id for x in rows_ if x.context == "full"]
    firsts = [row.answer for row in ruled if row.id.endswith("-0")]
    assert firsts == ["ask"] * CALLS
    assert "only after &#x27;ask&#x27;" in (tmp_path / "out" / "report.html").read_text()
    assert command(run, tmp_path, "--head", "voice", option, *QUICK) == 2
    assert "no head of voice gives one class for a turn" in capsys.readouterr().err


def test_trials_come_from_a_file_and_a_cohort_normalises_them(run, tmp_path, capsys):
    trials = tmp_path / "trials.txt"
    ids = [row["id"] for row in rows()]
    speakers = {row["id"]: row["speaker"] for row in rows()}
    pairs = [(a, b) for a in ids[:6] for b in ids[6:12]]
    trials.write_text("".join(f"{int(speakers[a] == speakers[b])} {a} {b}\n" for a, b in pairs))
    option = ["--head", "voice", "--trials", str(trials)]
    assert command(run, tmp_path / "plain", *option, *QUICK) == 0
    row = table(capsys)["voice", "full"]
    assert row["trials"] == 36 and 0 <= row["eer"] <= 1 and "min_dcf_0.01" in row
    manifest = str(run / "manifest.jsonl")
    assert command(run, tmp_path / "normed", *option, "--cohort", manifest, *QUICK) == 0
    plain, normed = (read_scored_trials(tmp_path / name) for name in ("plain", "normed"))
    assert [x.same for x in plain] == [x.same for x in normed]
    assert [x.score for x in plain] != [x.score for x in normed]
    trials.write_text("1 call0-0 call0-1\n0 call0-0 call9-1\n")
    assert command(run, tmp_path, *option, *QUICK) == 1
    assert "trials.txt:2: trial names 'call9-1', which is no id" in capsys.readouterr().err
    trials.write_text("1 call0-0 call0-1\n")
    assert command(run, tmp_path, *option, *QUICK) == 1
    assert "Trials of the same speaker and trials of different" in capsys.readouterr().err


def test_a_manifest_without_the_label_is_an_error_that_names_those_there_are(run, tmp_path, capsys):
    lines = [
        row | {"labels": {"intnet": "pay"}, "audio_filepath": str(run / row["audio_filepath"])}
        for row in rows()
    ]
    manifest = write_rows(tmp_path / "m.jsonl", lines)
    assert command(run, tmp_path, "--head", "intent", *QUICK, manifest=manifest) == 1
    message = capsys.readouterr().err
    assert "none of 18 cuts has the label 'intent'. Did you mean 'intnet'?" in message


def test_labels_that_training_never_saw_are_counted_as_wrong_and_named(run, tmp_path, capsys):
    lines = [row | {"audio_filepath": str(run / row["audio_filepath"])} for row in rows()]
    lines[0]["labels"] = {"intent": "complain"}
    del lines[1]["labels"]["intent"]
    manifest = write_rows(tmp_path / "m.jsonl", lines)
    assert command(run, tmp_path, "--head", "intent", *QUICK, manifest=manifest) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["notes"] == [
        "intent: 1 of 18 have no 'intent' and are not judged.",
        "intent: labels that were not in training count as answered wrongly: 'complain' (1 x).",
    ]
    assert report["tables"]["Scores"][0]["cuts"] == 17
    lines[2]["labels"] = {"intent": ["pay"]}
    manifest = write_rows(tmp_path / "m.jsonl", lines)
    assert command(run, tmp_path, "--head", "intent", *QUICK, manifest=manifest) == 1
    told = capsys.readouterr().err
    assert "['pay'] is not a class name" in told and ".jsonl:3: intent" in told


def test_silence_short_turns_and_files_that_cannot_be_read(run, tmp_path, capsys):
    lines = [row | {"audio_filepath": str(run / row["audio_filepath"])} for row in rows()[:4]]
    for name, samples in (("silence", 8000), ("short", 800), ("none", 0)):
        level = 0.1 if name == "short" else 0.0
        soundfile.write(tmp_path / f"{name}.wav", np.full(samples, level, np.float32), RATE)
        lines.append({"id": name, "audio_filepath": f"{name}.wav", "labels": {"intent": "pay"}})
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    lines.append({"id": "broken", "audio_filepath": "broken.wav", "labels": {"intent": "pay"}})
    manifest = write_rows(tmp_path / "m.jsonl", lines)
    assert command(run, tmp_path / "out", "--head", "intent", *QUICK, manifest=manifest) == 0
    report = json.loads(capsys.readouterr().out)
    assert any(note.startswith("2 could not be read and are left out") for note in report["notes"])
    found = {row.id: row for row in read_predictions(tmp_path / "out")}
    assert "broken" not in found and found["silence"].answer is None
    assert found["short"].answer in ("pay", "ask", "leave")  # 0.1 s: one frame
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Left out" in page and "broken" in page
    only = write_rows(tmp_path / "only.jsonl", lines[-1:])
    assert command(run, tmp_path, "--head", "intent", *QUICK, manifest=only) == 1
    assert "no cut could be read" in capsys.readouterr().err


def test_wrong_folders_heads_trunks_and_settings_are_named(run, tmp_path, capsys):
    def says(*arguments: str) -> str:
        assert main([*arguments, "--quiet"]) in (1, 2)
        return capsys.readouterr().err

    manifest = ["--manifest", str(run / "manifest.jsonl")]
    head = str(run / "run" / "heads" / "intent")
    assert "holds no head (no head.json)" in says(str(tmp_path), *manifest)
    assert "does not exist" in says(str(tmp_path / "none"), *manifest)
    assert "Did you mean 'intent'?" in says(str(run / "run"), *manifest, "--head", "intend")
    assert "'tpu' cannot be used" in says(str(run / "run"), *manifest, "--device", "tpu")
    assert "Did you mean 'contexts'?" in says(str(run / "run"), *manifest, "context=[full]")
    assert "is not understood" in says(str(run / "run"), *manifest, "contexts=[fully]")
    assert "write NAME=module:Class" in says(head, *manifest, "--kind", "intent")
    strong_backbone(seed=9).save(tmp_path / "other")
    message = says(head, *manifest, "--backbone", str(tmp_path / "other"))
    assert "was trained on the trunk" in message
    assert "no cut with split = 'tset'" in says(head, *manifest, "--split", "tset")


def test_a_head_directory_of_a_run_knows_its_trunk(run, tmp_path, capsys):
    source = str(run / "run" / "heads" / "mood")
    manifest = ["--manifest", str(run / "manifest.jsonl"), "--out", str(tmp_path)]
    assert main([source, *manifest, *QUICK, "--json", "--quiet"]) == 0
    assert set(table(capsys)) == {("mood", "full")}


def test_a_language_model_and_phrases_join_the_search_that_is_scored(run, tmp_path, capsys):
    (tmp_path / "lm.arpa").write_text(LMPLZ, encoding="utf-8")
    (tmp_path / "phrases.txt").write_text("dạ vâng\n", encoding="utf-8")
    options = ("--head", "text", *QUICK)
    answers = {}
    for name, more in {
        "plain": (),
        "lm": ("--lm", str(tmp_path / "lm.arpa"), "--lm-weight=3"),
        "phrases": ("--phrases", str(tmp_path / "phrases.txt"), "--boost=60"),
    }.items():
        assert command(run, tmp_path / name, *options, *more) == 0
        answers[name] = [row.answer for row in read_predictions(tmp_path / name)]
    assert answers["lm"] != answers["plain"]
    heard = {name: sum("dạ" in text for text in texts) for name, texts in answers.items()}
    assert heard["phrases"] > heard["plain"]
    about = json.loads((tmp_path / "phrases/scores.json").read_text())
    assert about["phrases"] == [str(tmp_path / "phrases.txt"), 60.0] and about["lm"] is None
    capsys.readouterr()
    assert command(run, tmp_path / "none", "--head", "intent", *QUICK, "--lm", "x.arpa") == 2
    assert "for heads that write text" in capsys.readouterr().err
    assert command(run, tmp_path / "none", *options, "--phrases", str(tmp_path / "no.txt")) == 1
    assert "Cannot read" in capsys.readouterr().err
