"""Forgetting: a tombstone first, then every file that holds the call is written again without it.

    erase      a signed entry with keyed hashes only: from here on no export adds the call or speaker again
    rewrite    an entry for each commit that brought rows: the same paths, without them
    index      vectors and ids are taken out of every index; what else was derived is removed
    swept      an entry that closes the tombstone

A tombstone that is not closed is carried out by whoever forgets next, so an interrupted one is finished.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from embstore.schema import VECTORS, vectors_of
from embstore.state import Commit, State, StoredFile, is_speaker, npy_name, split
from embstore.storage import Staged, failpoint
from embstore.store import EmbeddingStore
from embstore.tables import Keep, rewritten, without
from trunkline import log
from trunkline.errors import DataError, UsageError

logger = log.get_logger(__name__)

DERIVED = "derived"
"""The folder of pages, plots and clusters: made from vectors, and made again from them."""
_SAMPLED = 512  # rows of a file whose bytes are searched for as they are

Gone = dict[str, dict[int, bytes]]
"""Space -> version -> pairs."""


@dataclass
class Removed:
    """What was taken out: rows of each table, and what its vectors are known by."""

    tombstones: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    indexes: list[str] = field(default_factory=list)
    digests: set[bytes] = field(default_factory=set)
    """Of each vector's bytes."""
    sample: list[np.ndarray] = field(default_factory=list)
    """Some of the vectors, (dim,) float32."""

    def note(self, table: str, batch: pa.RecordBatch) -> None:
        """Count rows that are left out, and keep what their vectors are known by."""
        self.rows[table] = self.rows.get(table, 0) + batch.num_rows
        if VECTORS in batch.schema.names and batch.num_rows:
            vectors = vectors_of(batch.column(VECTORS))
            self.digests.update(map(digest, vectors))
            self.sample += list(vectors[:: max(1, len(vectors) // _SAMPLED)].copy())


def digest(vector: np.ndarray) -> bytes:
    """Return what a vector's bytes are known by."""
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()


def forget(
    store: EmbeddingStore, calls: Iterable[str] = (), speakers: Iterable[str] = ()
) -> Removed:
    """Remove calls and speakers from a store for good, and finish what was interrupted before.

    Raises:
        DataError: a file that holds them is damaged.
        StorageError: the disk refuses; what was begun is finished by the next run.
    """
    keys = store.log.keys
    wanted = [keys.call(call) for call in calls] + [keys.speaker(name) for name in speakers]

    def tombstone(state: State) -> Commit | None:
        new = tuple(key for key in dict.fromkeys(wanted) if key not in state.erased)
        return Commit("erase", erased=new) if new else None

    removed = Removed()
    removed.tombstones = int(store.log.commit(tombstone) is not None)
    failpoint("erased")
    sweep(store, removed)
    return removed


def sweep(store: EmbeddingStore, removed: Removed | None = None) -> Removed:
    """Carry out the tombstones that are not closed."""
    removed = removed or Removed()
    store.refresh()
    for version in sorted(store.state.unswept):
        keys = set(store.state.unswept.get(version, ()))
        if not keys:
            continue
        while held := _held(store, keys):
            for gone in held:
                _leave_out(store, gone, removed)
        _clean_errors(store, keys, removed)
        _clean_derived(store, removed)
        store.log.collect()  # what a writer that died had staged may hold them too
        failpoint("before_swept")
        store.log.commit(
            lambda state, version=version: (
                Commit("swept", closes=version) if version in state.unswept else None
            )
        )
    return removed


def leave_out(store: EmbeddingStore, pairs: Iterable[bytes]) -> Removed:
    """Take cuts, given by their pairs, out of every space without a tombstone, so that they can come again."""
    removed, wanted = Removed(), set(pairs)
    store.refresh()
    for space, versions in list(store.state.cuts.items()):
        for version, held in list(versions.items()):
            own = b"".join(pair for pair in split(held) if pair in wanted)
            if own:
                while _leave_out(store, (space, version, own), removed):
                    pass
    if removed.files:
        _clean_derived(store, removed)
    return removed


def _held(store: EmbeddingStore, keys: set[bytes]) -> list[tuple[str, int, bytes]]:
    """Return where calls and speakers are: (space, version, pairs)."""
    found: Gone = {}
    for key in keys:
        if not is_speaker(key):
            for space, versions in store.state.versions_of(key).items():
                for version, pairs in versions.items():
                    _merge(found, space, version, pairs)
    speakers = {key for key in keys if is_speaker(key)}
    for space in store.state.cuts if speakers else ():
        for version, pairs in _spoken(store, space, speakers):
            _merge(found, space, version, pairs)
    return [
        (space, version, pairs)
        for space, versions in found.items()
        for version, pairs in versions.items()
    ]


def _merge(found: Gone, space: str, version: int, pairs: bytes) -> None:
    held = found.setdefault(space, {})
    new = set(split(pairs)) - set(split(held.get(version, b"")))
    held[version] = held.get(version, b"") + b"".join(new)


def _spoken(store: EmbeddingStore, space: str, speakers: set[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the pairs of the cuts of some speakers, by the version that brought them."""
    keys = store.log.keys
    names = ["call_id", "cut_id", "channel", "speaker"]
    for file in store.state.files_of("calls", space):
        table = store.table(file, names)
        known = {
            name: keys.speaker(name) in speakers
            for name in table.column("speaker").unique().to_pylist()
            if name is not None
        }
        if any(known.values()):
            rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
            pairs = [
                keys.pair(call, cut, channel)
                for call, cut, channel, name in rows
                if known.get(name)
            ]
            yield file.version, b"".join(pairs)


def _leave_out(store: EmbeddingStore, gone: tuple[str, int, bytes], removed: Removed) -> bool:
    """Write the files of one commit and space again without some cuts; return whether it must be tried again."""
    space, version, pairs = gone
    store.refresh()
    store.log.roll_forward()
    live = set(split(store.state.cuts.get(space, {}).get(version, b"")))
    wanted = set(split(pairs)) & live
    if not wanted:
        return False
    names = [npy_name(space, pair) for pair in wanted]
    npy = tuple(name for name in names if name in store.state.files)
    files = [
        file
        for file in store.state.files.values()
        if file.space == space and file.version == version and file.table != "npy"
    ]
    commit = Commit("rewrite", gone={space: {version: b"".join(wanted)}}, removed=npy)
    for name in npy:  # before the commit: what a tombstone names may vanish at any time
        store.storage.remove(name)
    return not _rewrite(store, files, without(store.log.keys, wanted), commit, removed)


def _rewrite(
    store: EmbeddingStore, files: list[StoredFile], keep: Keep, commit: Commit, removed: Removed
) -> bool:
    """Commit new generations of files; return False where others were quicker."""
    new: list[tuple[StoredFile, Staged]] = []
    found = Removed()
    try:
        for file in files:
            result = _without_rows(store, file, keep, found)
            if result is None:
                return False
            new.append(result)

        def build(state: State) -> Commit | None:
            same = all(state.files.get(file.path) == file for file in files)
            return commit._replace(files=tuple(file for file, _ in new)) if same else None

        if store.log.commit(build, [staged for _, staged in new]) is None:
            return False
    finally:
        store.log.drop([staged for _, staged in new])  # releases those that were committed
    _add(removed, found, len(files))
    return True


def _without_rows(
    store: EmbeddingStore, file: StoredFile, keep: Keep, found: Removed
) -> tuple[StoredFile, Staged] | None:
    """Stage a file again without rows; None where it is not what the log says, as others have rewritten it."""
    try:
        with store.storage.open(file.path) as source:
            whole = hashlib.sha256()
            while block := source.read(1 << 20):
                whole.update(block)
            if whole.hexdigest() != file.sha256:
                return _changed(store, file)
            source.seek(0)

            def noted(batch: pa.RecordBatch) -> np.ndarray:
                kept = keep(batch)
                if not kept.all():
                    found.note(file.table, batch.filter(pa.array(~kept)))
                return kept

            return rewritten(store.storage, source, file, noted)
    except FileNotFoundError:
        return _changed(store, file)


def _changed(store: EmbeddingStore, file: StoredFile) -> None:
    store.refresh()
    store.log.roll_forward()
    if store.state.files.get(file.path) == file:
        raise DataError(
            f"{store.path / file.path} is missing or damaged, so nothing can be taken out of it. "
            f"Run: python -m embstore.verify {store.path}"
        )


def _clean_errors(store: EmbeddingStore, keys: set[bytes], removed: Removed) -> None:
    """Take calls and speakers out of the quarantine lists."""

    def keep(batch: pa.RecordBatch) -> np.ndarray:
        calls, speakers = (batch.column(name).to_pylist() for name in ("call_id", "speaker"))
        own = store.log.keys
        return np.array(
            [
                own.call(call) not in keys and (name is None or own.speaker(name) not in keys)
                for call, name in zip(calls, speakers, strict=True)
            ],
            bool,
        )

    again = True
    while again:
        store.refresh()
        again = False
        for file in [each for each in store.state.files.values() if each.table == "errors"]:
            table = store.table(file, ["call_id", "speaker"])
            if not all(keep(batch).all() for batch in table.to_batches()):
                store.log.roll_forward()
                again |= not _rewrite(store, [file], keep, Commit("rewrite"), removed)


def _clean_derived(store: EmbeddingStore, removed: Removed) -> None:
    """Bring every index up to date, which takes out what is not live; remove what else was made from vectors."""
    shutil.rmtree(store.path / DERIVED, ignore_errors=True)
    for folder in sorted((store.path / "index").glob("*/")):
        from embstore.index.update import update

        for half in folder.glob(".*"):  # written by a run that was killed, of rows that may be gone
            shutil.rmtree(half, ignore_errors=True)
        try:
            changed = bool(update(store, folder.name)["removed"])
        except (DataError, UsageError) as error:
            logger.warning("The index %s is deleted; build it again. %s", folder.name, error)
            shutil.rmtree(folder, ignore_errors=True)
            changed = True
        if changed and folder.name not in removed.indexes:
            removed.indexes.append(folder.name)


def _add(removed: Removed, found: Removed, files: int) -> None:
    for table, rows in found.rows.items():
        removed.rows[table] = removed.rows.get(table, 0) + rows
    removed.files += files
    removed.digests |= found.digests
    removed.sample += found.sample
