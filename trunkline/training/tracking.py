"""The run folder: its lock, run.json, metrics.jsonl and quarantine.jsonl."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from trunkline.checkpoint import write_json, write_text
from trunkline.errors import StorageError
from trunkline.log import get_logger
from trunkline.training.state import Progress

logger = get_logger(__name__)

PACKAGES = ("trunkline", "torch", "accelerate", "numpy", "safetensors")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, however it ends.

    A POSIX record lock, because data workers would inherit a flock and keep it after a `kill -9` of the run.

    Raises:
        StorageError: another run holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Cannot write to the run folder {folder}: {error.strerror}.") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read() or "another process"
            raise StorageError(
                f"{folder} is in use by {holder}; wait for it or choose another folder."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for half in folder.glob("checkpoints/.step-*"):  # an earlier run was killed while it wrote
            shutil.rmtree(half, ignore_errors=True)
        yield


class Records:
    """What the main process writes into a run folder while it trains."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = {"started": _now(), "command": sys.argv, **about, "versions": _versions()}

    def start(self, progress: Progress) -> None:
        """Cut the records back to `progress`: a resumed run leaves the same lines as an unbroken one."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        # The last line may have been cut by a kill.
        whole = [line for line in lines if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= progress.step]
        write_text(path, "".join(line + "\n" for line in kept))
        faults = "".join(_line(fault) for fault in progress.quarantined.values())
        write_text(self.folder / "quarantine.jsonl", faults)
        self.write_run("running", progress)

    def write_run(self, status: str, progress: Progress) -> None:
        """Write run.json."""
        state = {
            "status": status,
            "updated": _now(),
            "step": progress.step,
            "epoch": progress.epoch,
        }
        state |= {
            "audio_hours": progress.audio_seconds / 3600,
            "quarantined": len(progress.quarantined),
        }
        write_json(self.folder / "run.json", {**self.about, **state, "metrics": progress.metrics})

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl or quarantine.jsonl."""
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise StorageError(f"Cannot write {self.folder / name}: {error.strerror}.") from error


def count_parameters(task: nn.Module) -> dict[str, dict[str, int]]:
    """Count trained and frozen parameters of each part of the task, and say them once."""
    counts = {}
    for name, part in task.named_children():
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        counts[name] = {
            "trained": trained,
            "frozen": sum(p.numel() for p in part.parameters()) - trained,
        }
        logger.info("%s: %d parameters trained, %d frozen", name, *counts[name].values())
    return counts


def describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    """Return what the run runs on."""
    return {
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "precision": accelerator.mixed_precision,
    }


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
