"""The training engine: `train(task, batches, config, folder)` with exact resume."""

from trunkline.training.config import TrainConfig
from trunkline.training.loop import TrainResult, train
from trunkline.training.schedule import learning_rate
from trunkline.training.state import (
    average_checkpoints,
    average_weights,
    list_checkpoints,
    load_weights,
    newest_checkpoint,
)

__all__ = [
    "TrainConfig",
    "TrainResult",
    "average_checkpoints",
    "average_weights",
    "learning_rate",
    "list_checkpoints",
    "load_weights",
    "newest_checkpoint",
    "train",
]
