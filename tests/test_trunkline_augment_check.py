"""The check of augmentation finds what does not do what it states; settings and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.augmenting import CONFIG, RATE, data, everything, tone
from trunkline.augment import AugmentConfig, Augmenter
from trunkline.augment.check import Trial, above_edge, examine, pitch, trials, voice
from trunkline.augment.config import CODECS, Band, Codec, Noise, Packets, Volume
from trunkline.augment.room import make_response
from trunkline.errors import ConfigError, DataError
from trunkline.manifest import write_manifest
from trunkline.settings import load_settings


def up_and_back(waveform: torch.Tensor, _: int) -> torch.Tensor:
    import soxr

    there = soxr.resample(waveform.numpy(), 10, 9)
    return torch.from_numpy(soxr.resample(there, 9, 10)[: len(waveform)])


def raw_room(waveform: torch.Tensor, _: int) -> torch.Tensor:
    response = 36 * make_response(np.random.default_rng(0), RATE, 0.5, 0.0)
    return torch.from_numpy(np.convolve(waveform.numpy(), response)[: len(waveform)].astype("f"))


@pytest.mark.parametrize(
    ("trial", "fault"),
    [
        (Trial("speed", "", up_and_back, speed=0.9), "duration x 1.0000, not x 1.1111"),
        (Trial("reverb", "", raw_room, level_within=6), "it would clip"),
        (Trial("reverb", "", lambda w, n: raw_room(w, n).clamp(-1, 1)), "flat tops"),
        (Trial("volume", "", lambda w, _: w.clone(), gain_db=6), "changes nothing"),
        (Trial("volume", "", lambda w, _: 1.9 * w, gain_db=6), "level \\+5.58 dB, not \\+6.00"),
        (Trial("noise", "", lambda w, _: w + 0.01 * w.roll(999), snr_db=20), "ratio .* not 20.00"),
        (Trial("band", "", lambda w, _: 0.9 * w, limited=True), "left above 3400 Hz"),
        (Trial("clipping", "", lambda w, _: 0.9 * w, clips=0.01), "flat tops, not"),
        (Trial("packets", "", lambda w, _: w[:-1]), "duration|changes"),
    ],
)
def test_the_check_catches_operations_that_do_not_do_it(trial: Trial, fault: str) -> None:
    _, wrong = examine(trial, RATE, max_cost=1e9)
    if trial.operation == "packets":
        assert wrong == []  # one sample in 32,000 is within the tolerance of a duration
        return
    assert re.search(fault, "; ".join(wrong)), wrong


def test_a_slow_operation_is_named() -> None:
    slow = Trial("noise", "", lambda w, _: 0.5 * sum((w.roll(k) for k in range(1, 60)), w))
    _, wrong = examine(slow, RATE, max_cost=1e-6)
    assert any("ms a second, more than" in fault for fault in wrong)


def test_what_the_check_measures_is_known() -> None:
    speech = voice(RATE)
    assert pitch(speech, RATE) == pytest.approx(140, rel=0.005)
    assert above_edge(tone(3000), RATE) < -60 and above_edge(tone(3600), RATE) > -1
    both = tone(3000) + tone(3600)
    assert above_edge(both, RATE) == pytest.approx(-3, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_every_operation_of_the_committed_settings_passes_its_check(rate: int) -> None:
    config = everything()
    seen = set()
    for trial in trials(config, rate):
        _, wrong = examine(trial, rate, max_cost=1e9)  # cost is measured by the benchmark
        assert wrong == [], (trial.operation, trial.setting)
        seen.add(trial.operation)
    assert seen == {"speed", "reverb", "noise", "band", "volume", "clipping", "codec", "packets"}


def test_the_command_checks_and_writes_examples(tmp_path: Path) -> None:
    done = data("augment", CONFIG, "--check", "--json", "--max-cost", "1000")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["faults"] == 0 and shown["trials"] > 20
    soundfile.write(tmp_path / "a.wav", voice(RATE).numpy(), RATE)
    heard = data("augment", CONFIG, "--listen", tmp_path / "out", "--manifest", tmp_path / "a.wav")
    assert heard.returncode == 1 and "not a manifest" in heard.stderr
    write_manifest([{"audio_filepath": "a.wav"}], tmp_path / "m.jsonl")
    heard = data(
        "augment", CONFIG, "--listen", tmp_path / "out", "--manifest", tmp_path / "m.jsonl"
    )
    assert heard.returncode == 0, heard.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"000-clean.wav", "000-heard.wav", "applied.json"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("noise.snr_db=[30, 5]", "snr_db=.30.0, 5.0. must rise"),
        ("speed.probability=2", "probability=2.0 must be 0 to 1"),
        ("codec.names=[ulaw]", "Did you mean 'mulaw'"),
        ("noize.probability=1", "unknown setting 'noize'. Did you mean 'noise'"),
        ("talker.probability=0.5", "manifest is needed"),
        ("speed.factors=[3]", "must be some of 0.5 to 2"),
        ("band.high=5000", "must rise within 0 to 4000"),
    ],
)
def test_wrong_settings_are_answered_with_what_is_right(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(AugmentConfig, CONFIG, [override])


def test_a_manifest_without_the_wanted_kind_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "n.wav", tone(300).numpy(), RATE)
    write_manifest([{"audio_filepath": "n.wav"}], tmp_path / "m.jsonl")
    with pytest.raises(DataError, match="no cut with kind = 'noise'"):
        Augmenter(AugmentConfig(noise=Noise(1.0, manifest=str(tmp_path / "m.jsonl"))))
    free = Noise(1.0, manifest=str(tmp_path / "m.jsonl"), kind=None)
    assert "noise" in Augmenter(AugmentConfig(noise=free))(voice(RATE), key="a").applied
    soundfile.write(tmp_path / "n.wav", np.zeros(RATE), RATE)
    with pytest.raises(DataError, match="are silent"):
        Augmenter(AugmentConfig(noise=free))(voice(RATE), key="a")


def test_the_settings_say_what_there_is() -> None:
    assert set(everything().codec.names) == set(CODECS)
    assert (Band().probability, Codec().probability, Packets().probability) == (0, 0, 0)
    assert Volume(0.5).gain_db == (-12.0, 6.0)
