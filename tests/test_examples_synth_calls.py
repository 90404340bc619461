from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="needs the demo extra: pip install trunkline[demo]")

from examples.bank_dialogues import ACTS, ANSWERS, COMPLAINTS, REQUESTS, spell_digits, spell_number
from examples.synth_calls import main, make_corpus
from examples.voices import ACCENTS, SAMPLE_RATE, Voice, synthesise
from trunkline.errors import DataError, StorageError, UsageError
from trunkline.manifest import load_manifest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "calls"
    make_corpus(out, calls=9, seed=3)
    return out


@pytest.fixture(scope="module")
def turns(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "turns.jsonl").read_text("utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(waveform**2)))


def test_the_same_seed_gives_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        make_corpus(tmp_path / name, calls=2, seed=seed)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "other")


def test_a_shorter_corpus_is_the_beginning_of_a_longer_one(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "short", calls=2, seed=3)
    audio = files(tmp_path / "short" / "audio")
    assert audio == {name: files(corpus / "audio")[name] for name in audio} and len(audio) == 2


@pytest.mark.parametrize("accent", ACCENTS)
def test_an_utterance_does_not_depend_on_what_was_spoken_before(accent: str) -> None:
    voice = Voice(accent, "f2")
    first, first_words = synthesise("dạ em chào anh", voice, seed=1)
    synthesise("bên em làm ăn kiểu gì vậy", Voice("south", "m4", words_per_minute=200), seed=5)
    again, words = synthesise("dạ em chào anh", voice, seed=1)
    assert np.array_equal(first, again) and first_words == words
    fresh = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from examples.voices import *; "
            f"x = synthesise('dạ em chào anh', Voice({accent!r}, 'f2'), 1)[0]; "
            "sys.stdout.buffer.write(x.tobytes())",
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert fresh.stdout == first.tobytes()


def test_another_seed_changes_the_sound_and_not_the_words() -> None:
    one, one_words = synthesise("không không chín chín", Voice(), seed=1)
    two, two_words = synthesise("không không chín chín", Voice(), seed=2)
    assert [word.text for word in one_words] == [word.text for word in two_words]
    assert one.shape != two.shape or not np.array_equal(one, two)


def test_accents_timbres_and_tract_lengths_sound_different() -> None:
    voices = [Voice(), Voice("south"), Voice("central"), Voice(timbre="f2"), Voice(tract=1.05)]
    sounds = {synthesise("cho tôi hỏi số dư", voice)[0].tobytes() for voice in voices}
    assert len(sounds) == len(voices)


def test_every_template_can_be_spoken_and_timed_word_by_word() -> None:
    filling = dict.fromkeys(("toi", "kh", "amount", "digits", "last_four", "months", "rate"), "ba")
    templates = [
        text for group in (REQUESTS, ANSWERS, ACTS) for texts in group.values() for text in texts
    ]
    for template in [*templates, *COMPLAINTS]:
        text = template.format(yes="dạ", name="lan", **filling)
        _, words = synthesise(text, Voice("south", "f1", words_per_minute=220))
        assert [word.text for word in words] == text.replace(",", "").split()


def test_words_are_in_order_and_inside_their_turn(turns: list[dict[str, Any]]) -> None:
    for turn in turns:
        times = [time for _, start, end in turn["words"] for time in (start, end)]
        assert times == sorted(times) and all(end > start for _, start, end in turn["words"])
        assert turn["start"] == times[0] and turn["end"] == times[-1]
        assert " ".join(word for word, *_ in turn["words"]) == turn["text"]


def test_a_word_lies_where_its_times_say() -> None:
    waveform, words = synthesise("dạ, không, chín", Voice())
    for word, following in zip(words, words[1:], strict=False):
        sound = waveform[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)]
        pause = waveform[
            round(word.end * SAMPLE_RATE) + 80 : round(following.start * SAMPLE_RATE) - 80
        ]
        assert len(pause) > 400 and rms(pause) < 0.02 * rms(sound)


def test_a_turn_sounds_on_its_channel_and_nowhere_else(
    corpus: Path, turns: list[dict[str, Any]]
) -> None:
    for number, role in enumerate(("agent", "customer")):
        for path in sorted({turn["audio_filepath"] for turn in turns}):
            waveform, rate = soundfile.read(corpus / path)
            assert rate == SAMPLE_RATE and waveform.shape[1] == 2
            silent = np.ones(len(waveform), bool)
            levels = []
            for turn in turns:
                if turn["audio_filepath"] == path and turn["channel"] == role:
                    span = slice(round(turn["start"] * rate), round(turn["end"] * rate) + 80)
                    silent[span] = False
                    levels.append(rms(waveform[span, number]))
            floor = rms(waveform[silent, number])
            assert min(levels) > (10 if role == "agent" else 1.2) * floor


def test_nothing_lies_above_the_telephone_band(corpus: Path) -> None:
    for path in (corpus / "audio").iterdir():
        assert soundfile.info(path).subtype == "ULAW"
        power = np.abs(np.fft.rfft(soundfile.read(path)[0], axis=0)) ** 2
        above = len(power) * 3450 // 4000
        assert (power[above:].sum(axis=0) < 2e-3 * power.sum(axis=0)).all()


def test_splits_share_no_customer_and_no_call(corpus: Path, turns: list[dict[str, Any]]) -> None:
    splits = defaultdict(set)
    for turn in turns:
        splits[turn["call_id"]].add(turn["split"])
        if turn["channel"] == "customer":
            splits[turn["speaker"]].add(turn["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "dev", "test"}
    calls = [json.loads(line) for line in (corpus / "calls.jsonl").read_text("utf-8").splitlines()]
    assert all(splits[call["call_id"]] == {call["split"]} for call in calls)


def test_one_channel_never_speaks_twice_at_once_and_sides_sometimes_overlap(
    turns: list[dict[str, Any]],
) -> None:
    overlaps = 0
    by_call = defaultdict(list)
    for turn in turns:
        by_call[turn["call_id"]].append(turn)
    for call in by_call.values():
        for role in ("agent", "customer"):
            own = [turn for turn in call if turn["channel"] == role]
            assert all(a["end"] < b["start"] for a, b in zip(own, own[1:], strict=False))
        overlaps += sum(b["start"] < a["end"] for a, b in zip(call, call[1:], strict=False))
    assert overlaps > 0


def test_digits_are_read_one_by_one_and_kept_as_a_slot(turns: list[dict[str, Any]]) -> None:
    assert spell_digits("0099") == "không không chín chín"
    given = [turn for turn in turns if "digits" in turn["slots"]]
    assert len(given) > 9
    for turn in given:
        assert spell_digits(turn["slots"]["digits"]).replace(",", "") in turn["text"]


def test_amounts_are_read_as_numbers(turns: list[dict[str, Any]]) -> None:
    assert spell_number(2_500_000) == "hai triệu năm trăm nghìn"
    assert spell_number(105_021, "ngàn") == "một trăm lẻ năm ngàn không trăm hai mươi mốt"
    amounts = [turn for turn in turns if "amount" in turn["slots"]]
    assert amounts
    for turn in amounts:
        thousand = "ngàn" if "ngàn" in turn["text"] else "nghìn"
        assert spell_number(int(turn["slots"]["amount"]), thousand) in turn["text"]


def test_labels_cover_the_intents_sentiments_and_accents(turns: list[dict[str, Any]]) -> None:
    for label, least in (("intent", 15), ("sentiment", 3), ("accent", 3)):
        assert len({turn["labels"][label] for turn in turns}) >= least


def test_both_manifests_load_and_their_cuts_are_one_voice(corpus: Path) -> None:
    calls, turns = load_manifest(corpus / "calls.jsonl"), load_manifest(corpus / "turns.jsonl")
    assert len(calls) == 18 and {cut.channel for cut in calls} == {0, 1}
    for cut in (calls[0], turns[len(turns) // 2]):
        assert len(cut.load(SAMPLE_RATE)) == pytest.approx(cut.duration * SAMPLE_RATE, abs=2)
    assert (
        turns[0].label("intent") == "greeting" and turns[0].extra["words"][0][1] == turns[0].start
    )


def test_minutes_set_the_length_instead_of_calls(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path / "out"), "--minutes", "0.5", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 0.5 <= summary["minutes"] < 3 and summary["calls"] < 4


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(StorageError, match="exists already"):
        make_corpus(out, calls=1)
    assert (out / "mine").read_text() == "keep"
    make_corpus(out, calls=1, overwrite=True)
    assert not (out / "mine").exists() and (out / "calls.jsonl").exists()


def test_impossible_requests_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one call"):
        make_corpus(tmp_path / "out", calls=0)
    with pytest.raises(UsageError, match="accent 'western'"):
        synthesise("dạ", Voice("western"))
    with pytest.raises(UsageError, match="timbre 'bagpipe'"):
        synthesise("dạ", Voice(timbre="bagpipe"))
    for text in ("", "dạ  em", "dạ em ", "dạ , em"):
        with pytest.raises(DataError, match="space between|as a word"):
            synthesise(text, Voice())


def test_without_espeak_the_command_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['espeakng_loader'] = None; "
        f"from examples.synth_calls import main; sys.exit(main([{str(tmp_path / 'out')!r}]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1 and "pip install trunkline[demo]" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
