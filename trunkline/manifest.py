"""Manifests: which cuts there are, a JSON line each, in an Arrow table that is memory-mapped from a cache.

Millions of rows cost little memory: typed columns and the text of each line lie in an Arrow IPC file in a
`.trunkline` folder beside the manifest (or under $TRUNKLINE_CACHE, ~/.cache/trunkline, where that is not
writable), and a `Cut` is built from its row when it is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from trunkline import audio
from trunkline.errors import DataError, StorageError, UsageError, nearest
from trunkline.rows import SECONDS, STRINGS, Cut, Row, extra_of, parse_row

FORMATS = ("auto", "jsonl", "directory", "csv", "tsv", "kaldi", "nemo", "lhotse")

_VERSION = "1"  # of the cache; another version is built anew
_BLOCK = 4 << 20  # bytes of JSONL parsed at once
_TYPES = {name: pa.string() for name in STRINGS} | {name: pa.float64() for name in SECONDS}
_TYPES |= {"channel": pa.int64(), "sampling_rate": pa.int64()}
_SCHEMA = pa.schema([*_TYPES.items(), ("line", pa.int64()), ("json", pa.string())])


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
            raise DataError(
                f"{self.path}:{row['line']}: tags must be a list of strings and labels an object."
            )
        return Cut(**row, tags=tuple(tags), labels=labels, extra=extra_of(raw))

    def column(self, name: str) -> np.ndarray:
        """Return (cuts,) values of a field or label; strings as objects with None where not stated, numbers with NaN."""
        if name == "audio_filepath":
            return np.array(
                [str(self._root / path) for path in self._column(name).to_pylist()], dtype=object
            )
        if name in _TYPES or name == "line":
            return self._column(name).to_numpy()
        return np.array([cut.label(name) for cut in self] + [None], dtype=object)[:-1]

    @property
    def ids(self) -> np.ndarray:
        """(cuts,) ids; a row that states none has its path, channel and times."""
        return self.column("id")

    @property
    def durations(self) -> np.ndarray:
        """(cuts,) float64 seconds: end - start, else the declared duration, else from the file's header.

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
        """Return the cuts whose fields or labels equal the given values, e.g. ``filter(split="train")``.

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
                    f"{self.path} has no cut with {name} = {value!r}; there are: {', '.join(there)}."
                )
        return self.select(np.flatnonzero(keep))

    def _column(self, name: str) -> pa.ChunkedArray:
        column = self._table.column(name)
        return column if self._rows is None else column.take(pa.array(self._rows))

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the cache itself instead of being sent a copy of the table.
        return self.__dict__ | ({} if self._cache is None else {"_table": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._cache is not None:
            self._table = _map(self._cache)


def load_manifest(source: str | os.PathLike[str], *, format: str = "auto") -> Manifest:
    """Return the manifest of a source, its format told by `format` or found out.

    "auto" takes a folder with `wav.scp` as Kaldi, another as a directory of audio, `.csv` and `.tsv` by name, and
    a JSON file as Lhotse cuts when its first line has a `recording`, else as JSON lines (NeMo's included).

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
    if format in ("jsonl", "nemo"):
        return _load_jsonl(path)
    rows = importers.READERS[format](path)
    digest = hashlib.sha256()
    table = pa.Table.from_batches(_batches_of_rows(rows, digest.update), _SCHEMA)
    if not table.num_rows:
        raise DataError(f"{path} holds no cuts.")
    return Manifest(path, path if path.is_dir() else path.parent, table, digest.hexdigest())


def write_manifest(cuts: Iterable[Cut | Row], path: str | os.PathLike[str]) -> int:
    """Write cuts or rows as JSON lines, whole or not at all, and return their number.

    Absolute paths below the manifest's folder are written relative to it, so that the folder can be moved.
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
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1

    try:
        _write_whole(path, lines)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return count


def _header_duration(path: str) -> float:
    try:
        return audio.info(path).duration
    except (DataError, StorageError):
        return 0.0


def _load_jsonl(path: Path) -> Manifest:
    try:
        stat = path.stat()
        open(path, "rb").close()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    key = hashlib.sha256(f"{_VERSION} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    own = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    home = Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")
    beside = (path.parent / ".trunkline" / f"{path.name}.{key}.arrow",)
    if (
        not path.parent.stat().st_mode & 0o222
    ):  # marked read-only, though a superuser might write there
        beside = ()
    places = (*beside, home / f"{path.name}.{own}.{key}.arrow")
    table = cache = None
    for cache in places:
        if cache.is_file() and (table := _try_map(cache)) is not None:
            break
    refused: OSError | None = None
    for cache in places if table is None else ():
        try:
            _write_whole(cache, lambda file: _write_cache(path, file))
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            refused = error
            continue
        for old in cache.parent.glob(f"{cache.name.removesuffix(f'{key}.arrow')}*.arrow"):
            if old != cache:
                old.unlink(missing_ok=True)
        table = _map(cache)
        break
    if table is None:
        raise StorageError(
            f"Cannot cache {path} beside it or in {home}: {refused}. Set TRUNKLINE_CACHE to a folder with space."
        )
    if not table.num_rows:
        raise DataError(f"{path} holds no cuts.")
    return Manifest(path, path.parent, table, table.schema.metadata[b"fingerprint"].decode(), cache)


def _try_map(cache: Path) -> pa.Table | None:
    try:
        return _map(cache)
    except (pa.ArrowInvalid, OSError):  # cut short or removed meanwhile: built anew
        return None


def _map(cache: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(cache))).read_all()


def _write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Fill a temporary sibling and rename it, so that no reader and no second process sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_cache(path: Path, file: BinaryIO) -> None:
    with open(path, "rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
        schema = _SCHEMA.with_metadata({"fingerprint": digest})
        with pa.ipc.new_file(file, schema) as writer:
            for batch in _batches_of_lines(path, source):
                writer.write_batch(batch)


def _batches_of_lines(path: Path, source: BinaryIO) -> Iterator[pa.RecordBatch]:
    number, rest = 1, b""
    while True:
        block = source.read(_BLOCK)
        head, newline, tail = block.rpartition(b"\n")
        if block and not newline:
            rest += block
            continue
        text = (rest + head).removeprefix(b"\xef\xbb\xbf") if number == 1 else rest + head
        rest = tail
        if text:
            lines = text.split(b"\n")
            numbered = [
                (at, line) for at, line in enumerate(lines, number) if line and not line.isspace()
            ]
            if numbered:
                yield _batch(*zip(*numbered, strict=True), path)
            number += len(lines)
        elif newline:
            number += 1
        if not block:
            return


def _batch(numbers: tuple[int, ...], lines: tuple[bytes, ...], path: Path) -> pa.RecordBatch:
    columns = _parse_fast(b"\n".join(lines), len(lines))
    if (
        columns is None
    ):  # something is unusual or wrong: line by line, slower, with the line's number
        rows = [
            parse_row(line, f"{path}:{number}") for number, line in zip(numbers, lines, strict=True)
        ]
        columns = _columns(rows)
    return _complete(columns, numbers, pa.array(lines, pa.binary()).cast(pa.string()))


def _batches_of_rows(
    rows: Iterable[tuple[int, Row]], update: Callable[[bytes], None]
) -> Iterator[pa.RecordBatch]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, 10_000)):
        texts = [json.dumps(row, ensure_ascii=False) for _, row in chunk]
        update(("\n".join(texts) + "\n").encode())
        yield _complete(
            _columns([row for _, row in chunk]),
            [line for line, _ in chunk],
            pa.array(texts, pa.string()),
        )


def _columns(rows: list[Row]) -> dict[str, pa.Array]:
    return {name: pa.array([row.get(name) for row in rows], kind) for name, kind in _TYPES.items()}


def _parse_fast(text: bytes, count: int) -> dict[str, pa.Array] | None:
    """Return the typed columns of `count` lines by Arrow's parser, None where a line is not as plain as it expects."""
    schema = pa.schema([*_TYPES.items(), ("offset", pa.float64())])
    try:
        table = pj.read_json(
            pa.BufferReader(text),
            pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return None
    columns = {name: _flat(table.column(name)) for name in table.column_names}
    start = pc.fill_null(columns["start"], 0.0)
    faults = [pc.less(columns[name], 0) for name in (*SECONDS, "channel")]
    faults += [pc.less_equal(columns["end"], start), pc.less_equal(columns["sampling_rate"], 0)]
    faults += [pc.equal(columns["audio_filepath"], ""), pc.is_valid(columns.pop("offset"))]
    faulty = any(pc.any(fault).as_py() for fault in faults)
    return (
        None
        if faulty or table.num_rows != count or columns["audio_filepath"].null_count
        else columns
    )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _complete(
    columns: dict[str, pa.Array], numbers: Sequence[int], texts: pa.Array
) -> pa.RecordBatch:
    """Fill in what rows leave out: the end of a start and a duration, ids from path, channel and times."""
    path, start, end = columns["audio_filepath"], columns["start"], columns["end"]
    end = pc.coalesce(end, pc.add(start, columns["duration"]))
    channel = pc.binary_join_element_wise("#", columns["channel"].cast(pa.string()), "")
    times = pc.binary_join_element_wise(
        "@",
        pc.fill_null(start.cast(pa.string()), "0"),
        pc.binary_join_element_wise("-", end.cast(pa.string()), ""),
        "",
    )
    names = pc.binary_join_element_wise(
        path, pc.fill_null(channel, ""), pc.fill_null(times, ""), ""
    )
    columns = columns | {
        "end": end,
        "id": pc.coalesce(columns["id"], names),
        "call_id": pc.coalesce(
            columns["call_id"], pc.replace_substring_regex(path, r"\.[^./]+$", "")
        ),
        "line": pa.array(numbers, pa.int64()),
        "json": texts,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)
