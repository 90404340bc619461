"""Recordings in: formats, scaling, stretches, blocks, and what is said about broken files."""

from __future__ import annotations

import itertools
import math
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline import audio
from trunkline.errors import DataError, DependencyError, StorageError, UsageError

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def speech(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(samples, channels) of coloured noise that swells and fades, int16-exact, within +-0.7."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((round(seconds * rate), channels)).cumsum(axis=0)
    noise -= np.linspace(noise[0], noise[-1], len(noise))
    swell = 0.6 + 0.4 * np.sin(np.arange(len(noise)) / rate * 4)[:, None]
    scaled = noise / (np.abs(noise).max() + 1e-9) * 0.7 * swell
    return (np.round(scaled * 32768) / 32768).astype(np.float32)


def wav(
    path: Path, tag: int, bits: int, data: bytes, *, channels: int = 1, rate: int = 8000
) -> Path:
    """Write a WAV byte by byte, independent of the library that reads it."""
    frame = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, channels, rate, rate * frame, frame, bits)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)
    return path


def mu_law(code: int) -> int:
    """ITU-T G.711: the 16-bit value of a mu-law byte."""
    code = ~code & 0xFF
    value = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return -value if code & 0x80 else value


def a_law(code: int) -> int:
    """ITU-T G.711: the 16-bit value of an A-law byte."""
    code ^= 0x55
    value, segment = (code & 0x0F) << 4, (code >> 4) & 7
    value = value + 8 if segment == 0 else (value + 0x108) << (segment - 1)
    return value if code & 0x80 else -value


@pytest.mark.parametrize("law", ["mu", "a", "pcm8"])
def test_every_encoding_of_the_same_samples_reads_as_the_same_numbers(
    tmp_path: Path, law: str
) -> None:
    codes = np.random.default_rng(1).permutation(np.arange(256, dtype=np.uint8).repeat(4))
    decode = {"mu": mu_law, "a": a_law, "pcm8": lambda code: (code - 128) * 256}[law]
    values = np.array([decode(int(code)) for code in codes])
    wide = values.astype(np.int64)
    pcm24 = b"".join(int(value << 8).to_bytes(3, "little", signed=True) for value in wide)
    copies = [
        wav(tmp_path / "narrow.wav", {"mu": 7, "a": 6, "pcm8": 1}[law], 8, codes.tobytes()),
        wav(tmp_path / "int16.wav", 1, 16, values.astype("<i2").tobytes()),
        wav(tmp_path / "int24.wav", 1, 24, pcm24),
        wav(tmp_path / "int32.wav", 1, 32, (wide << 16).astype("<i4").tobytes()),
        wav(tmp_path / "float.wav", 3, 32, (values / 32768).astype("<f4").tobytes()),
        wav(tmp_path / "double.wav", 3, 64, (values / 32768).astype("<f8").tobytes()),
    ]
    soundfile.write(tmp_path / "copy.flac", values.astype(np.int16), 8000)
    for path in [*copies, tmp_path / "copy.flac"]:
        waveform = audio.read(path)
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(
            waveform, (values / 32768).astype(np.float32), err_msg=path.name
        )


FORMATS = [("wav", "PCM_16"), ("wav", "IMA_ADPCM"), ("wav", "GSM610"), ("flac", "PCM_24")]
FORMATS += [("ogg", "VORBIS"), ("opus", "OPUS"), ("mp3", "MPEG_LAYER_III")]


def encoded(folder: Path, suffix: str, subtype: str, waveform: np.ndarray, rate: int) -> Path:
    path = folder / f"{subtype}.{suffix}"
    container = {"opus": "OGG"}.get(suffix, suffix.upper())
    soundfile.write(path, waveform, rate, format=container, subtype=subtype)
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recordings")
    waveform = speech(3.1, 8000)
    return {
        subtype: encoded(folder, suffix, subtype, waveform, 8000) for suffix, subtype in FORMATS
    }


@pytest.mark.parametrize("subtype", [subtype for _, subtype in FORMATS])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_blocks_joined_are_the_whole_for_every_format_rate_and_block_size(
    recordings: dict[str, Path], subtype: str, data: st.DataObject
) -> None:
    path = recordings[subtype]
    lasts = audio.info(path).duration
    start = data.draw(st.floats(0, lasts - 0.01))
    end = data.draw(st.none() | st.floats(start + 0.005, lasts))
    rate = data.draw(st.sampled_from([None, 8000, 11025, 16000, 48000, 4000]))
    size = data.draw(st.floats(0.002, 4.0))
    stretch = {"start": start, "end": end, "sample_rate": rate}
    whole = audio.read(path, **stretch)
    joined = np.concatenate(list(audio.blocks(path, **stretch, block_seconds=size)))
    tolerance = 1e-6 if subtype == "MPEG_LAYER_III" else 0.0
    np.testing.assert_allclose(joined, whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize("subtype", [subtype for _, subtype in FORMATS])
def test_a_stretch_is_that_part_of_the_whole(recordings: dict[str, Path], subtype: str) -> None:
    path = recordings[subtype]
    whole = audio.read(path)
    for start, end in itertools.product([0.0, 0.0005, 1.7, 2.99], [3.0, 3.05, None]):
        part = audio.read(path, start=start, end=end)
        last = None if end is None else round(end * 8000)
        np.testing.assert_allclose(part, whole[round(start * 8000) : last], rtol=0, atol=1e-6)


def test_resampling_keeps_the_tone_and_removes_what_the_new_rate_cannot_hold(
    tmp_path: Path,
) -> None:
    time = np.arange(48000) / 16000
    path = tmp_path / "tones.wav"
    tones = 0.3 * np.sin(2 * np.pi * 500 * time) + 0.3 * np.sin(2 * np.pi * 6000 * time)
    soundfile.write(path, tones, 16000, subtype="FLOAT")
    low = audio.read(path, sample_rate=8000)
    expected = 0.3 * np.sin(2 * np.pi * 500 * np.arange(24000) / 8000)
    assert len(low) == 24000
    np.testing.assert_allclose(low[200:-200], expected[200:-200], atol=1e-3)
    np.testing.assert_array_equal(audio.resample(audio.read(path), 16000, 8000), low)
    np.testing.assert_array_equal(audio.read(path, sample_rate=16000), audio.read(path))


def test_a_channel_is_picked_by_index_or_role_and_never_mixed(tmp_path: Path) -> None:
    stereo = speech(0.5, 8000, channels=2)
    soundfile.write(tmp_path / "call.wav", stereo, 8000)
    for channel, column in [(0, 0), (1, 1), ("agent", 0), ("customer", 1)]:
        waveform = audio.read(tmp_path / "call.wav", channel=channel)
        np.testing.assert_array_equal(waveform, stereo[:, column])
    np.testing.assert_array_equal(audio.read_channels(tmp_path / "call.wav"), stereo.T)
    for read in (audio.read, lambda path: list(audio.blocks(path))):
        with pytest.raises(DataError, match=r"call\.wav has 2 channels.*give 0 \(agent\) or 1"):
            read(tmp_path / "call.wav")
    with pytest.raises(DataError, match="no channel 2"):
        audio.read(tmp_path / "call.wav", channel=2)
    with pytest.raises(UsageError, match="Did you mean 'agent'"):
        audio.read(tmp_path / "call.wav", channel="agnet")


def test_six_channels_and_96_khz_are_read_like_any_other(tmp_path: Path) -> None:
    waveform = speech(0.2, 96000, channels=6)
    soundfile.write(tmp_path / "six.wav", waveform, 96000)
    assert audio.info(tmp_path / "six.wav")[1:5] == (19200, 96000, 6, 0.2)
    np.testing.assert_array_equal(audio.read(tmp_path / "six.wav", channel=5), waveform[:, 5])
    assert audio.read_channels(tmp_path / "six.wav", sample_rate=8000).shape == (6, 1600)
    assert not audio.is_dual_mono(tmp_path / "six.wav")


def test_one_sample_is_a_recording_unless_the_rate_asked_for_leaves_none(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", [0.5], 96000)
    assert audio.read(tmp_path / "one.wav").tolist() == [0.5]
    assert list(map(len, audio.blocks(tmp_path / "one.wav"))) == [1]
    with pytest.raises(DataError, match=r"one\.wav.*too short"):
        audio.read(tmp_path / "one.wav", sample_rate=8000)


def test_dual_mono_is_the_same_signal_on_both_channels_and_nothing_else(tmp_path: Path) -> None:
    voice = speech(25, 8000)
    other = voice.copy()
    other[24 * 8000 :] *= 0.5
    for name, second in [("dual", voice), ("late", other)]:
        soundfile.write(tmp_path / f"{name}.wav", np.hstack([voice, second]), 8000)
    soundfile.write(tmp_path / "mono.wav", voice, 8000)
    found = {
        name: audio.is_dual_mono(tmp_path / f"{name}.wav") for name in ("dual", "late", "mono")
    }
    assert found == {"dual": True, "late": False, "mono": False}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_no_number_is_named_by_file_and_position(
    tmp_path: Path, value: float
) -> None:
    waveform = speech(3, 8000)
    waveform[17_001] = value
    soundfile.write(tmp_path / "nan.wav", waveform, 8000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"nan\.wav.*sample 17001 \(2\.125 s\)"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(DataError, match=r"sample 17001"):
        list(audio.blocks(tmp_path / "nan.wav", start=1.0, block_seconds=0.3, sample_rate=16000))
    assert len(audio.read(tmp_path / "nan.wav", end=2.0)) == 16000


def test_float_audio_is_clipped_when_it_overshoots_and_refused_when_it_is_not_scaled(
    tmp_path: Path,
) -> None:
    waveform = speech(1, 8000)
    soundfile.write(tmp_path / "loud.wav", waveform * 2, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(
        audio.read(tmp_path / "loud.wav"), np.clip(waveform[:, 0] * 2, -1, 1)
    )
    soundfile.write(tmp_path / "integers.wav", waveform * 32768, 8000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"integers\.wav holds samples up to \d+.*\[-1, 1\]"):
        audio.read(tmp_path / "integers.wav")


def test_a_stretch_outside_the_file_says_how_long_the_file_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "two.wav", speech(2, 8000), 8000)
    for start, end in [(2.5, None), (0, 2.5), (-1, None), (1, 1), (1, 0.5), (math.nan, None)]:
        with pytest.raises(DataError, match=r"two\.wav lasts 2\.000 s"):
            audio.read(tmp_path / "two.wav", start=start, end=end)
    assert len(audio.read(tmp_path / "two.wav", end=2.04)) == 16000  # a rounded end


def test_files_that_are_no_recordings_are_refused_in_a_sentence(tmp_path: Path) -> None:
    good = speech(2, 8000)
    soundfile.write(tmp_path / "good.wav", good, 8000)
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "header.wav").write_bytes(whole[:44].replace(whole[40:44], bytes(4)))
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bare.wav").write_bytes(whole[:20])
    (tmp_path / "open.wav").write_bytes(whole[:40] + bytes(4) + whole[44:])
    (tmp_path / "text.wav").write_text("this is not audio\n" * 100)
    (tmp_path / "folder.wav").mkdir()
    faults = {
        "zero": "is empty",
        "header": "holds no samples",
        "cut": "is truncated: its header promises 32000 bytes, it holds 15978",
        "bare": "is not a recording",
        "open": "has an unfinished WAV header",
        "text": "is not a recording",
        "folder": "is a folder",
        "gone": "does not exist",
    }
    for name, message in faults.items():
        for read in (audio.info, audio.read, lambda path: list(audio.blocks(path))):
            with pytest.raises((DataError, StorageError), match=rf"{name}\.wav {message}"):
                read(tmp_path / f"{name}.wav")


@pytest.mark.parametrize("length", [0x7FFFFFF0, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_is_read_to_its_end(tmp_path: Path, length: int) -> None:
    waveform = speech(1, 8000)
    soundfile.write(tmp_path / "piped.wav", waveform, 8000)
    data = bytearray((tmp_path / "piped.wav").read_bytes())
    data[40:44] = struct.pack("<I", length)
    (tmp_path / "piped.wav").write_bytes(data)
    np.testing.assert_array_equal(audio.read(tmp_path / "piped.wav"), waveform[:, 0])


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_a_compressed_file_cut_short_is_truncated_and_not_just_shorter(
    tmp_path: Path, suffix: str
) -> None:
    soundfile.write(tmp_path / f"whole.{suffix}", speech(20, 8000), 8000)
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix} is (damaged or )?truncated"):
        audio.read(tmp_path / f"cut.{suffix}")
    with pytest.raises(DataError, match=rf"cut\.{suffix} is (damaged or )?truncated"):
        list(audio.blocks(tmp_path / f"cut.{suffix}", block_seconds=1))


def test_a_flac_that_does_not_tell_its_length_is_counted(tmp_path: Path) -> None:
    waveform = speech(2, 8000)
    soundfile.write(tmp_path / "streamed.flac", waveform, 8000)
    data = bytearray((tmp_path / "streamed.flac").read_bytes())
    data[21] &= 0xF0  # STREAMINFO: the 36 bits of the number of samples
    data[22:26] = bytes(4)
    (tmp_path / "streamed.flac").write_bytes(data)
    assert audio.info(tmp_path / "streamed.flac").num_samples == 16000
    np.testing.assert_array_equal(audio.read(tmp_path / "streamed.flac"), waveform[:, 0])


def test_a_long_recording_is_read_in_the_memory_of_a_block(tmp_path: Path) -> None:
    seconds, rate = 3600, 8000
    path = wav(tmp_path / "long.wav", 1, 16, b"", channels=2)
    with path.open("r+b") as file:  # sparse: 115 MB of samples without the disk
        file.seek(4)
        file.write(struct.pack("<I", 36 + seconds * rate * 4))
        file.seek(40)
        file.write(struct.pack("<I", seconds * rate * 4))
        file.truncate(44 + seconds * rate * 4)
        file.seek(44 + 1800 * rate * 4)
        file.write(b"\x00\x40")
    tracemalloc.start()
    total = peak = 0
    for block in audio.blocks(path, channel=0, sample_rate=16000, block_seconds=5):
        total, peak = total + len(block), max(peak, float(block.max()))
    memory = tracemalloc.get_traced_memory()[1]
    part = audio.read(path, channel=0, start=1799.5, end=1800.5)
    tracemalloc.stop()
    assert total == seconds * 16000
    assert peak > 0.3
    assert part[4000] == 0.5 and np.count_nonzero(part) == 1
    assert memory < 8e6


def test_m4a_and_amr_are_read_with_pyav_and_seek_to_the_sample(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the media extra (PyAV) is not installed")
    for name, codec, rate in [("m.m4a", "aac", 16000), ("m.amr", "libopencore_amrnb", 8000)]:
        if codec not in av.codecs_available:
            continue
        path = tmp_path / name
        _encode_with_av(av, path, codec, rate, speech(4, rate)[:, 0])
        about = audio.info(path)
        whole = audio.read(path)
        assert (about.sample_rate, about.channels, len(whole)) == (rate, 1, about.num_samples)
        assert abs(about.duration - 4) < 0.1
        original = speech(4, rate)[:, 0]
        if codec == "aac":
            shared = min(len(whole), len(original))
            assert np.corrcoef(whole[:shared], original[:shared])[0, 1] > 0.95
        joined = np.concatenate(list(audio.blocks(path, block_seconds=0.3)))
        np.testing.assert_array_equal(joined, whole)
        for start, end in [(0.1, 0.2), (2.333, 3.5)]:
            part = audio.read(path, start=start, end=end)
            expected = whole[round(start * rate) : round(end * rate)]
            np.testing.assert_allclose(part, expected, atol=1e-4)
    (tmp_path / "text.m4a").write_text("no audio\n" * 50)
    with pytest.raises(DataError, match=r"text\.m4a is not a recording"):
        audio.info(tmp_path / "text.m4a")


def _encode_with_av(av, path: Path, codec: str, rate: int, waveform: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        convert = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        for start in range(0, len(waveform), 1024):
            frame = av.AudioFrame.from_ndarray(waveform[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            for piece in convert.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def test_without_pyav_an_m4a_file_names_the_extra_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"x")
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from trunkline import audio; audio.read(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.m4a")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert DependencyError.__name__ in done.stderr
    assert "pip install trunkline[media]" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_a_storage_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", speech(1, 8000), 8000)
    (tmp_path / "secret.wav").chmod(0)
    with pytest.raises(StorageError, match=r"Cannot read .*secret\.wav: Permission denied"):
        audio.read(tmp_path / "secret.wav")


def test_real_recordings_read_at_their_declared_rate_and_length() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared recordings (../shared/data) are not here")
    for path in [
        *sorted(SHARED.glob("*/audio/**/*.flac"))[::600],
        *SHARED.glob("noise*/**/*.flac"),
    ]:
        about = audio.info(path)
        assert len(audio.read(path)) == about.num_samples
        assert abs(len(audio.read(path, sample_rate=8000)) - about.duration * 8000) <= 1
