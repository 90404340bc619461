"""A class for every frame: is somebody speaking, which phone is it.

A label is a list of ``[start, end, name]``, in seconds from the beginning of the cut; what no stretch covers is
`background`, or without one is not learnt from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Encoded
from encoder.masks import length_mask
from heads.head import FrameHead, HeadLabels, HeadOptions, TrunkSpec
from heads.levels import answer_silence
from heads.recognition import frame_times
from heads.registry import register_head
from trunkline.errors import ConfigError, DataError, nearest

UNLABELLED = -100
"""Target of a frame that nothing is known of."""
_TOUCHING = 1e-3
"""Seconds: stretches that are not farther from each other follow one another."""


@dataclass(frozen=True)
class FrameOptions(HeadOptions):
    """The settings of a head that answers for every frame."""

    background: str = "none"
    """Name of what no stretch of a label covers; it is not listed in results. Empty: such frames are not learnt."""
    hidden: int = 128
    """Width of the layer between the frames and the classes; 0 is none."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden < 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"hidden={self.hidden} must be 0 or more, dropout={self.dropout} in [0, 1)."
            )


class FrameScores(NamedTuple):
    """Output of a frame classifier."""

    logits: Tensor
    """(batch, frames, classes), zero at padding."""
    lengths: Tensor
    """(batch,) frames."""
    times: Tensor
    """(batch, frames) centres of the frames in seconds."""


class Stretch(NamedTuple):
    """Neighbouring frames of one class, in seconds; the confidence is the mean of theirs."""

    name: str
    start: float
    end: float
    confidence: float


def merged(found: Iterable[Stretch]) -> list[Stretch]:
    """Return stretches in order of time with neighbours of one class put together.

    Of what a live line gave piece by piece this makes the stretches of the whole.
    """
    whole: list[Stretch] = []
    for one in found:
        last = whole[-1] if whole else None
        if last is None or last.name != one.name or one.start - last.end > _TOUCHING:
            whole.append(one)
            continue
        before, now = last.end - last.start, one.end - one.start
        sure = (before * last.confidence + now * one.confidence) / (before + now)
        whole[-1] = Stretch(one.name, last.start, one.end, sure)
    return whole


class FrameClassifier(FrameHead):
    """Scores the classes at each frame by itself; see `FrameOptions`."""

    Options: ClassVar[type[HeadOptions]] = FrameOptions
    options: FrameOptions  # type: ignore[assignment]
    use = "track"

    def __init__(
        self, options: FrameOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if labels is None or not labels.names:
            raise ConfigError(f"A {self.kind} head needs its classes; make them with `prepare`.")
        self.names = labels.names
        width = options.hidden or trunk.dim
        self.hidden = nn.Sequential(
            *((nn.Linear(trunk.dim, width), nn.SiLU()) if options.hidden else ()),
            nn.Dropout(options.dropout),
        )
        self.output = nn.Linear(width, len(labels.names))

    @classmethod
    def prepare(cls, options: FrameOptions, labels: Iterable[Any]) -> HeadLabels:
        """Return the classes of the training labels, the background first, and how many stretches each has.

        Raises:
            DataError: a label that is no list of stretches, or fewer than two classes.
        """
        counts = Counter(name for label in labels for _, _, name in stretches(label))
        background = [options.background] if options.background else []
        names = (*background, *sorted(set(counts) - set(background)))
        if len(names) < 2:
            raise DataError(
                f"Frames are told apart by at least two classes; there is {', '.join(names) or 'none'}."
            )
        return HeadLabels(names, tuple(counts[name] for name in names))

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError that names a class that was not in training, or an ill-formed label."""
        for label in labels:
            for _, _, name in stretches(label):
                if name not in self.names:
                    raise DataError(
                        f"The class {name!r} was not in training.{nearest(name, self.names)}"
                    )

    def forward(self, encoded: Encoded) -> FrameScores:
        """Return the scores of the classes at each frame."""
        logits = self.output(self.hidden(self.inputs(encoded))).float()
        valid = length_mask(encoded.lengths, logits.shape[1])[..., None]
        return FrameScores(logits.masked_fill(~valid, 0.0), encoded.lengths, frame_times(encoded))

    def targets(self, output: FrameScores, labels: Sequence[Any]) -> Tensor:
        """Return the class number of each frame (batch, frames): that of the stretch its centre lies in."""
        self.check_labels(labels)
        background = UNLABELLED if not self.options.background else 0
        targets = torch.full(output.times.shape, background, device=output.logits.device)
        for row, label in enumerate(labels):
            for start, end, name in stretches(label):
                inside = (output.times[row] >= start) & (output.times[row] < end)
                targets[row, inside] = self.names.index(name)
        valid = length_mask(output.lengths, targets.shape[1])
        return targets.masked_fill(~valid, UNLABELLED)

    def loss(self, output: FrameScores, labels: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean over items of their labelled frames' mean cross-entropy, and the frames' accuracy.

        Raises:
            DataError: a class that was not in training, or an ill-formed label.
        """
        targets = self.targets(output, labels)
        known = targets != UNLABELLED
        losses = functional.cross_entropy(
            output.logits.transpose(1, 2), targets, ignore_index=UNLABELLED, reduction="none"
        )
        counts = known.sum(1)
        items = losses.sum(1) / counts.clamp_min(1)
        correct = ((output.logits.argmax(2) == targets) & known).sum()
        mean = items.sum() / (counts > 0).sum().clamp_min(1)
        return mean, {"frame_accuracy": float(correct / counts.sum().clamp_min(1))}

    def decode(self, output: FrameScores) -> list[list[Stretch]]:
        """Return the stretches of each item in order of time, the background left out."""
        confidences, classes = output.logits.softmax(2).max(2)
        half = self.trunk.frame_shift / 2
        results = []
        for row, length in enumerate(output.lengths.tolist()):
            frames = list(
                zip(
                    classes[row, :length].tolist(),
                    output.times[row, :length].tolist(),
                    confidences[row, :length].tolist(),
                    strict=True,
                )
            )
            found = []
            for number, group in groupby(frames, key=lambda frame: frame[0]):
                run = list(group)
                if self.names[number] != self.options.background:
                    sure = sum(frame[2] for frame in run) / len(run)
                    start, end = max(0.0, run[0][1] - half), run[-1][1] + half
                    found.append(Stretch(self.names[number], start, end, sure))
            results.append(found)
        return results


def stretches(label: Any) -> list[tuple[float, float, str]]:
    """Return a label as (start, end, name) in seconds; raises a DataError if it is none."""
    try:
        found = [(float(start), float(end), name) for start, end, name in label]
    except (TypeError, ValueError):
        found = None
    if found is None or not all(isinstance(n, str) and n and 0 <= a < b for a, b, n in found):
        raise DataError(
            f"The label {label!r} is no list of [start, end, name] with 0 <= start < end in seconds."
        )
    return found


@register_head("vad")
class VoiceActivityHead(FrameClassifier):
    """When somebody speaks; the label is `vad`: ``[[0.31, 1.7, "speech"], ...]``."""

    def hush(self, output: FrameScores, silent: Tensor) -> FrameScores:
        """Return the scores with the background, if there is one, where a frame heard nothing."""
        if not self.options.background or not bool(silent.any()):
            return output
        return output._replace(logits=answer_silence(output.logits, silent, 0))


@register_head("phones")
class PhoneHead(FrameClassifier):
    """Which phone is spoken when; the label is `phones`: ``[[0.31, 0.4, "a"], ...]``."""
