"""`trunkline data segment`: speech is found where it is, turns of both parties lie on one timeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.preparing import data, rows_of, write_rows
from trunkline.errors import UsageError
from trunkline.manifest import load_manifest
from trunkline.prepare import vad
from trunkline.prepare.segment import Turns, overlap, turns_of

RATE = 8000


def channel(seconds: float, spans: list[tuple[float, float]], noise: float = 1e-3) -> np.ndarray:
    """Noise with a voice-like buzz in the spans."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    signal = rng.normal(0, noise, len(time))
    for start, end in spans:
        there = (time >= start) & (time < end)
        buzz = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 8))
        signal += there * 0.1 * buzz * (1 + 0.5 * np.sin(2 * np.pi * 4 * time))
    return signal.astype(np.float32)


def test_speech_is_found_where_it_is_in_blocks_of_any_size():
    signal = channel(20, [(2, 5), (9, 9.8), (15, 19)])
    whole = vad.speech([signal], padding=0.0)
    assert np.allclose(whole, [(2, 5), (9, 9.8), (15, 19)], atol=0.06)
    assert vad.speech(np.array_split(signal, 77), padding=0.0) == whole


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3])
def test_silence_and_noise_alone_are_no_speech(noise: float):
    assert vad.speech([channel(10, [], noise)]) == []
    assert vad.speech([]) == []


def test_a_channel_that_is_all_speech_is_all_speech():
    ((start, end),) = vad.speech([channel(6, [(0, 6)])])
    assert start < 0.1 and end > 5.9


def test_an_unknown_detector_is_named():
    with pytest.raises(UsageError, match="Did you mean 'silero'"):
        vad.speech([], method="silera")


STRETCHES = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 300)), max_size=20)


@given(STRETCHES, st.integers(0, 100), st.integers(5, 50))
def test_turns_cover_the_speech_and_keep_to_their_lengths(steps, gap, longest):
    stretches, now = [], 0.0
    for pause, length in steps:
        now = round(now + pause / 100, 2)
        stretches.append((now, round(now + length / 100, 2)))
        now = stretches[-1][1]
    settings = Turns(merge_gap=gap / 100, min_length=0.0, max_length=longest / 10)
    turns = turns_of(stretches, settings)
    assert all(end - start <= settings.max_length + 2e-3 for start, end in turns)
    assert all(a[1] <= b[0] for a, b in zip(turns, turns[1:], strict=False))
    for start, end in stretches:
        assert overlap((start, end), turns) == pytest.approx(end - start, abs=1e-6)


def test_short_gaps_join_and_short_turns_go():
    speech = [(0.0, 1.0), (1.4, 2.0), (2.6, 2.8), (5.0, 9.0)]
    assert turns_of(speech, Turns(max_length=3)) == [(0.0, 2.0), (5.0, 7.0), (7.0, 9.0)]
    with pytest.raises(UsageError, match="min-length"):
        Turns(min_length=3, max_length=2)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=8))
def test_overlap_counts_no_moment_twice(others):
    spans = [(a, a + length) for a, length in others]
    covered = {moment for a, b in spans for moment in range(a, b)} & set(range(10, 30))
    assert overlap((10, 30), spans) == len(covered)


def call(folder: Path) -> Path:
    agent, customer = channel(20, [(1, 4), (10, 12)]), channel(20, [(3, 6), (13, 13.2), (15, 18)])
    soundfile.write(folder / "call.wav", np.stack([agent, customer], 1), RATE)
    soundfile.write(folder / "one.wav", channel(4, [(1, 3)]), RATE)
    (folder / "broken.wav").write_bytes((folder / "call.wav").read_bytes()[:5000])
    rows = [
        {"audio_filepath": "call.wav", "channel": c, "speaker": s, "text": "dạ vâng", "tags": ["x"]}
        for c, s in (("agent", "an"), ("customer", "bình"))
    ]
    rows += [{"audio_filepath": "one.wav", "id": "one", "text": "dạ vâng", "intent": "yes"}]
    rows += [{"audio_filepath": "broken.wav", "channel": 0}]
    return write_rows(folder / "calls.jsonl", rows)


def test_both_parties_lie_on_one_timeline_with_their_overlaps(tmp_path: Path):
    source = call(tmp_path)
    before = hashlib.sha256((tmp_path / "call.wav").read_bytes()).hexdigest()
    out = tmp_path / "out" / "turns.jsonl"
    done = data("segment", source, out, "--max-bad", "0.3", "--json", "--min-length", "0.5")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "call.wav").read_bytes()).hexdigest() == before
    summary = json.loads(done.stdout)
    assert (summary["cuts"], summary["turns"], summary["set_aside"]) == (4, 5, 1)
    assert (summary["texts_left_behind"], summary["without_speech"]) == (2, 0)
    (aside,) = rows_of(tmp_path / "out" / "turns.quarantine.jsonl")
    assert aside["line"] == 4 and "truncated" in aside["reason"]
    turns = rows_of(out)
    told = [(row["channel"], row["turn"]) for row in turns if row["call_id"] == "call"]
    assert told == [("agent", 0), ("customer", 1), ("agent", 2), ("customer", 3)]
    assert np.allclose([row["start"] for row in turns[:4]], [0.9, 2.9, 9.9, 14.9], atol=0.06)
    assert np.allclose([row["overlap"] for row in turns[:4]], [1.2, 1.2, 0, 0], atol=0.15)
    assert [row["tags"] for row in turns[:4]] == [["x", "overlap"]] * 2 + [["x"]] * 2
    assert "text" not in turns[0] and turns[4]["text"] == "dạ vâng" and turns[4]["intent"] == "yes"
    assert len({row["id"] for row in turns}) == 5
    for cut in load_manifest(out):
        assert cut.load(RATE).std() > 0.02


def test_turns_made_again_are_the_same_bytes(tmp_path: Path):
    source = call(tmp_path)
    outs = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for out in outs:
        assert data("segment", source, out, "--max-bad", "1").returncode == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_too_many_unreadable_recordings_leave_no_output(tmp_path: Path):
    done = data("segment", call(tmp_path), tmp_path / "turns.jsonl")
    assert done.returncode == 1 and "1 of 4 lines" in done.stderr
    assert not (tmp_path / "turns.jsonl").exists()


def test_silero_finds_speech_or_says_what_to_install(tmp_path: Path):
    source = call(tmp_path)
    done = data("segment", source, tmp_path / "t.jsonl", "--vad", "silero", "--max-bad", "1")
    try:
        import silero_vad  # noqa: F401
    except ImportError:
        assert done.returncode == 1 and "pip install 'trunkline[vad]'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr  # a buzz is no voice: only that it runs
