"""The store: opened, created, read, added to, and made to forget.

Reading needs neither torch nor FAISS; what searches and what forgets is imported when it is called.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embstore.log import CommitLog
from embstore.schema import FORMAT, FRAMES, TABLES, VECTORS, VERSION, Space, schema_of, vectors_of
from embstore.spaces import Spaces
from embstore.state import Keys, State, StoredFile
from embstore.storage import STAGING, LocalStorage, Storage
from embstore.tables import read_file, read_rows
from embstore.writer import Committed, Record, Shard
from trunkline.errors import DataError, StorageError, UsageError, nearest

if TYPE_CHECKING:
    from embstore.dataset import StoreDataset
    from embstore.erasure import Removed

STORE = "store.json"
KEY = "store.key"
README = """This folder is an embedding store of Trunkline. Its tables are plain Parquet: calls/, pooled/, segments/ and
frames/, each with a folder for each space; spaces/ says which model made the vectors. Read them with anything that
reads Parquet, with a pattern such as pooled/<space>/*.parquet. Write and delete through `embstore` only.
"""


class Vectors(NamedTuple):
    """Vectors (rows, dim) float32, and the other columns of their rows."""

    vectors: np.ndarray
    keys: pa.Table


class EmbeddingStore:
    """A store of vectors; see `docs/embstore.md` for its layout.

    One object sees the store as of the log entry it has read last; `refresh` reads on.
    """

    def __init__(self, storage: Storage, path: Path, log: CommitLog) -> None:
        """Use `create` or `open`."""
        self.storage, self.path, self.log = storage, path, log
        self._spaces = Spaces(storage, path)
        self._writable = not isinstance(storage, LocalStorage) or os.access(path, os.W_OK)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, storage: Storage | None = None
    ) -> EmbeddingStore:
        """Make an empty store, or open the one that is there.

        Raises:
            StorageError: the folder holds other files, or cannot be written.
            DataError: the store there is of a newer version.
        """
        path = Path(path)
        storage = storage or LocalStorage(path)
        ours = {STORE, KEY, "README.txt", STAGING, "lost+found"}
        there = path.iterdir() if path.is_dir() and not (path / STORE).exists() else ()
        if others := [each.name for each in there if each.name not in ours]:
            raise StorageError(f"{path} is no store and holds {others[0]}; choose a new folder.")
        storage.create(KEY, secrets.token_bytes(32), private=True)
        about = {"format": FORMAT, "version": VERSION}
        storage.create(STORE, (json.dumps(about) + "\n").encode())
        storage.create("README.txt", README.encode())
        return cls.open(path, storage=storage)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, storage: Storage | None = None
    ) -> EmbeddingStore:
        """Open a store, and publish what an interrupted writer has committed.

        Raises:
            StorageError: there is no store.
            DataError: it is of a newer version, or damaged.
        """
        path = Path(path)
        storage = storage or LocalStorage(path)
        try:
            about = json.loads(storage.read(STORE))
            secret = storage.read(KEY)
        except FileNotFoundError as error:
            raise StorageError(
                f"{path} is not an embedding store: it has no {Path(str(error.filename or STORE)).name}. "
                "Make one with: python -m embstore.export"
            ) from error
        except ValueError as error:
            raise DataError(f"{path / STORE} is damaged: {error}.") from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise DataError(f"{path / STORE} does not describe an embedding store.")
        if not isinstance(about.get("version"), int) or about["version"] > VERSION:
            raise DataError(
                f"{path} is a store of version {about.get('version')}, this toolkit reads up to {VERSION}; "
                "upgrade trunkline."
            )
        log = CommitLog(storage, Keys(secret))
        log.load()
        store = cls(storage, path, log)
        store._settle()
        return store

    @property
    def state(self) -> State:
        """The store as of the last log entry that was read."""
        return self.log.state

    def refresh(self) -> int:
        """Read what others have committed; return the version."""
        self.log.refresh()
        return self.state.version

    # ---- spaces

    def spaces(self) -> dict[str, Space]:
        """Return the spaces by name."""
        return self._spaces.all()

    def space(self, name: str | None = None, *, pooling: str | None = None) -> Space:
        """Return the space of a name (or its beginning), or the only one there is.

        Args:
            name: as its folder is called; "mean" is enough where only one begins so.
            pooling: only spaces of this pooling ("frames" for frames).

        Raises:
            UsageError: no such space, or several; the message lists them.
        """
        return self._spaces.find(name, pooling)

    def add_space(self, space: Space) -> Space:
        """Make a space known, before rows of it are added.

        Raises:
            UsageError: it is there with other columns: all files of a space have one schema.
        """
        return self._spaces.add(space)

    # ---- writing

    def shard(self) -> Shard:
        """Begin a shard: ``with store.shard() as shard: shard.add(space, record); shard.commit()``."""
        return Shard(self.log)

    def append(self, space: Space, records: Iterable[Record]) -> Committed:
        """Add cuts as one commit; those that are there already or forgotten are left out and counted.

        Raises:
            DataError: vectors that do not fit the space.
            StorageError: the disk refuses; nothing was added.
        """
        space = self.add_space(space)
        with self.shard() as shard:
            for record in records:
                shard.add(space, record)
            return shard.commit()

    def append_columns(
        self, space: Space, calls: Mapping[str, Sequence[Any]], pooled: np.ndarray | None = None
    ) -> Committed:
        """Add many cuts at once: columns of `calls` and pooled vectors (cuts, dim); raises as `append`."""
        space = self.add_space(space)
        with self.shard() as shard:
            shard.add_columns(space, calls, pooled)
            return shard.commit()

    # ---- reading

    def scan(
        self,
        table: str = "pooled",
        space: Space | str | None = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | str | None = None,
        *,
        after: int = 0,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table in the order in which they were added, in bounded memory.

        Args:
            table: calls, pooled, segments or frames.
            space: or its name; the only one by default.
            columns: all by default; vectors are `v`.
            where: an Arrow expression, or text such as "channel=1 and duration_ms>2000".
            after: only rows of commits after this version.

        Raises:
            UsageError: an unknown table or column, or several spaces and none chosen.
            DataError: a file is damaged; it is named.
        """
        space = self._space_of(table, space)
        files = self.state.files_of(table, space.name, after=after)
        yield from self._rows(table, space, files, columns, where)

    def fetch(
        self,
        call_id: str,
        *,
        table: str = "pooled",
        space: Space | str | None = None,
        columns: Sequence[str] | None = None,
        channel: int | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> pa.Table:
        """Return the rows of one call; only the files that hold it are opened.

        `start` and `end`, in seconds of the recording, take the frames whose centre, or segments of which a part,
        lies there.
        """
        space = self._space_of(table, space)
        versions = self.state.versions_of(self.log.keys.call(call_id)).get(space.name, {})
        files = self.state.files_of(table, space.name, versions)
        where = pc.field("call_id") == call_id
        if channel is not None:
            where &= pc.field("channel") == channel
        first, last = ("t_ms", "t_ms") if table == "frames" else ("end_ms", "start_ms")
        if start is not None:
            where &= pc.field(first) >= round(start * 1000) + (table == "segments")
        if end is not None:
            where &= pc.field(last) < round(end * 1000)
        schema = _picked(schema_of(table, space), columns, table)
        return pa.Table.from_batches(self._rows(table, space, files, columns, where), schema)

    def pooled(self, space: Space | str | None = None, *, table: str = "pooled") -> Vectors:
        """Return all pooled (or segments') vectors of a space, and the other columns in the same order."""
        chosen = self._space_of(table, space)
        total = sum(file.rows for file in self.state.files_of(table, chosen.name))
        vectors = np.empty((total, chosen.dim), np.float32)
        keys, count = [], 0
        for batch in self.scan(table, chosen):
            vectors[count : count + batch.num_rows] = vectors_of(batch.column(VECTORS))
            count += batch.num_rows
            keys.append(batch.drop_columns([VECTORS]))
        schema = schema_of(table, chosen)
        schema = schema.remove(schema.get_field_index(VECTORS))
        return Vectors(vectors[:count], pa.Table.from_batches(keys, schema))

    def frames(
        self,
        call_id: str,
        start: float | None = None,
        end: float | None = None,
        *,
        channel: int = 0,
        space: Space | str | None = None,
    ) -> np.ndarray:
        """Return the frames (frames, dim) float32 whose centre lies in a stretch of a call, in seconds.

        A view of what was read, without a copy, where it lies in one row group.

        Raises:
            DataError: the store has no frames of the call and channel.
        """
        table = self.fetch(
            call_id, table="frames", space=space, columns=[VECTORS], channel=channel, start=start, end=end
        )  # fmt: skip
        if not table.num_rows:
            raise DataError(
                f"{self.path} holds no frames of call {call_id!r}, channel {channel}, there."
            )
        return vectors_of(table.column(VECTORS))

    def rows_of(
        self, file: StoredFile, columns: Sequence[str], where: str | None = None
    ) -> pa.Table:
        """Return the rows of one file for which a condition holds; raises as `scan`."""
        schema = _picked(schema_of(file.table, self.spaces()[file.space]), columns, file.table)
        space = self.spaces()[file.space]
        return pa.Table.from_batches(self._rows(file.table, space, [file], columns, where), schema)

    def as_torch_dataset(
        self,
        table: str = "pooled",
        space: Space | str | None = None,
        *,
        columns: Sequence[str] = (),
        where: str | None = None,
        seed: int | None = 0,
    ) -> StoreDataset:
        """Return a `torch.utils.data.IterableDataset` of vectors, or of the frames of whole cuts, with columns.

        Args:
            table: pooled, segments or frames.
            space: as in `scan`.
            columns: further columns of each item, such as a label that was kept with `--keep-meta`.
            where: as in `scan`.
            seed: of the order, with `set_epoch`; None keeps that of the store.

        Raises:
            UsageError: a table or column that is not there.
        """
        from embstore.dataset import StoreDataset

        chosen = self._space_of(table, space)
        _picked(schema_of(table, chosen), [*columns, VECTORS], table)
        return StoreDataset(str(self.path), table, chosen.name, columns, where, seed)

    def search(self, queries: np.ndarray, k: int = 10, **options: Any) -> pa.Table:
        """Return the k nearest rows of each query (queries, dim); options and errors of `embstore.search.search`."""
        return importlib.import_module("embstore.search").search(self, queries, k, **options)

    def forget(self, calls: Iterable[str] = (), speakers: Iterable[str] = ()) -> Removed:
        """Remove calls and speakers for good; see `embstore.erasure.forget`."""
        return importlib.import_module("embstore.erasure").forget(self, calls, speakers)

    def is_erased(self, call_id: str, speaker: str | None = None) -> bool:
        """Return whether a call or speaker was forgotten, and must not come again."""
        keys, erased = self.log.keys, self.state.erased
        return keys.call(call_id) in erased or (
            speaker is not None and keys.speaker(speaker) in erased
        )

    def table(self, file: StoredFile, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one file of the store, or some of its columns.

        Raises:
            DataError: it is missing or damaged.
        """
        self._settle()
        try:
            return read_file(self.source(file), columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def source(self, file: StoredFile) -> str:
        """Return the path of a committed file; where the store may not be written, it may still wait in `_staging`."""
        return str(self.path / self.log.place(file))

    # ---- inside

    def _space_of(self, table: str, space: Space | str | None) -> Space:
        if table not in TABLES:
            raise UsageError(f"Unknown table {table!r}.{nearest(table, TABLES)}")
        if isinstance(space, Space):
            return self.space(space.name)
        if space is None and table == "frames":
            return self.space(pooling=FRAMES)
        pooled = [each for each in self.spaces().values() if each.pooling != FRAMES]
        return pooled[0] if space is None and len(pooled) == 1 else self.space(space)

    def _rows(
        self,
        table: str,
        space: Space,
        files: Sequence[StoredFile],
        columns: Sequence[str] | None,
        where: pc.Expression | str | None,
    ) -> Iterator[pa.RecordBatch]:
        schema = schema_of(table, space)
        names = _picked(schema, columns, table).names
        if isinstance(where, str):
            from embstore.where import expression

            where = expression(where, schema)
        self._settle()
        for first in range(0, len(files), 256):
            paths = [self.source(file) for file in files[first : first + 256]]
            try:
                yield from read_rows(paths, schema, names, where)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from error

    def _settle(self) -> None:
        """Publish what waits, so that files stay where they are found."""
        if self._writable:
            self.log.roll_forward()

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: a file is missing or damaged: {error}. Run: python -m embstore.verify {self.path}"
        )


def _picked(schema: pa.Schema, columns: Sequence[str] | None, table: str) -> pa.Schema:
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            raise UsageError(
                f"The table {table} has no column {name!r}.{nearest(name, schema.names)}"
            )
    return pa.schema([schema.field(name) for name in columns], schema.metadata)
