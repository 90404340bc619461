"""`python -m embstore.index`: make a store's vectors searchable with FAISS, keep that up to date, join shards.

An index is made from the Parquet files and may be deleted at any time.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from embstore.options import add_store, chosen_space
from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from embstore.store import EmbeddingStore

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_index, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.index",
        description="Build a FAISS index of a store: exact while it fits into 2 GB and --max-memory, an inverted "
        "file with 8-bit codes beyond, whose recall is measured. With --update, only bring indexes up to date.",
        epilog="example: python -m embstore.index store/ --table segments",
    )
    option = parser.add_argument
    add_store(parser, where=False)
    option("--name", help="of the index; default: table and space")
    option(
        "--kind",
        default="auto",
        help="auto, flat (exact), ivf-sq8, or a description for FAISS's index_factory",
    )
    option(
        "--metric",
        default="cosine",
        help="cosine, dot for inner products of vectors as they are, or whitened: the cosine once the mean "
        "is subtracted and every direction has the same spread",
    )
    option("--max-memory", default="4G", help="what building may take, default 4G")
    option("--seed", type=int, default=0, help="of the training sample")
    option("--shard", metavar="K/N", help="only every N-th file, from the K-th (0 to N-1) on")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--update",
        action="store_true",
        help="add new vectors and remove forgotten ones, in all indexes or in --name",
    )
    actions.add_argument(
        "--merge", nargs="+", metavar="NAME", help="join indexes of shards as --name"
    )
    actions.add_argument("--list", action="store_true", help="show the indexes there are")
    return parser


def check(store: EmbeddingStore) -> Iterator[str]:
    """Yield what is wrong with the indexes of a store; see `embstore.index.checking.check`."""
    from embstore.index import checking

    yield from checking.check(store)


def default_name(table: str, space: str) -> str:
    """Return the name an index has if none is given."""
    return f"{table}-{space}"


def size(text: str) -> int:
    """Return bytes written like 4G, 500M or 1000000.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)b?", text.strip().lower())
    if match is None:
        raise UsageError(f"--max-memory {text!r} is no size; write it like 4G or 500M.")
    return int(float(match[1]) * UNITS[match[2]])


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"--shard {text!r}: write it as K/N, such as 0/4.")
    return int(match[1]), int(match[2])


def _index(arguments: argparse.Namespace) -> Summary:
    # What is asked wrongly is said before anything heavy is loaded.
    memory = size(arguments.max_memory)
    shard = _shard(arguments.shard) if arguments.shard else (0, 1)
    if arguments.merge and not arguments.name:
        raise UsageError("--merge needs --name, for the index it makes.")
    if arguments.name and not re.fullmatch(r"[\w][\w.+-]*", arguments.name):
        raise UsageError(f"--name {arguments.name!r}: letters, digits, '-', '_' and '.' only.")
    from embstore.store import EmbeddingStore

    store = EmbeddingStore.open(arguments.store)
    if arguments.list:
        from embstore.stats import index_rows

        return {"tables": {"indexes": index_rows(store)}}
    if arguments.update:
        return _update(store, arguments.name)
    from embstore.index.update import merge

    if arguments.merge:
        return _described(store, merge(store, arguments.name, arguments.merge))
    from embstore.index.build import build, plan

    space = chosen_space(store, arguments.table, arguments.space)
    name = arguments.name or default_name(arguments.table, space.name)
    if shard[1] > 1 and not arguments.name:
        name += ".{}-of-{}".format(*shard)
    made = build(
        plan(
            store, arguments.table, space, name, kind=arguments.kind, metric=arguments.metric,
            max_memory=memory, seed=arguments.seed, shard=shard,
        )
    )  # fmt: skip
    return _described(store, made)


def _update(store: Any, name: str | None) -> Summary:
    from embstore.index.folder import indexes
    from embstore.index.update import update

    names = [name] if name else [folder.parent.name for folder in indexes(store.path)]
    if not names:
        raise UsageError(
            f"{store.path} has no index yet; build one: python -m embstore.index {store.path}"
        )
    return {"tables": {"updated": [{"index": each, **update(store, each)} for each in names]}}


def _described(store: Any, info: Any) -> Summary:
    from embstore.index.folder import FAISS, find

    folder = find(store.path, info.name)
    summary = {
        "index": info.name, "kind": info.kind, "vectors": info.rows, "dim": info.dim, "metric": info.metric,
        "megabytes": round((folder / FAISS).stat().st_size / 1e6, 3),
    }  # fmt: skip
    if info.lists:
        summary |= {"lists": info.lists, "nprobe": info.nprobe}
    if info.recall:
        summary["recall_at_10"] = info.recall["at_10"]
    return summary
