"""Small stores of made vectors, and the recordings and backbone for real exports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from encoder_backbones import strong_backbone

from embstore import EmbeddingStore, Record, Segment, Space, export

DIM = 16
SPACE = Space(backbone="ab" * 32, dim=DIM)
FRAME_SPACE = Space(backbone="ab" * 32, dim=DIM, pooling="frames", precision="m10")


def vector(call: str, channel: int = 0) -> np.ndarray:
    """The vector of a call, the same each time, and of no other call."""
    seed = int.from_bytes(f"{call}#{channel}".encode(), "little") % (1 << 63)
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def record(call: str, channel: int = 0, **changes: Any) -> Record:
    """A record of a call: one pooled vector, two segments."""
    pooled = vector(call, channel)
    segments = [Segment(0.0, 10.0, 2 * pooled), Segment(10.0, 20.0, 3 * pooled)]
    values: dict[str, Any] = {"duration": 20.0, "n_frames": 250, "pooled": pooled}
    values |= {"segments": segments, "file": f"audio/{call}.wav", "speaker": f"speaker of {call}"}
    return Record(call, channel=channel, **values | changes)


def filled(path: Path, calls: Iterable[str], per_commit: int = 10) -> EmbeddingStore:
    """A store of these calls."""
    store = EmbeddingStore.create(path)
    names = list(calls)
    for first in range(0, len(names), per_commit):
        store.append(SPACE, [record(name) for name in names[first : first + per_commit]])
    return store


def column(store: EmbeddingStore, name: str = "call_id", table: str = "pooled") -> list[Any]:
    """A column of a table, in order."""
    return [value for batch in store.scan(table, columns=[name]) for value in batch[0].to_pylist()]


def save_backbone(folder: Path) -> Path:
    """A tiny backbone's directory."""
    strong_backbone().save(folder)
    return folder


def write_recordings(folder: Path) -> Path:
    """A long call of two channels, turns, a word of 60 ms, as a manifest of seven cuts."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    soundfile.write(folder / "call.wav", 0.1 * rng.standard_normal((25 * 8000, 2)), 8000)
    for number in range(4):
        length = 8000 * (number + 1)
        soundfile.write(folder / f"turn-{number}.wav", 0.1 * rng.standard_normal(length), 8000)
    soundfile.write(folder / "word.wav", 0.1 * rng.standard_normal(480), 8000)
    rows = [
        {"id": f"call/{n}", "call_id": "call", "audio_filepath": "call.wav", "channel": n, "duration": 25.0}
        for n in (0, 1)
    ]  # fmt: skip
    rows += [
        {"id": f"turn-{n}", "audio_filepath": f"turn-{n}.wav", "speaker": f"s{n % 2}", "agent": f"a{n}"}
        for n in range(4)
    ]  # fmt: skip
    rows.append({"id": "word", "audio_filepath": "word.wav"})
    manifest = folder / "calls.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def run_export(capsys: Any, *words: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, summary and messages of `python -m embstore.export`."""
    capsys.readouterr()
    status = export.main([*map(str, words), "--context", "4,6,2", "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else {}, captured.err
