"""`python -m embstore.cluster`: groups of alike calls or segments, and the one of each to listen to.

Vectors are divided by their lengths first, so that distance is angle. The result has one row for each row of the
table: its keys, `cluster` (-1: belongs to none), `distance` to its centre, `medoid` (true for the row nearest to the
centre), and `reason`, a sentence for people who check pre-labels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embstore.options import add_store, chosen_space
from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

METHODS = ("kmeans", "hdbscan")
HDBSCAN_ROWS = 20_000
"""HDBSCAN compares rows with each other; beyond this it takes too long."""
HDBSCAN_DIM = 20
"""Principal directions HDBSCAN works in; densities mean little in hundreds of dimensions."""
FIT_ROWS = 100_000
"""Rows, drawn at random, that k-means is fitted on; all are assigned."""


class Clusters(NamedTuple):
    """For each row its cluster (-1: none) and its distance to the centre; for each cluster the row of its medoid."""

    labels: np.ndarray
    distances: np.ndarray
    medoids: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_cluster, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.cluster",
        description="Group the vectors of a store by k-means or HDBSCAN, and name the row in the middle of each group, "
        "to listen to and give the group a name.",
        epilog="example: python -m embstore.cluster store/ --table segments -k 50 --out clusters.parquet "
        "--html medoids.html",
    )
    add_store(parser)
    option = parser.add_argument
    option("--method", default="kmeans", choices=METHODS)
    option("-k", "--clusters", type=int, default=20, metavar="K", help="of k-means, default 20")
    option(
        "--min-size", type=int, default=10, help="rows of the smallest group of HDBSCAN, default 10"
    )
    option("--rows", type=int, metavar="N", help="only N rows, drawn at random")
    option("--describe", metavar="COLUMN", help="show each group's most common values of a column")
    option("--out", type=Path, metavar="FILE", help="write the groups as .parquet, .json or .csv")
    option("--html", type=Path, metavar="FILE", help="write a page with the medoids, to listen to")
    option("--seed", type=int, default=0)
    return parser


def kmeans(vectors: np.ndarray, clusters: int, *, seed: int = 0) -> Clusters:
    """Group vectors (rows, dim) of length 1 by k-means (scikit-learn, k-means++ start).

    Raises:
        UsageError: fewer rows than clusters, or fewer than one cluster.
    """
    if not 1 <= clusters <= len(vectors):
        raise UsageError(
            f"{clusters} clusters of {len(vectors)} rows cannot be; choose from 1 to the rows."
        )
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    fitted_on = vectors
    if len(vectors) > FIT_ROWS:
        fitted_on = vectors[np.sort(generator.choice(len(vectors), FIT_ROWS, replace=False))]
    model: Any = MiniBatchKMeans
    fitted = model(clusters, batch_size=4096, n_init=5, random_state=seed).fit(fitted_on)
    labels, distances = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
    centres = fitted.cluster_centers_.astype(np.float32)
    for first in range(0, len(vectors), 8192):
        rows = slice(first, first + 8192)
        squares = (centres**2).sum(1) - 2 * vectors[rows] @ centres.T
        labels[rows] = squares.argmin(1)
        distances[rows] = np.linalg.norm(vectors[rows] - centres[labels[rows]], axis=1)
    return _by_size(labels, distances)


def hdbscan(vectors: np.ndarray, min_size: int) -> Clusters:
    """Group vectors (rows, dim) of length 1 where they are dense (scikit-learn's HDBSCAN); others belong to none.

    Raises:
        UsageError: more rows than it can take, or a smallest group below 2.
    """
    if len(vectors) > HDBSCAN_ROWS:
        raise UsageError(
            f"HDBSCAN takes {HDBSCAN_ROWS} rows at most, not {len(vectors)}; choose some with --where or --rows."
        )
    if not 2 <= min_size <= len(vectors):
        raise UsageError(
            f"--min-size {min_size} must be from 2 to the number of rows, {len(vectors)}."
        )
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    width = min(HDBSCAN_DIM, *vectors.shape)
    flat = PCA(width, random_state=0).fit_transform(vectors)
    model: Any = HDBSCAN
    found = model(min_cluster_size=min_size, copy=False).fit_predict(flat).astype(np.int32)
    distances = np.full(len(vectors), np.nan, np.float32)
    for label in range(found.max() + 1):
        members = np.flatnonzero(found == label)
        distances[members] = np.linalg.norm(vectors[members] - vectors[members].mean(0), axis=1)
    return _by_size(found, distances)


def _by_size(labels: np.ndarray, distances: np.ndarray) -> Clusters:
    """Number groups from the largest on, leave out empty ones, and find the row nearest to each centre."""
    counts = Counter(labels[labels >= 0].tolist())
    order = sorted(counts, key=lambda label: (-counts[label], label))
    renumbered = np.full(len(labels), -1, np.int32)
    medoids = np.empty(len(order), np.int64)
    for number, label in enumerate(order):
        members = np.flatnonzero(labels == label)
        renumbered[members] = number
        medoids[number] = members[distances[members].argmin()]
    return Clusters(renumbered, distances, medoids)


def described(rows: pa.Table, clusters: Clusters) -> pa.Table:
    """Return rows with `cluster`, `distance`, `medoid` and `reason`."""
    import pyarrow as pa

    places = [place_of(rows, int(row)) for row in clusters.medoids]
    reasons = [
        f"cluster {label}, {distance:.2f} from its centre, like {places[label]}"
        if label >= 0
        else "like no others"
        for label, distance in zip(
            clusters.labels.tolist(), clusters.distances.tolist(), strict=True
        )
    ]
    is_medoid = np.zeros(len(rows), bool)
    is_medoid[clusters.medoids] = True
    for name, values in (
        ("cluster", pa.array(clusters.labels)),
        ("distance", pa.array(clusters.distances, from_pandas=True)),
        ("medoid", pa.array(is_medoid)),
        ("reason", pa.array(reasons, pa.string())),
    ):
        rows = rows.append_column(name, values)
    return rows


def place_of(rows: pa.Table, row: int) -> str:
    """Return where a row is to be heard, as `--like` of `embstore.search` takes it."""
    (found,) = rows.slice(row, 1).to_pylist()
    if "end_ms" in found:
        return f"{found['call_id']}@{found['start_ms'] / 1000:g}-{found['end_ms'] / 1000:g}"
    return f"{found['call_id']}@{found['t_ms'] / 1000:g}" if "t_ms" in found else found["call_id"]


def _cluster(arguments: argparse.Namespace) -> Summary:
    if arguments.out and arguments.out.suffix not in (".parquet", ".json", ".csv"):
        raise UsageError(f"--out {arguments.out}: the name must end in .parquet, .json or .csv.")
    if arguments.rows is not None and arguments.rows < 1:
        raise UsageError("--rows must be at least 1.")
    from embstore.sampling import sample, unit
    from embstore.store import EmbeddingStore
    from embstore.where import check_names

    store = EmbeddingStore.open(arguments.store)
    space = chosen_space(store, arguments.table, arguments.space)
    vectors, rows = sample(
        store, arguments.table, space, arguments.where, limit=arguments.rows, seed=arguments.seed
    )
    if arguments.describe:
        check_names([arguments.describe], rows.column_names, f"--describe {arguments.describe}")
    vectors = unit(vectors)
    if arguments.method == "kmeans":
        clusters = kmeans(vectors, arguments.clusters, seed=arguments.seed)
    else:
        clusters = hdbscan(vectors, arguments.min_size)
    found = described(rows, clusters)
    if arguments.out:
        from embstore.joined import write_table

        write_table(found, arguments.out)
    listed = _listed(found, clusters, arguments.describe)
    if arguments.html:
        import pyarrow as pa

        from embstore.page import write_page

        medoids = found.take(pa.array(clusters.medoids))
        for name in ("size", "common"):
            if name in listed[0]:
                medoids = medoids.append_column(name, pa.array([row[name] for row in listed]))
        names = [
            name
            for name in ("cluster", "size", "common", "call_id", "channel")
            if name in medoids.column_names
        ]
        write_page(
            medoids, names, arguments.html, title=f"Middles of the groups of {store.path.name}"
        )
    none = int((clusters.labels < 0).sum())
    return {
        "rows": len(rows), "clusters": len(clusters.medoids), "in_none": none, "tables": {"clusters": listed},
    }  # fmt: skip


def _listed(found: pa.Table, clusters: Clusters, describe: str | None) -> list[dict[str, Any]]:
    values = found[describe].to_pylist() if describe else []
    listed = []
    for label, medoid in enumerate(clusters.medoids):
        members = np.flatnonzero(clusters.labels == label)
        row = {
            "cluster": label, "size": len(members), "share": len(members) / len(found),
            "spread": float(clusters.distances[members].mean()), "medoid": place_of(found, int(medoid)),
            "channel": found["channel"][int(medoid)].as_py(),
        }  # fmt: skip
        if describe:
            common = Counter(str(values[member]) for member in members).most_common(3)
            row["common"] = ", ".join(
                f"{value} {count / len(members):.0%}" for value, count in common
            )
        listed.append(row)
    return listed


if __name__ == "__main__":
    raise SystemExit(main())
