"""The speaker head, trials, enrolment, and the normalisation of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder import Encoded
from heads.head import HeadLabels, TrunkSpec
from heads.speaker import SpeakerHead, SpeakerOptions, with_margin
from heads.verification import (
    Cohort,
    Trial,
    Voices,
    all_pairs,
    check_trials,
    cosine_scores,
    enrol,
    read_trials,
    score_trials,
)
from trunkline.errors import ConfigError, DataError, StorageError, UsageError

TRUNK = TrunkSpec(dim=12, num_layers=1, frame_shift=0.08, sample_rate=8000)


def turns(*lengths: int, seed: int = 0) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(2, len(lengths), max(lengths), 12, generator=generator)
    counts = torch.tensor(lengths)
    layers = layers * (torch.arange(max(lengths)) < counts[:, None])[None, :, :, None]
    return Encoded(layers[-1], counts, layers, torch.arange(max(lengths)) * 0.08)


def head_for(speakers=("anna", "ben", "chi"), **options) -> SpeakerHead:
    settings = SpeakerOptions(**{"hidden": 8, "embedding": 6, "dropout": 0.0} | options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SpeakerHead(settings, TRUNK, SpeakerHead.prepare(settings, speakers)).eval()


def test_vectors_have_length_1_and_a_turn_without_frames_has_none():
    head = head_for()
    output = head(turns(4, 0, 7))
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(3))
    vectors = head.decode(output)
    assert [len(vector) for vector in vectors] == [6, 0, 6]


def test_the_margin_waits_then_grows_evenly_then_stays():
    options = SpeakerOptions(margin=0.3, margin_start=0.2, margin_end=0.6)
    margins = [options.margin_at(done) for done in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert margins == pytest.approx([0, 0, 0.15, 0.3, 0.3])
    at_once = SpeakerOptions(margin=0.3, margin_start=0.5, margin_end=0.5)
    assert [at_once.margin_at(done) for done in (0.4, 0.5)] == [0, 0.3]
    head = head_for(margin=0.3)
    output = head(turns(4, 5))
    losses = []
    for step in (0, 400, 1000):
        head.begin_step(step, 1000)
        losses.append(float(head.loss(output, ["anna", "ben"])[0].detach()))
    assert losses == sorted(losses) and losses[0] < losses[2]


@given(st.floats(-0.999, 0.999), st.floats(0.0, 1.0))
def test_the_margin_turns_the_angle_and_never_helps(cosine, margin):
    cosines = torch.tensor([[cosine, 0.3]], dtype=torch.float64)
    moved = with_margin(cosines, torch.tensor([0]), margin)
    assert moved[0, 1] == cosines[0, 1]
    assert float(moved[0, 0]) <= cosine + 1e-9
    if math.acos(cosine) + margin < math.pi:
        assert float(moved[0, 0]) == pytest.approx(math.cos(math.acos(cosine) + margin), abs=1e-9)


def test_made_voices_are_told_apart_after_some_training():
    generator = torch.Generator().manual_seed(0)
    voices = 2 * torch.randn(4, 12, generator=generator)
    names = [f"v{i % 4}" for i in range(24)]
    frames = torch.stack([voices[i % 4] for i in range(24)])[:, None].expand(-1, 6, -1)
    frames = frames + torch.randn(24, 6, 12, generator=generator)
    batch = Encoded(
        frames, torch.full((24,), 6), frames[None].expand(2, -1, -1, -1), torch.arange(6)
    )
    head = head_for(names).train()
    parameters = list(head.parameters())
    for step in range(60):
        head.begin_step(step, 60)
        loss, metrics = head.loss(head(batch), names)
        with torch.no_grad():
            slopes = torch.autograd.grad(loss, parameters)
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter -= 0.02 * slope.sign()
    assert metrics["accuracy"] == 1 and metrics["margin"] == pytest.approx(0.2)
    found = head.eval()(batch).embedding.detach()
    same = torch.tensor([[a == b for b in names] for a in names])
    scores = found @ found.T
    assert scores[same].min() > scores[~same].max()


def test_unknown_speakers_have_a_vector_but_no_loss():
    head = head_for()
    with pytest.raises(DataError, match="not in training have no loss: anne.*Did you mean 'anna'"):
        head.loss(head(turns(3)), ["anne"])
    with pytest.raises(DataError, match="at least two speakers; there is only 'anna'"):
        SpeakerHead.prepare(SpeakerOptions(), ["anna"] * 4)
    with pytest.raises(DataError, match="there is none"):
        SpeakerHead.prepare(SpeakerOptions(), [])
    with pytest.raises(DataError, match="is no name"):
        SpeakerHead.prepare(SpeakerOptions(), ["anna", ["ben"]])
    with pytest.raises(ConfigError, match="needs its training speakers"):
        SpeakerHead(SpeakerOptions(), TRUNK, HeadLabels())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"margin": 2.0}, "margin"), ({"scale": 0}, "scale"), ({"margin_start": 0.9}, "margin_start")],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SpeakerOptions(**options)


def test_trials_are_read_in_both_common_forms(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("1 a b\n0 a c\n\na d target\nb d nontarget\n")
    assert read_trials(path) == [
        Trial("a", "b", True, 1),
        Trial("a", "c", False, 2),
        Trial("a", "d", True, 4),
        Trial("b", "d", False, 5),
    ]
    path.write_text("1 a b\nyes a c\n")
    with pytest.raises(DataError, match="trials.txt:2: 'yes a c' is no trial"):
        read_trials(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no trials"):
        read_trials(path)
    with pytest.raises(StorageError, match="Cannot read the trials"):
        read_trials(tmp_path / "none.txt")


def test_trials_that_name_unknown_ids_are_named_and_counted():
    trials = [Trial("call1", "call2", True, 1), Trial("call1", "cal3", False, 2)]
    with pytest.raises(DataError, match=r"t.txt:2: trial names 'cal3'.*'call3'\? 1 of 2 trials"):
        check_trials(trials, {"call1", "call2", "call3"}, "t.txt")


def test_all_pairs_are_trials_and_one_cut_a_speaker_makes_none():
    trials = all_pairs({"a1": "a", "a2": "a", "b1": "b"})
    assert [(t.enrolled, t.test, t.same) for t in trials] == [
        ("a1", "a2", True),
        ("a1", "b1", False),
        ("a2", "b1", False),
    ]
    with pytest.raises(DataError, match="2 cuts of 2 speakers make no trials"):
        all_pairs({"a1": "a", "b1": "b"})


def test_scores_are_cosines_and_a_silent_cut_is_refused():
    vectors = {"a": [3.0, 0.0], "b": [1.0, 1.0], "silent": []}
    trials = [Trial("a", "b", True), Trial("a", "silent", True), Trial("a", "a", True)]
    assert score_trials(trials, vectors).tolist() == pytest.approx([0.5**0.5, -1, 1])
    with pytest.raises(DataError, match="names 'z'"):
        score_trials([Trial("a", "z", True)], vectors)
    with pytest.raises(DataError, match="Nothing was heard in any cut"):
        score_trials([Trial("silent", "silent", True)], vectors)


def test_a_cohort_normalises_as_its_definition_says():
    rng = np.random.default_rng(0)
    cohort = Cohort(rng.normal(size=(20, 5)), top=4)
    vectors = {name: rng.normal(size=5).tolist() for name in "abc"}
    trials = [Trial("a", "b", True), Trial("b", "c", False)]
    expected = []
    for trial in trials:
        one, other = (np.array(vectors[name]) for name in (trial.enrolled, trial.test))
        score = cosine_scores(one[None], other[None])[0, 0]
        sides = [np.sort(cosine_scores(x[None], cohort.vectors)[0])[-4:] for x in (one, other)]
        expected.append(np.mean([(score - side.mean()) / side.std() for side in sides]))
    np.testing.assert_allclose(score_trials(trials, vectors, cohort), expected)
    with pytest.raises(UsageError, match="cohort of 1 speakers"):
        Cohort(rng.normal(size=(1, 5)))


def test_a_cohort_takes_away_what_a_channel_adds_to_every_score():
    """Cuts over a loud line all look alike; as-norm compares each with how alike it is to everyone."""
    rng = np.random.default_rng(3)
    voices, line = rng.normal(size=(30, 16)), rng.normal(size=16) * 2

    def cut(speaker, loud):
        return voices[speaker] + 0.6 * rng.normal(size=16) + loud * line

    vectors = {f"{s}-{i}": cut(s, loud=s < 8).tolist() for s in range(15) for i in range(3)}
    cohort = Cohort(np.array([cut(s, loud=s % 2) for s in range(15, 30)]), top=8)
    trials = all_pairs({name: name.partition("-")[0] for name in vectors})
    from trunkline.metrics import equal_error_rate, error_tradeoff

    same = [trial.same for trial in trials]
    plain = equal_error_rate(error_tradeoff(score_trials(trials, vectors), same))
    normed = equal_error_rate(error_tradeoff(score_trials(trials, vectors, cohort), same))
    assert normed < plain


def test_enrolled_voices_are_verified_and_identified():
    anna, ben = enrol([[1.0, 0.1], [1.0, -0.1], []]), enrol([[0.0, 2.0]])
    np.testing.assert_allclose(anna, [1, 0], atol=1e-12)
    voices = Voices({"anna": anna, "ben": ben})
    assert voices.verify("anna", [5.0, 0.0]) == pytest.approx(1)
    assert voices.identify([0.9, 0.2]).speaker == "anna"
    assert voices.identify([-1.0, -1.0], threshold=0.0).speaker is None
    rng = np.random.default_rng(0)
    normed = Voices({"anna": anna, "ben": ben}, Cohort(rng.normal(size=(9, 2))))
    assert normed.identify([0.9, 0.2]).speaker == "anna"
    with pytest.raises(UsageError, match="'bena' is not enrolled.*'ben'"):
        voices.verify("bena", [1.0, 0.0])
    with pytest.raises(DataError, match="Nothing was heard"):
        voices.identify([])
    with pytest.raises(DataError, match="width 2"):
        voices.identify([1.0, 0.0, 0.0])
    with pytest.raises(DataError, match="nothing to enrol"):
        enrol([[]])
    with pytest.raises(UsageError, match="No speaker is enrolled"):
        Voices({})


def test_dev_tells_what_a_score_means():
    head = head_for()
    whole = turns(*[5] * 12)
    voices = torch.nn.functional.normalize(
        torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    )
    output = head(whole)._replace(embedding=voices.repeat(3, 1))
    names = [f"v{place % 4}" for place in range(12)]
    found = head.calibrate([output], names)
    assert found == head.calibration and found["eer_on_dev"] == 0 and found["trials"] == 66
    same, other = (found["llr_scale"] * score + found["llr_offset"] for score in (1.0, 0.0))
    assert same > 0 > other and found["threshold"] > float((voices @ voices.T).triu(1).max())
    copy = SpeakerHead.from_config(head.to_config())
    assert copy.calibration == found
    with pytest.raises(DataError, match="make no trials"):
        head.calibrate(output, [f"v{place}" for place in range(12)])
