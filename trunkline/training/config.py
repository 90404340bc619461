"""Settings of a training run, checked when they are built."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from trunkline.errors import ConfigError, nearest

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt", "tri_stage")
PRECISIONS = ("no", "bf16", "fp16")

#: A resumed run may change these: they decide what is reported and kept, not what is learnt.
FREE_ON_RESUME = frozenset(
    {"log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "max_bad_fraction"}
    | {"trackers", "threads", "workers", "timeout"}
)


def _default_trackers() -> tuple[str, ...]:
    return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to optimise; steps are updates of the weights, not microbatches."""

    steps: int = 1000  # updates in all
    accumulate: int = 1  # microbatches per update and process
    lr: float = 1e-3  # peak learning rate of AdamW
    warmup_steps: int = 0  # updates until the peak is reached, linearly
    schedule: str = "cosine"  # after the warm-up: constant, linear, cosine, inverse_sqrt, tri_stage
    final_lr_ratio: float = 0.0  # learning rate of the last update, relative to the peak
    weight_decay: float = 0.01  # of matrices; biases and norms are not decayed
    betas: tuple[float, float] = (0.9, 0.98)  # AdamW's running averages
    eps: float = 1e-8  # AdamW's floor under the second moment
    clip_norm: float = 1.0  # largest norm of the gradient; 0 leaves it as it is
    precision: str = "no"  # mixed precision: no, bf16, fp16 (fp16 needs a GPU)
    seed: int = 0  # decides dropout, masks and every other draw inside the loss
    log_every: int = 10  # updates per line of metrics.jsonl
    checkpoint_every: int = 1000  # updates per checkpoint; the last update always has one
    keep_checkpoints: int = 2  # newest checkpoints to keep
    evaluate_every: int = 0  # updates per evaluation; 0: only after the last
    max_bad_fraction: float = 0.01  # unreadable items tolerated, as a share of the items seen
    ema: float = 0.0  # decay of the running average of the weights; 0: none
    trackers: tuple[str, ...] = field(
        default_factory=_default_trackers
    )  # tensorboard, wandb, mlflow, ...
    threads: int | None = None  # CPU threads for torch; None: as the environment says

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "evaluate_every", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("lr", 0 < self.lr < float("inf"), "more than 0")
        self._require("eps", self.eps > 0, "more than 0")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "in [0, 1)")
        self._require("final_lr_ratio", 0 <= self.final_lr_ratio <= 1, "in [0, 1]")
        if self.schedule == "tri_stage":
            self._require("final_lr_ratio", self.final_lr_ratio > 0, "more than 0 for tri_stage")
        self._require("max_bad_fraction", 0 <= self.max_bad_fraction <= 1, "in [0, 1]")
        self._require("ema", 0 <= self.ema < 1, "in [0, 1)")
        self._require("threads", self.threads is None or self.threads >= 1, "1 or more")
        self._choose("schedule", self.schedule, SCHEDULES)
        self._choose("precision", self.precision, PRECISIONS)

    def _require(self, name: str, fulfilled: bool, allowed: str) -> None:
        if not fulfilled:
            raise ConfigError(f"{name} is {getattr(self, name)}; it must be {allowed}.")

    @staticmethod
    def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f"{name} {value!r} is not known.{nearest(value, allowed)}")
