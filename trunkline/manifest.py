"""Manifests: which cuts there are, a JSON line each, in a memory-mapped Arrow table.

Millions of rows cost little memory: typed columns and the text of each line lie in an Arrow IPC
file in a `.trunkline` folder beside the manifest (or under $TRUNKLINE_CACHE, ~/.cache/trunkline,
where that is not writable), and a `Cut` is built from its row when it is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa

from trunkline import audio
from trunkline.errors import DataError, StorageError, UsageError, nearest
from trunkline.manifest_table import (
    TYPES,
    map_table,
    may_state,
    table_of_lines,
    table_of_rows,
    write_whole,
)
from trunkline.rows import Cut, Row, extra_of

FORMATS = ("auto", "jsonl", "directory", "csv", "tsv", "kaldi", "nemo", "lhotse")


class Manifest(Sequence[Cut]):
    """The cuts of one source, in its order; a selection shares the table of the whole.

    `fingerprint` is a SHA-256 over the content: equal for equal manifests wherever they lie.
    """

    def __init__(
        self, path: Path, root: Path, table: pa.Table, fingerprint: str, cache: Path | None = None
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._root = root
        self._table = table
        self._cache = cache
        self._rows: np.ndarray | None = None
        self._durations: np.ndarray | None = None
        self._label_codes: dict[str, tuple[np.ndarray, list[Any]]] = {}

    def __len__(self) -> int:
        return self._table.num_rows if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Cut: ...

    @overload
    def __getitem__(self, index: slice) -> Manifest: ...

    def __getitem__(self, index: int | slice) -> Cut | Manifest:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} cuts; there is no cut {index}.")
        index = int(index) % len(self)
        row = self._table.slice(
            index if self._rows is None else int(self._rows[index]), 1
        ).to_pylist()[0]
        raw = json.loads(row.pop("json"))
        row["audio_filepath"] = self._root / row["audio_filepath"]
        labels, tags = raw.get("labels") or {}, raw.get("tags") or []
        if not isinstance(labels, dict) or not isinstance(tags, list):
            raise _ill_typed(self.path, row["line"])
        return Cut(**row, tags=tuple(tags), labels=labels, extra=extra_of(raw))

    def column(self, name: str) -> np.ndarray:
        """Return (cuts,) values of a field or label; unstated: None, in numbers NaN."""
        if name == "audio_filepath":
            return np.array(
                [str(self._root / path) for path in self._column(name).to_pylist()], dtype=object
            )
        if name in TYPES or name == "line":
            return self._column(name).to_numpy()
        values = list(self._labels(name))
        return np.array([*values, None], dtype=object)[:-1]

    def codes(self, name: str) -> tuple[np.ndarray, list[Any]]:
        """Return (cuts,) int places of a column's values in the list of its distinct ones; -1: unstated.

        Costs little memory where a million cuts share few values.
        """
        if name in self._label_codes:  # every line was parsed for it
            return self._label_codes[name]
        places: dict[Any, int] = {}
        column = (
            (value for batch in self._batches(name) for value in batch.column(name).to_pylist())
            if name in TYPES
            else map(_hashable, self._labels(name))
        )
        codes = np.fromiter(
            (-1 if value is None else places.setdefault(value, len(places)) for value in column),
            dtype=np.int64,
            count=len(self),
        )
        codes.flags.writeable = False
        if name not in TYPES:
            self._label_codes[name] = codes, list(places)
        return codes, list(places)

    def rows(self) -> Iterator[Row]:
        """Yield each cut's line as an object, with the typed columns over it, `line` and `json` (its text).

        Paths are as written, relative to `root`. Much faster than cuts, in bounded memory.

        Raises:
            DataError: tags or labels of a line are not a list and an object.
        """
        for batch in self._batches():
            yield from self._rows_of(batch)

    def _rows_of(self, batch: pa.Table) -> Iterator[Row]:
        for typed in batch.to_pylist():
            row = json.loads(typed["json"])
            tags, labels = row.get("tags") or [], row.get("labels") or {}
            if not isinstance(labels, dict) or not isinstance(tags, list):
                raise _ill_typed(self.path, typed["line"])
            yield row | typed | {"tags": tags, "labels": labels}

    def _labels(self, name: str) -> Iterator[Any]:
        """Yield a label of each cut; lines are parsed only where one can have it."""
        for batch in self._batches():
            if name == "json" or may_state(batch.column("json"), name):
                yield from (_label(row, name) for row in self._rows_of(batch))
            else:
                yield from itertools.repeat(None, batch.num_rows)

    def _batches(self, *names: str, size: int = 1 << 14) -> Iterator[pa.Table]:
        table = self._table.select(names) if names else self._table
        for first in range(0, len(self), size):
            yield (
                table.slice(first, size)
                if self._rows is None
                else table.take(pa.array(self._rows[first : first + size]))
            )

    @property
    def root(self) -> Path:
        """The folder that relative paths start from."""
        return self._root

    @property
    def ids(self) -> np.ndarray:
        """(cuts,) ids; a row that states none has its path, channel and times."""
        return self.column("id")

    @property
    def durations(self) -> np.ndarray:
        """(cuts,) float64 seconds: end - start, else as declared, else from the file's header.

        A file whose header cannot be read counts 0 s: reading that cut says what is wrong with it.
        """
        if self._durations is None:
            start = np.nan_to_num(self.column("start").astype(np.float64))
            seconds = self.column("end").astype(np.float64) - start
            seconds = np.where(
                np.isnan(seconds), self.column("duration").astype(np.float64), seconds
            )
            unknown = np.flatnonzero(np.isnan(seconds))
            paths = self.select(unknown).column("audio_filepath") if len(unknown) else ()
            for index, path in zip(unknown, paths, strict=True):
                seconds[index] = max(0.0, _header_duration(path) - start[index])
            self._durations = seconds
        return self._durations

    def select(self, indices: Iterable[int] | np.ndarray) -> Manifest:
        """Return the cuts at `indices`, in that order."""
        wanted = np.asarray(
            indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64
        )
        if len(wanted) and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"{self.path} has {len(self)} cuts; the selection asks for more.")
        wanted = wanted % max(1, len(self))
        digest = hashlib.sha256(self.fingerprint.encode() + wanted.tobytes()).hexdigest()
        part = Manifest(self.path, self._root, self._table, digest, self._cache)
        part._rows = wanted if self._rows is None else self._rows[wanted]
        return part

    def filter(self, **equals: Any) -> Manifest:
        """Return the cuts whose fields or labels equal these, e.g. ``filter(split="train")``.

        Raises:
            DataError: no cut has these values; the message lists those there are.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, value in equals.items():
            column = self.column(name)
            keep &= np.fromiter((item == value for item in column), dtype=bool, count=len(self))
            if not keep.any():
                there = sorted({str(item) for item in column})[:10]
                raise DataError(
                    f"{self.path} has no cut with {name} = {value!r}. There are: {', '.join(there)}"
                )
        return self.select(np.flatnonzero(keep))

    def _column(self, name: str) -> pa.ChunkedArray:
        column = self._table.column(name)
        return column if self._rows is None else column.take(pa.array(self._rows))

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the cache itself instead of being sent a copy of the table.
        left_out = {"_label_codes": {}} | ({} if self._cache is None else {"_table": None})
        return self.__dict__ | left_out

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._cache is not None:
            self._table = map_table(self._cache)


def load_manifest(source: str | os.PathLike[str], *, format: str = "auto") -> Manifest:
    """Return the manifest of a source, its format told by `format` or found out.

    "auto" takes a folder with `wav.scp` as Kaldi, another as a directory of audio, `.csv` and
    `.tsv` by name, and a JSON file as Lhotse cuts when its first line has a `recording`, else as
    JSON lines (NeMo's included).

    Raises:
        StorageError: the source is missing, or no cache can be written.
        DataError: the source is empty or a line of it is wrong (named as file:line).
    """
    from trunkline import importers

    path = Path(os.path.abspath(source))
    if format not in FORMATS:
        raise UsageError(f"Unknown manifest format {format!r}.{nearest(format, FORMATS)}")
    if not path.exists():
        raise StorageError(f"{path} does not exist.")
    if format == "auto":
        format = importers.detect(path)
    if format not in ("jsonl", "nemo"):
        return manifest_of_rows(path, importers.READERS[format](path))
    table, cache = table_of_lines(path)
    if not table.num_rows:
        raise DataError(f"{path} holds no cuts.")
    fingerprint = table.schema.metadata[b"fingerprint"].decode()
    return Manifest(path, path.parent, table, fingerprint, cache)


def load_cuts(source: str | os.PathLike[str], channel: str | None = None) -> Manifest:
    """Return what a command has to work on: the cuts of a manifest or folder, or each channel of one recording.

    Args:
        source: a recording, or what `load_manifest` takes.
        channel: only this one: "agent", "customer", or a number.

    Raises:
        UsageError: a channel that cannot be. DataError, StorageError: as `load_manifest` and `audio.info`.
    """
    path = Path(os.path.abspath(source))
    if path.suffix.lower() in audio.SUFFIXES and not path.is_dir():
        about = audio.info(path)
        row: Row = {"audio_filepath": path.name, "duration": about.duration}
        voices = range(about.channels) if about.channels > 1 else ()
        rows = [row | {"channel": number} for number in voices] or [row]
        manifest = manifest_of_rows(path, ((0, row) for row in rows))
    else:
        manifest = load_manifest(path)
    if channel is None:
        return manifest
    if channel not in audio.ROLES and not channel.isdecimal():
        raise UsageError(f"--channel {channel}: give agent, customer, or a number from 0.")
    return manifest.filter(channel=audio.ROLES[channel] if channel in audio.ROLES else int(channel))


def manifest_of_rows(path: Path, rows: Iterable[tuple[int, Row]]) -> Manifest:
    """Return the manifest of (line, checked row) pairs, held in memory; `path` is their source.

    Raises:
        DataError: there are no rows.
    """
    table, fingerprint = table_of_rows(rows)
    if not table.num_rows:
        raise DataError(f"{path} holds no cuts.")
    return Manifest(path, path if path.is_dir() else path.parent, table, fingerprint)


def write_manifest(cuts: Iterable[Cut | Row], path: str | os.PathLike[str]) -> int:
    """Write cuts or rows as JSON lines, whole or not at all, and return their number.

    Absolute paths below the manifest's folder are written relative to it, so that the folder can be
    moved.
    """
    path = Path(os.path.abspath(path))
    count = 0

    def lines(file: BinaryIO) -> None:
        nonlocal count
        for cut in cuts:
            row = cut.to_row() if isinstance(cut, Cut) else dict(cut)
            where = Path(row["audio_filepath"])
            row["audio_filepath"] = str(
                where.relative_to(path.parent) if where.is_relative_to(path.parent) else where
            )
            try:
                text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise DataError(f"Cut {count + 1} ({where}) is not JSON: {error}.") from error
            file.write(text.encode() + b"\n")
            count += 1

    try:
        write_whole(path, lines)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return count


def _label(row: Row, name: str) -> Any:
    """Return what `Cut.label` does, of a row of `Manifest.rows`."""
    if name == "json":
        return json.loads(row["json"]).get(name)
    return row["labels"].get(name, row.get(name))


def _hashable(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _ill_typed(path: Path, line: int) -> DataError:
    return DataError(f"{path}:{line}: tags must be a list of strings and labels an object.")


def _header_duration(path: str) -> float:
    try:
        return audio.info(path).duration
    except (DataError, StorageError):
        return 0.0
