"""Batches measured in seconds, in an order that is a pure function of (seed, epoch).

A `BatchPlan` says which items form which microbatch; `Batches` reads them. Training sees one endless stream of
microbatches g = 0, 1, 2, ... in which epochs follow one another, and process r of W takes every W-th of them, so
every process makes equally many steps and a place in the stream is two numbers: (epoch, position).
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from trunkline.errors import ConfigError, DataError, StorageError, TrainingError

BUCKET_RATIO = (
    1.1  # by default items in one bucket differ by at most 10 %, so padding wastes little
)


def item_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Return the generator for one item in one epoch: the only source of per-item randomness."""
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=16).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Which items form which batch in each epoch.

    Attributes:
        durations: (items,) seconds.
        batch_seconds: audio per batch, or ((first epoch, seconds), ...) to let batches grow.
        max_seconds: an item counts (and is to be cropped) to at most this long.
        seed: with the epoch, decides the order.
        weights: (items,) how often an item is drawn, relative to the others; an epoch always draws as many items
            as there are. None: each item once an epoch.
        shuffle: False gives the same batches in the same order every epoch, shortest first.
        bucket_ratio: items of one batch differ in length by at most this factor; where labels go with lengths, narrow
            buckets make lopsided batches.
    """

    durations: np.ndarray
    batch_seconds: float | tuple[tuple[int, float], ...]
    max_seconds: float = float("inf")
    seed: int = 0
    weights: np.ndarray | None = None
    shuffle: bool = True
    bucket_ratio: float = BUCKET_RATIO

    def __post_init__(self) -> None:
        durations = np.asarray(self.durations, dtype=np.float64)
        object.__setattr__(self, "durations", durations)
        if durations.ndim != 1 or not len(durations):
            raise DataError("There is nothing to train on: the plan holds no items.")
        bad = np.flatnonzero(~(np.isfinite(durations) & (durations >= 0)))
        if len(bad):
            raise DataError(
                f"Item {bad[0]} has the duration {durations[bad[0]]} s; run `trunkline data check`."
            )
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds is {self.max_seconds}; it must be more than 0.")
        if not self.bucket_ratio > 1:
            raise ConfigError(f"bucket_ratio is {self.bucket_ratio}; it must be more than 1.")
        stages = self._stages()
        if stages[0][0] != 0 or any(a[0] >= b[0] for a, b in zip(stages, stages[1:], strict=False)):
            raise ConfigError(
                f"batch_seconds is {self.batch_seconds}; its epochs must rise from 0."
            )
        if not all(seconds > 0 for _, seconds in stages):
            raise ConfigError(f"batch_seconds is {self.batch_seconds}; it must be more than 0.")
        if self.weights is not None:
            weights = np.asarray(self.weights, dtype=np.float64)
            object.__setattr__(self, "weights", weights)
            if weights.shape != durations.shape or not (
                np.all(weights >= 0) and 0 < weights.sum() < np.inf
            ):
                raise ConfigError(f"weights must be {len(durations)} numbers >= 0, not all 0.")

    def _stages(self) -> tuple[tuple[int, float], ...]:
        given = self.batch_seconds
        return ((0, float(given)),) if isinstance(given, (int, float)) else tuple(given)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of one epoch, each an array of item indices."""
        rng = np.random.default_rng([self.seed, epoch])
        items = self._draw(rng)
        seconds = np.minimum(self.durations, self.max_seconds)
        bucket = np.floor(np.log(np.maximum(seconds, 1e-3)) / np.log(self.bucket_ratio))[items]
        items = items[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(seconds[items])
        budget = [value for first, value in self._stages() if first <= epoch][-1]
        batches, start, used = [], 0, 0.0
        while start < len(items):
            stop = max(start + 1, int(np.searchsorted(ends, used + budget, side="right")))
            batches.append(items[start:stop])
            start, used = stop, ends[stop - 1]
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the items of an epoch, in random order: each floor or ceil of its expected number of times."""
        count = len(self.durations)
        items = rng.permutation(count) if self.shuffle else np.arange(count)
        if self.weights is None:
            return items
        expected = np.cumsum(self.weights[items]) * (count / self.weights.sum())
        drawn = np.floor(np.append(0.0, expected) + rng.random())
        return np.repeat(items, np.diff(drawn).astype(np.int64))

    def describe(self) -> dict[str, Any]:
        """Return all that decides the batches, long arrays as SHA-256; a resumed run must have the same."""
        return {
            "items": len(self.durations),
            "durations": hashlib.sha256(self.durations.tobytes()).hexdigest(),
            "batch_seconds": self.batch_seconds,
            "max_seconds": self.max_seconds if np.isfinite(self.max_seconds) else None,
            "seed": self.seed,
            "weights": None
            if self.weights is None
            else hashlib.sha256(self.weights.tobytes()).hexdigest(),
            "shuffle": self.shuffle,
            # Left out where it is the default, so that runs from before there was a choice can go on.
            **({} if self.bucket_ratio == BUCKET_RATIO else {"bucket_ratio": self.bucket_ratio}),
        }


class Dataset(Protocol):
    """What `Batches` reads from. It may offer `source(index) -> {"file": str, "line": int}` for fault reports."""

    @property
    def ids(self) -> Sequence[str]:
        """The name of each item."""
        ...

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return item `index` for `epoch`, given (epoch, index); raise DataError or StorageError if unreadable."""


class Microbatch(NamedTuple):
    """One entry of the stream, as one process gets it."""

    batch: Any | None  # what collate made, or None when no item could be read
    ids: list[str]  # the items in it
    faults: list[dict[str, Any]]  # the unreadable ones: id, file, line, reason
    seen: np.ndarray  # indices of the items that all processes were given in this round
    after: tuple[int, int]  # (epoch, position) of the stream after this round


class _Work(NamedTuple):
    epoch: int
    indices: np.ndarray
    seen: np.ndarray
    after: tuple[int, int]


class Batches:
    """Reads the microbatches of a plan, in this process or in worker processes.

    Args:
        dataset: gives items by (epoch, index) and knows nothing of workers.
        plan: which items form which batch.
        collate: list of items -> batch.
        workers: reading processes; 0 reads in the training process.
        timeout: seconds to wait for a worker before the run stops; 0 waits for ever.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
        timeout: float = 0.0,
    ) -> None:
        if len(dataset.ids) != len(plan.durations):
            raise ConfigError(
                f"The dataset has {len(dataset.ids)} items, its plan {len(plan.durations)}."
            )
        self.dataset, self.plan, self.collate = dataset, plan, collate
        self.workers, self.timeout = workers, timeout

    def describe(self) -> dict[str, Any]:
        """Return all that decides the stream: the plan and the ids of the items."""
        digest = hashlib.sha256()
        for name in self.dataset.ids:
            digest.update(name.encode() + b"\0")
        return {**self.plan.describe(), "ids": digest.hexdigest()}

    def stream(
        self, epoch: int = 0, position: int = 0, *, rank: int = 0, world: int = 1
    ) -> Generator[Microbatch, None, None]:
        """Yield, without end, this process's microbatches from (epoch, position) on; nothing before is read.

        Raises:
            TrainingError: a worker died or did not answer in time.
        """
        work = self._work(epoch, position, rank, world)
        try:
            yield from self._loader(work) if self.workers else map(self.__getitem__, work)
        except (RuntimeError, EOFError, ConnectionError) as error:
            if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
                raise
            died = "" if isinstance(error, RuntimeError) else "A DataLoader worker ended: "
            raise TrainingError(
                f"{died}{str(error) or 'nothing more came'}. Set workers=0 to see why, or fewer if memory ran out."
            ) from error

    def _loader(self, work: Iterable[_Work]) -> Iterator[Microbatch]:
        from multiprocessing import get_all_start_methods

        import torch
        from torch.utils.data import DataLoader

        loader = DataLoader(
            self,  # type: ignore[arg-type]
            sampler=work,
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self.workers,
            timeout=self.timeout,
            worker_init_fn=_leave_process_group,
            # Forked workers see that a killed trainer is gone; a fork server's would wait for ever.
            multiprocessing_context="fork" if "fork" in get_all_start_methods() else None,
            generator=torch.Generator(),  # so that starting workers leaves the default generator alone
            pin_memory=torch.cuda.is_available(),
        )
        before = signal.getsignal(signal.SIGCHLD)
        iterator = iter(loader)
        # torch now raises from a signal handler when a worker dies, amid whatever runs, be it the saving of a
        # checkpoint. Without the handler it finds out, and raises, when the next batch is asked for.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return iterator

    def _work(self, epoch: int, position: int, rank: int, world: int) -> Iterator[_Work]:
        stream = self._indices(epoch, position)
        while True:
            group = [next(stream) for _ in range(world)]
            epoch, _, indices = group[rank]
            last_epoch, last_position, _ = group[-1]
            seen = np.concatenate([entry[2] for entry in group])
            yield _Work(epoch, indices, seen, (last_epoch, last_position + 1))

    def _indices(self, epoch: int, position: int) -> Iterator[tuple[int, int, np.ndarray]]:
        while True:
            batches = self.plan.epoch(epoch)
            yield from ((epoch, at, batches[at]) for at in range(position, len(batches)))
            epoch, position = epoch + 1, 0

    def __getitem__(self, work: _Work) -> Microbatch:
        """Read one microbatch; items that cannot be read become faults."""
        items, ids, faults = [], [], []
        for index in work.indices.tolist():
            try:
                items.append(self.dataset[work.epoch, index])
                ids.append(self.dataset.ids[index])
            except (DataError, StorageError) as error:
                faults.append(self._fault(index, error))
        return Microbatch(
            self.collate(items) if items else None, ids, faults, work.seen, work.after
        )

    def _fault(self, index: int, error: Exception) -> dict[str, Any]:
        source = getattr(self.dataset, "source", None)
        where = source(index) if source else {}
        return {"id": self.dataset.ids[index], **where, "reason": str(error)}


def _as_is(batch: Any) -> Any:
    return batch


def _leave_process_group(_: int) -> None:
    """Keep Ctrl-C and group-wide SIGTERM from workers: the training process ends them once it has saved."""
    os.setpgid(0, 0)
