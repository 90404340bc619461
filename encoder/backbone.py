"""The backbone: a waveform or features in, frames of 80 ms out."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from encoder import longform
from encoder.adapters import Adapters
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, BackboneConfig, Context
from encoder.conformer import Conformer
from encoder.encoded import Encoded
from encoder.features import FeatureStatistics, LogMel
from encoder.shared import Branch, SharedTrunk
from encoder.state import StreamState
from trunkline import audio as audio_files
from trunkline.errors import ConfigError, DataError, UsageError

Layers: TypeAlias = Collection[int] | Literal["all"] | None
Audio: TypeAlias = "str | os.PathLike[str] | np.ndarray | Tensor | Iterator[np.ndarray]"
"""A file, a waveform (samples,), or an iterator over the blocks (samples,) of one."""
__all__ = ["Audio", "Backbone", "Encoded", "Layers"]


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
        self._stream_key: int | None = None
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

    def optimize(self, **options: Any) -> Backbone:
        """Return a copy that computes faster on a CPU, for inference; `encoder.optimize.optimize` has the options."""
        from encoder.optimize import optimize

        return optimize(self, **options)

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
        adapters: Adapters | None = None,
    ) -> Encoded:
        """Encode a padded batch of log-mel features; each item gets the frames it would get alone.

        Args:
            features: (batch, features, mels) log-mel energies, not normalised, padded at the end with anything.
            lengths: (batch,) number of features of each item.
            context: what each frame may see.
            layers: also return these layers (0 the subsampled input, n layer n), or "all" of them.
            adapters: what bends the encoder, owned by a head; None bends nothing.

        Raises:
            ConfigError: shapes, lengths, context or layers that cannot be.
        """
        return self._alone(adapters, layers).forward(features, lengths, context=context)[0]

    def features(self, waveform: Tensor) -> Tensor:
        """Return log-mel features (..., features, mels) of a waveform (..., samples) in [-1, 1]."""
        return self.log_mel(waveform)

    def times(self, frames: int, first: int = 0) -> Tensor:
        """Return the centres of `frames` frames from `first` on in seconds, (frames,) float64, by sample arithmetic."""
        hop = SUBSAMPLING * self.config.features.hop
        numbers = torch.arange(first, first + frames, device=self.feature_mean.device)
        return (numbers.to(torch.float64) * hop + self.receptive_field / 2) / self.sample_rate

    @overload
    def encode(
        self,
        audio: Audio,
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
        adapters: Adapters | None = None,
    ) -> Encoded: ...

    @overload
    def encode(
        self,
        audio: list[Audio] | tuple[Audio, ...],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
        adapters: Adapters | None = None,
    ) -> list[Encoded]: ...

    def encode(
        self,
        audio: Audio | list[Audio] | tuple[Audio, ...],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
        adapters: Adapters | None = None,
    ) -> Encoded | list[Encoded]:
        """Encode a recording: a file, or a waveform (samples,) in [-1, 1] at `sample_rate`; or a list of them.

        Audio, features and layers are computed block by block, so that beside the result the memory does not grow
        with the recording (full context excepted, which is refused beyond an hour). Dropout is off whatever the
        module's mode. Audio shorter than one receptive field (165 ms) is followed by silence up to it, so that a
        short word has one frame; no samples at all give no frame; after the last frame less than a frame (80 ms) of
        audio is left over. All ways of encoding have these same frames.

        Returns:
            The frames of the recording, batch 1; for a list what `encode_batch` returns.

        Raises:
            DataError: the file cannot be read or has several channels and no `channel` is given; the waveform is not
                one voice of finite floats.
            UsageError: a `channel` of a waveform, or full context for more than an hour.
        """
        trunk = self._alone(adapters, layers)
        if isinstance(audio, list | tuple):
            return [one for (one,) in trunk.encode_batch(audio, channel=channel, context=context)]
        return trunk.encode(audio, channel=channel, context=context)[0]

    def encode_blocks(
        self,
        audio: Audio,
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
        adapters: Adapters | None = None,
        block: int = longform.BLOCK_FRAMES,
    ) -> Iterator[Encoded]:
        """Yield the frames of `encode` piece by piece, in memory that does not grow with the recording.

        The pieces do not depend on `block`, the frames of one step, beyond where they are cut. Raises as `encode`.
        """
        trunk = self._alone(adapters, layers)
        pieces = trunk.encode_blocks(audio, channel=channel, context=context, block=block)
        return (one for (one,) in pieces)

    def encode_batch(
        self,
        items: Iterable[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        layers: Layers = None,
        adapters: Adapters | None = None,
        block: int = longform.BLOCK_FRAMES,
    ) -> list[Encoded]:
        """Encode recordings of any lengths together, without padding: an hour and a second cost an hour and a second.

        Args:
            items: files, waveforms (samples,), or log-mel features (features, mels) as `features` returns them.
            channel: of the files.
            context: what each frame may see.
            layers: also return these layers.
            adapters: what bends the encoder.
            block: frames that are computed at once, of as many recordings as they hold.

        Returns:
            What `encode` returns for each item alone; features of less than 15 give no frame, as in `forward`.

        Raises:
            DataError, UsageError: as `encode`.
        """
        trunk = self._alone(adapters, layers)
        found = trunk.encode_batch(items, channel=channel, context=context, block=block)
        return [one for (one,) in found]

    def init_state(
        self,
        batch: int,
        context: Context,
        *,
        layers: Layers = None,
        adapters: Adapters | None = None,
    ) -> StreamState:
        """Return the state of `batch` streams that have not begun.

        Raises:
            ConfigError: a context or layers that cannot be, or full context, which no stream has.
        """
        return self._alone(adapters, layers).init_state(batch, context)

    def step(
        self,
        features: Tensor,
        state: StreamState,
        lengths: Tensor | None = None,
        *,
        adapters: Adapters | None = None,
    ) -> tuple[Encoded, StreamState]:
        """Feed streams; return the frames that are known now, and the new state.

        The frames are those of the whole recording, each given once, as soon as all it sees is there. `state` stays
        as it is. Streams may be of any ages; one that gets no features is idle, for as long as it likes.

        Args:
            features: (batch, features, mels) log-mel energies, from `step_features` or `features`.
            state: from `init_state`, the step before, or `join_states`.
            lengths: (batch,) features of each stream; all by default, 0 for a stream that is idle.
            adapters: those that the state was begun with.

        Returns:
            Frames (batch, frames, dim) with zeros after each stream's own `lengths`, and `times` (batch, frames).

        Raises:
            ConfigError: shapes or lengths that cannot be.
            UsageError: a stream that has been finished, or the state of another backbone.
            DataError: NaN or infinite features.
        """
        (encoded,), state = self._of(state, adapters).step(features, state, lengths)
        return encoded, state

    def finish(
        self,
        state: StreamState,
        streams: Iterable[int] | None = None,
        *,
        adapters: Adapters | None = None,
    ) -> tuple[Encoded, StreamState]:
        """End some streams of a batch (all by default): return the frames that waited for more, and the new state.

        Raises:
            UsageError: no such stream, or one that has been finished.
        """
        (encoded,), state = self._of(state, adapters).finish(state, streams)
        return encoded, state

    @property
    def stream_key(self) -> int:
        """A number by which states of this backbone's streams are told: of its weights, once saved or loaded."""
        if self._stream_key is None:
            own = secrets.token_hex(8) if self.fingerprint is None else self.fingerprint
            self._stream_key = int(own[:15], 16)
        return self._stream_key

    def _alone(self, adapters: Adapters | None, layers: Layers) -> SharedTrunk:
        return SharedTrunk(self, [Branch(adapters, layers)])

    def _of(self, state: StreamState, adapters: Adapters | None) -> SharedTrunk:
        numbers = state.numbers[0].tolist() if len(state.numbers) else []
        return self._alone(adapters, numbers or None)

    def feature_blocks(self, item: Audio, channel: int | str | None) -> Iterator[Tensor]:
        """Yield blocks of features (features, mels) of what stands in a batch."""
        if isinstance(item, np.ndarray | Tensor) and item.ndim == 2:
            features = torch.as_tensor(item, device=self.feature_mean.device)
            if features.shape[1] != self.config.features.num_mels:
                raise DataError(
                    f"An item of shape {tuple(features.shape)} is neither a waveform (samples,) nor features "
                    f"(features, {self.config.features.num_mels})."
                )
            if not bool(torch.isfinite(features).all()):
                raise DataError("The features of an item hold NaN or infinite values.")
            return iter([features])
        return longform.waveform_features(self, self.audio_blocks(item, channel))

    def audio_blocks(self, audio: Audio, channel: int | str | None) -> Iterator[Tensor]:
        """Yield blocks of samples (samples,) of a recording."""
        if isinstance(audio, str | os.PathLike):
            return map(
                self._checked_waveform,
                audio_files.blocks(
                    audio,
                    channel=channel,
                    sample_rate=self.sample_rate,
                    block_seconds=longform.BLOCK_SECONDS,
                ),
            )
        if channel is not None:
            raise UsageError(
                f"channel={channel!r} chooses a voice of a file; a waveform is one voice already. "
                "Index the channel you want and leave `channel` out."
            )
        if isinstance(audio, Iterator):
            return map(self._checked_waveform, audio)
        waveform = self._checked_waveform(audio)
        return iter(waveform.split(round(longform.BLOCK_SECONDS * self.sample_rate)))

    def _checked_waveform(self, audio: np.ndarray | Tensor) -> Tensor:
        waveform = torch.as_tensor(audio, device=self.feature_mean.device)
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

    def layer_numbers(self, layers: Layers) -> Collection[int]:
        """Return the layers that are asked for; raises a ConfigError for those there are none of."""
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
