"""Phrases to listen for (names, products): a bonus for each one said, taken back where it was only begun.

All phrases are followed at once by an Aho-Corasick automaton over tokens. A prefix that is part of a phrase has part
of its bonus in advance, so that it survives the beam; the moment it turns out to be something else the advance is
taken back, also in the middle of a word and at the end. A text's bonus is so exactly that of the phrases in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from heads.decoding.scorers import word_starts
from trunkline.errors import DataError, UsageError
from trunkline.log import get_logger
from trunkline.tokenizer import Tokenizer
from trunkline.tokenizer.base import SPACE

logger = get_logger(__name__)


class PhraseBoost:
    """Adds `boost` nats for each word of every phrase that a text holds.

    Phrases count as whole words, once for each time they are said; one within another counts beside it. A phrase is
    matched as the tokenizer cuts it; subwords that spell it otherwise are not recognised.

    Args:
        phrases: texts, normalised as the transcripts are.
        tokenizer: of the recogniser.
        boost: nats per word; 1 to 5 is usual. Too much writes phrases that were not said: measure both.

    Raises:
        DataError: there is no phrase, or none that the tokenizer can write. UsageError: a boost below 0.
    """

    name = "boost"

    def __init__(self, phrases: Iterable[str], tokenizer: Tokenizer, *, boost: float = 2.0) -> None:
        if not boost >= 0:
            raise UsageError(f"boost={boost} must be 0 nats or more.")
        self._starts = word_starts(tokenizer.pieces, SPACE)
        self._column = np.zeros(len(tokenizer.pieces), dtype=np.int64)  # 0: in no phrase
        self._children: list[dict[int, int]] = [{}]
        credit, reward = [0.0], [0.0]
        for phrase, tokens in _written(phrases, tokenizer).items():
            bonus = boost * len(phrase.split())
            node = 0
            for depth, token in enumerate(tokens, start=1):
                if not self._column[token]:
                    self._column[token] = self._column.max() + 1
                node = self._child(node, int(self._column[token]), credit, reward)
                credit[node] = max(credit[node], bonus * depth / len(tokens))
            reward[node] += bonus
        self._fail = self._suffixes(credit, reward)
        self._reward = np.array(reward)
        self._advance = np.maximum(credit, reward)
        self._rows: dict[int, np.ndarray] = {}
        # Characters have no space before the first word, which must count as one all the same.
        space = tokenizer.encode("a b")[1:-1] if tokenizer.kind == "characters" else []
        self._start = self._row(0)[self._column[space[0]]] if space else 0

    def _child(self, node: int, column: int, credit: list[float], reward: list[float]) -> int:
        new = self._children[node].setdefault(column, len(self._children))
        if new == len(self._children):
            self._children.append({})
            credit.append(0.0)
            reward.append(0.0)
        return new

    def _suffixes(self, credit: list[float], reward: list[float]) -> list[int]:
        """Return each node's longest suffix that is a node; shorter phrases that end there count too."""
        fail = [0] * len(self._children)
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            reward[node] += reward[fail[node]]
            credit[node] = max(credit[node], credit[fail[node]])
            for column, child in self._children[node].items():
                queue.append(child)
                at = fail[node]
                while at and column not in self._children[at]:
                    at = fail[at]
                fail[child] = self._children[at].get(column, 0)
        return fail

    def _row(self, node: int) -> np.ndarray:
        """Return where each column leads from a node; made when the search first comes by."""
        row = self._rows.get(node)
        if row is None:
            size = int(self._column.max()) + 1
            row = self._row(self._fail[node]).copy() if node else np.zeros(size, dtype=np.int64)
            for column, child in self._children[node].items():
                row[column] = child
            self._rows[node] = row
        return row

    def start(self) -> int:
        """Return the state of a text that begins."""
        return int(self._start)

    def advance(self, state: int, token: int) -> int:
        """Return the state after one more token."""
        return int(self._row(state)[self._column[token]])

    def gains(self, states: Sequence[int], tokens: np.ndarray) -> np.ndarray:
        """Return what tokens add: advances, less those taken back, and bonuses confirmed by a new word."""
        now = np.array(states)
        after = np.stack([self._row(state) for state in states])[:, self._column[tokens]]
        said = np.outer(self._reward[now], self._starts[tokens])
        return said + self._advance[after] - self._advance[now][:, None]

    def final(self, states: Sequence[int]) -> np.ndarray:
        """Return what the end adds: bonuses confirmed, advances taken back."""
        now = np.array(states)
        return self._reward[now] - self._advance[now] + self._advance[self._start]


def _written(phrases: Iterable[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Return the phrases with their tokens, each beginning a word; those with unknown letters are named."""
    found, unwritable = {}, []
    for phrase in dict.fromkeys(" ".join(x.split()) for x in phrases):
        if not phrase:
            continue
        tokens = tokenizer.encode(phrase)
        if tokenizer.kind == "characters":
            tokens = [*tokenizer.encode(f"{phrase} {phrase}")[len(tokens) :]]
        if tokenizer.unk in tokens:
            unwritable.append(phrase)
        else:
            found[phrase] = tokens
    if unwritable:
        logger.warning(
            "%d phrases have letters that the recogniser does not write, such as %r; they are not boosted.",
            len(unwritable),
            unwritable[0],
        )
    if not found:
        raise DataError("There is no phrase to boost that the recogniser can write.")
    return found
