"""One live call channel: PCM blocks of any size in, frames with their times out."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch import Tensor

from encoder.adapters import Adapters
from encoder.backbone import Backbone, Layers
from encoder.config import Context
from encoder.encoded import Encoded
from encoder.features import INT16_SCALE, init_features, step_features
from encoder.shared import Branch, SharedTrunk
from trunkline.errors import DataError, UsageError


class SharedSession:
    """Encode one voice while it is spoken, for several heads; `StreamingSession` is the case of one branch."""

    def __init__(
        self, trunk: SharedTrunk, context: Context, *, sample_rate: int | None = None
    ) -> None:
        """Begin; see `StreamingSession`."""
        backbone = trunk.backbone
        rate = backbone.sample_rate if sample_rate is None else sample_rate
        if rate <= 0:
            raise UsageError(f"sample_rate must be above 0 Hz, not {rate}.")
        self.trunk = trunk
        self.backbone = backbone
        self.context = context
        self.sample_rate = rate
        self.finished = False
        self.samples = 0
        """Samples fed so far, at the backbone's rate."""
        self._state = trunk.init_state(1, context)
        self._features = init_features(1, backbone.feature_mean.device)
        self._resampler = (
            soxr.ResampleStream(rate, backbone.sample_rate, 1, dtype="float32")
            if rate != backbone.sample_rate
            else None
        )

    def feed(
        self, pcm: np.ndarray | Tensor | bytes, *, sample_rate: int | None = None
    ) -> list[Encoded]:
        """Feed samples; return the frames that they complete, for each branch; see `StreamingSession.feed`."""
        if self.finished:
            raise UsageError("This session has been finished; begin a new one for the next call.")
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise UsageError(
                f"The line changed from {self.sample_rate} to {sample_rate} Hz: finish this session and begin "
                f"another with sample_rate={sample_rate}."
            )
        samples = _samples(pcm)
        if self._resampler is not None:
            samples = np.clip(self._resampler.resample_chunk(samples), -1.0, 1.0)
        return self._advance(samples)

    def finish(self) -> list[Encoded]:
        """End the call; return the frames that waited for more, for each branch; see `StreamingSession.finish`."""
        if self.finished:
            raise UsageError("This session has been finished already.")
        tail = np.zeros(0, dtype=np.float32)
        if self._resampler is not None:
            tail = np.clip(self._resampler.resample_chunk(tail, last=True), -1.0, 1.0)
        heard = self.samples + len(tail)
        missing = max(0, self.backbone.receptive_field - heard) if heard else 0
        last = self._advance(np.pad(tail, (0, missing)))
        encoded, self._state = self.trunk.finish(self._state)
        self.finished = True
        return [_joined(a, _single(b)) for a, b in zip(last, encoded, strict=True)]

    def _advance(self, samples: np.ndarray) -> list[Encoded]:
        waveform = torch.from_numpy(samples).to(self.backbone.feature_mean.device)
        features, kept = step_features(self.backbone.log_mel, waveform[None], self._features)
        encoded, state = self.trunk.step(features, self._state)
        self.samples += len(samples)
        self._features, self._state = kept, state
        return [_single(one) for one in encoded]


class StreamingSession:
    """Encode one voice while it is spoken.

    The frames are those of ``backbone.encode`` over everything that was fed, each returned once and as soon as all
    that its context sees has been heard, at most ``context.latency(backbone)`` seconds after its first sample.

        session = StreamingSession(backbone, Context(8, 40, 0))
        for block in line:
            use(session.feed(block))
        use(session.finish())
    """

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        *,
        sample_rate: int | None = None,
        layers: Layers = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Begin.

        Args:
            backbone: the encoder; sessions share it and hold only their own state.
            context: what each frame may see; not the full one.
            sample_rate: Hz of the samples that will be fed, resampled if it is not the backbone's, the default.
            layers: also return these layers.
            adapters: what bends the encoder.

        Raises:
            ConfigError: a context or layers that cannot be.
            UsageError: a sample rate that cannot be.
        """
        trunk = SharedTrunk(backbone, [Branch(adapters, layers)])
        self._session = SharedSession(trunk, context, sample_rate=sample_rate)

    @property
    def samples(self) -> int:
        """Samples fed so far, at the backbone's rate."""
        return self._session.samples

    @property
    def finished(self) -> bool:
        """Whether the call has been ended."""
        return self._session.finished

    def feed(self, pcm: np.ndarray | Tensor | bytes, *, sample_rate: int | None = None) -> Encoded:
        """Feed samples; return the frames (1, frames, dim) they complete, often none, with their `times` (frames,).

        Args:
            pcm: (samples,) of one voice, any number: int16, or floats in [-1, 1]; bytes are int16, low byte first.
            sample_rate: Hz of this block, if the line states it: it must be the session's.

        Raises:
            UsageError: the session has been finished, or the rate has changed.
            DataError: not one voice of 16-bit or finite float samples. The session is as it was, and may go on.
        """
        return self._session.feed(pcm, sample_rate=sample_rate)[0]

    def finish(self) -> Encoded:
        """End the call: return the frames that waited for more, as `feed` does.

        A call shorter than one receptive field (165 ms) is followed by silence up to it, as in `Backbone.encode`.

        Raises:
            UsageError: the session has been finished.
        """
        return self._session.finish()[0]


def _samples(pcm: np.ndarray | Tensor | bytes) -> np.ndarray:
    """Return samples (samples,) as float32 in [-1, 1]."""
    if isinstance(pcm, bytes | bytearray | memoryview):
        data = bytes(pcm)
        if len(data) % 2:
            raise DataError(f"{len(data)} bytes are no whole number of 16-bit samples.")
        pcm = np.frombuffer(data, dtype="<i2")
    samples = pcm.detach().cpu().numpy() if isinstance(pcm, Tensor) else np.asarray(pcm)
    if samples.ndim != 1:
        raise DataError(f"PCM of shape {samples.shape} is not one voice; give (samples,).")
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / INT16_SCALE
    if not np.issubdtype(samples.dtype, np.floating):
        raise DataError(
            f"PCM of {samples.dtype} has no known scale; give int16, or floats in [-1, 1]."
        )
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        where = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise DataError(f"The block holds NaN or infinite samples, the first at sample {where}.")
    return samples


def _single(encoded: Encoded) -> Encoded:
    return encoded._replace(times=encoded.times[0])


def _joined(first: Encoded, second: Encoded) -> Encoded:
    layers = None
    if first.layers is not None and second.layers is not None:
        layers = torch.cat([first.layers, second.layers], dim=2)
    return Encoded(
        torch.cat([first.frames, second.frames], dim=1),
        first.lengths + second.lengths,
        layers,
        torch.cat([first.times, second.times]),
    )
