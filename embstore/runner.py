"""Ways to walk through the shards of an export: in this process, in many, or (`embstore.scale`) on a Ray cluster."""

from __future__ import annotations

import collections
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from embstore.exporter import Exporter, ShardReport
from embstore.plan import ExportOptions
from trunkline.errors import StorageError, UsageError

_exporter: Exporter | None = None  # of a worker process


def order(count: int, shard: tuple[int, int]) -> list[int]:
    """Return the shards that this process walks through, in its order.

    `shard` (k, n) takes every n-th. RANK and WORLD_SIZE (torchrun) or SLURM_PROCID and SLURM_NTASKS choose only where
    the walk begins: every process walks through all shards and leaves out what is done, so losing one loses nothing.
    """
    own = list(range(shard[0], count, shard[1]))
    rank, world = _place()
    first = rank * len(own) // world
    return own[first:] + own[:first]


def _place() -> tuple[int, int]:
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            try:
                place = int(os.environ[rank]), int(os.environ[world])
            except ValueError:
                place = -1, 0
            if not 0 <= place[0] < place[1]:
                raise UsageError(
                    f"{rank}={os.environ[rank]} and {world}={os.environ[world]} are no place among processes."
                )
            return place
    return 0, 1


def parse_shard(text: str) -> tuple[int, int]:
    """Read `k/n`, k from 0 to n - 1."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise UsageError(f"--shard {text!r}: write k/n with k from 0 to n - 1, such as 0/4.")
    return int(first), int(second)


def run_here(exporter: Exporter, numbers: Sequence[int]) -> Iterator[ShardReport]:
    """Export shards one after the other; where another process is at the same one, go on elsewhere."""
    waiting = collections.deque(numbers)
    while waiting:
        report = exporter.export_shard(waiting.popleft())
        if report.already and waiting:
            waiting.rotate(-random.randrange(len(waiting)))
        yield report


def run_processes(
    options: ExportOptions, numbers: Sequence[int], workers: int
) -> Iterator[ShardReport]:
    """Export shards in `workers` processes, each with a backbone of its own.

    Raises:
        StorageError: a process died; what was committed stays.
    """
    waiting = collections.deque(numbers)
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (options,)) as pool:
        running = {
            pool.submit(_export, waiting.popleft()) for _ in range(min(workers, len(waiting)))
        }
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    report = future.result()
                    if report.already and waiting:
                        waiting.rotate(-random.randrange(len(waiting)))
                    if waiting:
                        running.add(pool.submit(_export, waiting.popleft()))
                    yield report
        except BrokenProcessPool as error:
            raise StorageError(
                "A worker process died (out of memory?). What is committed stays; run again, with fewer --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(options: ExportOptions) -> None:
    global _exporter
    _exporter = Exporter(options)


def _export(number: int) -> ShardReport:
    assert _exporter is not None
    return _exporter.export_shard(number)
