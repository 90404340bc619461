"""`trunkline transcribe` and `trunkline align`: text and times from files, and nothing from silence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from encoder import Context
from heads import load_model
from heads.align import main as align
from heads.ctc import CTCHead, CTCOptions, CTCOutput
from heads.folder import save_head
from heads.head import TrunkSpec
from heads.recognition import TokenizerOptions, Word
from heads.subtitles import cues, to_srt, to_textgrid, to_vtt
from heads.transcribe import main as transcribe
from heads.utterances import pieces, utterances
from tests.encoder_backbones import strong_backbone
from tests.language_models import LMPLZ
from trunkline.nbest import read_nbest

RATE = 8000
TONES = {"không": 400, "chín": 900, "xin": 1700}
BAD = "--max-bad-fraction=0.5"
SILENT = slice(int(2.4 * RATE), int(4.0 * RATE))


def spoken(words: str, seed: int = 0) -> np.ndarray:
    """Words as tones of 0.4 s with faint noise between."""
    random = np.random.default_rng(seed)
    parts = [np.zeros(int(0.3 * RATE))]
    for word in words.split():
        time = np.arange(int(0.4 * RATE)) / RATE
        parts += [0.4 * np.sin(2 * np.pi * TONES[word] * time), np.zeros(int(0.4 * RATE))]
    waveform = np.concatenate(parts)
    return (waveform + 0.003 * random.normal(size=len(waveform))).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a backbone and a CTC head that knows the three tones by heart."""
    folder = tmp_path_factory.mktemp("trained")
    texts = ["không không chín chín", "xin không", "chín xin xin", "không chín", "không không chín"]
    texts += ["chín xin không xin", "xin xin chín chín", ""]
    audio = [spoken(text, seed) for seed, text in enumerate(texts)]
    backbone = strong_backbone()
    features = [backbone.features(torch.from_numpy(waveform)) for waveform in audio]
    backbone.feature_mean.copy_(torch.cat(features).mean(0))
    backbone.feature_scale.copy_(torch.cat(features).std(0).reciprocal())
    backbone.save(folder / "backbone")
    with torch.no_grad():
        encoded = backbone(
            torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
            torch.tensor([len(x) for x in features]),
            layers=[0, 1],
        )
    options = CTCOptions(
        tokenizer=TokenizerOptions("syllables"), dropout=0.0, hidden=128, layers=(0, 1)
    )
    torch.manual_seed(0)
    head = CTCHead(options, TrunkSpec.of(backbone), CTCHead.prepare(options, texts))
    optimiser = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(250):
        loss, _ = head.loss(head(encoded), texts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert [x.text for x in head.eval().decode(head(encoded))] == texts
    save_head(head, folder / "ctc", backbone)
    return folder


@pytest.fixture
def calls(tmp_path) -> Path:
    """A manifest of a stereo call, a mono turn, a muted line and a file that is no recording."""
    agent, customer = spoken("không không chín chín", 0), spoken("xin không", 1)
    stereo = np.zeros((len(agent), 2), dtype=np.float32)
    stereo[:, 0], stereo[: len(customer), 1] = agent, customer
    soundfile.write(tmp_path / "call.wav", stereo, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "turn.wav", spoken("không chín", 3), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "muted.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    rows = [
        {
            "id": "a",
            "audio_filepath": "call.wav",
            "channel": "agent",
            "text": "không không chín chín",
        },
        {"id": "b", "audio_filepath": "call.wav", "channel": "customer", "start": 0.2, "end": 1.9},
        {"id": "c", "audio_filepath": "turn.wav", "text": "không chín"},
        {"id": "d", "audio_filepath": "muted.wav", "text": ""},
        {"id": "e", "audio_filepath": "broken.wav", "text": "xin"},
        {"id": "empty", "audio_filepath": "empty.wav", "text": "xin"},
    ]
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def arguments(trained: Path, source: Path, *more: str) -> list[str]:
    return [str(trained / "backbone"), str(trained / "ctc"), str(source), "--context=full", *more]


def test_a_manifest_becomes_lines_subtitles_and_lists_and_a_bad_file_is_named(
    trained, calls, tmp_path, capsys
):
    out = tmp_path / "out"
    options = ("--out", str(out), "--formats=srt,vtt,textgrid", "--nbest", "--json", BAD)
    assert transcribe(arguments(trained, calls, *options)) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["transcribed"], told["quarantined"], told["without_words"]) == (4, 2, 1)
    waveform = spoken("xin không", 1)[int(0.2 * RATE) : int(1.9 * RATE)]
    model = load_model(trained / "backbone", [trained / "ctc"])
    alone = model.transcribe(waveform, context=Context.full())
    rows = {row["id"]: row for row in lines(out / "transcripts.jsonl")}
    assert {name: row["text"] for name, row in rows.items()} == {
        "a": "không không chín chín",
        "b": alone.text,
        "c": "không chín",
        "d": "",
    }
    assert [x["id"] for x in lines(out / "quarantine.jsonl")] == ["e", "empty"]
    words = [word for x in rows["b"]["utterances"] for word in x["words"]]
    # Times are those of the recording, although the cut begins at 0.2 s.
    assert words
    for word, expected in zip(words, alone.words, strict=True):
        assert word["start"] == pytest.approx(expected.start + 0.2, abs=1e-4)
        assert word["end"] == pytest.approx(expected.end + 0.2, abs=1e-4)
        assert word["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
    lists = {x.utt_id: x for x in read_nbest(out / "nbest.jsonl")}
    assert set(lists) == {"a", "b", "c"}
    assert (lists["a"].texts[0], lists["a"].ref) == (
        "không không chín chín",
        "không không chín chín",
    )
    assert len(list((out / "text").iterdir())) == 12
    assert next((out / "text").glob("d-*.srt")).read_text(encoding="utf-8") == ""


def test_a_run_that_was_stopped_goes_on_with_nothing_lost_or_doubled(trained, calls, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        assert transcribe(arguments(trained, calls, "--out", str(out), "--nbest", BAD)) == 0
    expected = [(whole / name).read_text() for name in ("transcripts.jsonl", "nbest.jsonl")]
    text = (broken / "transcripts.jsonl").read_text().splitlines(keepends=True)
    (broken / "transcripts.jsonl").write_text("".join(text[:1]) + text[1][:20])
    assert transcribe(arguments(trained, calls, "--out", str(broken), "--nbest", BAD)) == 0
    assert [(broken / x).read_text() for x in ("transcripts.jsonl", "nbest.jsonl")] == expected
    # Other settings do not mix with what is there; without a word more than one bad cut of a few stops the run.
    assert transcribe(arguments(trained, calls, "--out", str(broken), BAD)) == 2
    assert transcribe(arguments(trained, calls, "--out", str(tmp_path / "strict"))) == 1


def test_one_channel_of_a_file_goes_to_stdout(trained, calls, capsys):
    recording = calls.parent / "call.wav"
    assert transcribe(arguments(trained, recording, "--channel=customer")) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["channel"], row["text"]) for row in found] == [(1, "xin không")]


def test_silence_is_nothing_whatever_the_head_would_write_over_it(trained, tmp_path, capsys):
    model = load_model(trained / "backbone", [trained / "ctc"])
    head = model.head("ctc")
    with torch.no_grad():
        head.output.bias[head.tokenizer.encode("xin")[0]] += 30.0  # writes xin everywhere
    save_head(head, tmp_path / "babbling", model.backbone)
    waveform = spoken("không chín chín chín", 5)
    waveform[SILENT] = 0.0
    soundfile.write(tmp_path / "call.wav", waveform, RATE, subtype="FLOAT")
    given = [str(trained / "backbone"), str(tmp_path / "babbling"), str(tmp_path / "call.wav")]
    assert transcribe([*given, "--context=full"]) == 0
    row = json.loads(capsys.readouterr().out)
    words = [word for x in row["utterances"] for word in x["words"]]
    assert "xin" in row["text"]
    assert all(word["end"] <= 2.5 or word["start"] >= 3.9 for word in words)


def test_noise_like_music_gives_text_with_times_inside_the_recording(trained, tmp_path, capsys):
    time = np.arange(3 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * time) for f in (262, 330, 392, 523)) / 8
    soundfile.write(tmp_path / "music.wav", chord.astype(np.float32), RATE)
    assert transcribe(arguments(trained, tmp_path / "music.wav")) == 0
    row = json.loads(capsys.readouterr().out)
    for utterance in row["utterances"]:
        assert 0 <= utterance["start"] <= utterance["end"] <= 3.1
        assert 0 <= utterance["confidence"] <= 1


def test_a_language_model_and_phrases_join_the_search(trained, calls, tmp_path):
    (tmp_path / "lm.arpa").write_text(LMPLZ, encoding="utf-8")
    (tmp_path / "phrases.txt").write_text("xin chín\n", encoding="utf-8")
    out = tmp_path / "out"
    scorers = ("--lm", str(tmp_path / "lm.arpa"), "--lm-weight=0.01")
    scorers += ("--phrases", str(tmp_path / "phrases.txt"))
    assert transcribe(arguments(trained, calls, "--out", str(out), "--nbest", BAD, *scorers)) == 0
    for found in read_nbest(out / "nbest.jsonl"):
        assert all(x.lm is not None and x.lm < 0 for x in found.hyps)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--formats=srt",), "--out"),
        (("--formats=srtt", "--out=x"), "Did you mean 'srt'"),
        (("--channel=left",), "agent, customer"),
        (("--lm=missing.arpa", "--lm-loader=nowhere:f"), "MODULE:FUNCTION"),
        (("--max-bad-fraction=2", "--out=x"), "no share"),
        (("--device=tpu",), "The device 'tpu' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_said(trained, calls, more, told, capsys):
    assert transcribe(arguments(trained, calls, *more)) == 2
    assert told in capsys.readouterr().err


def test_texts_are_aligned_and_those_that_cannot_be_are_named(trained, calls, tmp_path, capsys):
    rows = lines(calls)
    rows.append(rows[2] | {"id": "f", "text": "không chín " * 20})
    rows.append(rows[2] | {"id": "g", "text": "xin chín"})  # not what is said
    rows.append(rows[2] | {"id": "h", "text": "không ćhín"})
    calls.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "aligned.jsonl"
    assert align(arguments(trained, calls)[:3] + [str(calls), "--context=full"]) == 2
    assert "is the manifest itself" in capsys.readouterr().err
    assert align(arguments(trained, calls)[:3] + [str(out), "--context=full", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["aligned"], told["without_text"], told["quarantined"]) == (3, 1, 5)
    found = {row["id"]: row for row in lines(out)}
    assert [word[0] for word in found["a"]["words"]] == ["không", "không", "chín", "chín"]
    times = [time for word in found["a"]["words"] for time in word[1:3]]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 3.6
    assert found["g"]["align_score"] < found["c"]["align_score"]
    reasons = {row["id"]: row["reason"] for row in lines(tmp_path / "aligned.quarantine.jsonl")}
    assert "frames" in reasons["f"]
    assert "does not write" in reasons["h"]
    assert "empty" in reasons["d"]


def test_a_long_recording_is_cut_at_pauses_and_reads_the_same(trained):
    head = load_model(trained / "backbone", [trained / "ctc"]).head("ctc")
    blank, symbols = head.tokenizer.blank, len(head.tokenizer)
    said = [
        blank,
        *(x for word in head.tokenizer.encode("không không chín") for x in (word, blank)),
    ]
    turn = [*said, *[blank] * 30]
    path = torch.tensor(turn * 20 + said)
    scores = torch.full((1, len(path), symbols), -10.0).scatter_(2, path[None, :, None], 0.0)
    times = 0.08 * torch.arange(len(path), dtype=torch.float64)[None]
    output = CTCOutput(scores.log_softmax(-1), torch.tensor([len(path)]), times)
    found = utterances(head, output)
    assert len(path) > 500
    assert [x.transcription.text for x in found] == ["không không chín"] * 21
    spans = [(x.start, x.end) for x in found]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(path)
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
    whole = head.decode(output)[0]
    assert whole.text == " ".join(["không không chín"] * 21)
    # The times of the parts are those of the whole.
    assert whole.words[-1].start == pytest.approx(0.08 * (len(path) - 2) - 0.04)


def test_pieces_cover_everything_and_are_never_too_long():
    random = np.random.default_rng(0)
    for frames in (0, 1, 30, 2000):
        blanks = np.where(random.random(frames) < 0.5, -0.01, -3.0)
        found = pieces(blanks, longest=100)
        assert [x for a, b in found for x in range(a, b)] == list(range(frames))
        assert all(b - a <= 100 for a, b in found)


WORDS = [Word("xin", 0.1, 0.3, 0.9), Word("<chào>", 0.35, 0.6, 0.8), Word('"anh"', 3.0, 3.25, 0.7)]


def test_subtitles_are_well_formed():
    assert to_srt(WORDS, 4.0).split("\n\n") == [
        "1\n00:00:00,100 --> 00:00:00,600\nxin <chào>",
        '2\n00:00:03,000 --> 00:00:03,250\n"anh"\n',
    ]
    vtt = to_vtt(WORDS, 4.0)
    assert vtt.startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.600\nxin &lt;chào&gt;\n")
    assert (to_srt([], 1.0), to_vtt([], 1.0)) == ("", "WEBVTT\n")


def test_a_textgrid_has_no_gaps():
    text = to_textgrid(WORDS, 4.0)
    times = [float(x) for x in re.findall(r"xm(?:in|ax) = ([\d.]+)", text)][4:]
    starts, ends = times[::2], times[1::2]
    assert starts == [0.0, *ends[:-1]]
    assert ends[-1] == 4.0
    assert f"intervals: size = {len(starts)}" in text
    assert 'text = """anh"""' in text
    assert "intervals: size = 1" in to_textgrid([], 2.0)


def test_cues_are_short_enough_to_read():
    words = [Word("phường", k * 0.5, k * 0.5 + 0.4, 1.0) for k in range(100)]
    for cue in cues(words):
        assert cue.end - cue.start <= 6.0
        assert len(cue.text) <= 84
    assert " ".join(cue.text for cue in cues(words)) == " ".join(x.word for x in words)


@pytest.mark.parametrize("module", ["heads.transcribe", "heads.align", "heads.import_heads"])
def test_the_commands_explain_themselves(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert "Example:" in done.stdout
