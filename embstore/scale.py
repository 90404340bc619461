"""Export on a Ray cluster (extra `scale`): one actor per GPU or per few threads, through the same commit log.

An actor holds a backbone and exports whole shards; only counts come back, frames never pass through Ray's object
store. What Ray loses with a node is done again by another actor: the log takes each cut once, so nothing is doubled.
Every node needs the toolkit, the recordings, the backbone and the store under the same paths.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from embstore.exporter import Exporter, ShardReport
from embstore.plan import ExportOptions
from trunkline import log
from trunkline.errors import DependencyError, StorageError, TrunklineError

logger = log.get_logger(__name__)


class ExportActor:
    """What runs on a node: an exporter of its own."""

    def __init__(self, options: ExportOptions) -> None:
        self._exporter = Exporter(options)

    def export_shard(self, number: int) -> ShardReport:
        """Export one shard."""
        return self._exporter.export_shard(number)


def run_ray(options: ExportOptions, numbers: Sequence[int], address: str) -> Iterator[ShardReport]:
    """Export shards on the cluster at `address`; "auto" is the one that runs here, or a new one on this machine.

    Raises:
        DependencyError: Ray is not installed.
        StorageError: no cluster at the address, or actors die again and again.
    """
    ray, connected = _connected(address)
    options = replace(options, threads=options.threads or 1)
    needs = {"num_gpus": 1} if options.device.startswith("cuda") else {"num_cpus": options.threads}
    remote = ray.remote(max_restarts=0, **needs)(ExportActor)
    waiting = collections.deque(numbers)
    idle = [remote.remote(options) for _ in range(min(_room(ray, needs), len(waiting)))]
    running: dict[Any, tuple[Any, int]] = {}
    lost, limit = 0, 3 + 3 * len(idle)
    try:
        while waiting or running:
            while waiting and idle:
                actor, number = idle.pop(), waiting.popleft()
                running[actor.export_shard.remote(number)] = actor, number
            for done in ray.wait(list(running))[0]:
                actor, number = running.pop(done)
                try:
                    report = ray.get(done)
                except ray.exceptions.RayActorError as error:
                    lost += 1
                    logger.warning("An actor is lost; shard %d is done again. %s", number, error)
                    waiting.append(number)
                    if lost > limit:
                        raise StorageError(
                            f"{lost} actors died, the last with: {error}. What is committed stays; run again."
                        ) from error
                    if len(running) + len(idle) < _room(ray, needs):
                        idle.append(remote.remote(options))
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause
                    raise cause if isinstance(cause, TrunklineError) else error from None
                else:
                    idle.append(actor)
                    yield report
    finally:
        for actor in [*idle, *(actor for actor, _ in running.values())]:
            ray.kill(actor)
        if connected:
            ray.shutdown()


def _connected(address: str) -> tuple[Any, bool]:
    """Return Ray, and whether it was connected only now."""
    # Ray must not report to its makers, nor serve a page.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError(
            "--ray needs the package ray: pip install 'trunkline[scale]'."
        ) from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address != "auto":
            raise StorageError(f"No Ray cluster at {address}: {error}") from error
        ray.init(include_dashboard=False, log_to_driver=False)
    return ray, True


def _room(ray: Any, needs: dict[str, int]) -> int:
    """Return how many actors the nodes that are alive have room for, at least one."""
    name, amount = ("GPU", 1) if "num_gpus" in needs else ("CPU", needs["num_cpus"])
    nodes = [node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]]
    return max(1, sum(int(each // amount) for each in nodes))
