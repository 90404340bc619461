"""Vectors of a sample of cuts, computed again from the recordings and compared with those that are stored."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from embstore.checks import Fault
from embstore.layers import layer_frames, wanted_layers
from embstore.poolings import pooler
from embstore.schema import FRAMES, VECTORS, Space, vectors_of
from embstore.store import EmbeddingStore
from encoder import Backbone, Context, load_backbone
from trunkline import audio
from trunkline.errors import TrunklineError, UsageError


def compare(
    store: EmbeddingStore, source: str, sample: int, tolerance: float, seed: int = 0
) -> tuple[int, list[Fault]]:
    """Encode a sample of each space's cuts again; return how many were, and what differs.

    A cut whose recording is gone cannot be compared and is not counted; one whose recording has changed is a fault.

    Raises:
        UsageError: no space of the store was made by this backbone.
    """
    backbone = load_backbone(source)
    spaces = [each for each in store.spaces().values() if each.backbone == backbone.fingerprint]
    if not spaces:
        raise UsageError(
            f"No space of {store.path} was made by {source} ({(backbone.fingerprint or '')[:12]}); there are "
            f"{', '.join(sorted({each.backbone[:12] for each in store.spaces().values()})) or 'none'}."
        )
    count, faults = 0, []
    for space in spaces:
        if ":" in space.pooling:
            continue  # needs the head, which the store does not hold
        for row in _sample(store, space, sample, seed):
            try:
                worst = _difference(store, space, backbone, row)
            except FileNotFoundError:
                continue
            except TrunklineError as error:
                faults.append(Fault("vectors", space.name, f"cut {row['cut_id']!r}: {error}"))
                continue
            count += 1
            if not worst <= tolerance:
                faults.append(
                    Fault(
                        "vectors",
                        space.name,
                        f"cut {row['cut_id']!r} of call {row['call_id']!r} differs from a fresh one by {worst:.2g} of "
                        "its length",
                    )
                )
    return count, faults


def _sample(
    store: EmbeddingStore, space: Space, size: int, seed: int
) -> Iterator[dict[str, object]]:
    """Return cuts drawn from all (reservoir sampling, Vitter 1985, algorithm R)."""
    chance = random.Random(seed)
    names = ["call_id", "cut_id", "channel", "start_ms", "duration_ms", "file"]
    kept: list[dict[str, object]] = []
    seen = 0
    for batch in store.scan("calls", space, names):
        for row in batch.to_pylist():
            seen += 1
            if len(kept) < size:
                kept.append(row)
            elif (place := chance.randrange(seen)) < size:
                kept[place] = row
    return iter(kept)


def _difference(
    store: EmbeddingStore, space: Space, backbone: Backbone, row: dict[str, object]
) -> float:
    """Return the largest difference of a vector from a fresh one, as a share of its length."""
    path, start = str(row["file"]), int(row["start_ms"]) / 1000  # type: ignore[call-overload]
    with open(path, "rb"):
        about = audio.info(path)
    end = start + int(row["duration_ms"]) / 1000  # type: ignore[call-overload]
    samples = audio.blocks(
        path,
        channel=int(row["channel"]) if about.channels > 1 else None,  # type: ignore[call-overload]
        start=start,
        end=None if start == 0 and abs(end - about.duration) < 0.01 else end,
        sample_rate=backbone.sample_rate,
    )
    pool = None if space.pooling == FRAMES else pooler(space.pooling)
    pieces = []
    for encoded in backbone.encode_blocks(
        samples, context=Context.parse(space.context), layers=wanted_layers(space.layer)
    ):
        frames = layer_frames(encoded, space.layer)
        pieces.append(frames) if pool is None else pool.update(frames)
    fresh = np.concatenate(pieces) if pool is None else pool.result()
    table = "frames" if pool is None else "pooled"
    if pool is None and "parquet" not in space.settings.get("files", "parquet"):
        return 0.0
    rows = store.fetch(str(row["call_id"]), table=table, space=space)
    rows = rows.filter(
        (np.array(rows.column("cut_id").to_pylist(), object) == row["cut_id"])
        & (rows.column("channel").to_numpy() == row["channel"])
    )
    stored = vectors_of(rows.column(VECTORS))
    if fresh is None or stored.shape != np.atleast_2d(fresh).shape:
        return float("inf")
    error = np.linalg.norm(stored - np.atleast_2d(fresh), axis=1)
    return float((error / np.maximum(np.linalg.norm(stored, axis=1), 1e-9)).max())
