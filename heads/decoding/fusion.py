"""A word language model in the search (shallow fusion): each word is scored when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from heads.decoding.scorers import word_starts
from trunkline.syllable import words as words_of
from trunkline.tokenizer import Tokenizer
from trunkline.tokenizer.base import SPACE


class WordScorer(Protocol):
    """What scores words in their context; `rescoring.lm` has such models (ARPA files, KenLM, mixtures).

    It may have `order`, the longest n-gram: a word then depends on at most `order` - 1 words before it.
    """

    def word_scores(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return ln P(word | words before) of each sentence's words and its end: each (words + 1,)."""
        ...


LONGEST = 10
"""The order that is assumed of models that do not tell theirs."""


class _State(NamedTuple):
    """The last words that count (all of them while they are fewer), and the letters of the word that is open."""

    context: tuple[str, ...]
    word: str


class NgramFusion:
    """Adds weight * ln P(word | words before) + word_bonus for every word, the last one and the end at the end.

    Args:
        lm: the language model.
        tokenizer: of the recogniser; its pieces that begin with a space end the word before them.
        weight: of the model beside the frames. Tune it on dev; 0.3 to 0.8 is usual for n-grams.
        word_bonus: nats for every word, against the model's liking for short texts.
    """

    name = "lm"

    def __init__(
        self,
        lm: WordScorer,
        tokenizer: Tokenizer,
        *,
        weight: float = 0.5,
        word_bonus: float = 0.0,
    ) -> None:
        self.lm, self.weight, self.word_bonus = lm, weight, word_bonus
        self._reach = max(int(getattr(lm, "order", LONGEST)) - 1, 0)
        self._pieces = tokenizer.pieces
        self._starts = word_starts(tokenizer.pieces, SPACE)
        self._known: dict[_State, tuple[float, float]] = {}

    def start(self) -> _State:
        """Return the beginning of a sentence."""
        return _State((), "")

    def advance(self, state: _State, token: int) -> _State:
        """Return the state after a piece: the same word goes on, or a new one begins."""
        piece = self._pieces[token]
        if not self._starts[token]:
            return _State(state.context, state.word + piece)
        context = (*state.context, *words_of(state.word))
        return _State(context[max(0, len(context) - self._reach) :], piece[len(SPACE) :])

    def gains(self, states: Sequence[_State], tokens: np.ndarray) -> np.ndarray:
        """Return the score of each state's open word for tokens that begin another, else 0: (states, tokens)."""
        starts = self._starts[tokens]
        if not starts.any():
            return np.zeros((len(states), len(tokens)))
        return np.outer([closing for closing, _ in self._scored(states)], starts)

    def final(self, states: Sequence[_State]) -> np.ndarray:
        """Return the score of each open word and of the sentence's end."""
        return np.array([closing + end for closing, end in self._scored(states)])

    def _scored(self, states: Sequence[_State]) -> list[tuple[float, float]]:
        """Return (score of the open word, score of the end after it) of each state."""
        new = [state for state in dict.fromkeys(states) if state not in self._known]
        if new:
            opened = [words_of(state.word) for state in new]
            texts = [[*state.context, *word] for state, word in zip(new, opened, strict=True)]
            for state, word, scores in zip(new, opened, self.lm.word_scores(texts), strict=True):
                own = float(scores[len(state.context) : -1].sum())
                self._known[state] = (
                    self.weight * own + self.word_bonus * len(word),
                    self.weight * float(scores[-1]),
                )
        return [self._known[state] for state in states]
