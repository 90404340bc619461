"""A head of one's own: does the customer promise to pay? To miss a promise costs more than to hear one too many.

python -m heads.train configs/heads/promise.yaml backbone=runs/small/backbone data.train=calls.jsonl
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from heads import PooledHead, PooledOptions, register_head
from heads.classification import Classification, Classified
from trunkline.errors import DataError


@dataclass(frozen=True)
class PromiseOptions(PooledOptions):
    """The settings of every pooling head, and how much worse a missed promise is than a false one."""

    cost_of_missed: float = 3.0


@register_head("promise")
class PromiseHead(PooledHead):  # noqa: D101
    Options = PromiseOptions

    def __init__(self, options: PromiseOptions, *rest: Any) -> None:
        super().__init__(options, *rest)
        self.cost, self.score = options.cost_of_missed, nn.Linear(self.pooled_dim, 1)

    def check_labels(self, labels: Any) -> None:  # noqa: D102
        if wrong := [label for label in labels if not isinstance(label, bool)]:
            raise DataError(f"The label `promise` is true or false, not {wrong[0]!r}.")

    def classify(self, pooled: Tensor, lengths: Tensor) -> Classification:  # noqa: D102
        return Classification(self.score(pooled)[:, 0], lengths)

    def loss(self, output: Classification, labels: Any) -> tuple[Tensor, dict[str, float]]:  # noqa: D102
        promised = torch.tensor(labels, device=output.logits.device).float()
        return binary_cross_entropy_with_logits(output.logits, promised), {}

    def decode(self, output: Classification) -> list[Classified]:  # noqa: D102
        chances, heard = output.logits.sigmoid().tolist(), output.lengths.tolist()
        said = [self.cost * p > 1 - p if n else None for p, n in zip(chances, heard, strict=True)]
        surely = [p if promised else 1 - p for p, promised in zip(chances, said, strict=True)]
        return [Classified(x, p, x is None, {}) for x, p in zip(said, surely, strict=True)]
