"""Masked cluster prediction (HuBERT, Hsu et al. 2021, section II) at 80 ms, with several labels a frame.

The encoder sees features with spans replaced by a learned vector, and tells for every masked frame which clusters
its labels belong to: cosine similarity of a projection with a codeword each, divided by a temperature. Every label
slot (four labels of 20 ms in the first iteration) has its own projection and codewords; their losses are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Backbone, Context
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, FeatureConfig
from encoder.features import mel_centres
from trunkline.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective and the contexts it is trained in."""

    projection: int = 128
    """Width in which frames and codewords are compared."""
    temperature: float = 0.1
    masked_weight: float = 1.0
    unmasked_weight: float = 0.5
    """HuBERT has 0; here frames that are seen teach the acoustics, and the masked ones are predicted sooner."""
    full_context: float = 0.5
    """Share of batches encoded with full context; the others draw from `contexts`."""
    contexts: tuple[tuple[int, int, int], ...] = ((8, 40, 0), (16, 40, 8), (4, 40, 0))
    """Limited contexts (chunk, left, right) in frames, so that the stream is what was trained."""
    gain_db: float = 6.0
    """Features are made louder or softer by up to this many dB; the targets stay those of the original."""
    warp: float = 0.0
    """Frequencies are stretched or squeezed by up to this share, as a vocal tract of another length would."""

    def __post_init__(self) -> None:
        if not 0 <= self.warp <= 0.5:
            raise ConfigError(f"objective.warp={self.warp} is a share; choose 0 to 0.5, e.g. 0.1.")
        if not 0 <= self.full_context <= 1:
            raise ConfigError("objective.full_context is a share between 0 and 1.")
        if self.full_context < 1 and not self.contexts:
            raise ConfigError("objective.contexts is empty but objective.full_context is below 1.")
        if (
            self.masked_weight < 0
            or self.unmasked_weight < 0
            or self.masked_weight + self.unmasked_weight == 0
        ):
            raise ConfigError("objective.masked_weight and unmasked_weight must not both be 0.")
        for context in self.contexts:
            Context(*context).checked()


class Batch(TypedDict):
    """One padded batch of crops; T features and F frames, padding at the end."""

    ids: list[str]
    features: Tensor
    """(batch, T, mels) log-mel energies."""
    lengths: Tensor
    """(batch,) features."""
    masked: Tensor
    """(batch, F) bool, the frames to predict."""
    targets: Tensor
    """(batch, F, slots) cluster numbers."""
    audio_seconds: float
    fractions: dict[str, float]
    """Shares of features masked, of frames counted and of frames partly masked, for the record."""


def warp_frequencies(features: Tensor, factors: Tensor, config: FeatureConfig) -> Tensor:
    """Return log-mel features as of a voice whose frequencies are `factors` times as high.

    Vocal tract length perturbation (Jaitly & Hinton 2013) on the mel axis, linear between bins; what comes from
    beyond the last bin is the last bin.

    Args:
        features: (batch, features, mels).
        factors: (batch,) above 0.
        config: tells what frequencies the bins stand for.
    """
    centres = mel_centres(config).to(features.device)
    step = centres[1] - centres[0]
    hertz = 700.0 * ((centres / 1127.0).exp() - 1.0)
    source = 1127.0 * (1.0 + hertz / factors.to(features.device)[:, None] / 700.0).log()
    places = ((source - centres[0]) / step).clamp(0, len(centres) - 1)
    below = places.long().clamp_max(len(centres) - 2)
    part = (places - below)[:, None]
    index = below[:, None].expand_as(features)
    return torch.lerp(features.gather(2, index), features.gather(2, index + 1), part.to(features))


class ClusterPrediction(nn.Module):
    """Frames to cluster logits, one set of codewords a slot."""

    def __init__(self, dim: int, clusters: int, slots: int, config: ObjectiveConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.slots = slots
        self.projection = nn.Linear(dim, slots * config.projection)
        # Only the direction counts; short vectors turn quickly under Adam, whose steps have a fixed length.
        self.codewords = nn.Parameter(
            torch.empty(slots, clusters, config.projection).normal_(std=0.05)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits (..., slots, clusters) of frames (..., dim), in float32."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = self.projection(frames.float()).unflatten(-1, (self.slots, -1))
            projected = functional.normalize(projected, dim=-1)
            codewords = functional.normalize(self.codewords.float(), dim=-1)
            return torch.einsum("...sp,skp->...sk", projected, codewords) / self.temperature


class MaskedPrediction(nn.Module):
    """The pretraining task: a backbone, the vector that hides features, and a prediction of targets."""

    def __init__(self, backbone: Backbone, prediction: nn.Module, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.prediction = prediction
        self.mask_vector = nn.Parameter(
            torch.zeros(backbone.config.features.num_mels).uniform_(-0.1, 0.1)
        )

    def loss(
        self, batch: Batch, context: Context | None = None
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss and the health of one batch, in a context drawn from the settings or in the given one.

        Raises:
            TrainingError: no frame of the batch is to be predicted.
        """
        valid = torch.arange(batch["masked"].shape[1], device=batch["lengths"].device) < (
            (batch["lengths"][:, None] - RECEPTIVE_FIELD) // SUBSAMPLING + 1
        )
        masked, unmasked = batch["masked"] & valid, valid & ~batch["masked"]
        if not bool(masked.any()):
            raise TrainingError(
                f"No frame is masked in the batch with {', '.join(batch['ids'][:3])}: every item is shorter than two "
                "frames (245 ms). Leave such cuts out, or join turns into longer cuts."
            )
        frames = self._encode(batch, context or self._context())
        logits = self.prediction(frames)
        losses = functional.cross_entropy(
            logits.flatten(0, -2), batch["targets"].flatten(), reduction="none"
        ).view(batch["targets"].shape)
        masked_loss = losses[masked].mean()
        total = self.config.masked_weight * masked_loss
        metrics: dict[str, float | Tensor] = {
            "masked_loss": masked_loss.detach(),
            **batch["fractions"],
        }
        if bool(unmasked.any()):
            unmasked_loss = losses[unmasked].mean()
            metrics["unmasked_loss"] = unmasked_loss.detach()
            total = total + self.config.unmasked_weight * unmasked_loss
        metrics.update(self._health(logits.detach(), batch["targets"], masked, unmasked))
        return total, metrics

    def _encode(self, batch: Batch, context: Context) -> Tensor:
        features = self.backbone.normalise(self._as_another_voice(batch["features"]))
        hidden = batch["masked"].repeat_interleave(SUBSAMPLING, dim=1)
        hidden = functional.pad(hidden, (0, features.shape[1] - hidden.shape[1]))
        for _ in range(RECEPTIVE_FIELD - SUBSAMPLING):
            hidden = hidden | functional.pad(hidden, (1, 0))[:, :-1]
        features = torch.where(hidden[..., None], self.mask_vector, features)
        frames, _, _ = self.backbone.conformer(features, batch["lengths"], context)
        return frames

    def _as_another_voice(self, features: Tensor) -> Tensor:
        """Change level and vocal tract length of each item; the targets are those of the original."""
        if self.training and self.config.gain_db:
            decibels = (2 * torch.rand(features.shape[0], 1, 1) - 1) * self.config.gain_db
            # Natural logarithm of energy: 10 dB are a factor of 10.
            features = features + decibels.to(features.device) * 0.1 * math.log(10.0)
        if self.training and self.config.warp:
            factors = 1 + (2 * torch.rand(features.shape[0]) - 1) * self.config.warp
            features = warp_frequencies(features, factors, self.backbone.config.features)
        return features

    def _context(self) -> Context:
        if (
            not self.training
            or not self.config.contexts
            or torch.rand(()).item() < self.config.full_context
        ):
            return Context.full()
        return Context(
            *self.config.contexts[int(torch.randint(len(self.config.contexts), ()).item())]
        )

    @torch.no_grad()
    def _health(
        self, logits: Tensor, targets: Tensor, masked: Tensor, unmasked: Tensor
    ) -> dict[str, float | Tensor]:
        best = logits.argmax(dim=-1)
        right = (best == targets).float()
        counts = torch.bincount(best[masked].flatten(), minlength=logits.shape[-1]).float()
        shares = counts / counts.sum()
        metrics: dict[str, float | Tensor] = {
            "masked_accuracy": right[masked].mean(),
            "codebook_coverage": (counts > 0).float().mean(),
            "codebook_entropy": -(shares * shares.clamp_min(1e-12).log()).sum(),
        }
        if targets.shape[-1] > 1:
            for slot, accuracy in enumerate(right[masked].mean(dim=0)):
                metrics[f"masked_accuracy_slot{slot}"] = accuracy
        if bool(unmasked.any()):
            metrics["unmasked_accuracy"] = right[unmasked].mean()
        return metrics
