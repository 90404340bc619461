"""The n-grams of a back-off language model as sorted arrays, and the look-up that scores sentences with them.

A dictionary of Python strings takes about 300 bytes for an n-gram and one look-up a word; sorted keys take 20 bytes
and look all words of an N-best list up at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trunkline.errors import UsageError

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
NO_UNK = -100.0
"""log10 probability of an unknown word in a model without <unk>, as KenLM sets it."""


def check_sentence(words: Sequence[str]) -> Sequence[str]:
    """Return a sentence of words as it is; a `UsageError` for a text, whose letters would be taken for words."""
    if isinstance(words, str):
        raise UsageError(f"A sentence must be a list of words, not the text {words[:60]!r}.")
    return words


class Order(NamedTuple):
    """All n-grams of one length n, sorted by (`prefix`, `word`); log10 as in ARPA files.

    `prefix` (n-grams,) is the row of the first n-1 words in the order below (0 for n = 1), `word` (n-grams,) the
    row of the last word among the unigrams.
    """

    prefix: np.ndarray
    word: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray


class Ngrams:
    """A back-off model: `vocabulary` (one word for each unigram) and one `Order` for each length.

    The unigrams' row is the word's number. Scores are log10; nothing here knows of files or of text.
    """

    def __init__(self, vocabulary: Sequence[str], orders: Sequence[Order]) -> None:
        self.vocabulary = list(vocabulary)
        self.orders = list(orders)
        self.ids = {word: row for row, word in enumerate(self.vocabulary)}
        self.unk = self.ids.get(UNK, -1)
        self.bos, self.eos = self.ids[BOS], self.ids[EOS]
        size = np.int64(len(self.vocabulary))
        self._keys = [order.prefix.astype(np.int64) * size + order.word for order in self.orders]

    def find(self, length: int, prefix: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return the rows of n-grams of `length` >= 2 given as prefix rows and words, -1 where there is none."""
        keys = self._keys[length - 1]
        if not len(keys):
            return np.full(len(word), -1)
        # Hypotheses of one list share most of their n-grams; each is looked up once, in order, which is kind to caches.
        wanted, places = np.unique(
            prefix.astype(np.int64) * len(self.vocabulary) + word, return_inverse=True
        )
        rows = np.searchsorted(keys, wanted)
        return np.where(np.take(keys, rows, mode="clip") == wanted, rows, -1)[places]

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Return the words' numbers, that of <unk> (-1 in a model without it) for unknown ones."""
        ids, unk = self.ids, self.unk
        return [ids.get(word, unk) for word in words]

    def log10(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return log10 P(word | all words before) of each sentence's words and its end: each (words + 1,)."""
        lengths = np.array([len(words) + 2 for words in sentences], dtype=np.int64)
        if not len(lengths):
            return []
        ids = np.array(
            [x for words in sentences for x in (self.bos, *self.numbers(words), self.eos)],
            dtype=np.int64,
        )
        scores = self._scores(ids, lengths)
        ends = np.cumsum(lengths)
        return [scores[end - length + 1 : end] for end, length in zip(ends, lengths, strict=True)]

    def _scores(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return one log10 probability for each of the sentences' `ids` on end; that of <s> means nothing."""
        place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        known = ids >= 0
        scores = np.where(known, self.orders[0].log_prob[ids], NO_UNK).astype(np.float64)
        grams = ids  # row of the n-gram that ends here, by one word longer in each round; -1 where there is none
        for length, (shorter, order) in enumerate(
            zip(self.orders, self.orders[1:], strict=False), start=2
        ):
            if not len(order.word):
                break
            ends = np.flatnonzero(place >= length - 1)
            context = grams[ends - 1]
            ends, context = ends[context >= 0], context[context >= 0]
            rows = self.find(length, context, ids[ends])
            # An unknown word of a model without <unk> would take another n-gram's key.
            rows[~known[ends]] = -1
            hit = rows >= 0
            # p(w | h) where the n-gram is listed, else backoff(h) p(w | h without its first word)
            scores[ends] = np.where(
                hit,
                np.take(order.log_prob, rows, mode="clip"),
                scores[ends] + shorter.backoff[context],
            )
            grams = np.full(len(ids), -1, dtype=np.int64)
            grams[ends] = rows
        return scores
