"""One process or many: what `accelerate` sets up, and how processes stay in step when one has news."""

from __future__ import annotations

import importlib.util
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from torch import Tensor, nn

from trunkline.errors import ConfigError, DependencyError, TrunklineError, nearest
from trunkline.training.config import TrainConfig

T = TypeVar("T")


def start_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    """Return the accelerator for this process: devices, processes, precision and trackers.

    Raises:
        ConfigError: fp16 without a GPU, or an unknown tracker.
        DependencyError: a tracker is not installed.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    gpu = torch.accelerator.is_available()
    if config.precision == "fp16" and not gpu:
        raise ConfigError("precision 'fp16' needs a GPU; use 'bf16' or 'no'.")
    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    for name in config.trackers:
        if name not in known:
            raise ConfigError(f"trackers: {name!r} is not known.{nearest(name, known)}")
        if importlib.util.find_spec(name) is None:
            raise DependencyError(
                f"The tracker {name!r} is not installed; install it or take it out of trackers."
            )
    # An earlier run in this process may have used another precision.
    AcceleratorState._reset_state()  # noqa: SLF001
    accelerator = Accelerator(
        cpu=not gpu,
        mixed_precision=config.precision,
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "trackers")),
    )
    if not accelerator.is_main_process:
        logging.getLogger("trunkline").setLevel(logging.ERROR)
    return accelerator


def on_main(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Run `function` on the main process and give its result, or its error, to all: nobody waits for the dead."""
    if accelerator.num_processes == 1:
        return function()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except TrunklineError as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


class Loss(nn.Module):
    """A task behind `forward`, where DistributedDataParallel and mixed precision hook in.

    With many processes every trainable parameter takes part in every backward, with a zero where the batch did not
    need it, so that no process waits for a gradient that never comes. A batch of None is a zero for all of them.
    """

    task: Any  # a module with `loss`, which the type of a module does not tell

    def __init__(self, task: nn.Module, alone: bool) -> None:
        super().__init__()
        self.task, self.alone = task, alone

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the task's loss and metrics."""
        nothing: tuple[Any, dict[str, Any]] = (0.0, {})
        loss, metrics = self.task.loss(batch) if batch is not None else nothing
        if not self.alone:
            loss = loss + 0.0 * sum(p.sum() for p in self.task.parameters() if p.requires_grad)
        return loss, metrics


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that the running step can finish and be saved."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> StopSignal:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
