"""Frozen features, pooled: one vector for each cut and layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from encoder import Backbone, Context, FeatureConfig
from encoder.features import FeatureStatistics
from ssl.targets import mfcc_features
from trunkline.errors import DataError, StorageError
from trunkline.log import progress
from trunkline.manifest import Cut

MAX_SECONDS = 60.0
"""Longer cuts are cropped (and counted): probes are about utterances."""
MAX_BAD_FRACTION = 0.05
BATCH_SECONDS = 60.0
STEP = 256  # cuts read at a time, then encoded in batches of like length


class Pooled(NamedTuple):
    """One vector for each cut and layer: `vectors` (cuts, layers, width)."""

    vectors: Tensor
    cuts: list[Cut]
    """Those that could be read."""
    faults: tuple[str, ...] = ()
    """The others, with the reason."""
    cropped: int = 0
    short: int = 0
    """Cuts that were padded with silence to one frame."""


class Extractor(Protocol):
    """Frozen features: a waveform in, one pooled vector per layer out."""

    sample_rate: int
    layers: tuple[str, ...]
    shortest: int
    """Samples of one frame; a shorter waveform is followed by silence up to it."""

    def pooled(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Return (waveforms, layers, width)."""
        ...


def pool(frames: Tensor, lengths: Tensor, pooling: str = "mean+std") -> Tensor:
    """Pool the valid frames of (..., batch, frames, dim) to (..., batch, dim or 2 dim).

    The deviation is that of the population: one frame alone has 0.
    """
    valid = (torch.arange(frames.shape[-2], device=frames.device) < lengths[:, None])[..., None]
    count = lengths[:, None].to(frames.dtype)
    mean = (frames * valid).sum(dim=-2) / count
    if pooling == "mean":
        return mean
    spread = ((frames - mean[..., None, :]) * valid).square().sum(dim=-2) / count
    return torch.cat([mean, spread.sqrt()], dim=-1)


class BackboneFeatures:
    """Every layer of a frozen backbone: 0 is the subsampled input, n the output of layer n."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        context: Context = Context.full(),
        pooling: str = "mean+std",
    ) -> None:
        self.backbone = backbone
        self.context = context
        self.pooling = pooling
        self.sample_rate = backbone.sample_rate
        self.layers = tuple(str(layer) for layer in range(backbone.num_layers + 1))
        self.shortest = backbone.receptive_field

    @torch.no_grad()
    def pooled(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Return (waveforms, layers, width)."""
        backbone, device = self.backbone, self.backbone.feature_mean.device
        features = [
            backbone.features(_at_least(item, self.shortest).to(device)) for item in waveforms
        ]
        lengths = torch.tensor([len(item) for item in features], device=device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
        training = backbone.training
        backbone.eval()
        try:
            encoded = backbone(padded, lengths, context=self.context, layers="all")
        finally:
            backbone.train(training)
        return pool(encoded.layers.float(), encoded.lengths, self.pooling).transpose(0, 1).cpu()


class MfccFeatures:
    """The baseline without an encoder: 39 MFCC every 10 ms, of the whole utterance."""

    layers: tuple[str, ...] = ("mfcc",)

    def __init__(self, sample_rate: int, *, pooling: str = "mean+std") -> None:
        self.sample_rate = sample_rate
        self.pooling = pooling
        self.shortest = FeatureConfig(sample_rate=sample_rate).window

    def pooled(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Return (waveforms, 1, width)."""
        vectors = []
        for waveform in waveforms:
            frames = mfcc_features(_at_least(waveform, self.shortest), self.sample_rate)
            lengths = torch.tensor([len(frames)])
            vectors.append(pool(torch.from_numpy(frames)[None], lengths, self.pooling))
        return torch.stack(vectors)


def _at_least(waveform: np.ndarray, samples: int) -> Tensor:
    return torch.from_numpy(np.pad(waveform, (0, max(0, samples - len(waveform)))))


def extract(extractor: Extractor, cuts: Sequence[Cut], *, description: str = "") -> Pooled:
    """Read and encode cuts, those of like length together.

    A cut that cannot be read is left out and listed; so that no loss goes unseen, more than
    `MAX_BAD_FRACTION` of them is an error.

    Raises:
        DataError: too many cuts cannot be read.
    """
    vectors: list[Tensor] = []
    kept: list[Cut] = []
    faults: list[str] = []
    cropped = short = 0
    with progress(total=len(cuts), description=description, unit="cuts") as bar:
        for start in range(0, len(cuts), STEP):
            waveforms, readable = [], []
            for cut in cuts[start : start + STEP]:
                try:
                    waveform = _waveform(cut, extractor.sample_rate)
                except (DataError, StorageError) as error:
                    faults.append(f"{cut.id} (line {cut.line}): {error}")
                    continue
                limit = int(MAX_SECONDS * extractor.sample_rate)
                cropped += len(waveform) > limit
                short += len(waveform) < extractor.shortest
                waveforms.append(waveform[:limit])
                readable.append(cut)
            if waveforms:
                vectors.append(_in_batches(extractor, waveforms))
            kept += readable
            bar.advance(len(cuts[start : start + STEP]))
    if not kept or len(faults) > max(1, MAX_BAD_FRACTION * len(cuts)):
        raise DataError(
            f"{len(faults)} of {len(cuts)} cuts cannot be read, more than {MAX_BAD_FRACTION:.0%}: "
            f"{faults[0]}"
        )
    return Pooled(torch.cat(vectors), kept, tuple(faults), cropped, short)


def _waveform(cut: Cut, sample_rate: int) -> np.ndarray:
    waveform = cut.load(sample_rate)
    if not len(waveform):
        raise DataError(f"{cut.audio_filepath} holds no samples there.")
    return waveform


def _in_batches(extractor: Extractor, waveforms: list[np.ndarray]) -> Tensor:
    """Return (waveforms, layers, width) in the order given."""
    order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
    results: list[Tensor] = []
    while len(results) < len(order):
        batch = [waveforms[order[len(results)]]]
        for index in order[len(results) + 1 :]:
            if len(waveforms[index]) * (len(batch) + 1) > BATCH_SECONDS * extractor.sample_rate:
                break
            batch.append(waveforms[index])
        results += list(extractor.pooled(batch))
    places = torch.empty(len(order), dtype=torch.long)
    places[order] = torch.arange(len(order))
    return torch.stack(results)[places]


def normalise_by(backbone: Backbone, cuts: Sequence[Cut]) -> None:
    """Give an untrained backbone the mean and variance of the cuts' features."""
    statistics = FeatureStatistics(backbone.config.features.num_mels)
    for cut in cuts:
        try:
            statistics.update(backbone.features(torch.from_numpy(cut.load(backbone.sample_rate))))
        except (DataError, StorageError):
            continue  # `extract` counts and lists what cannot be read
    backbone.set_normalisation(statistics)
