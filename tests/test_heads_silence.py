"""Silence is never an answer: every way in, every head, and what is said of calls in which nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import noise, strong_backbone
from heads_contract import make_head, same
from hypothesis import given
from hypothesis import strategies as st

from encoder import Context
from heads import MultiHeadModel
from heads.levels import SILENCE, Levels, silent_frames
from heads.predict import Item, predict
from trunkline.errors import DataError
from trunkline.rows import Cut

LIMITS = Context(4, 6, 2)
BACKBONE = strong_backbone()
RATE = BACKBONE.sample_rate
HOP = round(BACKBONE.frame_shift * RATE)


@given(
    st.lists(st.integers(0, 5000), max_size=6),
    st.lists(st.tuples(st.integers(0, 9000), st.sampled_from([SILENCE, -0.5, 0.9 * SILENCE]))),
    st.lists(st.integers(0, 4), max_size=6),
)
def test_a_frame_is_silent_where_no_sample_of_its_receptive_field_is_loud(sizes, clicks, asked):
    waveform = np.zeros(sum(sizes), np.float32)
    for place, value in clicks:
        waveform[place : place + 1] = value
    reach = BACKBONE.receptive_field
    expected = [
        bool((abs(waveform[n * HOP : n * HOP + reach]) < np.float32(SILENCE)).all())
        for n in range(sum(asked))
    ]
    levels = Levels(BACKBONE)
    for block in np.split(waveform, np.cumsum(sizes)[:-1] if sizes else []):
        levels.listen(torch.from_numpy(block))
    found = [flag for count in asked for flag in levels.silent(count).tolist()]
    assert found == expected


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_levels_of_a_line_are_told_in_its_own_time(rate):
    """A click at 1 s is heard by the frames around 1 s, whatever the rate and the type of the samples."""
    click = np.zeros(2 * rate, np.int16)
    click[rate] = 4
    whole, parts = Levels(BACKBONE, rate), Levels(BACKBONE, rate)
    whole.listen(click)
    for block in np.array_split(click, 37):
        parts.listen(block.tobytes())
    loud = ~whole.silent(24).numpy()
    assert np.array_equal(loud, ~parts.silent(24).numpy())
    first = np.arange(24) * HOP / RATE
    assert np.array_equal(loud, (first <= 1.0) & (first + BACKBONE.receptive_field / RATE > 1.0))
    assert bool(silent_frames(BACKBONE, np.zeros(100, np.float32), 1).all())


def babbling(kind: str) -> MultiHeadModel:
    """A model whose head writes a word wherever it may, whatever is heard."""
    head = make_head(kind, BACKBONE, tokenizer={"kind": "syllables"})
    with torch.no_grad():
        head.output.bias[head.tokenizer.encode("ba")[0]] += 50.0
    return MultiHeadModel(BACKBONE, {"text": head})


def every_way(model: MultiHeadModel, waveform: np.ndarray, folder: Any) -> dict[str, Any]:
    """The results for a recording by file, waveform, list, live line, and evaluation."""
    soundfile.write(folder / "call.wav", waveform, RATE, subtype="FLOAT")
    session = model.stream(LIMITS)
    for start in range(0, len(waveform), 1_234):
        session.feed(waveform[start : start + 1_234])
    return {
        "file": model.run(folder / "call.wav", context=LIMITS),
        "waveform": model.run(waveform, context=LIMITS),
        "list": model.run([waveform, waveform[:3000]], context=LIMITS)[0],
        "stream": session.finish(),
    }


@pytest.mark.parametrize("kind", ["ctc", "aed"])
def test_nothing_is_written_over_silence_by_any_way_in(kind, tmp_path):
    waveform = 0.1 * noise(4 * RATE).numpy()
    begin, end = RATE, 3 * RATE
    waveform[begin:end] = 0.9 * SILENCE
    model = babbling(kind)
    ways = every_way(model, waveform, tmp_path)
    words = ways["file"]["text"].words
    assert words and all(same(way["text"], ways["file"]["text"]) for way in ways.values())
    # A frame of which a part is sound may be written; none lies wholly inside.
    reach = BACKBONE.receptive_field / RATE
    assert all(word.end <= 1.0 + reach or word.start >= 3.0 - reach for word in words)
    ways = every_way(model, np.zeros(2 * RATE, np.float32), tmp_path)
    assert {way["text"].text for way in ways.values()} == {""}
    assert babbling(kind).transcribe(np.full(RATE, 2 * SILENCE, np.float32)).text


def test_a_live_line_shows_no_text_while_it_is_muted():
    session = babbling("ctc").stream(LIMITS, sample_rate=16_000)
    muted = np.zeros(16_000, np.int16)
    shown = [session.feed(muted.tobytes()) for _ in range(3)]
    assert any(shown) and all(x["text"].text == "" for x in shown if x)
    talk = (3000 * noise(32_000).numpy()).clip(-9999, 9999).astype(np.int16)
    assert session.feed(talk)["text"].text != ""


def test_nobody_speaks_on_a_muted_line(tmp_path):
    head = make_head("vad", BACKBONE)
    with torch.no_grad():
        head.output.bias[head.names.index("speech")] += 50.0
    waveform = 0.1 * noise(4 * RATE).numpy()
    waveform[RATE : 3 * RATE] = 0.0
    ways = every_way(MultiHeadModel(BACKBONE, {"vad": head}), waveform, tmp_path)
    before, after = ways["file"]["vad"]
    assert before.end <= 1.2 and after.start >= 2.8
    assert all(same(way["vad"], ways["file"]["vad"]) for way in ways.values())


HEARING = ("intent", "sentiment", "regression", "speaker")
NOTHING = {"intent": None, "sentiment": None, "regression": None, "speaker": []}


def answer(kind: str, result: Any) -> Any:
    """What a result says, without its confidence."""
    return result if kind == "speaker" else result[0]


@pytest.mark.parametrize("kind", HEARING)
def test_a_call_without_any_sound_has_no_answer(kind, tmp_path):
    model = MultiHeadModel(BACKBONE, {kind: make_head(kind, BACKBONE)})
    assert answer(kind, model.run(np.zeros(0, np.float32))[kind]) == NOTHING[kind]
    assert answer(kind, model.stream(LIMITS).finish()[kind]) == NOTHING[kind]
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(DataError, match="holds no samples"):
        model.run(tmp_path / "empty.wav")
    for samples in (RATE // 10, 2 * RATE):
        ways = every_way(model, np.zeros(samples, np.float32), tmp_path)
        assert all(answer(kind, way[kind]) == NOTHING[kind] for way in ways.values())
    if kind in ("intent", "sentiment"):
        muted = model.classify(np.zeros(RATE, np.float32))[kind]
        assert muted.abstained and muted.confidence == 0.0
    if kind == "speaker":
        assert model.embed_speaker(np.zeros(RATE, np.float32)).shape == (0,)


@pytest.mark.parametrize("kind", HEARING)
def test_music_a_tenth_of_a_second_and_a_faint_line_have_answers(kind, tmp_path):
    model = MultiHeadModel(BACKBONE, {kind: make_head(kind, BACKBONE)})
    time = np.arange(2 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * time) for f in (262, 330, 392, 523)) / 8
    half = np.concatenate([np.zeros(RATE), 0.1 * chord[:RATE]])
    for waveform in (chord, chord[: RATE // 10], 0.01 * chord, half):
        ways = every_way(model, waveform.astype(np.float32), tmp_path)
        assert answer(kind, ways["file"][kind]) not in (None, [])
        assert all(same(way, ways["file"]) for way in ways.values())


@pytest.mark.parametrize("kind", ["ctc", "intent"])
def test_evaluation_judges_what_is_answered(kind, tmp_path):
    name = "text" if kind == "ctc" else kind
    model = (
        babbling(kind)
        if kind == "ctc"
        else MultiHeadModel(BACKBONE, {name: make_head(kind, BACKBONE)})
    )
    cuts = []
    for number, loud in enumerate((0.0, 0.1)):
        path = tmp_path / f"{number}.wav"
        waveform = loud * noise(RATE + 999 * number, seed=number).numpy()
        soundfile.write(path, waveform, RATE, subtype="FLOAT")
        cuts.append(Cut(f"{number}", path, "call", text="ba", labels={"intent": "pay"}))
    items = [Item(cut.id, (cut,)) for cut in cuts]
    found = predict(BACKBONE, {name: model.head(name)}, items, Context.full())
    silent, spoken = (row.answer for row in found.predictions)
    assert silent in (None, "") and spoken not in (None, "")
    both = predict(BACKBONE, {name: model.head(name)}, [Item("call", tuple(cuts))], Context.full()) \
        if kind == "intent" else None  # fmt: skip
    assert both is None or both.predictions[0].answer is not None
