"""Vectors relative to their voices: what a voice has in all its cuts goes, whatever the labels are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl.pooled import Pooled
from ssl.probing import best, probe
from ssl.voices import PRIOR_CUTS, known_voices, relative_to_voices, voice_of
from tests.probing import command, made_corpus
from trunkline.errors import UsageError
from trunkline.manifest import Cut


def cut(number: int, **fields: Any) -> Cut:
    return Cut(f"{number}", Path("none.wav"), fields.pop("call_id", f"{number}"), **fields)


def parts_of(voices: list[str | None], train: int, seed: int = 0) -> dict[str, Pooled]:
    """Vectors (cuts, 2 layers, 3) of cuts; the first `train` are train, the rest is divided into dev and test."""
    vectors = torch.randn(len(voices), 2, 3, generator=torch.Generator().manual_seed(seed))
    cuts = [cut(number, speaker=voice) for number, voice in enumerate(voices)]
    middle = (train + len(voices)) // 2
    bounds = {"train": (0, train), "dev": (train, middle), "test": (middle, len(voices))}
    return {name: Pooled(vectors[a:b], cuts[a:b]) for name, (a, b) in bounds.items()}


VOICES = st.lists(st.sampled_from(["a", "b", None]), min_size=6, max_size=20)


@given(voices=VOICES, seed=st.integers(0, 3))
def test_the_mean_of_a_voice_moves_to_that_of_train_as_far_as_its_cuts_are_trusted(voices, seed):
    parts = parts_of(voices, 4, seed)
    after = relative_to_voices(parts)
    origin = parts["train"].vectors.mean(dim=0)
    before_all, after_all = (
        torch.cat([part.vectors for part in of.values()]) for of in (parts, after)
    )
    for voice in {"a", "b"} & set(voices):
        own = torch.tensor([name == voice for name in voices])
        if own.sum() == 1:
            assert torch.equal(before_all[own], after_all[own])
            continue
        trust = own.sum() / (own.sum() + PRIOR_CUTS)
        expected = before_all[own].mean(dim=0).lerp(origin, trust)
        torch.testing.assert_close(after_all[own].mean(dim=0), expected, rtol=1e-4, atol=1e-5)
        # Within a voice, nothing but its place changes.
        torch.testing.assert_close(
            before_all[own] - before_all[own].mean(dim=0),
            after_all[own] - after_all[own].mean(dim=0),
            rtol=1e-4,
            atol=1e-5,
        )
    unknown = torch.tensor([name is None for name in voices])
    assert torch.equal(before_all[unknown], after_all[unknown])


@given(voices=VOICES, shift=st.floats(-50, 50))
def test_the_line_of_a_voice_with_many_cuts_makes_almost_no_difference(voices, shift):
    voices = [*voices, *["c"] * 500]
    parts = parts_of(voices, 4)
    moved = {
        name: part._replace(
            vectors=part.vectors
            + shift * torch.tensor([cut.speaker == "c" for cut in part.cuts])[:, None, None]
        )
        for name, part in parts.items()
    }
    plain, relative = relative_to_voices(parts), relative_to_voices(moved)
    for name in parts:
        assert (plain[name].vectors - relative[name].vectors).abs().max() <= abs(
            shift
        ) * 0.02 + 1e-4


def test_a_voice_is_a_speaker_or_a_side_of_a_call():
    assert voice_of(cut(0, speaker="a", call_id="1", channel=0)) == voice_of(
        cut(1, speaker="a", call_id="2")
    )
    sides = {voice_of(cut(0, call_id="1", channel=channel)) for channel in (0, 1)}
    assert len(sides) == 2 and voice_of(cut(0, speaker="1")) not in sides
    assert voice_of(cut(0)) != voice_of(cut(1))


def test_classifiers_read_a_speaker_on_another_line():
    """Two classes lie apart by less than lines do; the test speaker's line was never heard."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, speakers in {"train": ("a", "b"), "dev": ("c",), "test": ("d",)}.items():
        cuts = [
            cut(n, speaker=who, extra={"word": "xy"[n % 2]}) for who in speakers for n in range(60)
        ]
        lines = torch.tensor([2.0 * "abcd".index(item.speaker or "") for item in cuts])
        words = torch.tensor([float(item.label("word") == "y") for item in cuts])
        noise = 0.1 * torch.randn(len(cuts), 1, 4, generator=generator)
        parts[name] = Pooled(noise + (lines + words)[:, None, None], cuts)
    plain, relative = (best(probe(of, "word", ["0"])) for of in (parts, relative_to_voices(parts)))
    assert plain.accuracy < 0.7 and relative.accuracy > 0.9


def test_voices_that_cannot_be_told_or_have_one_class_each_are_refused():
    assert (
        known_voices([cut(n, speaker="ab"[n // 2], extra={"word": n}) for n in range(4)], "word")
        == 2
    )
    with pytest.raises(UsageError, match="no two cuts name the same speaker"):
        known_voices([cut(n, speaker=str(n), extra={"word": n}) for n in range(4)], "word")
    with pytest.raises(UsageError, match="every voice has one 'gender' only"):
        known_voices(
            [cut(n, speaker="ab"[n // 2], extra={"gender": n // 2}) for n in range(4)], "gender"
        )


def test_the_command_says_what_was_taken_out(tmp_path):
    manifest = str(made_corpus(tmp_path, speakers=4))
    done = command(
        "--manifest",
        manifest,
        "--label",
        "pitch",
        "--backbone",
        "mfcc",
        "--relative-to-voice",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("relative to their voices" in note for note in report["notes"])
    refused = command(
        "--manifest", manifest, "--label", "speaker", "--backbone", "mfcc", "--relative-to-voice"
    )
    assert refused.returncode == 2 and "every voice has one 'speaker' only" in refused.stderr
    assert "Traceback" not in refused.stderr
