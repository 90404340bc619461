"""What an export has to do: which spaces, which cuts, in which shards, and which recordings have changed."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embstore.poolings import WIDTHS
from embstore.schema import FRAMES, Space
from trunkline import __version__
from trunkline.errors import DataError, UsageError, nearest
from trunkline.prepare.licence import NOT_STATED, licences
from trunkline.rows import FIELDS

if TYPE_CHECKING:
    from embstore.store import EmbeddingStore
    from encoder import Backbone
    from trunkline.manifest import Manifest

MAX_CUTS = 4096
"""Cuts of one shard at most."""


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class ExportOptions:
    """What `python -m embstore.export` was asked; plain values that any worker process can be sent."""

    manifest: str
    backbone: str
    store: str
    pooled: tuple[str, ...] = ("mean",)
    segments: str = "10s"
    frames: bool = False
    npy: bool = False
    precision: str = "m10"
    """Of frames."""
    layer: str = "last"
    context: str = "64,128,128"
    heads: tuple[tuple[str, str], ...] = ()
    """Name and directory of heads that fill columns."""
    keep_meta: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 0
    """Of torch; 0 leaves it as it is."""
    audio_hash: bool = True
    shard_hours: float = 1.0


def with_licence(options: ExportOptions, manifest: Manifest) -> ExportOptions:
    """Return options that keep the licences of the recordings, if the manifest states any."""
    stated = set(licences(manifest)) - {NOT_STATED}
    if not stated or "licence" in options.keep_meta:
        return options
    return replace(options, keep_meta=(*options.keep_meta, "licence"))


def spaces_of(
    options: ExportOptions,
    backbone: Backbone,
    manifest: Manifest,
    learnt: Mapping[str, tuple[str, int]],
) -> list[Space]:
    """Return the spaces of an export: one for each pooling, and one for frames.

    Args:
        options: what was asked.
        backbone: whose vectors they are.
        manifest: has the columns that are kept.
        learnt: poolings of heads, by what was asked: as a space names them, and how many numbers they give.
    """
    if options.layer.isdecimal() and int(options.layer) > backbone.num_layers:
        raise UsageError(f"--layer {options.layer}: the layers are 0 to {backbone.num_layers}.")
    columns = {f"meta_{name}": _type_of(manifest, name) for name in options.keep_meta}
    for name, _ in options.heads:
        columns |= {f"{name}_label": "string", f"{name}_score": "float32"}
        columns[f"{name}_confidence"] = "float32"
    shared: dict[str, Any] = {
        "backbone": backbone.fingerprint,
        "layer": options.layer,
        "context": options.context,
        "sample_rate": backbone.sample_rate,
        "frame_shift": backbone.frame_shift,
        "first_time": float(backbone.times(1)[0]),
        "columns": columns,
        "about": {"backbone": Path(options.backbone).name, "toolkit": __version__},
    }
    spaces = [
        Space(
            pooling=learnt.get(name, (name, 0))[0],
            dim=learnt.get(name, (name, 0))[1] or WIDTHS.get(name, 1) * backbone.d_model,
            settings={"segments": options.segments if name in WIDTHS else "none"},
            **shared,
        )
        for name in options.pooled
    ]
    if options.frames or options.npy:
        files = "+".join(["parquet"] * options.frames + ["npy"] * options.npy)
        shared |= {"pooling": FRAMES, "dim": backbone.d_model, "settings": {"files": files}}
        spaces.append(Space(precision=options.precision, **shared))
    if not spaces:
        raise UsageError("Nothing to export: give --pooled, --frames or --npy.")
    return spaces


def _type_of(manifest: Manifest, name: str) -> str:
    """Return the type of a column that holds what the manifest says under a name."""
    kinds = {type(value) for value in manifest.column(name) if value is not None and value == value}
    if not kinds:
        there = {key for row in manifest.rows() for key in (*row, *row["labels"])}
        raise UsageError(
            f"--keep-meta {name}: no cut of the manifest states it."
            f"{nearest(name, (there | set(FIELDS)) - {'json', 'line', 'labels'})}"
        )
    for allowed, named in (({bool}, "bool"), ({int, np.int64}, "int64")):
        if kinds <= allowed:
            return named
    return "float64" if kinds <= {int, float, np.int64, np.float64} else "string"


def meta_values(space: Space, cut: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return what a cut states for the columns that are kept."""
    values = {}
    for name in names:
        value, kind = cut.label(name), space.columns[f"meta_{name}"]
        if value is None:
            values[f"meta_{name}"] = None
        elif kind == "string":
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            values[f"meta_{name}"] = plain
        else:
            values[f"meta_{name}"] = float(value) if kind == "float64" else value
    return values


class Plan(NamedTuple):
    """The cuts of a manifest in shards, the same in every process that reads the same manifest."""

    shards: list[np.ndarray]
    """Places in the manifest, sorted by call, channel and start."""
    hours: float


def plan(manifest: Manifest, shard_hours: float) -> Plan:
    """Part a manifest into shards of about `shard_hours`, at most `MAX_CUTS` cuts each; calls stay together."""
    channel = np.nan_to_num(manifest.column("channel").astype(np.float64))
    start = np.nan_to_num(manifest.column("start").astype(np.float64))
    calls = pa.array(manifest.column("call_id"), pa.string())
    table = pa.table({"call": calls, "channel": channel, "start": start})
    order = pc.sort_indices(
        table, [(name, "ascending") for name in ("call", "channel", "start")]
    ).to_numpy()
    hours = manifest.durations / 3600
    total = np.cumsum(hours[order])
    # A shard ends where the running total passes a multiple of its length, or with too many cuts.
    numbers = np.floor((total - hours[order]) / shard_hours).astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers)) + 1
    shards = []
    for part in np.split(order, edges):
        shards += [part[first : first + MAX_CUTS] for first in range(0, len(part), MAX_CUTS)]
    return Plan(shards, float(total[-1]))


class Keys(NamedTuple):
    """The keys of a manifest's cuts, and those of their speakers (None: unknown)."""

    cuts: list[bytes]
    speakers: list[bytes | None]


def keys_of(store: EmbeddingStore, manifest: Manifest) -> Keys:
    """Return the keys of all cuts.

    Raises:
        DataError: two cuts are the same to the store, so that one would be lost.
    """
    keys = store.log.keys
    channels = np.nan_to_num(manifest.column("channel").astype(np.float64)).astype(np.int64)
    calls, ids = manifest.column("call_id").tolist(), manifest.ids.tolist()
    cuts = list(map(keys.cut, calls, ids, channels.tolist()))
    if len(set(cuts)) != len(cuts):
        seen: set[bytes] = set()
        twice = next(n for n, cut in enumerate(cuts) if cut in seen or seen.add(cut))
        raise DataError(
            f"{manifest.path}: several cuts have the id {ids[twice]!r} in call {calls[twice]!r}; give each its own."
        )
    codes, names = manifest.codes("speaker")
    spoken = [keys.speaker(name) for name in names]
    return Keys(cuts, [spoken[code] if code >= 0 else None for code in codes.tolist()])


class AudioFacts(NamedTuple):
    """What a recording was when it was exported."""

    bytes: int
    mtime: datetime.datetime
    sha256: str | None


def audio_facts(path: Path, hashed: bool) -> AudioFacts:
    """Return what a recording is now; raises OSError."""
    stat = path.stat()
    digest = None
    if hashed:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    mtime = _EPOCH + datetime.timedelta(microseconds=stat.st_mtime_ns // 1000)
    return AudioFacts(stat.st_size, mtime, digest)


def changed_cuts(store: EmbeddingStore, space: Space, manifest: Manifest) -> list[int]:
    """Return the places of cuts whose recording is another than when it was exported.

    Size and time of change are compared for all, the SHA-256 only where these differ; a file that is gone is not
    changed.
    """
    paths: list[str] = manifest.column("audio_filepath").tolist()
    channels = np.nan_to_num(manifest.column("channel").astype(np.float64)).astype(np.int8)
    mine = pa.table(
        {
            "call_id": pa.array(manifest.column("call_id"), pa.string()),
            "cut_id": pa.array(manifest.ids, pa.string()),
            "channel": channels,
            "place": np.arange(len(manifest)),
        }
    )
    names = [*mine.column_names[:3], "audio_bytes", "audio_mtime", "audio_sha256"]
    batches = list(store.scan("calls", space, names))
    if not batches:
        return []
    known = mine.join(pa.Table.from_batches(batches), mine.column_names[:3], join_type="inner")
    now: dict[str, tuple[int, int] | None] = {}
    changed: list[int] = []
    digests: dict[str, str | None] = {}
    mtimes = known.column("audio_mtime").cast(pa.int64()).to_pylist()
    columns = (known.column(name).to_pylist() for name in ("place", "audio_bytes", "audio_sha256"))
    for place, size, digest, mtime in zip(*columns, mtimes, strict=True):
        path = paths[place]
        if path not in now:
            now[path] = _stat(path)
        if size is None or now[path] is None or now[path] == (size, mtime):
            continue
        if digest is not None and path not in digests:
            digests[path] = audio_facts(Path(path), True).sha256
        if digest is None or digests[path] != digest:
            changed.append(place)
    return sorted(changed)


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns // 1000
