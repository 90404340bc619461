"""Telephone augmentation: each operation does what it states, and an item is a function of its id."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.augmenting import RATE, everything, tone
from trunkline.augment import AugmentConfig, Augmenter, spec_augment
from trunkline.augment.check import voice
from trunkline.augment.config import (
    CODECS,
    NOISES,
    Masking,
    Noise,
    Reverb,
    Speed,
    Talker,
)
from trunkline.augment.line import code, draw_losses, lose_packets, packet_count, through_band
from trunkline.augment.noise import add_noise, add_talker, make_noise
from trunkline.augment.room import make_response, normalise_response, reverberate
from trunkline.augment.signal import change_speed, change_volume, clip_peaks, speech_level
from trunkline.batching import item_rng
from trunkline.errors import DataError, UsageError
from trunkline.manifest import write_manifest

ROOT = Path(__file__).parents[1]
NOISE_RIR = ROOT.parent / "shared/data/noise_rir/manifest.jsonl"

needs_rooms = pytest.mark.skipif(
    not NOISE_RIR.exists(), reason="../shared/data/noise_rir is not here"
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))]  # fmt: skip


def peak_frequency(waveform: torch.Tensor, rate: int = RATE) -> float:
    spectrum = torch.fft.rfft(waveform.double() * torch.hann_window(len(waveform)), 1 << 18).abs()
    return float(spectrum.argmax()) * rate / (1 << 18)


# --- the same audio for the same (seed, epoch, id) ---------------------------------------------------


def test_an_item_is_a_function_of_seed_epoch_and_id_alone() -> None:
    speech = voice(RATE, 1.0)
    augmenter, again = Augmenter(everything(), RATE, seed=3), Augmenter(everything(), RATE, seed=3)
    keys = [f"cut-{number}" for number in range(12)]
    first = {key: augmenter(speech, key=key, epoch=1) for key in keys}
    for key in reversed(keys):  # in another order, from another object
        other = again(speech, key=key, epoch=1)
        assert torch.equal(other.waveform, first[key].waveform)
        assert other.applied == first[key].applied
    waveforms = {tuple(item.waveform[:500].tolist()) for item in first.values()}
    assert len(waveforms) == len(keys), "two ids got the same"
    epochs = {len(augmenter(speech, key="cut-0", epoch=epoch).applied) for epoch in range(20)}
    seeds = {len(Augmenter(everything(), RATE, seed=s)(speech, key="a").applied) for s in range(20)}
    assert len(epochs) > 1 and len(seeds) > 1


def test_changing_one_operation_leaves_the_draws_of_the_others() -> None:
    speech = voice(RATE, 1.0)
    full = Augmenter(everything(), RATE)
    without = Augmenter(everything(noise=Noise(probability=0.0)), RATE)
    for number in range(12):
        some = dict(full(speech, key=f"{number}").applied)
        some.pop("noise", None)
        assert without(speech, key=f"{number}").applied == some


def test_operations_happen_as_often_as_the_settings_say() -> None:
    speech = voice(RATE, 0.2)
    augmenter = Augmenter(everything(), RATE)
    counts = dict.fromkeys(augmenter.config.__dataclass_fields__, 0)
    for number in range(300):
        for name in augmenter(speech, key=f"{number}").applied:
            counts[name] += 1
    for name, count in counts.items():
        probability = getattr(getattr(augmenter.config, name), "probability", 0.0)
        assert (
            abs(count / 300 - probability)
            < 4 * (probability * (1 - probability) / 300) ** 0.5 + 1e-9
        )


def test_what_is_to_be_learnt_stays_clean_and_in_step(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "other.wav", tone(700, 3.0).numpy(), RATE)
    write_manifest([{"audio_filepath": "other.wav"}], tmp_path / "m.jsonl")
    talker = Talker(1.0, str(tmp_path / "m.jsonl"), ratio_db=(0, 0), share=(0.4, 0.4))
    speech = voice(RATE)
    item = Augmenter(AugmentConfig(talker=talker, noise=Noise(1.0)), RATE)(speech, key="a")
    assert torch.equal(item.clean, speech)
    assert not torch.allclose(item.waveform, speech, atol=1e-3)
    faster = Augmenter(AugmentConfig(talker=talker, speed=Speed(1.0, (1.1,))), RATE)(
        speech, key="a"
    )
    assert torch.equal(faster.clean, change_speed(speech, 1.1))
    assert (len(faster.waveform), faster.speed) == (len(faster.clean), 1.1)
    start, end = faster.applied["talker"]["seconds"]
    assert end - start == pytest.approx(0.4 * len(faster.clean) / RATE, abs=1e-3)
    alone = torch.arange(len(faster.clean)) < round(start * RATE)
    assert alone.any() and torch.equal(faster.waveform[alone], faster.clean[alone])


# --- single operations -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.9321, 1.05])
def test_speed_changes_duration_and_pitch_and_is_no_identity(factor: float) -> None:
    slow = tone(440, 3.0)
    fast = change_speed(slow, factor)
    assert len(fast) == pytest.approx(len(slow) / factor, abs=1)
    assert peak_frequency(fast) == pytest.approx(440 * factor, abs=0.5)


@settings(max_examples=25, deadline=None)
@given(st.floats(-10, 40), st.sampled_from(NOISES), st.integers(0, 99))
def test_noise_stands_at_the_ratio_that_was_asked_for(snr: float, kind: str, seed: int) -> None:
    speech = 0.2 * voice(RATE, 1.0)
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(make_noise(rng, kind, len(speech), RATE, speech.numpy()[None]))
    noisy = add_noise(speech, noise, snr, RATE)
    assert float(noisy.abs().max()) <= 1
    added = noisy * float((speech + _at(noise, speech, snr)).abs().max().clamp_min(1.0)) - speech
    measured = 20 * np.log10(speech_level(speech, RATE) / float(added.square().mean().sqrt()))
    assert measured == pytest.approx(snr, abs=0.05)


def _at(noise: torch.Tensor, speech: torch.Tensor, snr: float) -> torch.Tensor:
    level = speech_level(speech, RATE) / 10 ** (snr / 20)
    return noise * level / noise.square().mean().sqrt()


def test_pauses_do_not_change_what_a_ratio_means() -> None:
    speech = tone(500, 1.0)
    paused = torch.cat([speech, torch.zeros(5 * RATE)])
    assert speech_level(paused, RATE) == pytest.approx(speech_level(speech, RATE), rel=1e-3)
    assert speech_level(torch.zeros(RATE), RATE) == speech_level(torch.zeros(0), RATE) == 0.0
    noise = torch.randn(len(paused), generator=torch.Generator().manual_seed(0))
    assert torch.equal(add_noise(torch.zeros(RATE), noise[:RATE], 10, RATE), torch.zeros(RATE))


def test_noise_that_is_silent_or_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="silent"):
        add_noise(tone(300), torch.zeros(RATE), 10, RATE)
    with pytest.raises(UsageError, match="one length"):
        add_talker(tone(300), torch.zeros(5), 10, RATE)


@pytest.mark.parametrize("loud", [1.0, 36.0])
def test_a_room_neither_gains_nor_clips_nor_delays(loud: float) -> None:
    response = torch.from_numpy(make_response(np.random.default_rng(0), RATE, 0.5, 3.0)) * loud
    late = torch.cat([torch.zeros(400), response])  # recorded with 50 ms before the direct sound
    assert float(normalise_response(late, RATE).square().sum()) == pytest.approx(1.0, abs=1e-5)
    dry = voice(RATE)
    wet = reverberate(dry, late, RATE)
    assert wet.shape == dry.shape and float(wet.abs().max()) <= 1
    assert speech_level(wet, RATE) == pytest.approx(speech_level(dry, RATE), rel=0.01)
    click = torch.zeros(RATE)
    click[1000] = 0.5
    assert abs(int(reverberate(click, late, RATE).abs().argmax()) - 1000) <= 0.001 * RATE
    with pytest.raises(DataError, match="silent"):
        normalise_response(torch.zeros(9), RATE)


@needs_rooms
def test_recorded_rooms_and_noises_keep_level_and_ratio() -> None:
    config = AugmentConfig(
        reverb=Reverb(1.0, str(NOISE_RIR)), noise=Noise(1.0, (7.0, 7.0), manifest=str(NOISE_RIR))
    )
    dry = voice(RATE)
    rooms = set()
    for number in range(20):
        item = Augmenter(AugmentConfig(reverb=config.reverb), RATE)(dry, key=f"{number}")
        rooms.add(item.applied["reverb"]["id"])
        assert speech_level(item.waveform, RATE) == pytest.approx(speech_level(dry, RATE), rel=0.05)
        noisy = Augmenter(AugmentConfig(noise=config.noise), RATE)(dry, key=f"{number}").waveform
        added = (noisy - dry).square().mean().sqrt()
        assert 20 * np.log10(speech_level(dry, RATE) / float(added)) == pytest.approx(7, abs=0.1)
    assert len(rooms) > 4


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_band_is_that_of_a_telephone(rate: int) -> None:
    for frequency, kept in ((150, False), (500, True), (3000, True), (3700, False), (6000, False)):
        if frequency < rate / 2:
            out = through_band(tone(frequency, 1.0, rate), rate)[rate // 4 : -rate // 4]
            gain = 20 * np.log10(float(out.abs().max()) / 0.5 + 1e-9)
            assert (gain > -0.5) if kept else (gain < -40), (frequency, gain)
    click = torch.zeros(rate)
    click[rate // 2] = 1.0
    assert int(through_band(click, rate).abs().argmax()) == rate // 2, "the filter delays"


def test_g711_is_what_libsndfile_reads_back() -> None:
    speech = voice(RATE) * 3.9
    for name, subtype in (("mulaw", "ULAW"), ("alaw", "ALAW")):
        file = io.BytesIO()
        soundfile.write(file, speech.numpy(), RATE, format="WAV", subtype=subtype)
        file.seek(0)
        theirs = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
        ours = code(speech, RATE, name)
        # libsndfile truncates to 16 bits first, so a sample may take the level beside the nearest
        levels = torch.unique(torch.cat([ours, theirs]))
        apart = torch.searchsorted(levels, ours) - torch.searchsorted(levels, theirs)
        assert int(apart.abs().max()) <= 1 and float((apart != 0).float().mean()) < 0.1
        assert (ours - speech).square().mean() <= (theirs - speech).square().mean()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("length", [1, 159, 8000, 8001])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_codecs_keep_length_and_time(name: str, length: int, rate: int) -> None:
    speech = voice(rate, 2.0)[:length]
    coded = code(speech, rate, name)
    assert coded.shape == speech.shape and float(coded.abs().max()) <= 1
    if length > 4000:
        lags = torch.fft.irfft(
            torch.fft.rfft(coded, 1 << 15) * torch.fft.rfft(speech, 1 << 15).conj()
        )
        assert int(lags.argmax()) == 0, "the codec delays"


def test_an_unknown_codec_is_answered_with_the_known() -> None:
    with pytest.raises(UsageError, match="Did you mean 'mulaw'"):
        code(tone(300), RATE, "ulaw")


def test_lost_packets_are_silent_or_fade_and_the_others_untouched() -> None:
    speech = voice(RATE, 1.0) + 0.1
    lost = torch.zeros(50, dtype=torch.bool)
    lost[[0, 10, 11, 49]] = True
    kept = (~lost).repeat_interleave(160)
    silent, repeated = (lose_packets(speech, RATE, lost, how) for how in ("silence", "repeat"))
    assert torch.equal(silent, torch.where(kept, speech, 0.0))
    assert torch.equal(repeated[kept], speech[kept])
    assert torch.equal(repeated[:160], torch.zeros(160)), "nothing came before the first packet"
    assert torch.allclose(repeated[1600:1760], speech[1440:1600] / 2)
    assert torch.allclose(repeated[1760:1920], speech[1440:1600] / 4)
    with pytest.raises(UsageError, match="50 packets"):
        lose_packets(speech, RATE, lost[:3], "repeat")
    assert packet_count(8001, RATE) == 51


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(1, 8), st.integers(0, 99))
def test_losses_have_the_stated_share_and_burst(loss: float, burst: float, seed: int) -> None:
    # A share that bursts of this length leave no room for is the one thing that cannot be met.
    lost = draw_losses(np.random.default_rng(seed), 20_000, loss, burst)
    runs = int((lost[1:] & ~lost[:-1]).sum() + lost[0])
    wanted = min(loss, burst / (burst + 1))
    assert lost.mean() == pytest.approx(wanted, rel=0.35)
    assert lost.sum() / max(runs, 1) == pytest.approx(burst, rel=0.35)


@settings(max_examples=25, deadline=None)
@given(st.floats(-60, 40), st.floats(0, 0.5))
def test_level_and_clipping(gain: float, share: float) -> None:
    speech = voice(RATE, 0.5)
    louder = change_volume(speech, gain)
    assert float(louder.abs().max()) <= 1 + 1e-6
    ratio = louder[speech.abs() > 0.01] / speech[speech.abs() > 0.01]
    assert float(ratio.max() - ratio.min()) < 1e-4 * float(ratio.max()), "louder, not bent"
    clipped = clip_peaks(speech, share)
    peak = float(clipped.abs().max())
    flat = float((clipped.abs() >= peak * (1 - 1e-6)).float().mean())
    assert flat == pytest.approx(share, abs=2 / len(speech))
    assert torch.equal(clipped[speech.abs() < peak], speech[speech.abs() < peak])


@pytest.mark.parametrize("length", [0, 1, 7, 161])
def test_every_operation_takes_the_shortest_items(length: int) -> None:
    config = everything(
        **{
            name: type(getattr(everything(), name))(probability=1.0)
            for name in (
                "speed",
                "reverb",
                "noise",
                "band",
                "volume",
                "clipping",
                "codec",
                "packets",
            )
        }
    )
    for number in range(8):
        item = Augmenter(config, RATE)(voice(RATE)[100 : 100 + length], key=f"{number}")
        assert item.waveform.shape == item.clean.shape
        assert torch.isfinite(item.waveform).all() and item.waveform.dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
def test_an_item_is_the_same_on_every_device_and_its_input_unchanged(device: str) -> None:
    speech = voice(RATE, 1.0).to(device)
    kept = speech.clone()
    for number in range(10):
        here = Augmenter(everything(), RATE)(speech, key=f"{number}")
        assert here.waveform.device.type == device
        host = Augmenter(everything(), RATE)(speech.cpu(), key=f"{number}")
        if "codec" not in here.applied:  # a rounding moves a coded sample to the level beside it
            assert torch.allclose(here.waveform.cpu(), host.waveform, atol=1e-4)
    assert torch.equal(speech, kept)


# --- SpecAugment -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(0, 99))
def test_masks_never_touch_padding_nor_depend_on_batch_mates(lengths: list[int], seed: int) -> None:
    config = Masking(time_masks=3, time_width=20, time_share=0.3, band_masks=2, band_width=8)
    features = torch.randn(len(lengths), 64, 20, generator=torch.Generator().manual_seed(seed))
    rngs = lambda: [item_rng(seed, 0, str(item)) for item in range(len(lengths))]  # noqa: E731
    before = features.clone()
    masked = spec_augment(features, torch.tensor(lengths), config, rngs())
    assert torch.equal(features, before)
    for item, length in enumerate(lengths):
        assert torch.equal(masked[item, length:], features[item, length:])
        whole = (masked[item, :length] != features[item, :length]).all(dim=1)
        assert int(whole.sum()) <= 0.3 * length
        alone = spec_augment(
            features[item : item + 1, :length], torch.tensor([length]), config, [rngs()[item]]
        )
        assert torch.allclose(alone[0], masked[item, :length], atol=1e-6)


def test_masks_differ_between_items_and_epochs_and_fill_with_the_mean() -> None:
    features = torch.randn(2, 200, 80) + 5
    augmenter = Augmenter(everything(), RATE)
    lengths = torch.tensor([200, 200])
    one = augmenter.mask(features, lengths, keys=["a", "b"], epoch=0)
    assert torch.equal(one, augmenter.mask(features, lengths, keys=["a", "b"], epoch=0))
    changed = one != features
    assert not torch.equal(changed[0], changed[1])
    assert not torch.equal(one, augmenter.mask(features, lengths, keys=["a", "b"], epoch=1))
    filled = one[0][changed[0]].view(-1)
    mean = features[0].mean(dim=0)
    assert all((mean - value).abs().min() < 1e-4 for value in filled[:50])
    with pytest.raises(UsageError, match="2 items need as many generators"):
        spec_augment(features, lengths, Masking(), [])
