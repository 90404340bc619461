"""Masked cluster prediction (HuBERT, Hsu et al. 2021, section II) at 80 ms, with several labels a frame.

The encoder sees features with spans replaced by a learned vector, and tells for every masked frame which clusters
its labels belong to: cosine similarity of a projection with a codeword each, divided by a temperature. Every label
slot (four labels of 20 ms in the first iteration) has its own projection and codewords; their losses are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Backbone, Context
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from ssl.perturb import random_gate, random_level, random_line, random_noise, random_voice
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
    gate: float = 0.0
    """Share of items whose background is weaker or stronger than it was, as on lines that suppress noise or hiss."""
    channel_db: float = 0.0
    """The line colours what it carries by up to this many dB, smoothly over frequency."""
    noise: float = 0.0
    """Share of items that hear another item or a stationary noise under them; their targets stay the clean ones."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Range of the ratio of an item's energy to that of what is heard beside it, in dB."""

    def __post_init__(self) -> None:
        for name in ("gate", "noise", "full_context"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"objective.{name}={getattr(self, name)} is a share; choose 0 to 1."
                )
        if self.snr_db[0] > self.snr_db[1]:
            raise ConfigError(
                f"objective.snr_db={list(self.snr_db)} is a range; give the lower end first."
            )
        if min(self.gain_db, self.channel_db) < 0:
            raise ConfigError("objective.gain_db and objective.channel_db must not be negative.")
        if not 0 <= self.warp <= 0.5:
            raise ConfigError(f"objective.warp={self.warp} is a share; choose 0 to 0.5, e.g. 0.1.")
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
        features = self.backbone.normalise(self._perturbed(batch["features"], batch["lengths"]))
        hidden = batch["masked"].repeat_interleave(SUBSAMPLING, dim=1)
        hidden = functional.pad(hidden, (0, features.shape[1] - hidden.shape[1]))
        for _ in range(RECEPTIVE_FIELD - SUBSAMPLING):
            hidden = hidden | functional.pad(hidden, (1, 0))[:, :-1]
        features = torch.where(hidden[..., None], self.mask_vector, features)
        frames, _, _ = self.backbone.conformer(features, batch["lengths"], context)
        return frames

    def _perturbed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Change in training what targets do not depend on: voice, background, other sounds, line, level."""
        config = self.config
        if not self.training:
            return features
        if config.warp:
            features = random_voice(features, config.warp, self.backbone.config.features)
        if config.gate:
            features = random_gate(features, lengths, config.gate)
        if config.noise:
            features = random_noise(features, lengths, config.noise, config.snr_db)
        if config.channel_db:
            features = random_line(features, config.channel_db)
        if config.gain_db:
            features = random_level(features, config.gain_db)
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
