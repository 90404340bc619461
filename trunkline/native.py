"""What torchaudio's native part computes, for packages above; ask `has_forced_align` first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trunkline import _torchaudio


def has_forced_align() -> bool:
    """Return whether `forced_align` works beside this torch."""
    return "functional.forced_align" not in _torchaudio.missing()


def forced_align(log_probs: torch.Tensor, tokens: Sequence[int], blank: int) -> np.ndarray:
    """Return the best CTC path (frames,) of tokens through log probabilities (frames, symbols).

    Raises:
        DependencyError: the native part does not load. RuntimeError: tokens that do not fit; check them before.
    """
    targets = torch.tensor([list(tokens)], dtype=torch.int32)
    align = _torchaudio.load().functional.forced_align
    return align(log_probs[None], targets, blank=blank)[0][0].numpy().astype(np.int64)
