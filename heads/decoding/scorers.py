"""What may add to a prefix's probability while it is searched: the protocol of language models and boosted phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class PrefixScorer(Protocol):
    """Adds nats to prefixes; what it adds depends on the prefix alone, never on frames or on other prefixes.

    `name` is where the sum goes in `Decoded`: "lm" or "boost". A state stands for a prefix; it is not changed.
    """

    name: str

    def start(self) -> Any:
        """Return the state of the empty prefix."""
        ...

    def advance(self, state: Any, token: int) -> Any:
        """Return the state after one more token."""
        ...

    def gains(self, states: Sequence[Any], tokens: np.ndarray) -> np.ndarray:
        """Return what each token (tokens,) adds to each prefix: (states, tokens)."""
        ...

    def final(self, states: Sequence[Any]) -> np.ndarray:
        """Return what the end of the utterance adds to each prefix: (states,)."""
        ...


def word_starts(pieces: Sequence[str], space: str) -> np.ndarray:
    """Return (symbols,) bool: whether a piece begins a word, and so ends the one before it."""
    return np.array([piece.startswith(space) for piece in pieces])
