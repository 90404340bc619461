"""BEST-RQ targets (Chiu et al. 2022): the nearest entry of a random codebook to a random projection.

Nothing is learnt, so there is no first pass over the corpus to cluster. The features of a frame's whole receptive
field are stacked, normalised to mean 0 and variance 1 (the paper requires it: otherwise loudness picks the entry),
projected at random (Xavier) and compared by direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from encoder.subsampling import num_frames
from trunkline.errors import ConfigError


@dataclass(frozen=True)
class BestRqConfig:
    """Size of the random codebook."""

    codewords: int = 1024
    width: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.codewords <= 65_536 or self.width < 1:
            raise ConfigError(
                "best_rq.codewords must be between 2 and 65536, best_rq.width at least 1."
            )


class RandomQuantiser:
    """A frozen random projection (15 * mels, width) and codebook (codewords, width), decided by a seed."""

    def __init__(self, num_mels: int, config: BestRqConfig, seed: int) -> None:
        rng = np.random.default_rng([seed, num_mels, config.codewords, config.width])
        inputs = RECEPTIVE_FIELD * num_mels
        limit = np.sqrt(6.0 / (inputs + config.width))
        self.projection = rng.uniform(-limit, limit, (inputs, config.width)).astype(np.float32)
        codebook = rng.standard_normal((config.codewords, config.width)).astype(np.float32)
        self.codebook = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Return the label of each frame (frames, 1) uint16, of globally normalised features (features, mels)."""
        frames = num_frames(len(features))
        if frames == 0:
            return np.zeros((0, 1), dtype=np.uint16)
        rows = SUBSAMPLING * np.arange(frames)[:, None] + np.arange(RECEPTIVE_FIELD)
        stacked = features[rows].reshape(frames, -1)
        stacked = (stacked - stacked.mean(axis=1, keepdims=True)) / (
            stacked.std(axis=1, keepdims=True) + 1e-5
        )
        # Nearest by direction is the largest product, since every entry has length 1.
        return (
            (stacked @ self.projection @ self.codebook.T).argmax(axis=1).astype(np.uint16)[:, None]
        )


class CodewordPrediction(nn.Module):
    """Frames to logits over the random codebook, (..., 1 slot, codewords), by a linear layer in float32."""

    slots = 1

    def __init__(self, dim: int, codewords: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, codewords)

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits (..., 1, codewords) of frames (..., dim), float32."""
        return self.linear(frames.float()).unsqueeze(-2)
