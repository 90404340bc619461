"""Vietnamese voices from espeak-ng: text in, 8 kHz waveform and word times out.

``synthesise`` is a pure function: the same text, voice and seed give the same samples, whatever was
spoken before. espeak-ng keeps state between utterances that nothing resets (its place in the
flutter table), so the library is loaded afresh for every utterance, which costs 4 ms.

espeak-ng is under the GPL and stays an optional extra: ``pip install trunkline[demo]``.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

import numpy as np
import soxr

from trunkline.errors import DataError, DependencyError, UsageError, nearest

SAMPLE_RATE = 8000
ACCENTS = {"north": "vi", "central": "vi-vn-x-central", "south": "vi-vn-x-south"}
MALE_TIMBRES = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "Nguyen", "Andy", "Gene", "Lee", "Diogo")
FEMALE_TIMBRES = (
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Annie",
    "Alicia",
    "belinda",
    "linda",
    "steph",
    "aunty",
)

_ESPEAK_RATE = 22050
_RETRIEVE_SYNCHRONOUSLY, _UTF8, _DONT_EXIT = 2, 1, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_EVENT_END_OF_LIST, _EVENT_WORD = 0, 1
_AUDIBLE = 0.01  # of the loudest 10 ms of the utterance: -40 dB
_unload = _ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose
_one_at_a_time = threading.Lock()


class Word(NamedTuple):
    """A word and where it lies, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: accent, timbre, and how."""

    accent: str = "north"
    """north, central or south."""
    timbre: str = "m3"
    """An espeak-ng voice variant of MALE_TIMBRES or FEMALE_TIMBRES: those that keep the tones."""
    pitch: int = 60
    """0 to 99."""
    pitch_range: int = 70
    """0 to 99; large makes the tones wide."""
    words_per_minute: int = 170
    tract: float = 1.0
    """Length of the vocal tract: 1.05 lowers every formant (and the pitch) by 5 %."""


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def require_espeak() -> ModuleType:
    """Return the package that brings espeak-ng; without it, raise a DependencyError."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise DependencyError(
            "The package 'espeakng-loader' is needed to make speech; "
            "install it with: pip install trunkline[demo]"
        ) from error
    return espeakng_loader


def synthesise(text: str, voice: Voice, seed: int = 0) -> tuple[np.ndarray, list[Word]]:
    """Speak a text.

    Args:
        text: words in lower case; one space between them; a comma makes a pause.
        voice: who speaks.
        seed: how this time differs a little (pitch, speed, formants) from the voice's usual.

    Returns:
        The waveform (samples,), float32 about [-1, 1] at 8 kHz, no silence at its end; the words.

    Raises:
        DependencyError: espeakng-loader is not installed.
        UsageError: the accent or timbre is unknown.
        DataError: the text is empty, oddly spaced, or holds what espeak-ng does not speak.
    """
    if voice.accent not in ACCENTS:
        raise UsageError(f"Unknown accent {voice.accent!r}.{nearest(voice.accent, ACCENTS)}")
    timbres = MALE_TIMBRES + FEMALE_TIMBRES
    if voice.timbre not in timbres:  # espeak-ng would speak with some other
        raise UsageError(f"Unknown timbre {voice.timbre!r}.{nearest(voice.timbre, timbres)}")
    tokens = text.split()
    if not tokens or " ".join(tokens) != text:
        raise DataError(f"Text {text!r} cannot be spoken: give words with one space between them.")
    rng = np.random.default_rng(seed)
    voice = replace(
        voice,
        pitch=min(99, max(0, voice.pitch + int(rng.integers(-4, 5)))),
        words_per_minute=round(voice.words_per_minute * rng.uniform(0.93, 1.07)),
        tract=voice.tract * rng.uniform(0.99, 1.01),
    )
    with _one_at_a_time:
        samples, events = _speak(text, voice)
    # An event names the word's first character, or, after a full stop, the space before it.
    word_ends = np.cumsum([len(token) + 1 for token in tokens])
    first: dict[int, int] = {}
    for position, sample in events:
        first.setdefault(int(np.searchsorted(word_ends, position, side="right")), sample)
    silent = [token for index, token in enumerate(tokens) if index not in first]
    if silent:
        raise DataError(f"{silent[0]!r} in the text {text!r} is not spoken as a word.")
    rate = _ESPEAK_RATE / voice.tract
    waveform = soxr.resample(samples.astype(np.float32) / 32768, rate, SAMPLE_RATE, quality="HQ")
    begins = [first[index] / rate for index in range(len(tokens))]
    ends = _ends_of_sound(waveform, begins)
    words = [
        Word(token.strip(",.?!"), round(begin, 3), round(end, 3))
        for token, begin, end in zip(tokens, begins, ends, strict=True)
    ]
    return waveform[: int(ends[-1] * SAMPLE_RATE)], words


def _speak(text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return int16 samples at 22,050 Hz, and (position in the text, first sample) of each word."""
    espeakng_loader = require_espeak()
    blocks: list[bytes] = []
    words: list[tuple[int, int]] = []

    def receive(samples: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        if samples and count:
            blocks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            if events[index].type == _EVENT_WORD:
                words.append((events[index].text_position, events[index].sample))
            index += 1
        return 0

    callback = _Callback(receive)
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data_path = espeakng_loader.get_data_path().encode()
    if library.espeak_Initialize(_RETRIEVE_SYNCHRONOUSLY, 0, data_path, _DONT_EXIT) < 0:
        raise DependencyError("espeak-ng does not start; reinstall it: pip install trunkline[demo]")
    try:
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetVoiceByName(f"{ACCENTS[voice.accent]}+{voice.timbre}".encode())
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # or it is the time of day
        library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        library.espeak_SetParameter(_RANGE, voice.pitch_range, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _UTF8, None, None)
    finally:
        library.espeak_Terminate()
        _unload(library._handle)  # noqa: SLF001  (ctypes has no public name for it)
    return np.frombuffer(b"".join(blocks), np.int16), words


def _ends_of_sound(waveform: np.ndarray, begins: list[float]) -> list[float]:
    """Return where each word that begins at ``begins`` (seconds) falls silent."""
    step = SAMPLE_RATE // 100
    count = len(waveform) // step
    level = np.abs(waveform[: count * step].reshape(count, step)).max(axis=1)
    audible = np.flatnonzero(level > _AUDIBLE * level.max()) + 1
    ends: list[float] = []
    for begin, limit in zip(begins, [*begins[1:], count / 100], strict=True):
        inside = audible[(audible > begin * 100) & (audible <= limit * 100)]
        ends.append(min(int(inside[-1]) / 100, limit) if len(inside) else limit)
    return ends
