"""`python -m embstore.stats`: what a store holds, how large it is, and how its vectors are spread."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embstore.options import VECTOR_TABLES
from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from embstore.schema import Space
    from embstore.store import EmbeddingStore

SAMPLE = 5000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_stats, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.stats",
        description="Tell what a store holds: spaces, calls, hours, files, bytes, indexes, and with --vectors how a "
        "sample of the vectors is spread.",
        epilog="example: python -m embstore.stats store/ --vectors",
    )
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--space", help="only the space of this name or beginning")
    parser.add_argument("--vectors", action="store_true", help="also lengths and spread of vectors")
    parser.add_argument(
        "--rows", type=int, default=SAMPLE, help=f"sample of --vectors, default {SAMPLE}"
    )
    return parser


def _stats(arguments: argparse.Namespace) -> Summary:
    if arguments.rows < 2:
        raise UsageError("--rows must be at least 2.")
    from embstore.store import EmbeddingStore

    store = EmbeddingStore.open(arguments.store)
    spaces = list(store.spaces().values())
    if arguments.space:
        spaces = [store.space(arguments.space)]
    files = store.state.files.values()
    summary: Summary = {
        "store": str(arguments.store), "log_version": store.state.version, "files": len(files),
        "megabytes": sum(file.size for file in files) / 1e6,
        "errors": sum(file.rows for file in files if file.table == "errors"),
    }  # fmt: skip
    tables: dict[str, Any] = {
        "spaces": [space_row(store, space) for space in spaces],
        "tables": [row for space in spaces for row in table_rows(store, space)],
    }
    if (indexes := index_rows(store)) or (store.path / "index").is_dir():
        tables["indexes"] = indexes
    if arguments.vectors:
        tables["vectors"] = [
            {"space": space.name, "table": table, **vector_row(store, table, space, arguments.rows)}
            for space in spaces
            for table in VECTOR_TABLES
            if store.state.files_of(table, space.name)
        ]
    return summary | {"tables": tables}


def space_row(store: EmbeddingStore, space: Space) -> dict[str, Any]:
    """Return what a space is, and the calls, channels and hours in it."""
    import pyarrow.compute as pc

    calls: set[str] = set()
    cuts, milliseconds = 0, 0
    for batch in store.scan("calls", space, ["call_id", "duration_ms"]):
        calls.update(pc.unique(batch.column("call_id")).to_pylist())
        cuts += batch.num_rows
        milliseconds += pc.sum(batch.column("duration_ms")).as_py() or 0
    return {
        "space": space.name, "dim": space.dim, "layer": space.layer, "precision": space.precision,
        "context": space.context, "backbone": space.backbone[:12], "calls": len(calls), "cuts": cuts,
        "hours": milliseconds / 3.6e6,
    }  # fmt: skip


def table_rows(store: EmbeddingStore, space: Space) -> list[dict[str, Any]]:
    """Return files, rows and bytes of each table of a space."""
    found = []
    for table in ("calls", *VECTOR_TABLES, "npy"):
        files = [f for f in store.state.files.values() if (f.table, f.space) == (table, space.name)]
        rows, size = sum(file.rows for file in files), sum(file.size for file in files)
        if files:
            found.append(
                {
                    "space": space.name, "table": table, "files": len(files), "rows": rows,
                    "megabytes": size / 1e6, "bytes_per_row": size / max(1, rows),
                }
            )  # fmt: skip
    return found


def index_rows(store: EmbeddingStore) -> list[dict[str, Any]]:
    """Return the indexes of a store, and whether they hold all rows that they should."""
    from embstore.index.folder import indexes, read_info

    found = []
    for folder in indexes(store.path):
        info = read_info(folder)
        now = {file.path: file.sha256 for file in store.state.files_of(info.table, info.space)}
        size = sum(path.stat().st_size for path in folder.iterdir())
        found.append(
            {
                "index": info.name, "kind": info.kind, "vectors": info.rows, "megabytes": size / 1e6,
                "recall_at_10": info.recall.get("at_10", 1.0 if info.kind == "flat" else None),
                "up_to_date": now == info.files or bool(info.shard),
            }
        )  # fmt: skip
    return found


def vector_row(store: EmbeddingStore, table: str, space: Space, rows: int) -> dict[str, Any]:
    """Return how a sample of vectors is spread."""
    from embstore.sampling import sample

    vectors, _ = sample(store, table, space, limit=rows)
    return spread(vectors)


def spread(vectors: np.ndarray) -> dict[str, Any]:
    """Return lengths, alikeness and effective dimension of vectors (rows, dim).

    `mean_cosine` is that of two rows drawn at random: near 1, all vectors point one way, and searching for alike ones
    needs care. `effective_dim` is the participation ratio (sum of eigenvalues)^2 / sum of squared eigenvalues.
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1)
    finite = vectors[np.isfinite(lengths) & (lengths > 0)].astype(np.float64)
    units = finite / np.linalg.norm(finite, axis=1, keepdims=True)
    count, total = len(units), units.sum(0)
    eigenvalues = (
        np.linalg.svd(finite - finite.mean(0), compute_uv=False) ** 2 if count else np.zeros(1)
    )
    return {
        "rows": len(vectors),
        "not_finite": int((~np.isfinite(lengths)).sum()),
        "zero": int((lengths == 0).sum()),
        "length_mean": float(lengths.mean()),
        "length_std": float(lengths.std()),
        "mean_cosine": float((total @ total - count) / max(1, count * (count - 1))),
        "effective_dim": float(eigenvalues.sum() ** 2 / max((eigenvalues**2).sum(), 1e-30)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
