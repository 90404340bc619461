"""An open index: the nearest vectors of a query, under a condition, with the rows they came from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from embstore import where as conditions
from embstore.index.exact import Neighbours
from embstore.index.folder import (
    AGAIN,
    FAISS,
    PRIVATE,
    IndexInfo,
    check_ids,
    find,
    read_ids,
    read_info,
)
from embstore.index.ids import ids_of, ids_schema
from embstore.index.metric import Metric, load_metric
from embstore.index.parts import batches, prepared
from embstore.joined import with_calls
from embstore.schema import VECTORS, Space
from embstore.state import StoredFile
from embstore.store import EmbeddingStore
from trunkline.errors import DataError, UsageError


class Index:
    """A FAISS index of a store and the rows its ids stand for; opened by mapping the file, not by reading it."""

    def __init__(
        self, store: EmbeddingStore, folder: Path, info: IndexInfo, index: Any, metric: Metric
    ) -> None:
        self.store, self.folder, self.info, self.index, self.metric = (
            store,
            folder,
            info,
            index,
            metric,
        )

    @classmethod
    def open(cls, store: EmbeddingStore, name: str) -> Index:
        """Open the newest version of an index of a store.

        Raises:
            UsageError: there is no such index.
            DataError: its files are damaged or do not belong together.
        """
        folder = find(store.path, name)
        info = read_info(folder)
        index = read_faiss(folder / FAISS, mapped=True)
        check_ids(folder, info, read_ids(folder, ["id"]), index.ntotal, index.d)
        return cls(store, folder, info, index, load_metric(folder, info.metric, info.dim))

    @classmethod
    def without_faiss(cls, store: EmbeddingStore, table: str, space: Space) -> Index:
        """Return what searches all vectors of a table as they lie in Parquet, where no index was made."""
        files = store.state.files_of(table, space.name)
        stamps = {file.path: file.sha256 for file in files}
        rows = sum(file.rows for file in files)
        scan = cls(
            store, store.path,
            IndexInfo("", table, space.name, "none", "cosine", space.dim, rows, rows, stamps, store.state.version),
            None, Metric("cosine"),
        )  # fmt: skip
        schema = ids_schema(table, space)
        columns = [name for name in schema.names if name not in PRIVATE]
        found, first = [schema.empty_table()], 0
        for file in files:
            row = 0
            for batch in batches(store, file, columns):
                ids = ids_of(batch, file.path, row, first, schema)
                found.append(pa.Table.from_batches([ids]))
                row, first = row + len(batch), first + len(batch)
        scan.ids = pa.concat_tables(found).combine_chunks()
        return scan

    @cached_property
    def ids(self) -> pa.Table:
        """`ids.parquet`: `id`, the columns of the table, and where each row lies (`part`, `row`)."""
        return read_ids(self.folder)

    @cached_property
    def columns(self) -> pa.Table:
        """What conditions may ask for: the columns of the table, and of the call each row belongs to."""
        own = self.ids.drop_columns(["part", "row"])
        return with_calls(self.store, own, self.store.space(self.info.space))

    def stale(self) -> list[str]:
        """Return the Parquet files that came, changed or went since the index was made."""
        now = {(file.path, file.sha256) for file in current_files(self.store, self.info)}
        return sorted({path for path, _ in now ^ set(self.info.files.items())})

    def search(
        self, queries: np.ndarray, k: int = 10, *, where: str | None = None, exact: bool = False
    ) -> pa.Table:
        """Return the k nearest rows of each query, best first.

        Args:
            queries: (queries, dim) or (dim,) float32.
            k: rows for each query; fewer where a condition leaves fewer.
            where: a condition over `columns`; only rows that fulfil it are searched.
            exact: read the vectors of the store itself, also where the index is approximate.

        Returns:
            `query` (number), `rank` (from 1), `score` (cosine or inner product), and the columns of the table.

        Raises:
            UsageError: queries of another dimension, k below 1, or a condition that cannot be asked.
            DataError: queries that are not finite.
        """
        queries = self._checked(queries)
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}.")
        allowed = None if where is None else self.allowed(where)
        if allowed is not None and not len(allowed):
            scores, ids = (
                np.zeros((len(queries), 0), np.float32),
                np.zeros((len(queries), 0), np.int64),
            )
        elif self.index is None or (exact and self.info.kind != "flat"):
            scores, ids = self._exact(queries, k, allowed)
        else:
            scores, ids = self.nearest(queries, k, allowed)
        return self._rows(scores, ids)

    def allowed(self, where: str) -> np.ndarray:
        """Return the ids of the rows for which a condition holds, rising."""
        asked = conditions.names(where)
        table = self.ids if asked <= set(self.ids.column_names) - set(PRIVATE) else self.columns
        conditions.check_names(
            asked, [name for name in table.column_names if name not in PRIVATE], where
        )
        return conditions.select(table, where)["id"].to_numpy()

    def _checked(self, queries: np.ndarray) -> np.ndarray:
        queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.info.dim:
            raise UsageError(
                f"A query of shape {queries.shape} does not fit vectors of {self.info.dim} numbers (index "
                f"{self.info.name!r}, space {self.info.space})."
            )
        if not np.isfinite(queries).all():
            raise DataError("A query holds NaN or infinite numbers.")
        return self.metric.prepare(queries)

    def nearest(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and ids (queries, k) of prepared queries; -1 where an approximate index found too few."""
        k = min(k, self.info.rows if allowed is None else len(allowed))
        selector = None if allowed is None else _selector(allowed, self.info.next_id)
        inverted = isinstance(self.index, faiss.IndexIVF)
        selected = {} if selector is None else {"sel": selector}
        parameters: Any = faiss.SearchParametersIVF if inverted else faiss.SearchParameters
        if not inverted:
            return self.index.search(
                queries, k, params=parameters(**selected) if selected else None
            )
        lists = self.info.nprobe or 1
        if allowed is not None:
            # So that as many rows that may be found are looked at as without the condition.
            lists = min(self.info.lists, -(-lists * self.info.rows // len(allowed)))
        return self.index.search(queries, k, params=parameters(nprobe=lists, **selected))

    def _exact(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search the Parquet files; what they have gained since the index was made is not looked at."""
        ids, places = self.ids["id"].to_numpy(), self.ids["row"].to_numpy()
        encoded = self.ids["part"].combine_chunks().dictionary_encode()
        codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        keep = (
            np.ones(len(ids), bool)
            if allowed is None
            else np.isin(ids, allowed, assume_unique=True)
        )
        nearest = Neighbours(queries, min(k, int(keep.sum())))
        files = {file.path: file for file in current_files(self.store, self.info)}
        for code, path in enumerate(names):
            if path not in files or files[path].sha256 != self.info.files[path]:
                raise DataError(
                    f"{path} has changed since the index {self.info.name!r} was made; run --update."
                )
            chosen = keep & (codes == code)
            rows, numbers = places[chosen], ids[chosen]
            first = 0
            for batch in batches(self.store, files[path], [VECTORS]):
                start, end = np.searchsorted(rows, [first, first + batch.num_rows])
                if end > start:
                    vectors = prepared(batch, path, self.metric, self.info.dim)
                    nearest.look(vectors[rows[start:end] - first], numbers[start:end])
                first += batch.num_rows
        return nearest.scored()

    def _rows(self, scores: np.ndarray, ids: np.ndarray) -> pa.Table:
        found = ids >= 0  # FAISS fills short lists with -1
        query, rank = np.nonzero(found)
        places = np.searchsorted(self.ids["id"].to_numpy(), ids[found])
        rows = self.ids.take(pa.array(places)).drop_columns(list(PRIVATE))
        rows = rows.add_column(0, "score", pa.array(scores[found]))
        rows = rows.add_column(0, "rank", pa.array(rank + 1, pa.int32()))
        rows = rows.add_column(0, "query", pa.array(query, pa.int32()))
        if not self.store.state.unswept:
            return rows
        # Calls whose forgetting has begun are not shown, though the index may still hold them.
        shown = [not self.store.is_erased(call) for call in rows["call_id"].to_pylist()]
        return rows.filter(pa.array(shown, pa.bool_()))


def current_files(store: EmbeddingStore, info: IndexInfo) -> list[StoredFile]:
    """Return the files an index should hold: all of its table and space, or those of its shard."""
    files = store.state.files_of(info.table, info.space)
    return [file for file in files if not info.shard or file.path in info.files]


def read_faiss(path: Path, *, mapped: bool) -> Any:
    """Read a FAISS file into memory, to change it, or map it, to search: a mapped one must never be changed.

    Raises:
        DataError: it is no FAISS file, or cut short.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise DataError(f"{path} is no whole FAISS index.{AGAIN}") from error


def _selector(allowed: np.ndarray, next_id: int) -> Any:
    """Return a selector of ids: a bit for each, as ids are dense."""
    bits = np.zeros(next_id, bool)
    bits[allowed] = True
    selector: Any = faiss.IDSelectorBitmap
    return selector(np.packbits(bits, bitorder="little"))
