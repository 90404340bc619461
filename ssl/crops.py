"""The items of pretraining: crops of features with their labels, what is masked in them, and batches of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, FeatureConfig
from encoder.features import LogMel
from encoder.subsampling import num_frames
from ssl.corpus import Features, Labels
from ssl.masking import MaskConfig, counted_frames, mask_features, mask_frames
from trunkline import audio
from trunkline.batching import item_rng
from trunkline.errors import DataError
from trunkline.manifest import Manifest

MARGIN = 10
"""Features of audio read on both sides of a crop, so that a resampler has settled where the crop begins."""


class Crops:
    """Stretches of about `crop` frames: the items of pretraining, as a `trunkline.batching.Dataset`.

    A cut of n frames gives max(1, n // crop) items. Where an item begins is drawn anew in every epoch, around its
    place in the cut, so that every frame is seen and no boundary stays.
    """

    def __init__(
        self,
        manifest: Manifest,
        features: Features,
        labels: Labels,
        mask: MaskConfig,
        config: FeatureConfig,
        *,
        cuts: np.ndarray,
        crop: int,
        seed: int,
    ) -> None:
        self.manifest, self.features, self.labels, self.mask = manifest, features, labels, mask
        self.crop, self.seed, self.config = crop, seed, config
        cuts = cuts[np.isin(cuts, labels.cuts)]
        frames = np.array(
            [num_frames(features.length(cut)) for cut in cuts.tolist()], dtype=np.int64
        )
        labelled = np.array([labels.length(cut) for cut in cuts.tolist()], dtype=np.int64)
        for place in np.flatnonzero(np.abs(labelled - frames) > 1)[:1]:
            raise DataError(
                f"Cut {manifest[int(cuts[place])].id} has {frames[place]} frames but {labelled[place]} labels; the "
                "targets were made from other audio. Remove the targets folder to make them again."
            )
        frames = np.minimum(frames, labelled)
        usable = frames >= 2
        self.left_out = int((~usable).sum())
        """Cuts of fewer than two frames (245 ms): nothing in them can be masked and predicted."""
        counts = np.maximum(frames[usable] // crop, 1)
        self.cuts = np.repeat(cuts[usable], counts)
        self.number = (
            np.concatenate([np.arange(count) for count in counts])
            if len(counts)
            else np.zeros(0, int)
        )
        self.frames = np.repeat(frames[usable], counts)
        names = manifest.ids[cuts[usable]]
        self.ids = [
            f"{name}#{k}"
            for name, count in zip(names, counts.tolist(), strict=True)
            for k in range(count)
        ]

    @property
    def durations(self) -> np.ndarray:
        """Seconds of each item."""
        return np.minimum(self.frames, self.crop) * (
            SUBSAMPLING * self.config.frame_shift_ms / 1000
        )

    def source(self, index: int) -> dict[str, Any]:
        """Say where an item comes from."""
        cut = self.manifest[int(self.cuts[index])]
        return {"file": str(cut.audio_filepath), "line": cut.line}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        cut, total = int(self.cuts[index]), int(self.frames[index])
        rng = item_rng(self.seed, epoch, self.ids[index])
        length = min(self.crop, total)
        latest = total - length
        if total < 2 * self.crop:
            start = int(rng.integers(latest + 1))
        else:
            # Places evenly spread over the cut; each crop reaches those beside it, and the last one the end.
            place = int(self.number[index]) * latest // (total // self.crop - 1)
            start = place + int(rng.integers(-self.crop // 2, self.crop // 2 + 1))
            start = min(max(start, 0), latest)
        first, last = SUBSAMPLING * start, SUBSAMPLING * (start + length - 1) + RECEPTIVE_FIELD
        features = self.features.rows(cut, first, last)
        if features is None:
            features = self._read(cut, first, last)
        masked = mask_frames(length, self.mask, rng)
        return {
            "id": self.ids[index],
            "features": features,
            "masked": masked,
            "targets": self.labels.rows(cut, start, start + length).astype(np.int64),
            "seconds": length * SUBSAMPLING * self.config.frame_shift_ms / 1000,
        }

    def _read(self, cut: int, first: int, last: int) -> np.ndarray:
        entry, config = self.manifest[cut], self.config
        early = min(first, MARGIN)
        seconds = config.hop / config.sample_rate
        begin = (entry.start or 0.0) + (first - early) * seconds
        to_the_end = last + MARGIN >= self.features.length(cut)
        waveform = audio.read(
            entry.audio_filepath,
            channel=entry.channel,
            start=begin,
            end=entry.end if to_the_end else begin + (early + last - first + MARGIN) * seconds,
            sample_rate=config.sample_rate,
        )
        features = LogMel(config)(torch.from_numpy(waveform)).numpy()[early : early + last - first]
        if len(features) < last - first:
            raise DataError(
                f"{entry.audio_filepath} holds less audio than when its features were computed."
            )
        return features


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Pad items into one batch and measure what was masked; see `ssl.hubert.Batch`."""
    feature_masks = [mask_features(item["masked"], len(item["features"])) for item in items]
    counted = [
        counted_frames(mask, len(item["masked"]))
        for mask, item in zip(feature_masks, items, strict=True)
    ]
    frames = sum(len(item["masked"]) for item in items)

    def padded(key: str) -> torch.Tensor:
        return pad_sequence([torch.from_numpy(item[key]) for item in items], batch_first=True)

    return {
        "ids": [item["id"] for item in items],
        "features": padded("features"),
        "lengths": torch.tensor([len(item["features"]) for item in items]),
        "masked": padded("masked"),
        "targets": padded("targets"),
        "audio_seconds": float(sum(item["seconds"] for item in items)),
        "fractions": {
            "masked_features_fraction": float(np.concatenate(feature_masks).mean()),
            "counted_frames_fraction": sum(int(whole.sum()) for whole, _ in counted) / frames,
            "partly_masked_fraction": sum(int(part.sum()) for _, part in counted) / frames,
        },
    }


def hold_out(manifest: Manifest, cuts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide cuts into those to train on and at most `most` (and 2 %) to validate on, by a hash of their ids."""
    keys = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in manifest.ids[cuts]]
    order = sorted(range(len(cuts)), key=keys.__getitem__)
    count = min(most, len(cuts) // 50)
    return np.sort(cuts[order[count:]]), np.sort(cuts[order[:count]])
