"""A store as a PyTorch data set: train heads from vectors, without audio and without the backbone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from embstore.schema import VECTORS, vectors_of
from embstore.store import EmbeddingStore


class StoreDataset(IterableDataset[dict[str, Any]]):
    """Rows of a table as dictionaries; frames come as whole cuts.

    Items are `vector` (dim,) or, for frames, `frames` (frames, dim) as tensors, `call_id`, `cut_id`, `channel`, and
    the columns that were asked for. Files are taken in an order drawn from (seed, epoch), and the rows within each
    too; workers of a loader and processes of a run (RANK, WORLD_SIZE) take different files.
    """

    def __init__(
        self,
        path: str,
        table: str,
        space: str,
        columns: Sequence[str],
        where: str | None,
        seed: int | None,
    ) -> None:
        self.path, self.table, self.space = path, table, space
        self.columns, self.where, self.seed = list(columns), where, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; as `DistributedSampler.set_epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        store = EmbeddingStore.open(self.path)
        files = store.state.files_of(self.table, self.space)
        chance = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        order = np.arange(len(files)) if chance is None else chance.permutation(len(files))
        place, places = _place()
        for number in order[place::places]:
            rows = store.rows_of(files[number], self._names(), self.where)
            # Each file has its own draw, so that an item's place does not depend on how many workers there are.
            own = None if self.seed is None else (self.seed, self.epoch, int(number))
            yield from self._items(rows, own)

    def _names(self) -> list[str]:
        return list(dict.fromkeys(["call_id", "cut_id", "channel", *self.columns, VECTORS]))

    def _items(self, rows: pa.Table, seed: tuple[int, ...] | None) -> Iterator[dict[str, Any]]:
        vectors = vectors_of(rows.column(VECTORS))
        keys = rows.drop_columns([VECTORS])
        starts = _starts(keys) if self.table == "frames" else np.arange(len(rows))
        ends = np.append(starts[1:], len(rows))
        order = np.arange(len(starts))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(len(starts))
        name = "frames" if self.table == "frames" else "vector"
        for number in order:
            first, last = int(starts[number]), int(ends[number])
            values = vectors[first:last] if name == "frames" else vectors[first]
            item = {column: keys.column(column)[first].as_py() for column in keys.column_names}
            yield item | {name: torch.from_numpy(values.copy())}


def _starts(keys: pa.Table) -> np.ndarray:
    """Return the rows where another cut begins."""
    if not len(keys):
        return np.zeros(0, np.int64)
    new = np.zeros(len(keys), bool)
    new[0] = True
    for name in ("call_id", "cut_id", "channel"):
        values = keys.column(name).combine_chunks().dictionary_encode().indices.to_numpy()
        new[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(new)


def _place() -> tuple[int, int]:
    """Return which of how many readers this is."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    worker = get_worker_info()
    if worker is None:
        return rank, world
    return rank * worker.num_workers + worker.id, world * worker.num_workers
