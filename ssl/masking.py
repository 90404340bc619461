"""What is hidden from the encoder during pretraining, in frames of 80 ms and in features of 10 ms.

Spans are drawn in frames and laid on the features together with the overhang of the receptive field (a frame is
computed from 15 features, 7 more than its step), so a masked frame sees nothing of itself. Drawing 200 ms spans on
the features instead would leave a third of the frames partly masked: seen, yet not trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from trunkline.errors import ConfigError


@dataclass(frozen=True)
class MaskConfig:
    """How much is masked, and in spans of which length."""

    probability: float = 0.65
    """Number of spans is `probability` * frames / `span`; spans may overlap, so fewer frames are masked."""
    span: int = 5
    """Length of a span in frames of 80 ms; an item of fewer than two spans gets spans of half its length."""
    min_spans: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1 or self.span < 1 or self.min_spans < 1:
            raise ConfigError(
                "mask.probability must be in (0, 1], mask.span and mask.min_spans at least 1."
            )


def mask_frames(frames: int, config: MaskConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw the masked frames of one item: (frames,) bool; an item of one frame is never masked.

    The number of spans is rounded up or down at random, so that it is right on average (as in fairseq's
    ``compute_mask_indices``).
    """
    mask = np.zeros(frames, dtype=bool)
    if frames < 2:
        return mask
    span = min(config.span, max(1, frames // 2))
    count = max(int(config.probability * frames / span + rng.random()), config.min_spans)
    places = frames - span + 1
    for start in rng.choice(places, size=min(count, places), replace=False):
        mask[start : start + span] = True
    return mask


def mask_features(frame_mask: np.ndarray, features: int) -> np.ndarray:
    """Return the features (features,) bool that hide the whole receptive field of every masked frame."""
    mask = np.zeros(features, dtype=bool)
    for frame in np.flatnonzero(frame_mask):
        mask[SUBSAMPLING * frame : SUBSAMPLING * frame + RECEPTIVE_FIELD] = True
    return mask


def counted_frames(feature_mask: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each frame whether its whole receptive field is masked, and whether only a part of it is."""
    starts = SUBSAMPLING * np.arange(frames)
    totals = np.concatenate([[0], np.cumsum(feature_mask)])
    masked = totals[starts + RECEPTIVE_FIELD] - totals[starts]
    return masked == RECEPTIVE_FIELD, (masked > 0) & (masked < RECEPTIVE_FIELD)
