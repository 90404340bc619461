"""Word, character and sentence errors of a recogniser; the edits are counted by jiwer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from trunkline.errors import DataError
from trunkline.metrics.classification import paired

_ROWS = {"substitute": 0, "delete": 1, "insert": 2}


class WordErrors(NamedTuple):
    """Edits that turn each hypothesis into its reference, and the reference's words; (cuts,) each.

    From `character_errors` the same with characters for words.
    """

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    words: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """All edits of each cut, (cuts,)."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """The error rate of the corpus: all edits over all words of the references.

        Raises:
            DataError: the references hold no words, so that there is no rate; `insertions` still count.
        """
        if not self.words.sum():
            raise DataError("There is no error rate: the references hold no words.")
        return float(self.errors.sum() / self.words.sum())

    @property
    def ser(self) -> float:
        """The sentence error rate: the share of cuts with at least one edit."""
        return float(np.mean(self.errors > 0))

    def at(self, rows: Sequence[int] | np.ndarray) -> WordErrors:
        """Return the counts of some of the cuts."""
        return WordErrors(*(counts[rows] for counts in self))


def word_errors(reference: Sequence[str], answer: Sequence[str]) -> WordErrors:
    """Return the fewest word edits of each cut (Levenshtein, by jiwer); words lie between spaces.

    Nothing is normalised here: bring case, punctuation and NFC into line before.

    Raises:
        DataError: no cuts. UsageError: the sequences differ in length.
    """
    from jiwer import process_words

    paired(reference, answer)
    return _counts(process_words(list(reference), list(answer)).alignments)


def character_errors(reference: Sequence[str], answer: Sequence[str]) -> WordErrors:
    """Return the fewest character edits of each cut, spaces included; raises as `word_errors`."""
    from jiwer import process_characters

    paired(reference, answer)
    return _counts(process_characters(list(reference), list(answer)).alignments)


def split_word_errors(
    reference: Sequence[str], answer: Sequence[str], words: Collection[str]
) -> tuple[WordErrors, WordErrors]:
    """Return the edits of some words, such as those of boosted phrases, and of all others (B-WER and U-WER).

    A substitution or deletion belongs to the word of the reference, an insertion to the word that was put in. The sum
    of both is `word_errors`; raises as that.

    Source: Le et al., "Contextualized streaming end-to-end speech recognition with trie-based deep biasing and shallow
    fusion", Interspeech 2021, section 3.1.
    """
    from jiwer import process_words

    paired(reference, answer)
    found = process_words(list(reference), list(answer))
    chosen = frozenset(words)
    counts = np.zeros((2, 4, len(reference)), dtype=np.int64)
    for cut, chunks in enumerate(found.alignments):
        said, heard = found.references[cut], found.hypotheses[cut]
        for chunk in chunks:
            for place in range(chunk.ref_start_idx, chunk.ref_end_idx):
                side = 0 if said[place] in chosen else 1
                counts[side, 3, cut] += 1
                if chunk.type != "equal":
                    counts[side, _ROWS[chunk.type], cut] += 1
            if chunk.type == "insert":
                for place in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                    counts[0 if heard[place] in chosen else 1, 2, cut] += 1
    return WordErrors(*counts[0]), WordErrors(*counts[1])


def _counts(alignments: Sequence[Sequence[Any]]) -> WordErrors:
    counts = np.zeros((4, len(alignments)), dtype=np.int64)
    for cut, chunks in enumerate(alignments):
        for chunk in chunks:
            words = chunk.ref_end_idx - chunk.ref_start_idx
            if chunk.type != "equal":
                counts[_ROWS[chunk.type], cut] += words or chunk.hyp_end_idx - chunk.hyp_start_idx
            counts[3, cut] += words
    return WordErrors(*counts)
