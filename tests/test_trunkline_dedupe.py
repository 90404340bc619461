"""`trunkline data dedupe`: one recording under many guises is one; others, however alike, stay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_faults import RATE, talk
from preparing import data, rows_of, write_rows

from trunkline.prepare import provenance
from trunkline.prepare.dedupe import LEAST, Content, find_duplicates
from trunkline.prepare.fingerprint import Fingerprint, fingerprint, matches

SECONDS = 12.0


def original(seed: int = 1) -> np.ndarray:
    return talk(seed, SECONDS)


def guises(folder: Path) -> None:
    """Write one recording as it is, in seven guises, and three others."""
    samples = original()
    noise = np.random.default_rng(0).standard_normal(len(samples))
    whole = np.round(samples * 32767).astype(np.int16)  # formats round floats each in their own way
    soundfile.write(folder / "a original.wav", whole, RATE)
    soundfile.write(folder / "b flac.flac", whole, RATE)
    soundfile.write(folder / "c quieter.wav", 0.3 * samples, RATE)
    soundfile.write(folder / "d mu-law.wav", samples, RATE, subtype="ULAW")
    soundfile.write(folder / "e trimmed.wav", samples[RATE:], RATE)
    soundfile.write(
        folder / "f 16 kHz.wav", np.clip(soxr.resample(samples, RATE, 16000), -1, 1), 16000
    )
    soundfile.write(folder / "g noisy.wav", samples + 0.03 * samples.std() * noise, RATE)
    soundfile.write(folder / "h vorbis.ogg", samples, RATE)
    soundfile.write(folder / "x other.wav", original(2), RATE)
    soundfile.write(folder / "y other.wav", original(3), RATE)
    soundfile.write(folder / "z noise.wav", 0.1 * noise, RATE)


def test_guises_of_a_recording_are_found_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    guises(tmp_path / "calls")
    out = tmp_path / "unique.jsonl"
    done = data("dedupe", tmp_path / "calls", out, "--json", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    kept = sorted(Path(row["audio_filepath"]).name for row in rows_of(out))
    # The longest stay, of these the one with the highest rate.
    assert kept == ["f 16 kHz.wav", "x other.wav", "y other.wav", "z noise.wav"]
    told = {
        Path(row["audio_filepath"]).name[0]: row
        for row in rows_of(tmp_path / "unique.duplicates.jsonl")
    }
    assert set(told) == set("abcdegh")
    assert {row["duplicate_of"] for row in told.values()} == {"f 16 kHz.wav"}
    groups = {row["id"][0]: row for row in rows_of(tmp_path / "unique.groups.jsonl")}
    assert abs(groups["e"]["offset"]) == pytest.approx(1.0, abs=0.05)
    assert all(row["agreeing"] >= LEAST for row in groups.values() if row["kind"] == "near")
    shown = json.loads(done.stdout)
    assert shown["cuts"] == shown["kept"] + shown["exact"] + shown["near"] == 11
    assert shown["groups"] == 1 and shown["set_aside"] == 0


def test_equal_samples_are_found_in_any_format_and_nothing_else_with_exact(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    guises(tmp_path / "calls")
    out = tmp_path / "unique.jsonl"
    done = data("dedupe", tmp_path / "calls", out, "--exact", "--json", "--jobs", 1)
    shown = json.loads(done.stdout)
    assert (shown["exact"], shown["near"], shown["kept"]) == (1, 0, 10)
    (aside,) = rows_of(tmp_path / "unique.duplicates.jsonl")
    assert aside["id"] == "b flac.flac" and aside["duplicate_of"] == "a original.wav"


def test_the_one_with_words_is_kept_and_parts_are_told_but_stay(tmp_path: Path) -> None:
    long = np.concatenate([original(seed) for seed in range(5, 13)])
    soundfile.write(tmp_path / "long.wav", long, RATE)
    soundfile.write(tmp_path / "part.wav", long[len(original(5)) : 2 * len(original(5))], RATE)
    soundfile.write(tmp_path / "a.wav", original(4), RATE)
    soundfile.write(tmp_path / "b.wav", 0.5 * original(4), RATE)
    soundfile.write(tmp_path / "s1.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "s2.wav", np.zeros(RATE), RATE)
    rows = [
        {"audio_filepath": f"{name}.wav", "id": name}
        for name in ("long", "part", "a", "b", "s1", "s2")
    ]
    rows[3]["text"] = "dạ"
    source = write_rows(tmp_path / "m.jsonl", rows)
    done = data("dedupe", source, tmp_path / "o.jsonl", "--json", "--jobs", 1)
    assert [row["id"] for row in rows_of(tmp_path / "o.jsonl")] == ["long", "part", "b", "s1", "s2"]
    shown = json.loads(done.stdout)
    assert (shown["parts"], shown["silent"], shown["near"]) == (1, 2, 1)
    part = next(row for row in rows_of(tmp_path / "o.groups.jsonl") if row["kind"] == "part")
    assert {part["id"], part["heard_in"]} == {"long", "part"}
    assert abs(part["offset"]) == pytest.approx(SECONDS, abs=0.05)


def test_what_cannot_be_read_is_set_aside_and_a_second_run_says_the_same(tmp_path: Path) -> None:
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", original(number % 3 + 10), RATE)
    rows = [{"audio_filepath": f"{number}.wav", "id": str(number)} for number in range(5)]
    source, out = write_rows(tmp_path / "m.jsonl", rows), tmp_path / "o.jsonl"
    refused = data("dedupe", source, out, "--jobs", 1)
    assert refused.returncode == 1 and "1 of 5 lines cannot be used" in refused.stderr
    assert not out.exists()
    words = ("dedupe", source, out, "--jobs", 1, "--max-bad", 0.5)
    assert data(*words).returncode == 0
    first = [path.read_bytes() for path in sorted(tmp_path.glob("o.*jsonl"))]
    assert len(first) == 4
    (aside,) = rows_of(tmp_path / "o.quarantine.jsonl")
    assert (aside["id"], aside["line"]) == ("4", 5) and "4.wav" in aside["reason"]
    assert data(*words).returncode == 0
    assert [path.read_bytes() for path in sorted(tmp_path.glob("o.*jsonl"))] == first
    records = provenance.history(tmp_path)
    assert len(records) == 2 and records[0]["outputs"] == records[1]["outputs"]
    soundfile.write(tmp_path / "1.wav", original(20), RATE)  # a change is heard
    again = data(*words, "--json")
    assert json.loads(again.stdout)["kept"] == 3


@pytest.mark.parametrize(
    "words", [["--jobs", -1], ["--least", 0], ["--share", 0], ["--share", 1.5], ["--share", "nan"]]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, words: list) -> None:
    soundfile.write(tmp_path / "a.wav", original()[:RATE], RATE)
    done = data("dedupe", tmp_path, tmp_path / "o.jsonl", *words)
    assert done.returncode == 2 and "must be" in done.stderr


# --- fingerprints and groups ------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5 * RATE), max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_fingerprint_does_not_depend_on_blocks(cuts: list[int]) -> None:
    samples = talk(3, 5.0)
    whole = fingerprint([samples])
    parts = fingerprint(np.split(samples, sorted(min(cut, len(samples)) for cut in cuts)))
    assert np.array_equal(whole.hashes, parts.hashes) and np.array_equal(whole.times, parts.times)
    assert len(whole.hashes) > LEAST


@pytest.mark.parametrize("samples", [np.zeros(0, "f4"), np.zeros(100, "f4"), np.zeros(RATE, "f4")])
def test_silence_and_nothing_have_no_fingerprint_that_matches(samples: np.ndarray) -> None:
    empty = fingerprint([samples])
    assert matches([empty, empty], least=1) == [] and len(empty.hashes) == 0
    assert matches([], least=1) == []


@given(st.lists(st.sampled_from(["", "a", "b", "c", None]), max_size=12), st.randoms())
@settings(max_examples=60, deadline=None)
def test_every_group_keeps_one_and_silence_stays(hashes: list[str | None], random) -> None:
    nothing = Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.int32))
    contents = [None if name is None else Content(name, nothing) for name in hashes]
    rank = [random.random() for _ in contents]
    groups = find_duplicates(contents, rank)
    for name in set(hashes) - {"", None}:
        members = [place for place, other in enumerate(hashes) if other == name]
        best = min(members, key=lambda place: rank[place])
        assert {int(groups.of_cut[place]) for place in members} == {best}
        assert {place for place in members if place in groups.why} == set(members) - {best}
    assert all(hashes[place] for place in groups.why)
