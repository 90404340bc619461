"""What must be true of a store: its log, its files, their rows. Every difference is a `Fault`."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore.log import LOG, CommitLog, entry_name
from embstore.schema import VECTORS, Space, schema_of, vectors_of
from embstore.spaces import FOLDER, Spaces
from embstore.state import KEY, State, StoredFile, is_speaker, npy_name, split
from embstore.storage import STAGING
from embstore.store import KEY as KEY_FILE
from embstore.store import STORE, EmbeddingStore
from trunkline.checkpoint import sha256_file
from trunkline.errors import DataError

_OWN = {STORE, KEY_FILE, "README.txt"}
_DERIVATIVES = ("index", "derived", STAGING)
_KEYS = ["call_id", "cut_id", "channel"]


class Fault(NamedTuple):
    """Something that is not as it should be: kind (log, missing, damaged, rows, foreign, ...), file, and what."""

    kind: str
    file: str
    what: str


def check_log(store: EmbeddingStore) -> Iterator[Fault]:
    """Read every entry and checkpoint again: numbers, signatures, and that the newest state follows from them."""
    names = set(store.storage.list(LOG))
    plain = CommitLog(store.storage, store.log.keys)
    try:
        plain.refresh()
    except DataError as error:
        yield Fault("log", LOG, str(error))
        return
    if plain.state.version < store.state.version:
        yield Fault("log", entry_name(plain.state.version + 1), "this entry is missing")
    for version in range(1, plain.state.version + 1):
        name = entry_name(version)
        entry = json.loads(store.storage.read(name))
        if entry.get("version") != version:
            yield Fault("log", name, f"it says that it is entry {entry.get('version')}")
        if entry.get("signature") != store.log.keys.sign(entry):
            yield Fault("log", name, "it was altered: its signature is not that of the store's key")
    own = {entry_name(version) for version in range(1, plain.state.version + 1)}
    for name in sorted(names - own):
        if not name.endswith(".checkpoint.parquet"):
            yield Fault("foreign", name, "no entry of the log has this name")
        else:
            yield from _check_checkpoint(store, name)
    for space, versions in plain.state.cuts.items():
        pairs = [pair[KEY:] for held in versions.values() for pair in split(held)]
        if len(pairs) != len(set(pairs)):
            doubled = len(pairs) - len(set(pairs))
            yield Fault("rows", f"{LOG} of {space}", f"{doubled} cuts were committed twice")


def _check_checkpoint(store: EmbeddingStore, name: str) -> Iterator[Fault]:
    log = CommitLog(store.storage, store.log.keys)
    version = int(Path(name).name.partition(".")[0])
    log.refresh(until=version)
    try:
        held = log.read_checkpoint(name)
    except (pa.ArrowException, OSError, KeyError) as error:
        yield Fault("damaged", name, f"the checkpoint cannot be read: {error}")
        return
    for item in ("version", "files", "cuts", "erased", "unswept"):
        mine, its = getattr(log.state, item), getattr(held, item)
        if item == "cuts":
            mine, its = ({k: v for k, v in each.items() if v} for each in (mine, its))
        if mine != its:
            yield Fault("log", name, f"its {item} are not those of the entries up to it")


def check_spaces(store: EmbeddingStore) -> Iterator[Fault]:
    """Read every description of a space again, and look that each space of the log has one."""
    spaces = Spaces(store.storage, store.path)
    try:
        known = spaces.all()
    except DataError as error:
        yield Fault("damaged", FOLDER, str(error))
        return
    for name in sorted(set(store.state.cuts) - set(known)):
        yield Fault("missing", f"{FOLDER}/{name}.json", "cuts of this space were committed")


def check_files(store: EmbeddingStore) -> Iterator[Fault]:
    """Compare what lies in the folder with what the log says: names, sizes and SHA-256, without decoding."""
    known = store.state.files
    for file in known.values():
        path = store.path / file.path
        if not path.is_file():
            yield Fault("missing", file.path, "the log says it is there")
        elif path.stat().st_size != file.size:
            yield Fault(
                "damaged", file.path, f"{path.stat().st_size} bytes; the log says {file.size}"
            )
        elif sha256_file(path) != file.sha256:
            yield Fault("damaged", file.path, "its SHA-256 is not the one in the log")
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        if path.is_dir() or name in known or name in _OWN or name.startswith(f"{LOG}/"):
            continue
        folder = name.partition("/")[0]
        if folder in _DERIVATIVES or (folder == "spaces" and name.endswith(".json")):
            continue
        yield Fault("foreign", name, "it is in no entry of the log; move it out of the store")
    for version in store.state.unswept:
        yield Fault(
            "unfinished",
            entry_name(version),
            f"a forgetting was interrupted; run: python -m embstore.forget {store.path} --resume",
        )


def check_rows(store: EmbeddingStore, deep: bool = True) -> Iterator[Fault]:
    """Decode every file: schema, number of rows, page checksums, keys against the log, vectors against the space."""
    spaces = store.spaces()
    for file in store.state.files.values():
        if file.table != "npy" and file.table != "errors":
            try:
                yield from _check_file(store, file, spaces[file.space], deep)
            except (pa.ArrowException, OSError) as error:
                yield Fault("damaged", file.path, f"it cannot be decoded: {error}")
            except KeyError:
                yield Fault("missing", f"spaces/{file.space}.json", f"{file.path} belongs to it")
    for space in spaces:
        yield from _check_counts(store.state, space)


def _check_file(
    store: EmbeddingStore, file: StoredFile, space: Space, deep: bool
) -> Iterator[Fault]:
    path = store.path / file.path
    if not path.is_file():
        return  # told by `check_files`
    schema = schema_of(file.table, space)
    with pq.ParquetFile(path, page_checksum_verification=True) as reader:
        if not reader.schema_arrow.equals(schema):
            yield Fault("rows", file.path, "its columns are not those of its table and space")
            return
        if reader.metadata.num_rows != file.rows:
            yield Fault("rows", file.path, f"{reader.metadata.num_rows} rows, not {file.rows}")
        named = (reader.schema_arrow.metadata or {}).get(b"trunkline.space", b"").decode()
        if named != space.name:
            yield Fault("rows", file.path, f"it says that it belongs to {named}")
        groups: list[pa.Table] = []
        for batch in reader.iter_batches() if deep else ():
            groups.append(_group(file.table, batch))
            others = set(batch.column("space").unique().to_pylist()) - {space.name}
            if others:
                yield Fault("rows", file.path, f"rows of another space: {others.pop()}")
            if VECTORS in schema.names and not np.isfinite(vectors_of(batch.column(VECTORS))).all():
                yield Fault("rows", file.path, "vectors with NaN or infinite values")
    if deep:
        found = pa.concat_tables(groups) if groups else None
        yield from _check_keys(store, file, found)


def _group(table: str, batch: pa.RecordBatch) -> pa.Table:
    """Return how many rows each cut has, and of which numbers."""
    number = {"frames": "frame", "segments": "seg"}.get(table)
    rows = pa.Table.from_batches([batch])
    counted = rows.select(_KEYS).append_column(
        "number", rows.column(number) if number else pa.repeat(0, len(rows)).cast(pa.int32())
    )
    return counted.group_by(_KEYS, use_threads=False).aggregate(
        [("number", "count"), ("number", "min"), ("number", "max")]
    )


def _check_keys(
    store: EmbeddingStore, file: StoredFile, groups: pa.Table | None
) -> Iterator[Fault]:
    logged = set(split(store.state.cuts.get(file.space, {}).get(file.version, b"")))
    keys, erased, found = store.log.keys, store.state.erased, {}
    for row in groups.to_pylist() if groups is not None else ():
        pair = keys.pair(row["call_id"], row["cut_id"], row["channel"])
        count, low, high = found.get(pair, (0, row["number_min"], -1))
        found[pair] = (
            count + row["number_count"],
            min(low, row["number_min"]),
            max(high, row["number_max"]),
        )
    if any(pair[:KEY] in erased for pair in found):
        yield Fault("erased", file.path, "it holds rows of a call that was forgotten")
    if extra := set(found) - logged:
        yield Fault("rows", file.path, f"rows of {len(extra)} cuts that its commit does not name")
    lost = logged - set(found) if file.table in ("calls", "pooled", "frames") else set()
    if lost and (file.table != "frames" or _frames_of(store, file) != len(found)):
        yield Fault("rows", file.path, f"no rows of {len(lost)} cuts that its commit names")
    doubled = sum(count != high - low + 1 or low != 0 for count, low, high in found.values())
    if doubled:
        yield Fault("rows", file.path, f"{doubled} cuts have rows twice, or lack some")


def _frames_of(store: EmbeddingStore, file: StoredFile) -> int:
    """Return how many cuts of the file's commit have frames at all."""
    files = store.state.files_of("calls", file.space, [file.version])
    return sum(
        int(np.count_nonzero(store.table(each, ["n_frames"]).column(0).to_numpy()))
        for each in files
    )


def _check_counts(state: State, space: str) -> Iterator[Fault]:
    for version, pairs in state.cuts.get(space, {}).items():
        count = len(pairs) // (2 * KEY)
        files = [
            file for file in state.files.values() if file.space == space and file.version == version
        ]
        for table in ("calls", "pooled"):
            rows = [file.rows for file in files if file.table == table]
            if table == "calls" and not rows or rows and sum(rows) != count:
                yield Fault(
                    "rows", f"{table}/{space}", f"{sum(rows)} rows of commit {version}, not {count}"
                )
        own = {npy_name(space, pair) for pair in split(pairs)}
        for file in files:
            if file.table == "npy" and file.path not in own:
                yield Fault("rows", file.path, "it belongs to no cut of its commit")
    for pairs in state.cuts.get(space, {}).values():
        if any(pair[:KEY] in state.erased for pair in split(pairs)) and not state.unswept:
            yield Fault("erased", space, "the log still names cuts of a call that was forgotten")


def speakers_erased(store: EmbeddingStore) -> Iterator[Fault]:
    """Search the tables of calls for speakers that were forgotten."""
    erased = {key for key in store.state.erased if is_speaker(key)}
    for file in [each for each in store.state.files.values() if each.table == "calls" and erased]:
        names = store.table(file, ["speaker"]).column(0).unique().to_pylist()
        if any(name is not None and store.log.keys.speaker(name) in erased for name in names):
            yield Fault("erased", file.path, "it holds rows of a speaker who was forgotten")
