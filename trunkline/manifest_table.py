"""A manifest's Arrow table: typed columns and each line's text, memory-mapped from a cache."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

import codecs
import glob
import hashlib
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.json as pj
import pyarrow.parquet as pq

from trunkline.errors import StorageError
from trunkline.rows import SECONDS, STRINGS, Row, parse_row

_VERSION = "2"  # of the cache; another version is built anew
_BLOCK = 4 << 20  # bytes of JSONL parsed at once
# What each column is; a line's whole text, with the keys not named here, is `json`.
TYPES = {name: pa.string() for name in STRINGS} | {name: pa.float64() for name in SECONDS}
TYPES |= {"channel": pa.int64(), "sampling_rate": pa.int64()}
_LONG = 1000  # characters of a line from which it is looked at more closely
_LARGEST = 2**31 - 1  # as `parse_row` has it
_LABELS = re.compile(rb'"labels"\s*:\s*[^\s{n]')
_LONG_NUMBER = re.compile(rb"\d{1000}")
_SCHEMA = pa.schema([*TYPES.items(), ("line", pa.int64()), ("json", pa.string())])


def table_of_lines(path: Path) -> tuple[pa.Table, Path]:
    """Return the mapped table of a JSONL manifest, and its cache file, built first if need be.

    The cache is known by the manifest's size and time of change; two processes may build it at
    once. Its schema's metadata holds the `fingerprint`, the SHA-256 of the manifest.

    Raises:
        DataError: a line is wrong (named as file:line).
        StorageError: the manifest cannot be read, or no cache written.
    """
    try:
        stat = path.stat()
        open(path, "rb").close()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    key = hashlib.sha256(f"{_VERSION} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    own = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    home = Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")
    beside = (path.parent / ".trunkline" / f"{path.name}.{key}.arrow",)
    if not path.parent.stat().st_mode & 0o222:
        beside = ()  # marked read-only, though a superuser might write there
    places = (*beside, home / f"{path.name}.{own}.{key}.arrow")
    table = cache = None
    for cache in places:
        if cache.is_file() and (table := _try_map(cache)) is not None:
            break
    refused: OSError | None = None
    for cache in places if table is None else ():
        try:
            write_whole(cache, lambda file: _write_cache(path, file), durable=False)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            refused = error
            continue
        stem = glob.escape(cache.name.removesuffix(f"{key}.arrow"))
        for old in cache.parent.glob(f"{stem}*.arrow"):
            if old != cache:
                old.unlink(missing_ok=True)
        table = map_table(cache)
        break
    if table is None:
        raise StorageError(
            f"Cannot cache {path} beside it or in {home}: {refused}. "
            "Set TRUNKLINE_CACHE to a folder with space."
        )
    assert cache is not None
    return table, cache


def _try_map(cache: Path) -> pa.Table | None:
    try:
        return map_table(cache)
    except (pa.ArrowInvalid, OSError):  # cut short or removed meanwhile: built anew
        return None


def map_table(cache: Path) -> pa.Table:
    """Return the table of a cache file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(cache))).read_all()


def write_whole(path: Path, write: Callable[[BinaryIO], None], *, durable: bool = True) -> None:
    """Fill a temporary sibling and rename it: no half files. `durable` waits for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_columns(
    rows: Iterable[Row], columns: Mapping[str, type], parquet: Path, csv: Path
) -> int:
    """Write rows as Parquet and as CSV with the same columns, each file whole or not at all.

    Args:
        rows: what a row leaves out is null; what no column names is left out.
        columns: name -> str, int, float or bool.
        parquet: the Parquet file to write.
        csv: the CSV file to write (UTF-8, quoted where need be, with a header).

    Raises:
        StorageError: a file cannot be written.
    """
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rows = iter(rows)
    batches = []
    while chunk := list(itertools.islice(rows, 10_000)):
        batches.append(pa.RecordBatch.from_pylist(chunk, schema))
    table = pa.Table.from_batches(batches, schema)
    for path, write in ((parquet, pq.write_table), (csv, pcsv.write_csv)):
        try:
            write_whole(path, lambda file, write=write: write(table, file))
        except OSError as error:
            raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return table.num_rows


def may_state(texts: pa.ChunkedArray, name: str) -> bool:
    """Return whether any of these lines of JSON can have a key `name`, also one written with escapes."""
    quoted = json.dumps(name, ensure_ascii=False)
    found = (pc.match_substring(texts, pattern) for pattern in (quoted, "\\u"))
    return any(pc.any(each).as_py() for each in found)


def _write_cache(path: Path, file: BinaryIO) -> None:
    with open(path, "rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
        schema = _SCHEMA.with_metadata({"fingerprint": digest})
        with pa.ipc.new_file(file, schema) as writer:
            for batch in _batches_of_lines(path, source):
                writer.write_batch(batch)


def _batches_of_lines(path: Path, source: BinaryIO) -> Iterator[pa.RecordBatch]:
    first = 1
    while block := source.read(_BLOCK) + source.readline():
        lines = block.removeprefix(codecs.BOM_UTF8 if first == 1 else b"").split(b"\n")
        numbers: Sequence[int] = range(first, first + len(lines))
        first += len(lines) - (lines[-1] == b"")
        if not all(map(bytes.strip, lines)):
            numbers = [number for number, line in zip(numbers, lines, strict=True) if line.strip()]
            lines = [line for line in lines if line.strip()]
        if lines:
            yield _batch(numbers, lines, path)


def _batch(numbers: Sequence[int], lines: list[bytes], path: Path) -> pa.RecordBatch:
    longest = max(map(len, lines))
    text = b"\n".join(lines)
    try:
        columns = None if _is_odd(text, lines, longest) else _parse_fast(text, len(lines), longest)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        columns = None
    if columns is None:  # unusual or wrong: line by line, slower, which names the line
        where = ((line, f"{path}:{number}") for line, number in zip(lines, numbers, strict=True))
        columns = _columns([parse_row(*each) for each in where])
    return _complete(columns, numbers, pa.array(lines, pa.binary()).cast(pa.string()))


def _is_odd(text: bytes, lines: list[bytes], longest: int) -> bool:
    """Return whether lines may hold what Arrow's parser passes and `parse_row` refuses."""
    if any(token in text for token in (b"NaN", b"Infinity", b"\\u0000", b"\\ud", b"\\uD")):
        return True
    if _LABELS.search(text):
        return True
    # Numbers of thousands of digits, and lists within lists, make long lines.
    return longest > _LONG and (
        _LONG_NUMBER.search(text) is not None
        or any(line.count(b"[") + line.count(b"{") > _LONG // 2 for line in lines)
    )


def table_of_rows(rows: Iterable[tuple[int, Row]]) -> tuple[pa.Table, str]:
    """Return the table of (line, checked row) pairs, in memory, and the SHA-256 of their JSON."""
    digest = hashlib.sha256()
    table = pa.Table.from_batches(_batches_of_rows(rows, digest.update), _SCHEMA)
    return table, digest.hexdigest()


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
    return {name: pa.array([row.get(name) for row in rows], kind) for name, kind in TYPES.items()}


def _parse_fast(text: bytes, count: int, longest: int) -> dict[str, pa.Array] | None:
    """Return the typed columns of `count` lines by Arrow's parser, None where a line is unusual."""
    text.decode()  # Arrow checks only what it keeps
    schema = pa.schema([*TYPES.items(), ("offset", pa.float64()), ("tags", pa.list_(pa.string()))])
    table = pj.read_json(
        pa.BufferReader(text),
        pj.ReadOptions(block_size=max(1 << 20, longest + 1)),
        pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    columns = {name: _flat(table.column(name)) for name in table.column_names}
    start = pc.fill_null(columns["start"], 0.0)
    end = _end(columns)
    faults = [pc.less(columns[name], 0) for name in (*SECONDS, "channel")]
    faults += [pc.invert(pc.is_finite(columns[name])) for name in SECONDS]
    faults += [pc.less_equal(end, start), pc.less_equal(columns["sampling_rate"], 0)]
    faults += [pc.equal(columns["audio_filepath"], ""), pc.is_valid(columns.pop("offset"))]
    faults += [pc.is_null(pc.list_flatten(columns.pop("tags")))]
    faults += [pc.greater(columns[name], _LARGEST) for name in ("channel", "sampling_rate")]
    faulty = any(pc.any(fault).as_py() for fault in faults)
    faulty |= table.num_rows != count or columns["audio_filepath"].null_count > 0
    return None if faulty else columns


def _end(columns: dict[str, pa.Array]) -> pa.Array:
    return pc.coalesce(columns["end"], pc.add(columns["start"], columns["duration"]))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _complete(
    columns: dict[str, pa.Array], numbers: Sequence[int], texts: pa.Array
) -> pa.RecordBatch:
    """Fill in what rows leave out: `end` from start and duration, ids from path and times."""
    path, start, end = columns["audio_filepath"], columns["start"], _end(columns)
    ids = columns["id"]
    if ids.null_count:
        channel = pc.binary_join_element_wise("#", columns["channel"].cast(pa.string()), "")
        begin = pc.fill_null(start.cast(pa.string()), "0")
        until = pc.fill_null(end.cast(pa.string()), "")
        times = pc.binary_join_element_wise("@", begin, "-", until, "")
        times = pc.if_else(pc.or_(start.is_valid(), end.is_valid()), times, "")
        parts = (path, pc.fill_null(channel, ""), times)
        ids = pc.coalesce(ids, pc.binary_join_element_wise(*parts, ""))
    columns = columns | {
        "end": end,
        "id": ids,
        "call_id": pc.coalesce(
            columns["call_id"], pc.replace_substring_regex(path, r"\.[^./]+$", "")
        ),
        "line": pa.array(numbers, pa.int64()),
        "json": texts,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)
