"""A number for a turn or a call, such as satisfaction from 1 to 5: the simplest head of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.head import HeadLabels, HeadOptions, PooledHead, PooledOptions, TrunkSpec
from heads.registry import register_head
from trunkline.errors import ConfigError, DataError


@dataclass(frozen=True)
class RegressionOptions(PooledOptions):
    """The settings of a regression head; `label` names the number in the manifest."""


class Estimate(NamedTuple):
    """Output of a regression head."""

    values: Tensor
    """(batch,) in units of the training labels' deviation, around their mean."""
    lengths: Tensor
    """(batch,) frames that the number rests on."""


class Estimated(NamedTuple):
    """The number for one turn or call; None where nothing was heard."""

    value: float | None


@register_head("regression")
class RegressionHead(PooledHead):
    """Pools the turn and gives one number; trained by the squared error of standardised labels."""

    Options: ClassVar[type[HeadOptions]] = RegressionOptions
    options: RegressionOptions  # type: ignore[assignment]

    def __init__(
        self, options: RegressionOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if labels is None or not {"mean", "deviation"} <= labels.extra.keys():
            raise ConfigError(
                "A regression head needs its labels' mean and deviation; use `prepare`."
            )
        self.mean, self.deviation = labels.extra["mean"], labels.extra["deviation"]
        self.output = nn.Linear(self.pooled_dim, 1)

    @classmethod
    def prepare(cls, options: RegressionOptions, labels: Iterable[Any]) -> HeadLabels:
        """Return mean and deviation of the training labels.

        Raises:
            DataError: labels that are no numbers, or all the same.
        """
        values = torch.tensor([_number(label) for label in labels], dtype=torch.float64)
        if len(values.unique()) < 2:
            there = f"only {values[0]:g}" if len(values) else "none"
            raise DataError(f"A regression head learns from different numbers; there is {there}.")
        return HeadLabels(
            extra={"mean": float(values.mean()), "deviation": float(values.std(correction=0))}
        )

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError for a label that is no finite number."""
        for label in labels:
            _number(label)

    def classify(self, pooled: Tensor, lengths: Tensor) -> Estimate:
        """Return the numbers of pooled turns."""
        values = self.output(pooled.to(self.output.weight.dtype))[:, 0]
        return Estimate(values.float(), lengths)

    def loss(self, output: Estimate, labels: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of standardised labels, and `mae`, the mean error in the labels' unit.

        Raises:
            DataError: a label that is no finite number.
        """
        wanted = torch.tensor([_number(label) for label in labels], device=output.values.device)
        wanted = (wanted - self.mean) / self.deviation
        away = (output.values.detach() - wanted).abs().mean() * self.deviation
        return functional.mse_loss(output.values, wanted), {"mae": float(away)}

    def decode(self, output: Estimate) -> list[Estimated]:
        """Return the numbers in the labels' unit."""
        values = (output.values * self.deviation + self.mean).tolist()
        heard = (output.lengths > 0).tolist()
        return [Estimated(value if one else None) for value, one in zip(values, heard, strict=True)]


def _number(label: Any) -> float:
    if isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label):
        return float(label)
    raise DataError(f"The label {label!r} is no finite number.")
