"""A small corpus of made two-channel calls with one planted fault of every kind, each in a file of its own.

`plant(folder)` writes it and returns which files are clean and which fault each other file has;
`plant(folder, demo=...)` plants the same faults among the calls of `examples.synth_calls`.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

RATE = 8000
TEXT = "dạ em chào anh chị cần hỗ trợ gì ạ, tài khoản của mình còn năm triệu đồng"


class Planted(NamedTuple):
    """`faults`: path below the folder -> kinds of fault, as `trunkline data inventory` names them."""

    clean: list[str]
    faults: dict[str, set[str]]


def talk(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Return made speech (samples,): syllables of a gliding voice with pauses, over faint noise."""
    rng = np.random.default_rng(seed)
    length = round(seconds * rate)
    out = np.zeros(length)
    at = int(rng.uniform(0.05, 0.2) * rate)
    while at < length:
        size = min(int(rng.uniform(0.12, 0.3) * rate), length - at)
        time = np.arange(size) / rate
        pitch = rng.uniform(110, 240) * (1 + rng.uniform(-0.6, 0.6) * time)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        formants = rng.uniform(300, 3300, 3)
        tone = np.zeros(size)
        for number in range(1, int(0.45 * rate / 240)):
            weight = np.exp(-(((number * pitch.mean() - formants) / 250) ** 2)).sum() + 0.02
            tone += weight * np.sin(number * phase + rng.uniform(0, 6))
        out[at : at + size] = tone * np.hanning(size)
        at += size + int((rng.random() < 0.25) * rng.uniform(0.2, 0.5) * rate)
    out *= 0.3 / np.abs(out).max()
    return (out + 2e-4 * rng.standard_normal(length)).astype(np.float32)


def call(seed: int, seconds: float = 8.0, rate: int = RATE) -> np.ndarray:
    """Return a call (samples, 2) whose parties speak in turn."""
    sides = [talk(2 * seed, seconds, rate), talk(2 * seed + 1, seconds, rate)]
    first = (np.arange(len(sides[0])) / rate) % 4 < 2
    noise = np.random.default_rng(seed).standard_normal((2, len(first))) * 2e-4
    return np.stack([sides[0] * first + noise[0], sides[1] * ~first + noise[1]], 1).astype("f4")


def plant(folder: Path, clean: int = 6, demo: Path | None = None) -> Planted:
    """Write the corpus into a folder that does not exist yet; its clean calls are made, or the demo's."""
    folder.mkdir(parents=True)
    faults: dict[str, set[str]] = {}
    names = _raw(demo, folder) if demo else [f"clean {number} ☎.wav" for number in range(clean)]
    if not demo:
        for number, name in enumerate(names):
            soundfile.write(folder / name, call(number), RATE, subtype="ULAW")
            (folder / name).with_suffix(".txt").write_text(TEXT, encoding="utf-8")

    def write(name: str, kind: str, samples: np.ndarray, rate: int = RATE, **how) -> Path:
        path = folder / name
        soundfile.write(path, samples, rate, **how)
        path.with_suffix(".txt").write_text(TEXT, encoding="utf-8")
        faults[name] = {kind}
        return path

    _plant_audio(folder, faults, write)
    original = soundfile.read(folder / names[0])[0]
    write("the same again.flac", "duplicate", original)
    _plant_transcripts(faults, write)
    _plant_names(folder, faults, write)
    return Planted(names, faults)


def _raw(demo: Path, folder: Path) -> list[str]:
    """Copy the demo's calls as they come from a recorder: a file a call, each party's words beside it."""
    said: dict[str, dict[str, list[str]]] = {}
    for line in (demo / "turns.jsonl").read_text(encoding="utf-8").splitlines():
        turn = json.loads(line)
        sides = said.setdefault(Path(turn["audio_filepath"]).name, {})
        sides.setdefault(turn["channel"], []).append(turn["text"])
    for name, sides in said.items():
        shutil.copy(demo / "audio" / name, folder)
        for side, turns in sides.items():
            (folder / name).with_suffix(f".{side}.txt").write_text("\n".join(turns), "utf-8")
    return sorted(said)


def _plant_audio(folder: Path, faults: dict[str, set[str]], write) -> None:
    whole = write("truncated.wav", "truncated", call(100))
    whole.write_bytes(whole.read_bytes()[:9000])
    write("late.flac", "truncated", call(101))
    (folder / "late.flac").write_bytes((folder / "late.flac").read_bytes()[:40000])
    write("unreadable.wav", "unreadable", call(0)).write_text("no audio at all\n" * 99)
    write("empty.wav", "empty", call(0)).write_bytes(b"")
    write("headless.wav", "empty", np.zeros((0, 1)))
    broken = call(102)
    broken[400] = np.nan
    write("nan.wav", "nan", broken, subtype="FLOAT")
    write("scale.wav", "scale", call(103) * 32768, subtype="FLOAT")
    write("suffix.flac", "suffix", call(104)).rename(folder / "suffix.wav")
    faults["suffix.wav"] = faults.pop("suffix.flac")
    write("short.wav", "short", call(105)[4000:4600, 0])
    write("silent.wav", "silent", 1e-4 * call(106))
    write("dead.wav", "dead_channel", call(107) * [1.0, 1e-4])
    hum = 0.1 * np.sin(np.arange(8 * RATE) * 2 * np.pi * 100 / RATE)
    write("hum.wav", "no_speech", np.stack([hum, np.roll(hum, 9)], 1))
    rng = np.random.default_rng(0)
    loud = talk(108, 8.0)
    write("noisy.wav", "noisy", loud + 1.2 * loud.std() * rng.standard_normal(len(loud)))
    write("quiet.wav", "quiet", 0.012 * talk(109, 8.0), subtype="FLOAT")
    write("clipped.wav", "clipped", np.clip(12 * talk(110, 8.0), -1, 1))
    write("offset.wav", "offset", 0.5 * call(111) + 0.1)
    wide = np.clip(soxr.resample(call(112), RATE, 16000), -1, 1)
    write("upsampled.wav", "upsampled", wide, 16000, subtype="FLOAT")
    write("dual.wav", "dual_mono", np.repeat(talk(113, 8.0)[:, None], 2, axis=1))
    both = call(114)
    leaked = both.copy()
    leaked[40:, 1] += 0.15 * both[:-40, 0]
    write("crosstalk.wav", "crosstalk", leaked)


def _plant_transcripts(faults: dict[str, set[str]], write) -> None:
    write("no words.wav", "transcript_empty", call(120)).with_suffix(".txt").write_bytes(b"")
    write("blank.wav", "transcript_empty", call(121)).with_suffix(".txt").write_text(" \n\n")
    for name, encoding in (("le", "utf-16"), ("bom", "utf-8-sig")):
        path = write(f"{name}.wav", "transcript_encoding", call(122 + len(name)))
        path.with_suffix(".txt").write_text(TEXT, encoding=encoding)
    unmarked = write("unmarked.wav", "transcript_encoding", call(126)).with_suffix(".txt")
    unmarked.write_bytes(TEXT.encode("utf-16-le"))
    legacy = write("legacy.wav", "transcript_encoding", call(127)).with_suffix(".txt")
    legacy.write_bytes(windows_1258(TEXT))
    binary = write("binary.wav", "transcript_binary", call(128)).with_suffix(".txt")
    binary.write_bytes(bytes(range(256)) * 4)
    write("untold.wav", "no_transcript", call(129)).with_suffix(".txt").unlink()
    write("gone.wav", "no_recording", call(130)).unlink()
    faults["gone.txt"] = faults.pop("gone.wav")


def _plant_names(folder: Path, faults: dict[str, set[str]], write) -> None:
    write("Call-17.wav", "name_clash", call(140))
    write("call-17.WAV", "name_clash", call(141))
    (folder / "Call-17.txt").unlink()
    write(unicodedata.normalize("NFD", "cuộc gọi.wav"), "name_nfd", call(142))
    write("x.wav", "name_encoding", call(143)).rename(
        os.fsdecode(os.fsencode(folder) + b"/b\xe3d.wav")
    )
    (folder / "x.txt").rename(os.fsdecode(os.fsencode(folder) + b"/b\xe3d.txt"))
    faults["b\udce3d.wav"] = faults.pop("x.wav")
    (folder / "nowhere.wav").symlink_to("not there.wav")
    faults["nowhere.wav"] = {"broken_link"}
    (folder / "itself.wav").symlink_to("itself.wav")
    faults["itself.wav"] = {"broken_link"}
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/up").symlink_to(folder)
    faults["deep/er/up"] = {"link_loop"}
    (folder / "README.txt").write_text("what this is\n")


def windows_1258(text: str) -> bytes:
    """Return text as Windows-1258 stores Vietnamese: a letter of its own, then a combining tone."""
    out = b""
    for letter in unicodedata.normalize("NFC", text):
        try:
            out += letter.encode("cp1258")
            continue
        except UnicodeEncodeError:
            pass
        parts = unicodedata.normalize("NFD", letter)
        tone = next(mark for mark in parts if mark in "\u0300\u0301\u0303\u0309\u0323")
        base = unicodedata.normalize("NFC", parts.replace(tone, "", 1))
        out += (base + tone).encode("cp1258")
    return out
