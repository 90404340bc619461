"""`StreamingSession`: PCM blocks of any size in, frames with their times out, at their latency."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from encoder_backbones import noise, strong_backbone

from encoder import Context, StreamingSession
from trunkline.errors import ConfigError, DataError, UsageError

LIVE = Context(4, 6, 0)


def run(session: StreamingSession, blocks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = [session.feed(block) for block in blocks]
    parts.append(session.finish())
    assert all(part.lengths.tolist() == [part.frames.shape[1]] for part in parts)
    return (
        torch.cat([part.frames for part in parts], dim=1),
        torch.cat([part.times for part in parts]),
        torch.cat([part.layers for part in parts], dim=2),
    )


@pytest.mark.parametrize("limits", [LIVE, Context(3, 4, 2), Context(8, 40, 16)], ids=str)
@pytest.mark.parametrize("kind", ["float", "int16", "bytes"])
def test_blocks_of_any_size_and_kind_give_the_frames_of_the_recording(limits, kind):
    backbone, draw = strong_backbone(), random.Random(0)
    pcm = (noise(8000 * 4 + 77) * 3000).numpy().astype(np.int16)
    waveform = pcm.astype(np.float32) / 32768
    expected = backbone.encode(waveform, context=limits, layers="all")
    blocks, start = [], 0
    while start < len(pcm):
        size = draw.choice([1, 80, 160, 333, 4000])
        part = slice(start, start + size)
        blocks.append(
            {"float": waveform[part], "int16": pcm[part], "bytes": pcm[part].tobytes()}[kind]
        )
        start += size
    frames, times, layers = run(StreamingSession(backbone, limits, layers="all"), blocks)
    torch.testing.assert_close(frames, expected.frames, atol=1e-5, rtol=0)
    torch.testing.assert_close(layers, expected.layers, atol=1e-4, rtol=1e-5)
    assert torch.equal(times, expected.times)


@pytest.mark.parametrize("limits", [LIVE, Context(3, 4, 2), Context(2, 3, 9)], ids=str)
def test_no_frame_is_later_than_the_stated_latency_and_one_is_as_late(limits):
    backbone = strong_backbone()
    session, waited = StreamingSession(backbone, limits), []
    hop, heard, given = 640, 0, 0
    for block in (0.1 * noise(8000 * 3)).split(10):
        frames = session.feed(block).frames.shape[1]
        heard += len(block)
        waited += [heard - hop * (given + n) for n in range(frames)]
        given += frames
    latest = max(waited) / backbone.sample_rate
    assert latest - 10 / 8000 <= limits.latency(backbone) <= latest + 1e-9


def test_a_line_of_another_rate_is_resampled_as_a_file_is(tmp_path):
    import soundfile

    backbone = strong_backbone()
    waveform = (np.sin(np.arange(48_000) * 2 * np.pi * 300 / 16_000) * 0.3).astype(np.float32)
    soundfile.write(tmp_path / "wide.wav", waveform, 16_000, subtype="FLOAT")
    expected = backbone.encode(tmp_path / "wide.wav", context=LIVE, layers="all")
    session = StreamingSession(backbone, LIVE, sample_rate=16_000, layers="all")
    frames, times, _ = run(session, np.split(waveform, range(500, 48_000, 500)))
    torch.testing.assert_close(frames, expected.frames, atol=1e-4, rtol=0)
    assert torch.equal(times, expected.times)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (1319, 1), (1320, 1), (1960, 2)])
def test_a_short_call_has_its_frame(samples, frames):
    session = StreamingSession(strong_backbone(), LIVE, layers=[1])
    found, times, _ = run(session, [0.1 * noise(samples)])
    assert found.shape == (1, frames, 16) and times.shape == (frames,)
    assert found.isfinite().all()


def test_sessions_do_not_disturb_each_other():
    backbone = strong_backbone()
    waveforms = [0.1 * noise(8000, seed=n) for n in range(3)]
    sessions = [StreamingSession(backbone, LIVE) for _ in waveforms]
    frames = [[] for _ in waveforms]
    for start in range(0, 8000, 400):
        for n, waveform in enumerate(waveforms):
            frames[n].append(sessions[n].feed(waveform[start : start + 400]).frames)
    for n, waveform in enumerate(waveforms):
        found = torch.cat([*frames[n], sessions[n].finish().frames], dim=1)
        expected = backbone.encode(waveform, context=LIVE).frames
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_session_that_is_fed_after_its_end_is_refused():
    session = StreamingSession(strong_backbone(), LIVE)
    session.finish()
    with pytest.raises(UsageError, match="has been finished; begin a new one"):
        session.feed(noise(100))
    with pytest.raises(UsageError, match="has been finished already"):
        session.finish()


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (
            np.array([0.0, np.nan, 0.1], np.float32),
            "NaN or infinite samples, the first at sample 1",
        ),
        (torch.tensor([torch.inf]), "NaN or infinite"),
        (np.zeros((100, 2), np.int16), r"shape \(100, 2\) is not one voice"),
        (np.zeros(100, np.int32), "int32 has no known scale"),
        (b"\0\0\0", "3 bytes are no whole number"),
    ],
)
def test_a_bad_block_is_refused_and_the_call_goes_on(pcm, message):
    backbone, waveform = strong_backbone(), 0.1 * noise(8000)
    session = StreamingSession(backbone, LIVE)
    first = session.feed(waveform[:3000])
    with pytest.raises(DataError, match=message):
        session.feed(pcm)
    rest = [session.feed(waveform[3000:]), session.finish()]
    frames = torch.cat([part.frames for part in [first, *rest]], dim=1)
    expected = backbone.encode(waveform, context=LIVE).frames
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)


def test_a_line_that_changes_its_rate_midway_is_told_what_to_do():
    session = StreamingSession(strong_backbone(), LIVE)
    session.feed(noise(100), sample_rate=8000)
    with pytest.raises(UsageError, match="from 8000 to 16000 Hz: finish this session and begin"):
        session.feed(noise(100), sample_rate=16_000)


def test_what_no_session_can_have_is_refused():
    with pytest.raises(ConfigError, match="no frame would come before its end"):
        StreamingSession(strong_backbone(), Context.full())
    with pytest.raises(UsageError, match="above 0 Hz"):
        StreamingSession(strong_backbone(), LIVE, sample_rate=0)


def test_digits_that_repeat_keep_their_frames_on_every_path():
    """ "không không chín chín": labels of frames, and so the digits, are the same by file, batch, block and line."""
    pytest.importorskip(
        "espeakng_loader", reason="needs the demo extra: pip install trunkline[demo]"
    )
    from examples.bank_dialogues import spell_digits
    from examples.voices import Voice, synthesise

    assert spell_digits("0099").replace(",", "") == "không không chín chín"
    waveform, words = synthesise("không không chín chín", Voice())
    waveform = np.pad(waveform, (4000, 2000)).astype(np.float32)
    backbone, limits = strong_backbone(num_mels=80), Context(8, 40, 0)
    single = backbone.encode(waveform, context=limits)
    labels = single.frames[0] @ noise(16, 50)
    others = {
        "blocks": list(backbone.encode_blocks(waveform, context=limits, block=5)),
        "batch": [backbone.encode_batch([waveform[:9000], waveform], context=limits)[1]],
    }
    session = StreamingSession(backbone, limits)
    blocks = map(session.feed, np.split(waveform, range(160, len(waveform), 160)))
    others["line"] = [*blocks, session.finish()]
    for way, pieces in others.items():
        frames = torch.cat([piece.frames for piece in pieces], dim=1)[0]
        torch.testing.assert_close(frames, single.frames[0], atol=1e-4, rtol=0)
        assert torch.equal((frames @ noise(16, 50)).argmax(-1), labels.argmax(-1)), way
    assert len(words) == 4
    for word in words:
        middle = (word.start + word.end) / 2 + 4000 / 8000
        assert (single.times - middle).abs().min() < 0.08, "each digit has frames"
