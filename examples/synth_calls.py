"""Make a small corpus of two-channel Vietnamese bank calls.

    python -m examples.synth_calls OUT --calls 40 --seed 1

Every text, intent, sentiment, speaker and word time is known, nobody is recorded, and the same seed
gives the same files, byte for byte. OUT holds

    audio/call-0001.wav ...  8 kHz mu-law, agent left, customer right
    calls.jsonl              two cuts per call: each channel as a whole
    turns.jsonl              one cut per turn: text, intent, sentiment, accent, words, slots

``words`` are ``[word, start, end]`` in seconds of the file, as the cut's ``start`` and ``end`` are.
train, dev and test share no customer and no call (9 calls are enough to fill all three); the six
agents are the same everywhere.

Turns overlap, leave gaps and draw back-channels; the line is that of `examples.telephone`. Made-up
speech is for trying things out: figures that matter come from recordings.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from examples.bank_dialogues import (
    AGENT,
    AGENT_NAMES,
    CUSTOMER,
    Customer,
    Line,
    backchannel,
    write_dialogue,
)
from examples.telephone import Handset, telephone
from examples.voices import (
    ACCENTS,
    FEMALE_TIMBRES,
    MALE_TIMBRES,
    SAMPLE_RATE,
    Voice,
    Word,
    require_espeak,
    synthesise,
)
from trunkline import command, log
from trunkline.augment.config import NOISES
from trunkline.checkpoint import write_folder
from trunkline.errors import UsageError
from trunkline.manifest import write_manifest

CHANNELS = {AGENT: 0, CUSTOMER: 1}
SPLITS = ("train", "test", "dev", "train", "train")  # of the 1st, 2nd, ... customer, and again

_AGENTS, _CUSTOMERS, _CALLS = range(3)  # what a random generator is for, next to the seed
_DELIVERY = {  # sentiment -> change of words per minute (factor), pitch, pitch range, level in dB
    "negative": (1.12, 8, 20, 2.0),
    "neutral": (1.0, 0, 0, 0.0),
    "positive": (1.03, 5, 12, 0.5),
}


@dataclass(frozen=True, slots=True)
class Speaker:
    """A person, the same in every call."""

    id: str
    voice: Voice
    customer: Customer
    """How this person is addressed and from where (for an agent only the accent matters)."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A spoken line; times in seconds of the call."""

    line: Line
    speaker: Speaker
    start: float
    end: float
    words: list[Word]


def make_speaker(seed: int, role: str, index: int) -> Speaker:
    """Draw the agent or customer of this number; accents take turns."""
    rng = np.random.default_rng((seed, _AGENTS if role == AGENT else _CUSTOMERS, index))
    male = bool(rng.random() < 0.5)
    accent = list(ACCENTS)[index % len(ACCENTS)]
    voice = Voice(
        accent=accent,
        timbre=str(rng.choice(MALE_TIMBRES if male else FEMALE_TIMBRES)),
        pitch=int(rng.integers(55, 90) if male else rng.integers(35, 70)),
        pitch_range=int(rng.integers(55, 80)),
        words_per_minute=int(rng.integers(150, 205)),
        tract=float(rng.uniform(0.93, 1.07)),
    )
    address = str(rng.choice(("anh", "chú") if male else ("chị", "cô")))
    name = AGENT_NAMES[index % len(AGENT_NAMES)] if role == AGENT else ""
    return Speaker(f"{role}-{index + 1:03d}", voice, Customer(address, accent), name)


def make_call(
    rng: np.random.Generator, agent: Speaker, customer: Speaker
) -> tuple[np.ndarray, list[Turn]]:
    """Speak one dialogue over one telephone line.

    Returns:
        The waveform (2, samples), float32 in [-1, 1] at 8 kHz, agent first; turns by their start.
    """
    people = {AGENT: agent, CUSTOMER: customer}
    turns: list[Turn] = []
    pieces: list[tuple[int, int, np.ndarray]] = []
    free = {AGENT: 0.0, CUSTOMER: 0.0}  # when each channel falls silent

    def say(line: Line, start: float) -> Turn:
        start = round(max(start, free[line.role] + 0.15), 3)
        speech, words = _deliver(rng, people[line.role], line)
        pieces.append((CHANNELS[line.role], round(start * SAMPLE_RATE), speech))
        words = [
            Word(word.text, round(start + word.start, 3), round(start + word.end, 3))
            for word in words
        ]
        free[line.role] = end = words[-1].end
        turns.append(Turn(line, people[line.role], start, end, words))
        return turns[-1]

    now = float(rng.uniform(0.3, 1.2))
    for line in write_dialogue(rng, customer.customer, agent.name):
        turn = say(line, now)
        listener = CUSTOMER if line.role == AGENT else AGENT
        if turn.end - turn.start > 2.5 and rng.random() < 0.3:
            middle = turn.words[int(rng.integers(len(turn.words) // 3, len(turn.words) * 2 // 3))]
            say(backchannel(rng, listener, customer.customer), middle.end)
        pause = (
            rng.uniform(1.5, 4)
            if line.intent == "hold"
            else np.clip(rng.normal(0.3, 0.35), -0.4, 1.5)
        )
        now = turn.end + float(pause)

    length = int(np.ceil(max(free.values()) + 0.5)) * SAMPLE_RATE
    dry = np.zeros((2, length), np.float32)
    for channel, start, speech in pieces:
        dry[channel, start : start + len(speech)] = speech
    agent_line = Handset("hiss", rng.uniform(28, 40), rng.uniform(-24, -18), rng.uniform(-0.2, 0.2))
    customer_line = Handset(
        str(rng.choice(NOISES)), rng.uniform(6, 28), rng.uniform(-32, -20), rng.uniform(-0.5, 0.5)
    )
    wet = [
        telephone(rng, dry, channel, line)
        for channel, line in enumerate((agent_line, customer_line))
    ]
    return np.stack(wet), sorted(turns, key=lambda turn: turn.start)


def _deliver(
    rng: np.random.Generator, speaker: Speaker, line: Line
) -> tuple[np.ndarray, list[Word]]:
    """Speak a line as its sentiment asks."""
    faster, higher, livelier, louder = _DELIVERY[line.sentiment]
    voice = speaker.voice
    voice = replace(
        voice,
        words_per_minute=round(voice.words_per_minute * faster),
        pitch=min(99, voice.pitch + higher),
        pitch_range=min(99, voice.pitch_range + livelier),
    )
    speech, words = synthesise(line.text, voice, int(rng.integers(2**31)))
    level = 10 ** ((louder + rng.normal(0, 1.5)) / 20) / np.sqrt(np.mean(speech**2))
    return speech * np.float32(0.1 * level), words


def make_corpus(
    out: str | Path,
    calls: int = 40,
    seed: int = 1,
    *,
    minutes: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a corpus (see the top of this module) and return what it holds.

    Args:
        out: the folder; it appears when everything is written.
        calls: how many.
        seed: same seed, same bytes.
        minutes: go on until the calls last this long instead.
        overwrite: replace a folder that exists.

    Raises:
        DependencyError: espeakng-loader is not installed.
        UsageError: nothing would be made.
        StorageError: the folder exists or cannot be written.
    """
    if minutes is not None and not minutes > 0 or minutes is None and calls < 1:
        raise UsageError("A corpus needs at least one call: give --calls N or --minutes M above 0.")
    require_espeak()
    call_rows: list[dict[str, Any]] = []
    turn_rows: list[dict[str, Any]] = []
    seconds = 0.0
    total, unit = (calls, "calls") if minutes is None else (int(np.ceil(minutes * 60)), "s")
    with (
        write_folder(out, overwrite=overwrite) as folder,
        log.progress(total=total, description="making calls", unit=unit) as bar,
    ):
        (folder / "audio").mkdir()
        for number, (customer, split) in enumerate(_callers(seed), start=1):
            rng = np.random.default_rng((seed, _CALLS, number))
            agent = make_speaker(seed, AGENT, int(rng.integers(len(AGENT_NAMES))))
            waveform, turns = make_call(rng, agent, customer)
            path = f"audio/call-{number:04d}.wav"
            soundfile.write(folder / path, waveform.T, SAMPLE_RATE, subtype="ULAW", format="WAV")
            duration = waveform.shape[1] / SAMPLE_RATE
            common = {"audio_filepath": path, "call_id": f"call-{number:04d}", "split": split}
            call_rows += [_call_row(common, person, duration) for person in (agent, customer)]
            turn_rows += [_turn_row(common, index, turn) for index, turn in enumerate(turns)]
            seconds += duration
            bar.advance(1 if minutes is None else duration)
            if number >= calls if minutes is None else seconds >= minutes * 60:
                break
        write_manifest(call_rows, folder / "calls.jsonl")
        write_manifest(turn_rows, folder / "turns.jsonl")
    return _summary(Path(out), call_rows, turn_rows, seconds)


def _callers(seed: int) -> Iterator[tuple[Speaker, str]]:
    """Yield who calls next and the split: a customer calls two to four times, in one split."""
    index = 0
    while True:
        customer = make_speaker(seed, CUSTOMER, index)
        times = int(np.random.default_rng((seed, _CUSTOMERS, index, 1)).integers(2, 5))
        for _ in range(times):
            yield customer, SPLITS[index % len(SPLITS)]
        index += 1


def _role(speaker: Speaker) -> str:
    return AGENT if speaker.name else CUSTOMER


def _call_row(common: dict[str, Any], speaker: Speaker, duration: float) -> dict[str, Any]:
    role = _role(speaker)
    return {
        "id": f"{common['call_id']}-{role}",
        **common,
        "channel": role,
        "duration": duration,
        "sampling_rate": SAMPLE_RATE,
        "speaker": speaker.id,
        "language": "vi",
        "labels": {"accent": speaker.voice.accent},
    }


def _turn_row(common: dict[str, Any], index: int, turn: Turn) -> dict[str, Any]:
    line = turn.line
    return {
        "id": f"{common['call_id']}-{index:03d}-{line.role}",
        **common,
        "channel": line.role,
        "start": turn.start,
        "end": turn.end,
        "duration": round(turn.end - turn.start, 3),
        "sampling_rate": SAMPLE_RATE,
        "text": line.text.replace(",", ""),
        "speaker": turn.speaker.id,
        "language": "vi",
        "labels": {
            "intent": line.intent,
            "sentiment": line.sentiment,
            "accent": turn.speaker.voice.accent,
        },
        "words": [list(word) for word in turn.words],
        "slots": line.slots,
    }


def _summary(
    out: Path, calls: list[dict[str, Any]], turns: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    intents = Counter(turn["labels"]["intent"] for turn in turns)
    splits = [
        {
            "split": split,
            "calls": len({turn["call_id"] for turn in turns if turn["split"] == split}),
            "customers": len(
                {
                    turn["speaker"]
                    for turn in turns
                    if turn["split"] == split and turn["channel"] == CUSTOMER
                }
            ),
            "turns": sum(turn["split"] == split for turn in turns),
        }
        for split in ("train", "dev", "test")
    ]
    return {
        "folder": str(out),
        "calls": len(calls) // 2,
        "minutes": round(seconds / 60, 1),
        "turns": len(turns),
        "words": sum(len(turn["words"]) for turn in turns),
        "intents": len(intents),
        "manifests": [str(out / "calls.jsonl"), str(out / "turns.jsonl")],
        "tables": {"splits": splits},
    }


def _run(args: argparse.Namespace) -> dict[str, Any]:
    return make_corpus(
        args.out, args.calls, args.seed, minutes=args.minutes, overwrite=args.overwrite
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Make a corpus from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.synth_calls",
        description="Make a small two-channel Vietnamese bank-call corpus. "
        "Needs the extra: pip install trunkline[demo].",
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--calls", type=int, default=40, help="how many calls (default: 40)")
    parser.add_argument(
        "--minutes", type=float, help="make calls until they last this long instead"
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same files (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    return command.run(_run, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
