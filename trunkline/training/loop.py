"""The step loop: one function that trains any task, on one process or many, and can be killed anywhere."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn

from trunkline.batching import Batches, Microbatch
from trunkline.errors import CheckpointError, ConfigError, DependencyError, TrainingError, TrunklineError, UsageError
from trunkline.training.config import TrainConfig
from trunkline.training.schedule import learning_rate
from trunkline.training.state import Average, Progress, list_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from trunkline.training.tracking import Records, json_number, locked

logger = logging.getLogger(__name__)
T = TypeVar("T")
Evaluate = Callable[[nn.Module], Mapping[str, float]]

#: Below this many items seen, the share of unreadable ones says little.
BAD_FRACTION_FLOOR = 1000


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: updates made, those before a resume included.
        metrics: newest line of metrics.jsonl and newest evaluation.
        quarantined: the items that could not be read: id, file, line, reason.
        stopped: "finished", or "signal" after SIGTERM or SIGINT.
        seconds: wall time of this call.
    """

    step: int
    metrics: dict[str, Any]
    quarantined: list[dict[str, Any]]
    stopped: str
    seconds: float


def train(
    task: nn.Module,
    batches: Batches,
    config: TrainConfig,
    folder: str | Path,
    *,
    evaluate: Evaluate | None = None,
    resume: str = "auto",
    run_info: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train `task` until `config.steps` updates are made, resuming where an earlier run in `folder` stopped.

    Args:
        task: has `loss(batch) -> (scalar, {metric: number})`; may have `begin_step(step, total_steps)`, called before
            each update and depending on nothing else, and `parameter_groups(weight_decay)` for AdamW, where a group
            may give an `lr_scale`. Random draws in `loss` come from torch's default generator, which is seeded from
            the number of the microbatch. Left with the trained weights, on the training device.
        batches: a batch that is a mapping may tell its `audio_seconds`.
        folder: run folder; created.
        evaluate: called with the task in eval mode (running average in place, if any), on the main process only.
        resume: "auto" resumes if there is a checkpoint, "must" insists on one, "never" on none.
        run_info: goes into run.json; its "config", if any, must be the same when the run is resumed.

    Raises:
        TrainingError: the loss or gradient is not finite, or too many items cannot be read.
        ConfigError: the run was started with other settings.
        CheckpointError: the newest checkpoint is damaged or does not fit the task.
        StorageError: the folder is in use, or cannot be written.
    """
    began = time.monotonic()
    if resume not in ("auto", "must", "never"):
        raise UsageError(f"resume is {resume!r}; it must be auto, must or never.")
    folder = Path(folder)
    accelerator = _start_accelerator(config, folder)
    main = accelerator.is_main_process
    with contextlib.ExitStack() as stack:
        _on_main(accelerator, lambda: stack.enter_context(locked(folder)) and None)
        checkpoint = _on_main(accelerator, lambda: _find_checkpoint(folder / "checkpoints", resume))
        loop = _Loop(accelerator, task, batches, config, evaluate, dict(run_info or {}), folder)
        loop.start(checkpoint)
        stack.callback(loop.close)
        stop = stack.enter_context(_StopSignal())
        stopped = loop.run(stop)
    progress = loop.progress
    return TrainResult(
        progress.step, progress.metrics, list(progress.quarantined.values()), stopped, time.monotonic() - began
    )


class _StopSignal:
    """Remembers SIGTERM and SIGINT until the running step is done."""

    received: int = 0

    def __enter__(self) -> _StopSignal:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Loss(nn.Module):
    """A task behind `forward`, where DistributedDataParallel and mixed precision hook in.

    With many processes every trainable parameter takes part in every backward, with a zero where the batch did not
    need it, so that no process waits for a gradient that never comes; a batch of None is a zero for all of them.
    """

    def __init__(self, task: nn.Module, alone: bool) -> None:
        super().__init__()
        self.task, self.alone = task, alone

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        loss, metrics = self.task.loss(batch) if batch is not None else (0.0, {})
        if not self.alone:
            loss = loss + 0.0 * sum(p.sum() for p in self.task.parameters() if p.requires_grad)
        return loss, metrics


class _Loop:
    """One run in one process: the task and its optimiser, the place in the data, and the records."""

    def __init__(
        self,
        accelerator: Accelerator,
        task: nn.Module,
        batches: Batches,
        config: TrainConfig,
        evaluate: Evaluate | None,
        run_info: dict[str, Any],
        folder: Path,
    ) -> None:
        self.accelerator, self.batches, self.config, self.evaluate = accelerator, batches, config, evaluate
        self.task = task.to(accelerator.device)
        self.model = accelerator.prepare(_Loss(task, accelerator.num_processes == 1))
        self.parameters = [p for p in task.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare(_make_optimizer(task, config))
        self.average = Average(task, config.ema) if config.ema else None
        self.progress = Progress(np.zeros(len(batches.dataset.ids), dtype=bool))
        self.settings = {"train": asdict(config), "data": batches.describe(), "config": run_info.get("config", {})}
        # The same stream may be trained by another number of processes; what must stay is their product.
        self.settings["train"]["microbatches_per_step"] = self.settings["train"].pop("accumulate") * accelerator.num_processes
        about = {"train": asdict(config), "data": self.settings["data"], "run_info": run_info, **_machine(accelerator)}
        self.records = Records(folder, about | {"parameters": _count_parameters(task)})
        self.pending: list[tuple[str, Any]] = []  # metrics still on their device
        self.waited = 0.0  # seconds spent waiting for data since the last line

    def start(self, checkpoint: Path | None) -> None:
        """Load `checkpoint`, if any, and open the records."""
        if checkpoint is not None:
            items = len(self.progress.seen)
            self.progress, scaler = load_checkpoint(
                checkpoint, self.task, self.optimizer, self.settings, items=items, average=self.average
            )
            if scaler and self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(scaler)
            logger.info("Resuming at step %d from %s.", self.progress.step, checkpoint)
        _on_main(self.accelerator, lambda: self.records.start(self.progress))
        purge = {"tensorboard": {"purge_step": self.progress.step + 1}} if "tensorboard" in self.config.trackers else {}
        self.accelerator.init_trackers("trunkline", init_kwargs=purge)

    def close(self) -> None:
        """Finish the trackers."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def run(self, stop: _StopSignal) -> str:
        """Train to the end, or until a signal; say which it was."""
        progress, config, status = self.progress, self.config, "failed"
        process, world = self.accelerator.process_index, self.accelerator.num_processes
        stream = self.batches.stream(progress.epoch, progress.position, rank=process, world=world)
        self._restart_clock()
        try:
            while progress.step < config.steps and status != "signal":
                status = "signal" if self._step(stream, stop) else "running"
                last = progress.step == config.steps
                if last or progress.step % config.log_every == 0:
                    self._log()
                if self.evaluate and (last or config.evaluate_every and progress.step % config.evaluate_every == 0):
                    self._evaluate()
                if last or status == "signal" or progress.step % config.checkpoint_every == 0:
                    self._save()
            status = "finished" if progress.step == config.steps else status
        finally:
            stream.close()
            if self.accelerator.is_main_process:
                self.records.write_run(status, progress)
        return status

    def _step(self, stream: Iterator[Microbatch], stop: _StopSignal) -> bool:
        """Make one update; return whether a process was asked to stop."""
        config, progress, accelerator = self.config, self.progress, self.accelerator
        rate = learning_rate(config, progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        if hasattr(self.task, "begin_step"):
            self.task.begin_step(progress.step, config.steps)
        self.task.train()
        microbatches, losses = [], []
        for index in range(config.accumulate):
            last = index == config.accumulate - 1
            asked = time.perf_counter()
            microbatches.append(next(stream))
            self.waited += time.perf_counter() - asked
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                losses.append(self._backward(microbatches[-1], index))
        norm = accelerator.clip_grad_norm_(self.parameters, config.clip_norm or math.inf)
        stopping = self._agree(microbatches, losses, norm, bool(stop.received))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(progress.step)
        self.pending.append(("grad_norm", norm))
        if config.precision == "fp16":
            self.pending.append(("overflows", float(accelerator.optimizer_step_was_skipped)))
        progress.step += 1
        progress.epoch, progress.position = microbatches[-1].after
        return stopping

    def _backward(self, microbatch: Microbatch, index: int) -> Tensor:
        """Add the gradient of one microbatch, and return its loss."""
        accelerator, device = self.accelerator, self.accelerator.device
        world, rank = accelerator.num_processes, accelerator.process_index
        number = (self.progress.step * self.config.accumulate + index) * world + rank
        torch.manual_seed(_mix(self.config.seed, number))
        if microbatch.batch is None and world == 1:
            return torch.zeros((), device=device)
        loss, metrics = self.model(send_to_device(microbatch.batch, device, non_blocking=True))
        accelerator.backward(loss / self.config.accumulate)
        if microbatch.batch is not None:
            self.pending += [("loss", loss.detach()), *metrics.items()]
            if isinstance(microbatch.batch, Mapping):
                self.pending.append(("audio_seconds", float(microbatch.batch.get("audio_seconds", 0.0))))
        return loss.detach().float()

    def _agree(self, microbatches: list[Microbatch], losses: list[Tensor], norm: Tensor, stop: bool) -> bool:
        """Look at the step on all processes, before the update; return whether any was asked to stop.

        Raises:
            TrainingError: a loss or the gradient is not finite, or too many items cannot be read.
        """
        faults = [fault for microbatch in microbatches for fault in microbatch.faults]
        flags = torch.tensor([len(faults), stop], device=norm.device, dtype=torch.float32)
        rows = self.accelerator.gather(torch.stack([*losses, norm, *flags])[None]).tolist()  # the one sync of a step
        for microbatch in microbatches:
            self.progress.seen[microbatch.seen] = True
        if any(row[-2] for row in rows):
            self._quarantine(gather_object(faults))
        overflow_is_handled = self.config.precision == "fp16"
        checked = [row[: len(losses) + (not overflow_is_handled)] for row in rows]
        if not all(math.isfinite(value) for row in checked for value in row):
            bad = [m.ids for m, loss in zip(microbatches, losses, strict=True) if not loss.isfinite()]
            everything = [m.ids for m in microbatches]
            names = gather_object([name for ids in bad for name in ids]) or gather_object([n for ids in everything for n in ids])
            what = "gradient" if all(math.isfinite(v) for row in rows for v in row[: len(losses)]) else "loss"
            raise TrainingError(
                f"The {what} is not finite at step {self.progress.step + 1}; the weights are as before it. "
                f"Items: {_some(names)}. Look at them, or lower lr ({self.config.lr})."
            )
        return any(row[-1] for row in rows)

    def _quarantine(self, faults: list[dict[str, Any]]) -> None:
        progress = self.progress
        for fault in faults:
            if fault["id"] not in progress.quarantined:
                progress.quarantined[fault["id"]] = fault
                logger.warning("Left out %s: %s", fault["id"], fault["reason"])
                _on_main(self.accelerator, lambda fault=fault: self.records.add_fault(fault))
        bad, limit = len(progress.quarantined), self.config.max_bad_fraction
        seen = int(progress.seen.sum())
        allowed = limit * max(seen, min(len(progress.seen), BAD_FRACTION_FLOOR))
        if bad > (max(1.0, allowed) if limit else 0):
            names = [f"{fault['id']} ({fault['reason']})" for fault in progress.quarantined.values()]
            raise TrainingError(
                f"{bad} of {seen} items could not be read, more than max_bad_fraction={limit} allows: {_some(names)}. "
                f"All are in {self.records.folder / 'quarantine.jsonl'}."
            )

    def _collect(self) -> None:
        """Add the pending metrics of all processes to the progress of the main one."""
        sums: dict[str, list[float]] = {}
        for name, value in self.pending:
            total = sums.setdefault(name, [0.0, 0])
            total[0] += float(value)
            total[1] += 1
        self.pending.clear()
        for part in gather_object([sums]):
            for name, (value, count) in part.items():
                total = self.progress.sums.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += count
                if name == "audio_seconds":
                    self.progress.audio_seconds += value

    def _restart_clock(self) -> None:
        self.clock, self.clock_audio, self.waited = time.perf_counter(), self.progress.audio_seconds, 0.0

    def _log(self) -> None:
        self._collect()
        progress, elapsed = self.progress, time.perf_counter() - self.clock
        means = {name: json_number(total / count) for name, (total, count) in progress.sums.items() if name != "audio_seconds"}
        row = {
            "step": progress.step,
            "loss": means.pop("loss", None),
            "lr": learning_rate(self.config, progress.step - 1),
            "grad_norm": means.pop("grad_norm"),
            "epoch": progress.epoch,
            "audio_hours": progress.audio_seconds / 3600,
            "audio_seconds_per_second": (progress.audio_seconds - self.clock_audio) / elapsed,
            "waiting_for_data": self.waited / elapsed,
            "rss_gb": psutil.Process().memory_info().rss / 1e9,
            **means,
        }
        progress.sums.clear()
        self._report(row)
        logger.info("step %d  loss %s  lr %.3g", row["step"], row["loss"], row["lr"])
        self._restart_clock()

    def _evaluate(self) -> None:
        began = time.perf_counter()
        self.task.eval()
        with self.average.applied() if self.average else contextlib.nullcontext():
            metrics = _on_main(self.accelerator, lambda: dict(self.evaluate(self.task)))
        self._report({"step": self.progress.step, **{f"evaluate/{k}": json_number(float(v)) for k, v in metrics.items()}})
        self.clock += time.perf_counter() - began

    def _report(self, row: dict[str, Any]) -> None:
        self.progress.metrics |= row
        _on_main(self.accelerator, lambda: self.records.add_metrics(row))
        self.accelerator.log({k: v for k, v in row.items() if v is not None}, step=self.progress.step)

    def _save(self) -> None:
        self._collect()
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        _on_main(
            self.accelerator,
            lambda: save_checkpoint(
                self.records.checkpoints,
                self.task,
                self.optimizer,
                self.progress,
                self.settings,
                average=self.average,
                scaler=scaler,
                keep=self.config.keep_checkpoints,
            ),
        )


def _start_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("precision 'fp16' needs a GPU; use bf16 or no.")
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            raise DependencyError(f"The tracker {name!r} is not installed; install it or take it out of `trackers`.")
    AcceleratorState._reset_state()  # an earlier run in this process may have used another precision
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.precision,
        log_with=list(config.trackers),
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "trackers")),
    )


def _make_optimizer(task: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    if hasattr(task, "parameter_groups"):
        groups = task.parameter_groups(config.weight_decay)
    else:
        trainable = [p for p in task.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _find_checkpoint(folder: Path, resume: str) -> Path | None:
    if resume == "never" and list_checkpoints(folder):
        raise UsageError(f"{folder} holds checkpoints already; resume them, remove them or choose another folder.")
    found = newest_checkpoint(folder)
    if found is None and resume == "must":
        raise CheckpointError(f"There is no checkpoint to resume from in {folder}.")
    return found


def _on_main(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Run `function` on the main process and give its result, or its error, to all: nobody waits for the dead."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except TrunklineError as error:
            if accelerator.num_processes == 1:
                raise
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _mix(seed: int, number: int) -> int:
    """Return a well-mixed 63-bit seed."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _some(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count_parameters(task: nn.Module) -> dict[str, dict[str, int]]:
    """Count trained and frozen parameters per part of the task, and say them once."""
    counts = {}
    for name, part in [*task.named_children()]:
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        counts[name] = {"trained": trained, "frozen": sum(p.numel() for p in part.parameters()) - trained}
        logger.info("%s: %d parameters trained, %d frozen", name, counts[name]["trained"], counts[name]["frozen"])
    return counts


def _machine(accelerator: Accelerator) -> dict[str, Any]:
    return {
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "precision": accelerator.mixed_precision,
    }
