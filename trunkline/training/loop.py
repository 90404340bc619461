"""The step loop: one function that trains any task, on one process or many, and can be killed anywhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from trunkline.batching import Batches, Microbatch
from trunkline.errors import CheckpointError, StorageError, TrainingError, UsageError
from trunkline.log import get_logger
from trunkline.log import progress as progress_bar
from trunkline.training.config import TrainConfig
from trunkline.training.processes import Loss, StopSignal, on_main, start_accelerator
from trunkline.training.schedule import learning_rate, make_optimizer
from trunkline.training.state import (
    Average,
    Progress,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from trunkline.training.tracking import Records, count_parameters, describe_machine, locked

logger = get_logger(__name__)

Evaluate = Callable[[nn.Module], Mapping[str, float]]
ENOUGH_SEEN = 1000  # among fewer items, the share of unreadable ones says little


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    step: int  # updates made, those before a resume included
    metrics: dict[str, Any]  # newest line of metrics.jsonl and newest evaluation
    quarantined: list[dict[str, Any]]  # items that could not be read: id, file, line, reason
    stopped: (
        str  # "finished", "enough" when `evaluate` said so, or "signal" after SIGTERM or SIGINT
    )
    seconds: float  # wall time of this call


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
    """Train `task` until `config.steps` updates are made, going on where an earlier run in `folder` stopped.

    Args:
        task: has `loss(batch) -> (scalar, {metric: number})`, and may have `begin_step(step, total_steps)`, called
            before each update and depending on nothing else, and `parameter_groups(weight_decay)` for AdamW, in
            which a group may give an `lr_scale`. Draws in `loss` come from torch's default generator, which is
            seeded with the number of the microbatch. Left on the training device with the trained weights.
        batches: a batch that is a mapping may tell its `audio_seconds`.
        folder: the run folder.
        evaluate: gets the task in eval mode (running average in place, if there is one) on the main process; a
            metric `stop` other than 0 ends the run after a checkpoint.
        resume: "auto" resumes if there is a checkpoint, "must" insists on one, "never" on none.
        run_info: goes into run.json; its "config", if any, must be the same when the run is resumed.

    Raises:
        TrainingError: the loss or gradient is not finite, or too many items cannot be read.
        ConfigError: the run was started with other settings.
        CheckpointError: the newest checkpoint is damaged or does not fit the task.
        StorageError: the folder is in use, or cannot be written.
    """
    began, folder = time.monotonic(), Path(folder)
    if resume not in ("auto", "must", "never"):
        raise UsageError(f"resume is {resume!r}; it must be auto, must or never.")
    accelerator = start_accelerator(config, folder)
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(locked(folder)))
        checkpoint = on_main(accelerator, lambda: _find_checkpoint(folder / "checkpoints", resume))
        run = _Run(accelerator, task, batches, config, folder, evaluate, run_info or {})
        run.start(checkpoint)
        stopped = run.finish(stack.enter_context(StopSignal()))
    faults = list(run.progress.quarantined.values())
    return TrainResult(
        run.progress.step, run.progress.metrics, faults, stopped, time.monotonic() - began
    )


def _find_checkpoint(folder: Path, resume: str) -> Path | None:
    if resume == "never" and list_checkpoints(folder):
        raise UsageError(
            f"{folder} holds checkpoints; resume them, remove them or choose another folder."
        )
    found = newest_checkpoint(folder)
    if found is None and resume == "must":
        raise CheckpointError(f"There is no checkpoint to resume from in {folder}.")
    return found


class _Run:
    """A run in one process: the task and its optimiser, the place in the data, and the records."""

    def __init__(
        self,
        accelerator: Accelerator,
        task: nn.Module,
        batches: Batches,
        config: TrainConfig,
        folder: Path,
        evaluate: Evaluate | None,
        run_info: Mapping[str, Any],
    ) -> None:
        self.accelerator, self.batches, self.config = accelerator, batches, config
        self.folder, self.evaluate = folder, evaluate
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.task = task.to(accelerator.device)
        self.model = accelerator.prepare(Loss(task, alone=self.world == 1))
        self.trained = [p for p in task.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare(make_optimizer(task, config))
        self.average = Average(task, config.ema) if config.ema else None
        self.progress = Progress(np.zeros(len(batches.dataset.ids), dtype=bool))
        # Metrics since the last line, still on their device.
        self.pending: list[tuple[str, Any]] = []
        self.enough = False
        self.settings = {"train": asdict(config), "data": batches.describe()}
        about = {
            **self.settings,
            "run_info": run_info,
            **describe_machine(accelerator),
            "parameters": count_parameters(task),
        }
        self.records = Records(folder, about)
        # Another number of processes may go on with the same stream: only the product must stay.
        per_step = {"microbatches_per_step": config.accumulate * self.world, "accumulate": None}
        self.settings |= {
            "train": self.settings["train"] | per_step,
            "config": run_info.get("config", {}),
        }

    def start(self, checkpoint: Path | None) -> None:
        """Take up `checkpoint`, if any, and open the records and trackers."""
        if checkpoint is not None:
            items = len(self.progress.seen)
            self.progress, scaler = load_checkpoint(
                checkpoint,
                self.task,
                self.optimizer,
                self.settings,
                items=items,
                average=self.average,
            )
            if scaler is not None:
                assert self.accelerator.scaler is not None, (
                    "precision is one of the settings that must stay"
                )
                self.accelerator.scaler.load_state_dict(scaler)
            logger.info("Going on after step %d, from %s", self.progress.step, checkpoint)
        on_main(self.accelerator, lambda: self.records.start(self.progress))
        again = {"tensorboard": {"purge_step": self.progress.step + 1}}
        self.accelerator.init_trackers("trunkline", init_kwargs=again)

    def finish(self, stop: StopSignal) -> str:
        """Train to the last step, or until a signal; return which it was."""
        status = "failed"
        try:
            self._steps(stop)
            ended = "signal" if stop.received or not self.enough else "enough"
            status = "finished" if self.progress.step == self.config.steps else ended
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            if self.rank == 0:
                # A full disk must not hide what ended the run.
                with contextlib.suppress(StorageError):
                    self.records.write_run(status, self.progress)
        return status

    def _steps(self, stop: StopSignal) -> None:
        progress, config, stopping = self.progress, self.config, False
        stream = self.batches.stream(
            progress.epoch, progress.position, rank=self.rank, world=self.world
        )
        bar = progress_bar(total=config.steps, description="Training", unit="steps")
        with contextlib.closing(stream), bar if self.rank == 0 else contextlib.nullcontext():
            bar.advance(progress.step)
            self._start_clock()
            while progress.step < config.steps and not stopping:
                stopping = self._step(stream, stop)
                bar.advance()
                if self._due(config.log_every):
                    self._log()
                if self.evaluate and self._due(config.evaluate_every):
                    stopping |= self._evaluate(self.evaluate)
                if stopping or self._due(config.checkpoint_every):
                    self._save()

    def _due(self, every: int) -> bool:
        step = self.progress.step
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _step(self, stream: Iterator[Microbatch], stop: StopSignal) -> bool:
        """Make one update; return whether any process was asked to stop."""
        config, progress = self.config, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, progress.step) * group.get("lr_scale", 1.0)
        if begin_step := getattr(self.task, "begin_step", None):
            begin_step(progress.step, config.steps)
        self.task.train()
        microbatches, losses = [], []
        for index in range(config.accumulate):
            asked = time.perf_counter()
            microbatches.append(next(stream))
            self.waited += time.perf_counter() - asked
            exchange = index == config.accumulate - 1  # gradients travel once per step
            with contextlib.nullcontext() if exchange else self.accelerator.no_sync(self.model):
                losses.append(self._backward(microbatches[-1], index))
        for parameter in self.trained:
            if parameter.grad is None:  # not used in this step; many processes see a zero as well
                parameter.grad = torch.zeros_like(parameter)
        norm = self.accelerator.clip_grad_norm_(self.trained, config.clip_norm or math.inf)
        assert norm is not None
        self.pending.append(("grad_norm", norm))
        stopping = self._agree(microbatches, losses, norm, stop.received)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(progress.step)
        progress.step += 1
        progress.epoch, progress.position = microbatches[-1].after
        return stopping

    def _backward(self, microbatch: Microbatch, index: int) -> Tensor:
        """Add the gradient of one microbatch to the others of the step; return its loss."""
        number = (self.progress.step * self.config.accumulate + index) * self.world + self.rank
        torch.manual_seed(_seed(self.config.seed, number))
        if microbatch.batch is None and self.world == 1:
            return torch.zeros((), device=self.accelerator.device)
        loss, metrics = self.model(
            send_to_device(microbatch.batch, self.accelerator.device, non_blocking=True)
        )
        self.accelerator.backward(loss / self.config.accumulate)
        if microbatch.batch is not None:
            self.pending += [("loss", loss.detach()), *metrics.items()]
            if isinstance(microbatch.batch, Mapping) and "audio_seconds" in microbatch.batch:
                self.pending.append(("audio_seconds", microbatch.batch["audio_seconds"]))
        return loss.detach().float()

    def _agree(
        self, microbatches: list[Microbatch], losses: list[Tensor], norm: Tensor, stop: bool
    ) -> bool:
        """Let all processes see how the step went, before the update; return whether any was asked to stop.

        Raises:
            TrainingError: a loss or the gradient is not finite, or too many items cannot be read.
        """
        faults = [fault for microbatch in microbatches for fault in microbatch.faults]
        flags = torch.tensor([len(faults), stop], dtype=torch.float32, device=norm.device)
        row = torch.cat([torch.stack([*losses, norm.float()]), flags])
        rows = cast(
            Tensor, self.accelerator.gather(row[None])
        ).tolist()  # the one wait for the device
        for microbatch in microbatches:
            self.progress.seen[microbatch.seen] = True
        if any(row[-2] for row in rows):
            self._quarantine(gather_object(faults))
        loss_is_finite = all(math.isfinite(value) for row in rows for value in row[:-3])
        norm_may_overflow = self.config.precision == "fp16"  # the loss scaler then skips the update
        if not loss_is_finite or not (norm_may_overflow or math.isfinite(rows[0][-3])):
            blamed = [
                m
                for m, loss in zip(microbatches, losses, strict=True)
                if loss_is_finite or not loss.isfinite()
            ]
            names = gather_object([name for microbatch in blamed for name in microbatch.ids])
            raise TrainingError(
                f"The {'gradient' if loss_is_finite else 'loss'} is not finite in step {self.progress.step + 1}, which "
                f"was not made. Look at its items ({_some(names)}) or lower lr ({self.config.lr:g})."
            )
        return any(row[-1] for row in rows)

    def _quarantine(self, faults: list[dict[str, Any]]) -> None:
        known, limit = self.progress.quarantined, self.config.max_bad_fraction
        new = {fault["id"]: fault for fault in faults if fault["id"] not in known}
        known |= new
        for name, fault in new.items():
            logger.warning("Left out %s: %s", name, fault["reason"])
            on_main(
                self.accelerator, lambda fault=fault: self.records.append("quarantine.jsonl", fault)
            )
        seen, items = int(self.progress.seen.sum()), len(self.progress.seen)
        allowed = limit * max(seen, min(items, ENOUGH_SEEN))
        if len(known) > (
            max(1.0, allowed) if limit else 0
        ):  # one bad file never stops a run, unless told so
            raise TrainingError(
                f"{len(known)} of {seen} items could not be read, more than max_bad_fraction={limit:g} allows: "
                f"{_some(list(known))}. {self.folder / 'quarantine.jsonl'} says why."
            )

    def _collect(self) -> None:
        """Move the pending metrics of all processes to the progress of the main one."""
        sums: dict[str, list[float]] = {}
        for name, value in self.pending:
            total, count = sums.get(name, (0.0, 0))
            sums[name] = [total + float(value), count + 1]
        self.pending.clear()
        for name, (value, number) in [
            item for part in gather_object([sums]) for item in part.items()
        ]:
            total, count = self.progress.sums.get(name, (0.0, 0))
            self.progress.sums[name] = [total + value, count + number]
            self.progress.audio_seconds += value if name == "audio_seconds" else 0.0

    def _start_clock(self) -> None:
        self.clock, self.clock_audio, self.waited = (
            time.perf_counter(),
            self.progress.audio_seconds,
            0.0,
        )

    def _log(self) -> None:
        self._collect()
        progress, elapsed = self.progress, time.perf_counter() - self.clock
        row: dict[str, Any] = {"step": progress.step, "loss": None}
        row["lr"] = learning_rate(self.config, progress.step - 1)
        row |= {
            name: total / count
            for name, (total, count) in progress.sums.items()
            if name != "audio_seconds"
        }
        row |= {
            "epoch": progress.epoch,
            "audio_hours": progress.audio_seconds / 3600,
            "audio_seconds_per_second": (progress.audio_seconds - self.clock_audio) / elapsed,
            "waiting_for_data": self.waited / elapsed,
            "rss_gb": psutil.Process().memory_info().rss / 1e9,
        }
        progress.sums.clear()
        self._report(row)
        logger.info("step %d of %d: %s", progress.step, self.config.steps, _summary(row))
        self._start_clock()

    def _evaluate(self, evaluate: Evaluate) -> bool:
        began = time.perf_counter()
        self.task.eval()
        with self.average.applied() if self.average else contextlib.nullcontext():
            metrics = on_main(self.accelerator, lambda: dict(evaluate(self.task)))
        self.enough = bool(metrics.pop("stop", False))
        self._report(
            {"step": self.progress.step} | {f"evaluate/{k}": float(v) for k, v in metrics.items()}
        )
        self.clock += time.perf_counter() - began  # not training time
        return self.enough

    def _report(self, row: dict[str, Any]) -> None:
        numbers = {k: v for k, v in row.items() if v is not None and math.isfinite(v)}
        row = {name: numbers.get(name) for name in row}  # JSON has no NaN: null
        self.progress.metrics |= row
        on_main(self.accelerator, lambda: self.records.append("metrics.jsonl", row))
        self.accelerator.log(numbers, step=self.progress.step)

    def _save(self) -> None:
        self._collect()
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        options = {"average": self.average, "scaler": scaler, "keep": self.config.keep_checkpoints}
        state = (self.task, self.optimizer, self.progress, self.settings)
        on_main(
            self.accelerator,
            lambda: save_checkpoint(self.folder / "checkpoints", *state, **options),
        )


def _seed(seed: int, number: int) -> int:
    return int(
        np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def _some(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _summary(row: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {row[key]:.4g}" for key in ("loss", "lr", "grad_norm") if row[key] is not None
    )
