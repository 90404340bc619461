"""An index on disk: `index/<name>/<version>/` with the FAISS file, `ids.parquet` and `index.json`.

A version appears whole, by a rename, and replaces the one before. `ids.parquet` has a row for each vector, in the
order of rising ids: `id`, the columns of the table but the vectors, and the file (`part`) and `row` it lies in. An id
is never given twice.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trunkline import __version__
from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json
from trunkline.errors import DataError, UsageError, nearest

FORMAT = "trunkline-embstore-index"
VERSION = 1
FAISS, IDS, INFO = "index.faiss", "ids.parquet", "index.json"
WHITENING = "whitening.npy"
IDS_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "write_page_checksum": True,
}
PRIVATE = ("id", "part", "row")
"""Columns of ids.parquet that are the index's own."""


@dataclass(frozen=True)
class IndexInfo:
    """What `index.json` says."""

    name: str
    table: str
    space: str
    kind: str
    """`flat`, `ivf-sq8`, or a description for FAISS's `index_factory`."""
    metric: str
    """`cosine`, `dot` or `whitened`, see `embstore.index.metric`."""
    dim: int
    rows: int
    next_id: int
    """The next id to give."""
    files: dict[str, str]
    """Path and SHA-256 of the Parquet files whose rows are in."""
    log_version: int
    """Of the store when the index was made."""
    nprobe: int = 0
    """Lists that are searched, of an inverted file."""
    lists: int = 0
    recall: dict[str, Any] = field(default_factory=dict)
    """How nprobe was chosen: `at_10`, against exact search, over `queries` vectors of the store."""
    shard: str = ""
    """k/n, where only every n-th file is in."""


def indexes(root: Path) -> list[Path]:
    """Return the folders of a store's indexes, newest versions, by name."""
    folder = root / "index"
    names = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [version for version in map(newest, names) if version is not None]


def newest(folder: Path) -> Path | None:
    """Return the newest version of an index, or None."""
    versions = [path for path in folder.glob("[0-9]*") if (path / INFO).is_file()]
    return max(versions, key=lambda path: int(path.name), default=None)


def find(root: Path, name: str) -> Path:
    """Return the folder of the named index, newest version.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    found = newest(root / "index" / name)
    if found is None:
        names = [path.parent.name for path in indexes(root)]
        raise UsageError(
            f"{root} has no index {name!r}.{nearest(name, names)} Build one with `python -m embstore.index {root}`."
        )
    return found


@contextlib.contextmanager
def new_version(root: Path, name: str) -> Iterator[Path]:
    """Yield a folder that becomes the newest version of an index; the versions before are removed."""
    folder = root / "index" / name
    before = newest(folder)
    number = 1 if before is None else int(before.name) + 1
    with write_folder(folder / f"{number:06d}") as temporary:
        yield temporary
    for path in folder.iterdir():
        # Also half-written ones of runs that were killed, but never a newer version.
        if path.name.startswith(".") or (path.name.isdigit() and int(path.name) < number):
            shutil.rmtree(path, ignore_errors=True)


def write_info(folder: Path, info: IndexInfo) -> None:
    """Write `index.json` beside the two files it speaks for."""
    own = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in (FAISS, IDS, WHITENING)
        if name != WHITENING or (folder / name).exists()
    }
    about = {"format": FORMAT, "version": VERSION, **asdict(info), "own": own}
    about |= {"toolkit": __version__, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(folder / INFO, about)


def read_info(folder: Path) -> IndexInfo:
    """Return what `index.json` says, after a look at sizes.

    Raises:
        DataError: it is newer, incomplete, or a file has another size than it says: mixed up or cut short.
    """
    about = read_json(folder / INFO)
    try:
        if about["format"] != FORMAT or about["version"] > VERSION:
            raise DataError(
                f"{folder / INFO} is {about['format']} {about['version']}, this version reads {FORMAT} up to "
                f"{VERSION}; build the index again."
            )
        for name, file in about["own"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                raise DataError(f"{path} is missing or has another size than {INFO} says.{AGAIN}")
        return IndexInfo(**{key: about[key] for key in IndexInfo.__dataclass_fields__})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / INFO} lacks or misstates {error}.{AGAIN}") from error


def hashes(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each file of an index, its SHA-256, and the one that `index.json` states."""
    for name, file in read_json(folder / INFO).get("own", {}).items():
        yield name, sha256_file(folder / name) if (folder / name).is_file() else "", file["sha256"]


AGAIN = " Build the index again with `python -m embstore.index`; no data is lost, it is made from the Parquet files."


def read_ids(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Return `ids.parquet`, or some of its columns.

    Raises:
        DataError: it is damaged.
    """
    try:
        return pq.read_table(folder / IDS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder / IDS} cannot be read ({error}).{AGAIN}") from error


def check_ids(folder: Path, info: IndexInfo, ids: pa.Table, vectors: int, dim: int) -> None:
    """Refuse an index whose parts do not belong together.

    Args:
        folder: for messages.
        info: what `index.json` says.
        ids: at least the column `id` of `ids.parquet`.
        vectors: how many the FAISS file holds.
        dim: their width.

    Raises:
        DataError: counts or dimensions differ, or ids do not rise.
    """
    if not len(ids) == vectors == info.rows:
        raise DataError(
            f"{folder} does not fit together: {vectors} vectors in {FAISS}, {len(ids)} rows in {IDS}, {info.rows} in "
            f"{INFO}.{AGAIN}"
        )
    if dim != info.dim:
        raise DataError(
            f"{folder / FAISS} holds vectors of {dim} numbers, {INFO} says {info.dim}.{AGAIN}"
        )
    numbers = ids["id"].to_numpy()
    if len(numbers) and not (
        (numbers[1:] > numbers[:-1]).all() and numbers[0] >= 0 and numbers[-1] < info.next_id
    ):
        raise DataError(
            f"The ids of {folder / IDS} do not rise from 0 to below {info.next_id}.{AGAIN}"
        )
