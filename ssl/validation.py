"""How a task does on crops that it is not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from encoder import Context
from ssl.crops import Crops, collate
from ssl.hubert import MaskedPrediction
from trunkline.batching import BatchPlan
from trunkline.errors import DataError, StorageError
from trunkline.log import get_logger

logger = get_logger(__name__)

BATCH_SECONDS = 60.0


@torch.no_grad()
def validate(task: MaskedPrediction, crops: Crops, contexts: list[Context]) -> dict[str, float]:
    """Return loss and accuracy on held-out crops, always masked alike, for each context."""
    plan = BatchPlan(crops.durations, BATCH_SECONDS, shuffle=False)
    device = task.backbone.feature_mean.device
    totals: dict[str, float] = {}
    frames = 0.0
    for indices in plan.epoch(0):
        items = list(_readable(crops, indices.tolist()))
        if not items:
            continue
        batch = collate(items)
        count = float(batch["masked"].sum())
        frames += count
        batch = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        for context in contexts:
            name = "full" if context.is_full else "-".join(map(str, context))
            _, metrics = task.loss(batch, context)  # type: ignore[arg-type]
            for key in ("masked_loss", "masked_accuracy"):
                totals[f"{key}_{name}"] = totals.get(f"{key}_{name}", 0.0) + count * float(
                    metrics[key]
                )
    return {key: value / frames for key, value in totals.items()} if frames else {}


def _readable(crops: Crops, indices: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the crops that can be read: a file that vanishes must not end the training."""
    for index in indices:
        try:
            yield crops[0, index]
        except (DataError, StorageError) as error:
            logger.warning("Left out of the validation: %s: %s", crops.ids[index], error)
