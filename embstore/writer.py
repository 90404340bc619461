"""Cuts on their way into the store: what a cut is, and the shard of cuts that is committed as one."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from embstore.log import CommitLog
from embstore.schema import (
    FRAMES,
    ROW_GROUP,
    VECTORS,
    Space,
    all_finite,
    round_mantissa,
    schema_of,
    vector_column,
)
from embstore.sinks import FramesSink, NpySink
from embstore.state import KEY, Commit, State, StoredFile
from embstore.storage import Staged
from embstore.tables import TableWriter, part_name, rewritten, without
from trunkline.errors import DataError, UsageError

HELD = 1024
"""Rows of cuts that are held back in memory, to be written together."""


class Segment(NamedTuple):
    """One vector of a stretch of a cut; `start` and `end` in seconds of the recording."""

    start: float
    end: float
    vector: np.ndarray
    speech_ratio: float | None = None


@dataclass
class Record:
    """A cut and its vectors in one space; times in seconds."""

    call_id: str
    cut_id: str = ""
    """The call's id where it is not given."""
    channel: int = 0
    start: float = 0.0
    """Where the cut begins in its recording."""
    duration: float = 0.0
    pooled: np.ndarray | None = None
    segments: Sequence[Segment] = ()
    frames: Iterable[np.ndarray] | np.ndarray | None = None
    """(frames, dim), whole or in pieces."""
    n_frames: int = 0
    speaker: str | None = None
    file: str | None = None
    audio_sha256: str | None = None
    audio_bytes: int | None = None
    audio_mtime: datetime.datetime | None = None
    started_at: datetime.datetime | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the space's further columns."""


class Committed(NamedTuple):
    """What became of a shard: its log version, cuts that are new, were there already, or are forgotten."""

    version: int | None
    added: int
    already: int
    erased: int


class _Rows(NamedTuple):
    """Rows of `calls` that wait to be written, and their pooled vectors (1, dim), all or none."""

    space: Space
    rows: list[dict[str, Any]]
    vectors: list[np.ndarray]


class Shard:
    """Cuts that appear together: rows of any tables and spaces, committed by one log entry.

    A context manager: what is not committed when it ends leaves nothing behind.
    """

    def __init__(self, log: CommitLog) -> None:
        self._log = log
        self._unique = uuid.uuid4().hex
        self._writers: dict[tuple[str, str], TableWriter] = {}
        self._waiting: dict[str, _Rows] = {}
        self._spaces: dict[str, Space] = {}
        self._pairs: dict[str, list[bytes]] = {}
        self._speakers: dict[bytes, bytes] = {}
        self._files: list[tuple[StoredFile, Staged]] = []
        self._owners: dict[str, bytes] = {}
        self._spoiled: dict[str, set[bytes]] = {}

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def __len__(self) -> int:
        waiting = sum(len(rows.rows) for rows in self._waiting.values())
        return waiting + sum(map(len, self._pairs.values()))

    def add(self, space: Space, record: Record) -> None:
        """Add one cut with its vectors.

        Raises:
            DataError: vectors of another width than the space's, or with NaN or infinite values.
            StorageError: the disk refuses.
        """
        cut_id = record.cut_id or record.call_id
        own = {"call_id": record.call_id, "cut_id": cut_id, "channel": record.channel}
        begin = round(record.start * 1000)
        n_frames = record.n_frames
        if record.frames is not None:
            sink = self.frames(space, record.call_id, cut_id, record.channel, record.start)
            given = record.frames
            for piece in [given] if isinstance(given, np.ndarray) else given:
                sink.write(piece)
            n_frames = sink.count
        shared = {
            "start_ms": begin, "duration_ms": round(record.duration * 1000), "n_frames": n_frames,
            "sample_rate": space.sample_rate, "speaker": record.speaker, "file": record.file,
            "audio_sha256": record.audio_sha256, "audio_bytes": record.audio_bytes,
            "audio_mtime": record.audio_mtime, "started_at": record.started_at,
        }  # fmt: skip
        self._hold(space, {**own, **shared, **record.columns}, record.pooled)
        if record.segments:
            self._add_segments(space, own, record)

    def add_columns(
        self, space: Space, calls: Mapping[str, Sequence[Any]], pooled: np.ndarray | None = None
    ) -> None:
        """Add many cuts at once.

        Args:
            space: of the vectors.
            calls: columns of the table `calls`; `call_id` is needed, `cut_id` is the same and `channel` 0 by default.
            pooled: (cuts, dim).
        """
        self._write_held(space.name)
        count = len(calls["call_id"])
        columns = {"cut_id": calls["call_id"], "channel": [0] * count, **calls}
        columns["space"] = [space.name] * count
        columns["pool"] = [space.pooling] * count
        now = datetime.datetime.fromisoformat(self._log.now())
        columns["exported_at"] = [now] * count
        for name, value in (("start_ms", 0), ("duration_ms", 0), ("n_frames", 0)):
            columns.setdefault(name, [value] * count)
        columns.setdefault("sample_rate", [space.sample_rate] * count)
        self._note(space, columns)
        self.write("calls", space, columns)
        if pooled is not None:
            self.write("pooled", space, columns, pooled)

    def write(
        self,
        table: str,
        space: Space | None,
        columns: Mapping[str, Any],
        vectors: np.ndarray | None = None,
    ) -> None:
        """Add rows to a table; columns that the table does not have are left out, missing ones are null."""
        writer = self._writer(table, space)
        schema = writer.schema
        count = len(columns["call_id"])
        arrays: list[pa.Array] = []
        for item in schema:
            if item.name == VECTORS and space is not None:
                arrays.append(vector_column(_checked(vectors, count, space)))
            elif item.name in columns:
                arrays.append(_column(columns[item.name], item))
            else:
                arrays.append(pa.nulls(count, item.type))
        writer.write(pa.Table.from_arrays(arrays, schema=schema))

    def frames(
        self, space: Space, call_id: str, cut_id: str, channel: int, start: float
    ) -> FramesSink:
        """Begin the frames of a cut, which are written as they come; `add` its record when they are all there."""
        if space.pooling != FRAMES:
            raise UsageError(f"{space.name} is a space of pooled vectors; frames have their own.")
        return FramesSink(self, space, (call_id, cut_id, channel), start)

    def npy(self, space: Space, pair: bytes) -> NpySink:
        """Begin the `.npy` file of a cut."""
        return NpySink(self._log.storage, space, pair)

    def take(self, sink: NpySink) -> None:
        """Commit a finished `.npy` file with the shard."""
        file = sink.close()
        self._files.append((file, sink.staged))
        self._owners[file.path] = sink.pair

    def spoil(self, space: Space, pair: bytes) -> None:
        """Leave out the rows of a cut that turned out to be damaged when some were written."""
        self._spoiled.setdefault(space.name, set()).add(pair)

    def add_errors(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to the quarantine list."""
        if rows:
            now = datetime.datetime.fromisoformat(self._log.now())
            names = schema_of("errors").names
            columns = {name: [row.get(name) for row in rows] for name in names}
            self.write("errors", None, columns | {"at": [now] * len(rows)})

    def commit(self) -> Committed:
        """Publish what was added, leaving out what the store has already and what it has forgotten."""
        self._finish()
        if self._spoiled:
            self._leave_out(self._spoiled)
        wanted = sum(map(len, self._pairs.values()))
        erased = already = 0
        while True:
            conflicts: dict[str, set[bytes]] = {}
            staged = [each for _, each in self._files]
            version = self._log.commit(
                lambda state, found=conflicts: self._entry(state, found), staged
            )
            if not conflicts:
                break
            forgotten = self._log.state.erased
            for pairs in conflicts.values():
                known = sum(self._is_erased(pair, forgotten) for pair in pairs)
                erased, already = erased + known, already + len(pairs) - known
            self._leave_out(conflicts)
        for _, staged in self._files:
            staged.release()
        self._files = []
        return Committed(version, wanted - already - erased, already, erased)

    def discard(self) -> None:
        """Leave nothing behind of what is not committed."""
        for writer in self._writers.values():
            writer.discard()
        self._log.drop([staged for _, staged in self._files])
        self._writers, self._files, self._waiting = {}, [], {}

    def _hold(self, space: Space, row: dict[str, Any], vector: np.ndarray | None) -> None:
        """Take a cut; rows are written many at once, as a table of one costs as much as one of hundreds."""
        if vector is not None:
            vector = _checked(vector[None], 1, space)
        held = self._waiting.get(space.name)
        if held and (len(held.rows) >= HELD or bool(held.vectors) != (vector is not None)):
            self._write_held(space.name)
        held = self._waiting.setdefault(space.name, _Rows(space, [], []))
        held.rows.append(row)
        if vector is not None:
            held.vectors.append(vector)
        for table in ("calls",) if vector is None else ("calls", "pooled"):
            self._writer(table, space)  # from now on there is something that only a commit keeps

    def _write_held(self, name: str) -> None:
        held = self._waiting.pop(name, None)
        if held is not None:
            names = dict.fromkeys(name for row in held.rows for name in row)
            columns = {name: [row.get(name) for row in held.rows] for name in names}
            vectors = np.concatenate(held.vectors) if held.vectors else None
            self.add_columns(held.space, columns, vectors)

    def _note(self, space: Space, columns: Mapping[str, Sequence[Any]]) -> None:
        keys = self._log.keys
        self._spaces[space.name] = space
        pairs = self._pairs.setdefault(space.name, [])
        speakers = columns.get("speaker") or [None] * len(columns["call_id"])
        names = ("call_id", "cut_id", "channel")
        for call, cut, channel, speaker in zip(
            *(columns[name] for name in names), speakers, strict=True
        ):
            pair = keys.pair(call, cut, int(channel))
            pairs.append(pair)
            if speaker is not None:
                self._speakers[pair] = keys.speaker(speaker)

    def _add_segments(self, space: Space, own: Mapping[str, Any], record: Record) -> None:
        segments, count = record.segments, len(record.segments)
        columns: dict[str, Any] = {name: [value] * count for name, value in own.items()}
        columns |= {name: [value] * count for name, value in record.columns.items()}
        columns |= {"space": [space.name] * count, "seg": range(count)}
        columns["start_ms"] = [round(segment.start * 1000) for segment in segments]
        columns["end_ms"] = [round(segment.end * 1000) for segment in segments]
        columns["speech_ratio"] = [segment.speech_ratio for segment in segments]
        self.write("segments", space, columns, np.stack([segment.vector for segment in segments]))

    def _writer(self, table: str, space: Space | None) -> TableWriter:
        key = table, space.name if space else ""
        if key not in self._writers:
            self._writers[key] = TableWriter(self._log.storage, schema_of(table, space))
        return self._writers[key]

    def _finish(self) -> None:
        for name in list(self._waiting):
            self._write_held(name)
        many = sum(writer.rows for writer in self._writers.values()) >= ROW_GROUP
        # Each is compressed and hashed; for a few rows a thread costs more than it saves.
        with ThreadPoolExecutor(max(1, len(self._writers))) if many else nullcontext() as threads:
            apply = map if threads is None else threads.map
            finished = list(apply(self._finished, self._writers.items()))
        staged = [writer.staged for writer in self._writers.values()]
        self._files += zip(finished, staged, strict=True)
        self._writers = {}

    def _finished(self, item: tuple[tuple[str, str], TableWriter]) -> StoredFile:
        (table, space), writer = item
        return writer.finish(part_name(table, space, self._unique), table, space)

    def _is_erased(self, pair: bytes, erased: set[bytes]) -> bool:
        return pair[:KEY] in erased or self._speakers.get(pair) in erased

    def _entry(self, state: State, conflicts: dict[str, set[bytes]]) -> Commit | None:
        """Return the entry, or None with the pairs that cannot be added."""
        for space, pairs in self._pairs.items():
            live = state.live(space)
            found = {
                pair for pair in pairs if pair[KEY:] in live or self._is_erased(pair, state.erased)
            }
            if found:
                conflicts[space] = found
        if conflicts or not (self._files or any(self._pairs.values())):
            return None
        cuts = {space: b"".join(pairs) for space, pairs in self._pairs.items() if pairs}
        return Commit("add", tuple(file for file, _ in self._files), cuts)

    def _leave_out(self, conflicts: Mapping[str, set[bytes]]) -> None:
        """Write the staged files again without some cuts."""
        keep = without(self._log.keys, set().union(*conflicts.values()))
        before, self._files = self._files, []
        for file, staged in before:
            gone = conflicts.get(file.space, set())
            if file.table == "npy":
                if self._owners[file.path] not in gone:
                    self._files.append((file, staged))
                    continue
            elif not gone:
                self._files.append((file, staged))
                continue
            elif set(self._pairs.get(file.space, ())) - gone:
                new, handle = rewritten(self._log.storage, staged.path, file, keep)
                self._files.append((new, handle))
            staged.drop()
        for space, gone in conflicts.items():
            kept = [pair for pair in self._pairs.get(space, ()) if pair not in gone]
            self._pairs[space] = kept


def _column(values: Any, item: pa.Field) -> pa.Array:
    try:
        if isinstance(values, pa.Array):
            return values.cast(item.type)
        column = pa.array(values, item.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"The column {item.name} takes {item.type}: {error}") from error
    if not item.nullable and column.null_count:
        raise DataError(f"The column {item.name} must be there in every row.")
    return column


def _checked(vectors: np.ndarray | None, count: int, space: Space) -> np.ndarray:
    shape = None if vectors is None else vectors.shape
    if vectors is None or shape != (count, space.dim):
        raise DataError(f"{space.name} takes vectors ({count}, {space.dim}), not {shape}.")
    values = round_mantissa(np.asarray(vectors, np.float32), space.precision)
    if not all_finite(values):
        raise DataError(f"{space.name} takes finite vectors; these hold NaN or infinite values.")
    return values
