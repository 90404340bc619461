"""Make a FAISS index from Parquet, batch by batch: exact while it fits, an inverted file with 8-bit codes beyond.

In memory are, at a time, a few batches, and of an inverted file the index itself and the sample that trains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np

from embstore.index.adding import InMemory, exact
from embstore.index.exact import Neighbours
from embstore.index.folder import FAISS, IDS, IndexInfo, new_version, write_info
from embstore.index.ids import IdsWriter, ids_schema
from embstore.index.metric import METRICS, SAMPLE, Metric, whitening
from embstore.index.parts import ahead, batches, memory_kept, open_part, prepared
from embstore.schema import ROW_GROUP, VECTORS, Space
from embstore.state import StoredFile
from embstore.store import EmbeddingStore
from trunkline.errors import DataError, UsageError, nearest
from trunkline.log import get_logger, progress

FLAT_BYTES = 2 << 30
"""Up to here an index is exact; a query reads all of it."""
PEAK = 1.35
"""What `max_memory` has to be of an index for it to be exact, at least."""
POINTS_PER_LIST = 39
"""Vectors that train one centroid: the fewest with which FAISS does not warn. With 100, training takes 2.5 times as
long; what the centroids lack with 39, the tuning of `nprobe` makes up for."""
QUERIES = 400
"""Vectors of the store that nprobe is chosen with."""
K = 10
RECALL = 0.96
ERRORS = 2.0
"""Standard errors by which the recall of these vectors is above RECALL: for other queries it holds as well."""

_log = get_logger(__name__)


class Plan(NamedTuple):
    """What to build of what."""

    store: EmbeddingStore
    table: str
    space: Space
    name: str
    files: list[StoredFile]
    kind: str = "auto"
    metric: str = "cosine"
    max_memory: int = 4 << 30
    seed: int = 0
    shard: tuple[int, int] = (0, 1)

    @property
    def rows(self) -> int:
        """Rows of this shard."""
        return sum(file.rows for file in self.mine)

    @property
    def mine(self) -> list[StoredFile]:
        """The files of this shard."""
        index, count = self.shard
        return self.files[index::count]


def plan(store: EmbeddingStore, table: str, space: Space, name: str, **options: Any) -> Plan:
    """Return a plan over all files of a table in a space; `options` are the further fields of a plan.

    Raises:
        DataError: there are no vectors.
        UsageError: more shards than files, or an unknown metric.
    """
    files = store.state.files_of(table, space.name)
    if not files:
        raise DataError(
            f"{store.path} holds no {table} of the space {space.name}; export some first."
        )
    made = Plan(store, table, space, name, files, **options)
    if made.metric not in METRICS:
        raise UsageError(f"Unknown metric {made.metric!r}.{nearest(made.metric, METRICS)}")
    if not 0 <= made.shard[0] < made.shard[1] <= len(files):
        raise UsageError(
            f"Shard {made.shard[0]}/{made.shard[1]}: there are {len(files)} files; give k/n with 0 <= k < n <= them."
        )
    return made


@memory_kept()
def build(plan: Plan) -> IndexInfo:
    """Build an index and publish it as the newest version of its name.

    Raises:
        DataError: a file is damaged, or holds vectors that are not finite or of another dimension.
        StorageError: the disk refuses.
        UsageError: a kind that FAISS does not know.
    """
    total = sum(file.rows for file in plan.files)
    kind = chosen_kind(plan, total)
    metric = (
        whitening(sample(plan, SAMPLE, Metric("dot")))
        if plan.metric == "whitened"
        else Metric(plan.metric)
    )
    queries = _queries(plan, metric) if kind == "ivf-sq8" else None
    truth = None if queries is None else Neighbours(queries, K + 1)
    with new_version(plan.store.path, plan.name) as folder:
        if kind == "flat":
            adding = exact(folder / FAISS, plan.rows, plan.space.dim)
        else:
            adding = InMemory(folder / FAISS, _trained(plan, kind, total, metric))
        index = adding.index if isinstance(adding, InMemory) else None
        with IdsWriter(folder / IDS, ids_schema(plan.table, plan.space)) as ids:
            for row, vectors in _vectors(plan, metric, ids):
                adding.add(vectors)
                if truth is not None:
                    truth.look(vectors, row)
        recall: dict[str, Any] = {}
        if queries is not None and truth is not None:
            recall = tune(index, queries, truth)
        adding.finish()
        info = IndexInfo(
            plan.name, plan.table, plan.space.name, kind, plan.metric, plan.space.dim, plan.rows, plan.rows,
            {file.path: file.sha256 for file in plan.mine}, plan.store.state.version,
            nprobe=getattr(index, "nprobe", 0), lists=getattr(index, "nlist", 0), recall=recall,
            shard="{}/{}".format(*plan.shard) if plan.shard[1] > 1 else "",
        )  # fmt: skip
        metric.save(folder)
        write_info(folder, info)
    return info


def chosen_kind(plan: Plan, rows: int) -> str:
    """Return `plan.kind`, and for "auto" `flat` while it fits the memory and 2 GB, else `ivf-sq8`."""
    if plan.kind != "auto":
        return plan.kind
    limit = min(FLAT_BYTES, plan.max_memory / PEAK)
    return "flat" if rows * plan.space.dim * 4 <= limit else "ivf-sq8"


def number_of_lists(rows: int) -> int:
    """Return the lists of an inverted file: the power of two nearest 4 sqrt(rows), with 39 rows a list at least."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(wanted, 2 ** int(math.log2(max(1, rows / POINTS_PER_LIST)))))


def _trained(plan: Plan, kind: str, total: int, metric: Metric) -> Any:
    """Return an empty FAISS index that takes ids."""
    lists = number_of_lists(total)
    description = f"IVF{lists},SQ8" if kind == "ivf-sq8" else kind
    try:
        index: Any = faiss.index_factory(plan.space.dim, description, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"--kind {kind}: neither auto, flat, ivf-sq8 nor a description that FAISS knows, such as 'IVF1024,PQ64'."
        ) from error
    if not isinstance(index, faiss.IndexIVF):
        index = faiss.IndexIDMap(index)
    if not index.is_trained:
        wanted = POINTS_PER_LIST * max(getattr(index, "nlist", lists), 256)
        index.train(sample(plan, min(wanted, plan.max_memory // (8 * plan.space.dim)), metric))
    return index


def sample(plan: Plan, rows: int, metric: Metric) -> np.ndarray:
    """Return vectors of row groups drawn at random from all files (rows, dim), at most `rows`.

    Every shard of one store draws the same, so that the trained parts of their indexes are equal.
    """
    generator = np.random.default_rng(plan.seed)
    groups = [
        (file, group)
        for file in plan.files
        for group in range(open_part(plan.store, file).num_row_groups)
    ]
    total = sum(file.rows for file in plan.files)
    # Half of each row group, so that the sample has rows of twice as many calls; all where there are few.
    share = min(1.0, max(0.5, rows / total))
    result = np.empty((min(rows, total), plan.space.dim), np.float32)
    filled = 0
    for number in generator.permutation(len(groups)):
        file, group = groups[number]
        for batch in batches(plan.store, file, [VECTORS], [group]):
            vectors = prepared(batch, file.path, metric, plan.space.dim)
            count = min(math.ceil(share * len(vectors)), len(result) - filled)
            chosen = np.sort(generator.permutation(len(vectors))[:count])
            result[filled : filled + count] = vectors[chosen]
            filled += count
        if filled == len(result):
            break
    return result[:filled]


def _queries(plan: Plan, metric: Metric) -> np.ndarray:
    """Return vectors of this shard that nprobe is chosen with, spread over its files."""
    return sample(plan._replace(files=plan.mine, seed=plan.seed + 1), 32 * QUERIES, metric)[::32][
        :QUERIES
    ]


def _vectors(plan: Plan, metric: Metric, ids: IdsWriter) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each batch's vectors, until the next, and the number of the first over all files; note their ids."""
    # Kept, so that the system does not have to find memory for every batch.
    room = np.empty((ROW_GROUP, plan.space.dim), np.float32)
    with progress(total=plan.rows, description=plan.name, unit="vectors") as bar:
        first = 0
        for file in plan.mine:
            row = 0
            for batch in ahead(batches(plan.store, file)):
                own = room[: batch.num_rows]
                yield first, prepared(batch, file.path, metric, plan.space.dim, own)
                ids.write(batch, file.path, row, first)
                row += batch.num_rows
                first += batch.num_rows
                bar.advance(batch.num_rows)


def tune(index: Any, queries: np.ndarray, exact: Neighbours) -> dict[str, Any]:
    """Set `nprobe` to the fewest lists that find RECALL of the 10 nearest, with ERRORS to spare.

    The queries are vectors of the store; each finds itself, which is not counted. Returns what was measured.
    """
    truth = exact.found()

    def recall(lists: int) -> tuple[float, float]:
        index.nprobe = lists
        shares = recalls(truth, index.search(queries, K + 1)[1])
        return float(shares.mean()), float(shares.std() / math.sqrt(len(shares)))

    def enough(lists: int) -> bool:
        mean, error = recall(lists)
        return mean - ERRORS * error >= RECALL

    low, high = 0, 1
    while not enough(high) and high < index.nlist:
        low, high = high, min(2 * high, index.nlist)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    reached, error = recall(high)
    if reached < RECALL:
        _log.warning(
            "recall@%d is %.3f with all lists, below %.2f: 8-bit codes are too coarse for these vectors; "
            "search with --exact, or build with --kind IVF%d,SQfp16.", K, reached, RECALL, index.nlist,
        )  # fmt: skip
    return {"at_10": round(reached, 4), "error": round(error, 4), "queries": len(queries)}


def recalls(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return for each query the share of its true neighbours (queries, k + 1) that were found.

    The first of them, the query itself, does not count.
    """
    pairs = zip(truth, found, strict=True)
    return np.array([len(set(a[1:]) & set(b)) / max(1, (a[1:] >= 0).sum()) for a, b in pairs])
