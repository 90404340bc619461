"""The speaker head: one vector per turn or call, near those of the same voice and far from others'."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.calibration import fit_llr
from heads.head import HeadLabels, HeadOptions, PooledHead, PooledOptions, TrunkSpec
from heads.registry import register_head
from heads.verification import all_pairs, score_trials
from trunkline.errors import ConfigError, DataError, nearest
from trunkline.metrics import equal_error_rate, error_tradeoff

_MOST_CALIBRATED = 2000  # cuts; of more not all pairs are needed


@dataclass(frozen=True)
class SpeakerOptions(PooledOptions):
    """The settings of a speaker head."""

    embedding: int = 128
    """Width of the speaker vector."""
    scale: float = 30.0
    """Cosines are multiplied by it before the softmax."""
    margin: float = 0.2
    """Angle (radians) by which a turn must be nearer to its own speaker than to others."""
    margin_start: float = 0.2
    """Share of the training after which the margin grows, so that speakers part before they are pushed apart."""
    margin_end: float = 0.6
    """Share of the training after which it is full."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.embedding > 0 and self.scale > 0 and 0 <= self.margin < math.pi / 2):
            raise ConfigError(
                f"embedding={self.embedding} and scale={self.scale} must be positive, margin={self.margin} an angle "
                "from 0 to below pi / 2."
            )
        if not 0 <= self.margin_start <= self.margin_end <= 1:
            raise ConfigError(
                f"margin_start={self.margin_start} and margin_end={self.margin_end} are shares of the training: the "
                "first not above the second, both from 0 to 1."
            )

    def margin_at(self, progress: float) -> float:
        """Return the margin when this share of the training is done: 0, then rising evenly, then `margin`."""
        if progress >= self.margin_end:
            return self.margin
        if progress <= self.margin_start:
            return 0.0
        return self.margin * (progress - self.margin_start) / (self.margin_end - self.margin_start)


class SpeakerEmbedding(NamedTuple):
    """Output of the speaker head."""

    embedding: Tensor
    """(batch, embedding) of length 1."""
    lengths: Tensor
    """(batch,) frames that the vector rests on."""


@register_head("speaker")
class SpeakerHead(PooledHead):
    """Pooled statistics, a linear layer, length 1; trained to tell the training speakers apart (AAM-softmax).

    Pool as much of one voice as there is: a turn of a second holds a dozen frames, a call's channel hundreds
    (`heads.verification.enrol` also averages vectors).

    Source: Deng et al., "ArcFace", CVPR 2019, equation 3; Okabe et al., Interspeech 2018 (pooling).
    """

    Options: ClassVar[type[HeadOptions]] = SpeakerOptions
    use = "embed_speaker"
    options: SpeakerOptions  # type: ignore[assignment]

    def __init__(
        self, options: SpeakerOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if labels is None or not labels.names:
            raise ConfigError(
                "A speaker head needs its training speakers; make them with `prepare`."
            )
        self.names = labels.names
        self.normalise = nn.LayerNorm(self.pooled_dim)
        self.embed = nn.Linear(self.pooled_dim, options.embedding)
        self.speakers = nn.Parameter(torch.empty(len(labels.names), options.embedding))
        nn.init.xavier_uniform_(self.speakers)
        self.progress = 1.0
        """Share of the training that is done; without training the margin is full."""

    def begin_step(self, step: int, total: int) -> None:
        """Set the margin for a training step (from 0) of `total`."""
        self.progress = step / max(total, 1)

    @classmethod
    def prepare(cls, options: SpeakerOptions, labels: Iterable[Any]) -> HeadLabels:
        """Return the training speakers.

        Raises:
            DataError: fewer than two speakers, or a speaker that is no name.
        """
        counts = Counter(_name(label) for label in labels)
        if len(counts) < 2:
            there = f"only {next(iter(counts))!r}" if counts else "none"
            raise DataError(f"A speaker head learns from at least two speakers; there is {there}.")
        names = tuple(sorted(counts))
        return HeadLabels(names, tuple(counts[name] for name in names))

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError for speakers the loss does not know; vectors of unknown speakers are the normal use."""
        unknown = sorted({_name(label) for label in labels} - set(self.names))
        if unknown:
            raise DataError(
                f"Speakers that were not in training have no loss: {', '.join(unknown[:5])}"
                f"{' ...' if len(unknown) > 5 else ''}.{nearest(unknown[0], self.names)} "
                "Judge new speakers by trials (heads.evaluate)."
            )

    def classify(self, pooled: Tensor, lengths: Tensor) -> SpeakerEmbedding:
        """Return vectors of length 1 (a turn without frames has one too, which means nothing)."""
        vectors = self.embed(self.normalise(pooled.to(self.embed.weight.dtype)))
        return SpeakerEmbedding(functional.normalize(vectors.float(), dim=1), lengths)

    def loss(
        self, output: SpeakerEmbedding, labels: Sequence[Any]
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the additive angular margin softmax loss; its margin grows in the course of training.

        Raises:
            DataError: a speaker that was not in training.
        """
        self.check_labels(labels)
        place = {name: index for index, name in enumerate(self.names)}
        targets = torch.tensor([place[_name(label)] for label in labels]).to(
            output.embedding.device
        )
        margin = self.options.margin_at(self.progress)
        cosines = output.embedding @ functional.normalize(self.speakers.float(), dim=1).T
        logits = self.options.scale * with_margin(cosines, targets, margin)
        return functional.cross_entropy(logits, targets), {
            "accuracy": float((cosines.argmax(dim=1) == targets).float().mean()),
            "margin": margin,
        }

    def decode(self, output: SpeakerEmbedding) -> list[list[float]]:
        """Return the vector of each item, empty for a turn without frames."""
        return [
            vector if heard else []
            for vector, heard in zip(
                output.embedding.tolist(), (output.lengths > 0).tolist(), strict=True
            )
        ]

    def calibrate(
        self, outputs: SpeakerEmbedding | Sequence[SpeakerEmbedding], labels: Sequence[Any]
    ) -> dict[str, Any]:
        """Learn from all pairs of dev what a score means, and return it; also kept in `calibration`.

        `llr_scale` and `llr_offset` turn a cosine into a log-likelihood ratio, `threshold` is where misses equal false
        alarms, `eer_on_dev` how many there are of either.

        Raises:
            DataError: no speaker has two cuts, or there is one speaker only.
        """
        batches = [outputs] if isinstance(outputs, SpeakerEmbedding) else list(outputs)
        vectors = [vector for batch in batches for vector in self.decode(batch)]
        heard = [place for place, vector in enumerate(vectors) if vector][:_MOST_CALIBRATED]
        trials = all_pairs({str(place): _name(labels[place]) for place in heard})
        scores = score_trials(trials, {str(place): vectors[place] for place in heard})
        same = np.array([trial.same for trial in trials])
        ratio = fit_llr(scores, same)
        tradeoff = error_tradeoff(scores, same)
        place = int(np.argmax(tradeoff.miss >= tradeoff.false_alarm))
        self.calibration = {
            "llr_scale": ratio.scale,
            "llr_offset": ratio.offset,
            "threshold": float(min(tradeoff.thresholds[place], scores.max())),
            "eer_on_dev": equal_error_rate(tradeoff),
            "trials": len(trials),
        }
        return self.calibration


def with_margin(cosines: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Return the cosines (batch, speakers) with `margin` (radians) added to the angle to the right speaker.

    Beyond pi - margin, where the cosine would rise again, a straight line goes on downwards (as in ArcFace's code).
    """
    cosine = cosines.gather(1, targets[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    sine = (1 - cosine.square()).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine - math.sin(margin) * margin
    moved = torch.where(cosine > math.cos(math.pi - margin), turned, beyond)
    return cosines.scatter(1, targets[:, None], moved)


def _name(label: Any) -> str:
    if isinstance(label, str | int) and not isinstance(label, bool) and str(label):
        return str(label)
    raise DataError(f"The speaker {label!r} is no name.")
