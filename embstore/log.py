"""The commit log: numbered entries that are created or not, and what follows from them.

    stage      bytes into `_staging/`, with their SHA-256; all files of a commit are flushed at once
    commit     `_log/<next number>.json`, created if absent; where it is taken: read it, check again, take the next
    publish    each staged file is renamed to its place
    open       read the log; a staged file that an entry names is published now

So a reader who globs sees committed rows only (commit comes before publish), a reader of the log misses none (bytes are
durable before the commit), and a kill anywhere leaves either garbage in `_staging` or a step that the next one takes.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embstore.state import Commit, Keys, State, StoredFile
from embstore.storage import STAGING, LocalStorage, Staged, Storage, failpoint
from trunkline import log
from trunkline.errors import DataError, StorageError

LOG = "_log"
CHECKPOINT_EVERY = 256
"""Entries after which the whole state is written beside them, so that opening a large store stays quick."""

logger = log.get_logger(__name__)
_CHECKPOINT = pa.schema(
    [
        ("kind", pa.string()),
        *[(name, pa.string()) for name in ("path", "table", "space", "sha256", "staged")],
        *[(name, pa.int64()) for name in ("rows", "size", "version")],
        ("keys", pa.large_binary()),
    ]
)


class CommitLog:
    """The log of one store, and its state as of the last entry that was read."""

    def __init__(self, storage: Storage, keys: Keys) -> None:
        self.storage, self.keys = storage, keys
        self.state = State()
        self._last_time = ""

    def load(self) -> None:
        """Read the newest checkpoint and the entries after it."""
        names = self.storage.list(LOG)
        checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
        for name in reversed(checkpoints):
            try:
                self.state = self.read_checkpoint(name)
                break
            except (pa.ArrowException, OSError, KeyError) as error:
                logger.warning("%s cannot be read (%s); the entries before it are.", name, error)
        self.refresh()

    def refresh(self, until: int | None = None) -> None:
        """Read the entries that others have added, or those up to a version."""
        while until is None or self.state.version < until:
            name = entry_name(self.state.version + 1)
            try:
                text = self.storage.read(name)
            except FileNotFoundError:
                return
            except OSError as error:
                raise StorageError(f"Cannot read {name}: {error.strerror or error}.") from error
            try:
                entry = json.loads(text)
            except ValueError as error:
                raise DataError(f"{name} is damaged: {error}. Restore it from a backup.") from error
            commit = Commit.from_json(entry, name)
            self._last_time = max(self._last_time, str(entry.get("at", "")))
            self.state.apply(self.state.version + 1, commit)

    def commit(
        self, build: Callable[[State], Commit | None], staged: Iterable[Staged] = ()
    ) -> int | None:
        """Add what `build` makes of the newest state; return its version, None where it makes nothing.

        Whatever others add meanwhile, `build` is asked again, so what it checks holds when the entry is there. The
        staged files that the entry names are durable before it is.
        """
        self.storage.done(staged)
        failpoint("staged")
        while True:
            self.refresh()
            commit = build(self.state)
            if commit is None:
                return None
            version = self.state.version + 1
            entry = {"version": version, "at": self.now(), **commit.to_json()}
            entry["signature"] = self.keys.sign(entry)
            data = json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
            failpoint("before_commit")
            if self.storage.create(entry_name(version), data.encode()):
                break
        failpoint("committed")
        self.state.apply(version, Commit.from_json(entry, entry_name(version)))
        self._last_time = str(entry["at"])
        self.publish(commit.files)
        if version % CHECKPOINT_EVERY == 0:
            self._write_checkpoint()
        return version

    def now(self) -> str:
        """Return the time in UTC, never before that of the last entry: a clock may have been set back."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        return max(now, self._last_time)

    def publish(self, files: tuple[StoredFile, ...]) -> None:
        """Give committed files their names."""
        self.storage.move((file.staged, file.path) for file in files)

    def roll_forward(self) -> int:
        """Publish what was committed and not published; return the number of files."""
        waiting = set(self.storage.list(STAGING))
        if not waiting:
            return 0
        late = [file for file in self.state.files.values() if file.staged in waiting]
        return self.storage.move((file.staged, file.path) for file in late)

    def collect(self) -> int:
        """Remove staged files that no entry names and no living process holds; return their number."""
        count = 0
        for name in self.storage.list(STAGING):
            if self.storage.abandoned(name):
                self.refresh()  # who held it may have committed it before it died
                if all(file.staged != name for file in self.state.files.values()):
                    self.storage.remove(name)
                    count += 1
        return count

    def drop(self, staged: Sequence[Staged]) -> None:
        """Remove staged files that no entry names; one that was committed after all stays, to be published."""
        try:
            self.refresh()
        except (OSError, DataError):
            for each in staged:  # nobody knows: `collect` will
                each.release()
            return
        named = {file.staged for file in self.state.files.values()} if staged else set()
        for each in staged:
            if each.name in named:
                each.release()
            else:
                each.drop()

    def place(self, file: StoredFile) -> str:
        """Return where a committed file lies now: it may wait for being published."""
        if isinstance(self.storage, LocalStorage):
            return file.staged if (self.storage.root / file.staged).exists() else file.path
        return file.staged if file.staged in self.storage.list(STAGING) else file.path

    def _write_checkpoint(self) -> None:
        self.storage.create(
            f"{LOG}/{self.state.version:010d}.checkpoint.parquet", to_checkpoint(self.state)
        )

    def read_checkpoint(self, name: str) -> State:
        """Return the state that a checkpoint holds."""
        table = pq.read_table(
            pa.BufferReader(self.storage.read(name)), page_checksum_verification=True
        )
        version = int(Path(name).name.partition(".")[0])
        return from_checkpoint(table, version)


def entry_name(version: int) -> str:
    """Return the name of a log entry."""
    return f"{LOG}/{version:010d}.json"


def to_checkpoint(state: State) -> bytes:
    """Return a state as the bytes of a Parquet file."""
    rows: list[dict[str, object]] = [
        {"kind": "file", "version": file.version, **file.to_json()} for file in state.files.values()
    ]
    rows += [
        {"kind": "cuts", "space": space, "version": version, "keys": pairs}
        for space, versions in state.cuts.items()
        for version, pairs in versions.items()
    ]
    rows.append({"kind": "erased", "keys": b"".join(sorted(state.erased))})
    rows += [
        {"kind": "unswept", "version": version, "keys": b"".join(keys)}
        for version, keys in state.unswept.items()
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, _CHECKPOINT)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def from_checkpoint(table: pa.Table, version: int) -> State:
    """Return the state that a checkpoint holds."""
    state = State(version)
    names = list(StoredFile.__slots__)
    for row in table.to_pylist():
        kind, keys = row["kind"], row["keys"]
        if kind == "file":
            state.files[row["path"]] = StoredFile(**{name: row[name] for name in names})
        elif kind == "cuts":
            state.cuts.setdefault(row["space"], {})[row["version"]] = keys
        elif kind == "erased":
            state.erased = {keys[start : start + 16] for start in range(0, len(keys), 16)}
        else:
            state.unswept[row["version"]] = tuple(
                keys[start : start + 16] for start in range(0, len(keys), 16)
            )
    return state
