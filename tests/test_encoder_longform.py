"""Long recordings: `encode` and `encode_blocks`, independent of blocks, in memory that does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import noise, strong_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoder_golden import GOLDEN, SETTINGS, assert_equal, context, vectors
from test_encoder_golden import backbone as golden_backbone

from encoder import Context, StreamingSession, attention, longform
from encoder.masks import attention_mask, chunk_windows
from trunkline.audio import AudioFault
from trunkline.errors import ConfigError, DataError, UsageError

ROOT = Path(__file__).parent.parent
contexts = st.one_of(
    st.just(Context.full()),
    st.builds(Context, st.integers(1, 12), st.integers(0, 20), st.integers(0, 16)),
    st.just(Context(500, 0, 3)),
)


def joined(pieces) -> torch.Tensor:
    return torch.cat([torch.zeros(1, 0, 16), *(piece.frames for piece in pieces)], dim=1)[0]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_way_of_encoding_gives_the_same_frames(data):
    """One waveform: in one pass, in blocks, in a batch, from blocks of samples, and live."""
    backbone, limits = strong_backbone(), data.draw(contexts)
    samples = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, 30_000)))
    waveform = 0.1 * noise(samples, seed=data.draw(st.integers(0, 9)))
    single = backbone.encode(waveform, context=limits)
    assert single.frames.pow(2).mean().sqrt() < 2 or not single.frames.numel()

    def check(frames: torch.Tensor) -> None:
        torch.testing.assert_close(frames, single.frames[0], atol=1e-4, rtol=0)

    features = backbone.features(waveform)[None]
    if samples >= backbone.receptive_field:
        with torch.no_grad():
            check(backbone(features, torch.tensor([features.shape[1]]), context=limits).frames[0])
    block = data.draw(st.sampled_from([1, 3, 8, 29, 1000]))
    check(joined(backbone.encode_blocks(waveform, context=limits, block=block)))
    mates = [0.1 * noise(n, seed=n) for n in data.draw(st.lists(st.integers(0, 9000), max_size=3))]
    batch = backbone.encode_batch([*mates, waveform, *mates], context=limits, block=block)
    check(batch[len(mates)].frames[0])
    size = data.draw(st.sampled_from([80, 333, 8000]))
    parts = (waveform.numpy()[n : n + size] for n in range(0, samples, size))
    check(backbone.encode(parts, context=limits).frames[0])
    if not limits.is_full:
        session = StreamingSession(backbone, limits)
        check(joined([*map(session.feed, waveform.split(size)), session.finish()]))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("block", [3, 50, 512])
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}")
def test_long_form_gives_the_frames_of_the_reference_whatever_its_blocks(setting, block):
    """The reference's own long form differs by up to 1.7e-2, as its look-ahead is too short."""
    features = vectors("inputs")["fbank"]
    (encoded,) = golden_backbone().encode_batch([features], context=context(setting), block=block)
    prefix = "" if setting == "full" else "decode."
    assert_equal(encoded.frames[0], vectors("expected")[f"{prefix}{setting}.encoder"])


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize(
    "limits", [Context(4, 6, 2), Context(64, 128, 128), Context.full()], ids=str
)
def test_short_audio_at_every_edge_has_the_same_frames_on_every_path(rate, limits):
    """0, 1, 160, 399, 400 ... samples: no crash, no frame of garbage, and a short word always has its frame."""
    backbone = strong_backbone(sample_rate=rate)
    field = backbone.receptive_field
    lengths = [0, 1, 160, 399, 400, 1359, 1360, field - 1, field, field + 1]
    lengths += [field + rate * 8 // 100 * n + extra for n in (1, 2, 5) for extra in (-1, 0, 1)]
    waveforms = [0.1 * noise(length, seed=length) for length in lengths]
    batch = backbone.encode_batch(waveforms, context=limits, layers="all")
    for length, waveform, together in zip(lengths, waveforms, batch, strict=True):
        frames = 0 if length == 0 else 1 + max(0, length - field) // (rate * 8 // 100)
        single = backbone.encode(waveform, context=limits, layers="all")
        assert single.frames.shape == (1, frames, 16) and single.layers.shape == (3, 1, frames, 16)
        assert single.lengths.tolist() == [frames] and single.times.shape == (frames,)
        assert together.frames.shape == single.frames.shape
        torch.testing.assert_close(together.frames, single.frames, atol=1e-5, rtol=0)
        if limits.is_full:
            continue
        session = StreamingSession(backbone, limits)
        parts = [session.feed(waveform), session.finish()]
        live = torch.cat([part.frames for part in parts], dim=1)
        assert live.shape == single.frames.shape
        torch.testing.assert_close(live, single.frames, atol=1e-5, rtol=0)


@pytest.mark.parametrize("phase", range(0, 640, 80))
def test_a_word_at_any_phase_of_a_chunk_moves_the_last_frames(phase):
    """A turn of one word after silence: whatever the chunk it ends in, its last frame is there and hears it."""
    backbone, limits = strong_backbone(), Context(8, 16, 0)
    silence = torch.zeros(8 * 640 + 1320 + phase)
    word = 0.3 * noise(1600)
    quiet = backbone.encode(torch.cat([silence, torch.zeros(1600)]), context=limits)
    spoken = backbone.encode(torch.cat([silence, word]), context=limits)
    session = StreamingSession(backbone, limits)
    live = [session.feed(silence), session.feed(word), session.finish()]
    assert (spoken.frames[0, -1] - quiet.frames[0, -1]).abs().max() > 0.1
    frames = torch.cat([part.frames for part in live], dim=1)
    torch.testing.assert_close(frames, spoken.frames, atol=1e-5, rtol=0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_windows_cover_each_query_once_with_exactly_the_keys_it_sees(data):
    limits = data.draw(contexts)
    chunk = 1 if limits.is_full else limits.chunk
    first = data.draw(st.integers(0, 6)) * chunk
    last = first + data.draw(st.integers(1, 60))
    total = last + data.draw(st.integers(0, 30))
    seen = attention_mask(torch.arange(first, last), torch.arange(total), limits)
    position = first
    budget, there = data.draw(st.sampled_from([1, 300, 5000])), data.draw(st.sampled_from([0.4, 1]))
    for window in chunk_windows(first, last, total, limits, budget, there=there):
        assert window.first == position
        for repeat in range(window.repeats):
            move = repeat * limits.chunk if window.repeats > 1 else 0
            for query in range(window.first + move, window.last + move):
                keys = (
                    range(total)
                    if seen is None
                    else seen[query - first].nonzero().flatten().tolist()
                )
                low, high = window.low + move, window.high + move
                if window.repeats > 1:
                    low, high = max(0, low), min(high, total)
                assert (keys[0], keys[-1] + 1) == (low, high)
                position += 1
    assert position == last


@pytest.mark.parametrize(
    ("first", "frames", "total"), [(0, 200, 200), (0, 137, 140), (64, 96, 180)]
)
@torch.no_grad()
def test_windows_joined_at_the_ends_of_a_recording_attend_as_each_alone(
    first, frames, total, monkeypatch
):
    """In bfloat16 on a CPU they are joined, with keys that are not there; the same is asked in float32."""
    limits = Context(32, 32, 40)
    torch.manual_seed(0)
    layer = attention.RelativeAttention(32, 2, 0.0).eval()
    low = max(0, first - limits.left)
    query, keys, values = torch.randn(1, frames, 32), *torch.randn(2, 1, total - low, 32)
    positions = layer.positions(total, limits)
    joined = []

    def attended():
        return layer.attend_known(query, keys, values, first, low, limits, positions)

    def noted(*given, **options):
        for window in chunk_windows(*given, **options):
            joined.append(len(window.missing(limits.chunk, total)))
            yield window

    alone = attended()
    monkeypatch.setattr(attention, "chunk_windows", noted)
    monkeypatch.setattr(layer, "_by_products", lambda frames: True)
    torch.testing.assert_close(attended(), alone, atol=1e-6, rtol=1e-5)
    assert max(joined) > 0


def test_pieces_follow_each_other_in_time_and_have_their_layers():
    backbone, waveform, limits = strong_backbone(), 0.1 * noise(40_000), Context(3, 4, 9)
    whole = backbone.encode(waveform, context=limits, layers=[0, 2])
    pieces = list(backbone.encode_blocks(waveform, context=limits, layers=[0, 2], block=7))
    assert len(pieces) > 5
    assert torch.equal(torch.cat([piece.times for piece in pieces]), whole.times)
    assert all(piece.lengths.tolist() == [piece.frames.shape[1]] for piece in pieces)
    layers = torch.cat([piece.layers for piece in pieces], dim=2)
    torch.testing.assert_close(layers, whole.layers, atol=1e-4, rtol=1e-5)


def test_a_pure_tone_has_the_same_frames_in_blocks():
    """Its weakest bins are 1e8 below the loudest, where rounding alone moves a logarithm."""
    backbone, limits = strong_backbone(), Context(4, 6, 2)
    waveform = torch.sin(torch.arange(32_000) * (2 * np.pi * 440 / 8000)) * 0.5
    single = backbone.encode(waveform, context=limits)
    session = StreamingSession(backbone, limits)
    parts = [session.feed(part).frames for part in waveform.split(333)]
    live = torch.cat([*parts, session.finish().frames], dim=1)
    torch.testing.assert_close(live, single.frames, atol=1e-4, rtol=0)


@pytest.mark.parametrize("limits", [Context(3000, 10, 2500), Context(64, 6000, 128)], ids=str)
def test_a_context_of_more_than_5000_frames_is_served(limits):
    """The reference's table of positions ends there, with an internal error of `as_strided`."""
    backbone, features = strong_backbone(layers=1), noise(8 * 300 + 15, 15)
    (encoded,) = backbone.encode_batch([features], context=limits, block=64)
    with torch.no_grad():
        expected = backbone(features[None], torch.tensor([len(features)]), context=limits).frames
    torch.testing.assert_close(encoded.frames, expected, atol=1e-5, rtol=0)


def test_full_context_longer_than_an_hour_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(longform, "LONGEST_FULL", 20)
    backbone, waveform = strong_backbone(), 0.1 * noise(30_000)
    with pytest.raises(
        UsageError, match=r"Full context.*longer than 20 frames.*Context\(64, 128, 128\)"
    ):
        backbone.encode(waveform)
    assert backbone.encode(waveform, context=Context(4, 6, 2)).frames.shape[1] == 45


MEASURE = """
import resource, sys, torch
from encoder import Context, load_backbone
backbone = load_backbone(sys.argv[1])
frames = sum(piece.frames.shape[1] for piece in backbone.encode_blocks(sys.argv[2], context=Context(16, 32, 16)))
print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_minutes_need_no_more_memory_than_one(tmp_path):
    """Read from the peak of a process each; a second of its 10 ms features alone would be 32 KB."""
    strong_backbone(dim=32, num_mels=80).save(tmp_path / "backbone")
    peaks = {}
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.wav"
        rng = np.random.default_rng(0)
        with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(0.1 * rng.standard_normal(60 * 8000, dtype=np.float32))
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "backbone"), str(path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        frames, peaks[minutes] = map(int, result.stdout.split())
        assert frames == 1 + (minutes * 60 * 8000 - 1320) // 640
    assert peaks[10] < peaks[1] + 12_000, "KB: the features of 9 minutes more would be 17,000"


def test_the_channel_of_a_waveform_is_an_error():
    for audio in (noise(8000), noise(8000).numpy(), iter([noise(8000).numpy()])):
        with pytest.raises(UsageError, match="channel='customer' chooses a voice of a file"):
            strong_backbone().encode(audio, channel="customer")


@pytest.mark.parametrize("limits", [Context(0, 1, 1), Context(4, -1, 0)])
def test_a_context_that_cannot_be_is_refused_at_once(limits):
    with pytest.raises(ConfigError, match="cannot be"):
        strong_backbone().encode_blocks(noise(8000), context=limits)
    with pytest.raises(ConfigError, match="cannot be"):
        strong_backbone().encode_batch([], context=limits)


def test_a_block_of_nothing_is_refused():
    with pytest.raises(UsageError, match="A block of 0 frames"):
        strong_backbone().encode_blocks(noise(8000), block=0)


def test_samples_that_are_no_numbers_stop_a_long_recording_where_they_stand(tmp_path):
    waveform = 0.1 * noise(240_000).numpy()
    waveform[200_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", waveform, 8000, subtype="FLOAT")
    pieces = strong_backbone().encode_blocks(
        tmp_path / "nan.wav", context=Context(4, 6, 0), block=50
    )
    assert next(pieces).frames.isfinite().all()
    with pytest.raises(AudioFault, match="the first at sample 200000"):
        list(pieces)
    with pytest.raises(DataError, match="NaN"):
        strong_backbone().encode(waveform)


def test_a_file_that_changes_its_rate_midway_is_refused(tmp_path):
    """Two MPEG streams of different rates laid end to end, as a badly joined recording has them."""
    av = pytest.importorskip("av", reason="needs the media extra: pip install trunkline[media]")
    path = tmp_path / "joined.aac"
    parts = []
    for rate in (8000, 16000):
        part = tmp_path / f"{rate}.aac"
        with av.open(str(part), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                (0.1 * noise(1, rate * 2)).numpy(), format="fltp", layout="mono"
            )
            frame.sample_rate = rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(
        AudioFault, match="changes its sample rate or channels midway; split it first"
    ):
        list(strong_backbone().encode_blocks(path, context=Context(4, 6, 0)))
