"""A tiny made task for the training tests: dropout over made audio-like items, and ways to get into trouble.

`run` trains it in this process, `Child` in a process of its own that a test may kill.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trunkline.batching import Batches, BatchPlan, item_rng
from trunkline.errors import DataError, TrunklineError
from trunkline.training import TrainConfig, TrainResult, train

RATE = 10  # samples per second of the made audio
TIMES = ("audio_seconds_per_second", "waiting_for_data", "rss_gb")


class Items:
    """Items of 1-5 s of 8 channels of noise, a function of (epoch, id); some cannot be read."""

    def __init__(
        self, count: int = 37, bad: tuple[int, ...] = (), nan: tuple[int, ...] = ()
    ) -> None:
        self.ids = [f"cut-{index}" for index in range(count)]
        self.durations = np.random.default_rng(0).uniform(1, 5, count).round(1)
        self.bad, self.nan = bad, nan

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        epoch, index = key
        if index in self.bad:
            raise DataError(f"call-{index}.wav holds no samples.")
        rng = item_rng(5, epoch, self.ids[index])
        item = rng.standard_normal((round(self.durations[index] * RATE), 8)).astype(np.float32)
        return item * np.float32("nan") if index in self.nan else item

    def source(self, index: int) -> dict[str, Any]:
        return {"file": f"call-{index}.wav", "line": index + 1}


def collate(items: list[np.ndarray]) -> dict[str, Any]:
    return {
        "audio": torch.from_numpy(np.concatenate(items)),
        "audio_seconds": sum(map(len, items)) / RATE,
    }


class Task(nn.Module):
    """Predicts half of the channels from all; has a buffer, a frozen part and a part that is rarely used."""

    def __init__(self, kill_at: int = -1, full_at: int = -1, wait: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.rare = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.kill_at, self.full_at, self.wait, self.made = kill_at, full_at, wait, 0

    def begin_step(self, step: int, _total: int) -> None:
        if step == self.full_at:  # from here on no file may grow over 512 bytes, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        if self.made == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.wait)
        self.made += 1
        self.calls += 1
        output = self.net(batch["audio"])
        if torch.rand(()) < 0.3:
            output = self.rare(output)
        loss = (output - batch["audio"][:, :4]).square().mean()
        return loss, {"spread": output.detach().std()}


def run(
    folder: Path, *, task: Task | None = None, items: Items | None = None, **options: Any
) -> TrainResult:
    """Train the task in `folder`; `options` belong to the plan, the batches, `train` or the configuration."""
    items = items or Items()
    seconds, workers = options.pop("batch_seconds", 12.0), options.pop("workers", 0)
    extra = {
        name: options.pop(name) for name in ("evaluate", "resume", "run_info") if name in options
    }
    defaults = {
        "steps": 12,
        "accumulate": 2,
        "lr": 0.01,
        "warmup_steps": 3,
        "log_every": 5,
        "checkpoint_every": 4,
    }
    config = TrainConfig(
        **{**defaults, "ema": 0.9, "max_bad_fraction": 0.1, "trackers": (), **options}
    )
    batches = Batches(
        items, BatchPlan(items.durations, seconds, 4.0, seed=1), collate, workers=workers
    )
    return train(task or Task(), batches, config, folder, **extra)


class Child:
    """`run` in a process of its own; `outcome` is the result's `stopped`, or the error's name and message."""

    def __init__(self, folder: Path, task: dict[str, Any] | None = None, **options: Any) -> None:
        environment = options.pop("environment", {})
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "accelerate", "trunkline.training"])
        self._received, sent = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_child, args=(sent, environment, folder, task or {}, options)
        )
        self.process.start()
        sent.close()

    def join(self) -> tuple[int | None, str]:
        """Return the exit status (-9 when killed) and the outcome."""
        self.process.join(timeout=120)
        status, outcome = self.process.exitcode, ""
        self.process.kill()
        if status == 0:
            outcome = self._received.recv()
        return status, outcome


def _child(
    sent: Any,
    environment: dict[str, str],
    folder: Path,
    task: dict[str, Any],
    options: dict[str, Any],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        outcome = run(folder, task=Task(**task), **options).stopped
    except TrunklineError as error:
        outcome = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sent.send(outcome)


def two_processes(
    folder: Path, tasks: tuple[dict[str, Any], dict[str, Any]] = ({}, {}), **options: Any
) -> list[Child]:
    """Start `run` on two processes that train together, set up as torchrun does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [
        Child(folder, task, environment=e, **options) for task, e in zip(tasks, ranks, strict=True)
    ]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def wait_for(path: Path) -> None:
    """Wait until a child has made `path`."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
