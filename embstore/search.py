"""`python -m embstore.search`: the calls or segments nearest to one of the store, a recording, or a vector."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embstore.options import add_store, chosen_space
from trunkline.command import Summary, run
from trunkline.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from embstore.schema import Space
    from embstore.store import EmbeddingStore

SHOWN = ("rank", "score", "call_id", "channel", "start_ms", "end_ms", "duration_ms", "t_ms")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_search, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.search",
        description="Find what is nearest to a call of the store, a recording or a vector. Uses the store's index "
        "where there is one, else reads all vectors.",
        epilog='example: python -m embstore.search store/ --like call-17 --channel 1 --where "duration_ms > 2000"',
    )
    add_store(parser)
    query = parser.add_argument_group("what to search for (one of these)")
    query.add_argument(
        "--like",
        metavar="CALL[@START-END]",
        help="a call of the store, or with --table segments a stretch, in seconds",
    )
    query.add_argument("--audio", metavar="FILE", help="a recording, encoded with --backbone")
    query.add_argument(
        "--vector", metavar="FILE", help=".npy with one vector, or several (queries, dim)"
    )
    option = parser.add_argument
    option("-k", type=int, default=10, help="how many to find, default 10")
    option("--channel", help="of the call or recording: 0, 1, agent, customer")
    option("--backbone", metavar="DIR", help="the backbone the store was made with, for --audio")
    option("--index", metavar="NAME", help="default: the index of the table and space")
    option(
        "--exact",
        action="store_true",
        help="compare with every vector, also where the index is approximate",
    )
    option("--columns", metavar="A,B", help="further columns to show, also those of calls")
    option(
        "--out", type=Path, metavar="FILE", help="also write all columns as .parquet, .json or .csv"
    )
    option(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write a page with what was found, to listen to",
    )
    return parser


def search(
    store: EmbeddingStore,
    queries: np.ndarray,
    k: int = 10,
    *,
    table: str = "pooled",
    space: str | None = None,
    where: str | None = None,
    exact: bool = False,
    index: str | None = None,
) -> pa.Table:
    """Return the k nearest rows of each query, best first; by the index where there is one, else by all vectors.

    Args:
        store: where to search.
        queries: (queries, dim) or (dim,) float32.
        k: rows for each query; fewer where a condition leaves fewer.
        table: pooled, segments or frames.
        space: its name or the beginning of it; needed where there are several.
        where: a condition over columns of the table and of its calls, see `embstore.where`.
        exact: compare with every vector.
        index: name of an index, by default the one of the table and space.

    Returns:
        `query` (number), `rank` (from 1), `score` (cosine), and the columns of the table.

    Raises:
        UsageError: no such space or index, queries of another dimension, a condition that cannot be asked.
        DataError: a file is damaged, or a query is not finite.
    """
    from embstore.index import default_name
    from embstore.index.folder import newest
    from embstore.index.opened import Index

    chosen = chosen_space(store, table, space)
    name = index or default_name(table, chosen.name)
    if index is None and newest(store.path / "index" / name) is None:
        return Index.without_faiss(store, table, chosen).search(queries, k, where=where)
    opened = Index.open(store, name)
    if (opened.info.table, opened.info.space) != (table, chosen.name):
        raise UsageError(
            f"The index {name!r} is of {opened.info.table} in {opened.info.space}, not of {table} in {chosen.name}."
        )
    return opened.search(queries, k, where=where, exact=exact)


def vector_of(
    store: EmbeddingStore,
    like: str,
    *,
    table: str = "pooled",
    space: str | None = None,
    channel: int | None = None,
) -> tuple[np.ndarray, str]:
    """Return the vector (dim,) of a call, or the mean over a stretch `CALL@START-END` in seconds, and the call's id.

    Raises:
        UsageError: the call has several channels or cuts and none is chosen.
        DataError: the store has no such call, or nothing in the stretch.
    """
    chosen = chosen_space(store, table, space)
    call, start, end = like, None, None
    rows = store.fetch(call, table=table, space=chosen, channel=channel)
    if not len(rows) and "@" in like:
        call, start, end = _stretch(like)
        rows = store.fetch(call, table=table, space=chosen, channel=channel, start=start, end=end)
    if not len(rows):
        where = "" if start is None else f" from {start:g} to {end:g} s"
        channels = "" if channel is None else f", channel {channel}"
        raise DataError(f"{store.path} has no {table} of call {call!r}{channels}{where}.")
    for column, option in (("channel", "--channel"), ("cut_id", '--where "cut_id = ..."')):
        values = sorted(set(rows[column].to_pylist()))
        if len(values) > 1 and (column == "channel" or table == "pooled"):
            raise UsageError(
                f"Call {call!r} has vectors of {column} {', '.join(map(str, values[:5]))}; choose one with {option}."
            )
    from embstore.schema import VECTORS, vectors_of

    return vectors_of(rows[VECTORS]).mean(axis=0), call


def _stretch(like: str) -> tuple[str, float, float]:
    """Return call, start and end of `CALL@START-END`, or of `CALL@START`: one second from there."""
    call, _, times = like.rpartition("@")
    first, dash, last = times.partition("-")
    try:
        start = float(first)
        end = float(last) if dash else start + 1.0
    except ValueError as error:
        raise UsageError(
            f"--like {like!r}: write a stretch as CALL@35-41.5, in seconds."
        ) from error
    if not 0 <= start < end:
        raise UsageError(f"--like {like!r}: the stretch must end after it starts.")
    return call, start, end


def _search(arguments: argparse.Namespace) -> Summary:
    given = [name for name in ("like", "audio", "vector") if getattr(arguments, name)]
    if len(given) != 1:
        raise UsageError("Give one of --like CALL, --audio FILE and --vector FILE.")
    if arguments.out and arguments.out.suffix not in (".parquet", ".json", ".csv"):
        raise UsageError(f"--out {arguments.out}: the name must end in .parquet, .json or .csv.")
    from trunkline import audio

    channel = audio.ROLES.get(arguments.channel, arguments.channel)
    if channel is not None and not str(channel).isdecimal():
        raise UsageError(f"--channel {arguments.channel!r}: 0, 1, agent or customer.")
    channel = None if channel is None else int(channel)
    from embstore.store import EmbeddingStore

    store = EmbeddingStore.open(arguments.store)
    space = chosen_space(store, arguments.table, arguments.space)
    where = arguments.where
    if arguments.like:
        queries, call = vector_of(
            store, arguments.like, table=arguments.table, space=space.name, channel=channel
        )
        # What a call is most like is itself.
        others = "call_id != '{}'".format(call.replace("'", "''"))
        where = others if where is None else f"({where}) and {others}"
    elif arguments.audio:
        queries = _encoded(arguments.audio, arguments.backbone, space, channel)
    else:
        queries = _loaded(arguments.vector)
    found = search(
        store, queries, arguments.k, table=arguments.table, space=space.name, where=where,
        exact=arguments.exact, index=arguments.index,
    )  # fmt: skip
    return _shown(store, found, space, arguments)


def _loaded(path: str) -> np.ndarray:
    import numpy as np

    try:
        vectors = np.load(path, allow_pickle=False)
    except OSError as error:
        raise StorageError(f"Cannot read --vector {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"--vector {path} is no .npy file of numbers: {error}.") from error
    if (
        not isinstance(vectors, np.ndarray)
        or vectors.ndim not in (1, 2)
        or vectors.dtype.kind not in "fiu"
    ):
        raise DataError(f"--vector {path} must hold numbers in the shape (dim,) or (queries, dim).")
    return vectors.astype(np.float32)


def _encoded(path: str, folder: str | None, space: Space, channel: int | None) -> np.ndarray:
    """Return the vector of a recording as the export would make it."""
    if folder is None:
        raise UsageError(
            f"--audio needs --backbone: the one whose fingerprint begins {space.backbone[:12]}."
        )
    from embstore.poolings import WIDTHS, pooler

    if space.pooling not in WIDTHS:
        raise UsageError(
            f"--audio cannot make vectors of {space.pooling!r} pooling. Use a space of one of {', '.join(WIDTHS)}, "
            "or --vector."
        )
    from encoder import Context, load_backbone

    backbone = load_backbone(folder)
    if backbone.fingerprint != space.backbone:
        raise UsageError(
            f"{folder} is another backbone (fingerprint {str(backbone.fingerprint)[:12]}) than the one of the space "
            f"{space.name} ({space.backbone[:12]}); their vectors cannot be compared."
        )
    layers: Any = {"last": None, "mix": "all"}.get(space.layer, space.layer)
    layers = [int(layers)] if isinstance(layers, str) and layers.isdecimal() else layers
    pooled = pooler(space.pooling)
    for encoded in backbone.encode_blocks(
        path, channel=channel, context=Context.parse(space.context), layers=layers
    ):
        frames = encoded.frames[0]
        if encoded.layers is not None:
            frames = encoded.layers[1:, 0].mean(0) if space.layer == "mix" else encoded.layers[0, 0]
        pooled.update(frames.float().numpy())
    vector = pooled.result()
    if vector is None:
        raise DataError(f"{path} is too short to have a frame.")
    return vector


def _shown(
    store: EmbeddingStore, found: pa.Table, space: Space, arguments: argparse.Namespace
) -> Summary:
    from embstore.joined import with_calls

    full = with_calls(store, found, space)
    names = [name for name in SHOWN if name in found.column_names]
    if len(set(found["query"].to_pylist())) > 1:
        names.insert(0, "query")
    if arguments.columns:
        from embstore.where import check_names

        wanted = [name.strip() for name in arguments.columns.split(",")]
        check_names(wanted, full.column_names, f"--columns {arguments.columns}")
        names += [name for name in wanted if name not in names]
    if arguments.out:
        from embstore.joined import write_table

        write_table(full, arguments.out)
    if arguments.html:
        from embstore.page import write_page

        write_page(full, names, arguments.html, title=_title(arguments))
    return {"tables": {"nearest": full.select(names).to_pylist()}}


def _title(arguments: argparse.Namespace) -> str:
    query = arguments.like or arguments.audio or arguments.vector
    condition = f" where {arguments.where}" if arguments.where else ""
    return f"Nearest to {query}{condition}"


if __name__ == "__main__":
    raise SystemExit(main())
