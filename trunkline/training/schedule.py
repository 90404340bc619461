"""AdamW, and its learning rate as a pure function of the step: resuming needs no scheduler state."""

from __future__ import annotations

import math

import torch
from torch import nn

from trunkline.training.config import TrainConfig

HOLD_UNTIL = 0.5  # tri_stage holds the peak until half of the steps are done, as fairseq does


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of update `step` (0 is the first)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return config.lr * _decay(config, step, min(done, 1.0))


def _decay(config: TrainConfig, step: int, done: float) -> float:
    """Return the share of the peak, given how much of the way after the warm-up is done, in [0, 1]."""
    final = config.final_lr_ratio
    if config.schedule == "linear":
        return 1 - (1 - final) * done
    if config.schedule == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
    if config.schedule == "inverse_sqrt":
        return max(final, math.sqrt(max(1, config.warmup_steps) / (step + 1)))
    if config.schedule == "tri_stage":
        hold = max(HOLD_UNTIL * config.steps, config.warmup_steps)
        return final ** max(0.0, min(1.0, (step + 1 - hold) / max(1.0, config.steps - hold)))
    return 1.0


def make_optimizer(task: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the task's own parameter groups, or over matrices and the rest."""
    if parameter_groups := getattr(task, "parameter_groups", None):
        groups = parameter_groups(config.weight_decay)
    else:
        trained = [p for p in task.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
    # Fused is the fastest of AdamW's implementations on a CPU too.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
