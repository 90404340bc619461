"""The backbone: a waveform or features in, frames of 80 ms out."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, BackboneConfig, Context
from encoder.conformer import Conformer, stacked
from encoder.features import FeatureStatistics, LogMel
from encoder.masks import length_mask
from trunkline.errors import ConfigError, DataError

Layers: TypeAlias = Collection[int] | Literal["all"] | None
Audio: TypeAlias = "str | os.PathLike[str] | np.ndarray | Tensor"


class Encoded(NamedTuple):
    """What the backbone returns.

    `frames` (batch, frames, dim), zero at padding; `lengths` (batch,) in frames; `layers` (number, batch, frames,
    dim) of the layers asked for, or None; `times` (frames,) centre of each frame in seconds.
    """

    frames: Tensor
    lengths: Tensor
    layers: Tensor | None
    times: Tensor


class Backbone(nn.Module):
    """A Conformer with its features and their normalisation.

    The encoder is that of ChunkFormer (ICASSP 2025); one `Context` setting means the same in training, in a batch
    and alone.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.fingerprint: str | None = None
        """SHA-256 over configuration and weights, once saved or loaded."""
        self.log_mel = LogMel(config.features)
        self.register_buffer("feature_mean", torch.zeros(config.features.num_mels))
        self.register_buffer("feature_scale", torch.ones(config.features.num_mels))
        self.conformer = Conformer(config)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio the backbone works on."""
        return self.config.features.sample_rate

    @property
    def frame_shift(self) -> float:
        """Seconds between two frames."""
        return SUBSAMPLING * self.config.features.hop / self.sample_rate

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the subsampled input is computed from."""
        return (RECEPTIVE_FIELD - 1) * self.config.features.hop + self.config.features.window

    @property
    def d_model(self) -> int:
        """Width of a frame."""
        return self.config.dim

    @property
    def num_layers(self) -> int:
        """Number of Conformer layers; layer 0 is the subsampled input."""
        return self.config.layers

    def set_normalisation(self, statistics: FeatureStatistics) -> None:
        """Take the global mean and variance of the training features."""
        self.feature_mean.copy_(statistics.mean)
        self.feature_scale.copy_(statistics.variance.rsqrt())

    def save(self, folder: str | os.PathLike[str], **options: Any) -> str:
        """Write a backbone directory, return its fingerprint; see `encoder.load.save_backbone` for the options."""
        from encoder.load import save_backbone

        return save_backbone(self, folder, **options)

    def normalise(self, features: Tensor) -> Tensor:
        """Return (features - mean) / standard deviation, per mel bin, in the type of the weights."""
        normalised = (features - self.feature_mean) * self.feature_scale
        return normalised.to(self.conformer.after_norm.weight.dtype)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        context: Context = Context.full(),
        layers: Layers = None,
    ) -> Encoded:
        """Encode a padded batch of log-mel features; each item gets the frames it would get alone.

        Args:
            features: (batch, features, mels) log-mel energies, not normalised, padded at the end with anything.
            lengths: (batch,) number of features of each item.
            context: what each frame may see.
            layers: also return these layers (0 the subsampled input, n layer n), or "all" of them.

        Raises:
            ConfigError: shapes, lengths, context or layers that cannot be.
        """
        context.checked()
        wanted = self._wanted(layers)
        mels = self.config.features.num_mels
        if features.ndim != 3 or features.shape[2] != mels:
            raise ConfigError(
                f"features has shape {tuple(features.shape)}; expected (batch, features, {mels})."
            )
        if lengths.shape != features.shape[:1] or (
            len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= features.shape[1]
        ):
            raise ConfigError(
                f"lengths {lengths.tolist()} do not fit features of shape {tuple(features.shape)}; "
                "give one length per item, from 0 to the batch's."
            )
        padding = ~length_mask(lengths, features.shape[1])[..., None]
        normalised = self.normalise(features).masked_fill(padding, 0.0)
        frames, frame_lengths, kept = self.conformer(normalised, lengths, context, wanted)
        return Encoded(frames, frame_lengths, stacked(kept), self.times(frames.shape[1]))

    def features(self, waveform: Tensor) -> Tensor:
        """Return log-mel features (..., features, mels) of a waveform (..., samples) in [-1, 1]."""
        return self.log_mel(waveform)

    def times(self, frames: int) -> Tensor:
        """Return the centres of the first `frames` frames in seconds, (frames,) float64, by sample arithmetic."""
        hop = SUBSAMPLING * self.config.features.hop
        starts = torch.arange(frames, dtype=torch.float64, device=self.feature_mean.device) * hop
        return (starts + self.receptive_field / 2) / self.sample_rate

    @torch.no_grad()
    def encode(
        self,
        audio: Audio,
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
    ) -> Encoded:
        """Encode one recording: a file, or a waveform (samples,) in [-1, 1] at `sample_rate`.

        Dropout is off whatever the module's mode. Audio shorter than one receptive field (165 ms) is followed by
        silence up to it, so that a short word has one frame; no samples at all give no frame.

        Raises:
            DataError: the file cannot be read or has several channels and no `channel` is given; the waveform is not
                one voice of finite floats.
        """
        waveform = self._waveform(audio, channel)
        if 0 < waveform.shape[0] < self.receptive_field:
            waveform = nn.functional.pad(waveform, (0, self.receptive_field - waveform.shape[0]))
        features = self.features(waveform)[None]
        lengths = torch.tensor([features.shape[1]], device=features.device)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return self(features, lengths, context=context, layers=layers)
        finally:
            for module, training in modes:
                module.training = training

    def _waveform(self, audio: Audio, channel: int | str | None) -> Tensor:
        device = self.feature_mean.device
        if isinstance(audio, str | os.PathLike):
            from trunkline.audio import read

            audio = read(audio, channel=channel, sample_rate=self.sample_rate)
        waveform = torch.as_tensor(audio, device=device)
        if not waveform.is_floating_point():
            raise DataError(
                f"A waveform of {waveform.dtype} has no known scale; give floats in [-1, 1], "
                "e.g. 16-bit samples divided by 32768."
            )
        waveform = waveform.to(torch.float32)
        if waveform.ndim != 1:
            raise DataError(
                f"A waveform of shape {tuple(waveform.shape)} is not one voice; give (samples,) of one channel."
            )
        if not bool(torch.isfinite(waveform).all()):
            raise DataError("The waveform holds NaN or infinite samples.")
        return waveform

    def _wanted(self, layers: Layers) -> Collection[int]:
        if layers is None:
            return ()
        numbers = range(self.num_layers + 1)
        if layers == "all":
            return numbers
        listed = isinstance(layers, Collection) and not isinstance(layers, str)
        if not (listed and layers and set(layers) <= set(numbers)):
            raise ConfigError(
                f"layers={layers!r}: list numbers from 0 to {self.num_layers}, or give 'all'."
            )
        return set(layers)
