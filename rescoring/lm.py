"""Language models that score whole hypotheses: back-off n-grams with or without KenLM, and mixtures of two.

Texts are cut into words by `trunkline.syllable.words`, as in training; scores are natural logarithms that count the
end of the sentence and unknown words.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rescoring.arpa import read_arpa, read_vocabulary
from rescoring.arrays import read_arrays, write_arrays
from rescoring.ngrams import BOS, EOS, UNK, Ngrams, Order, check_sentence
from trunkline.errors import CheckpointError, DataError, DependencyError, StorageError, UsageError
from trunkline.syllable import words

LN10 = math.log(10.0)
NGRAM_SCHEMA = "trunkline.ngrams/1"
MIXTURE_SCHEMA = "trunkline.lm-mixture/1"
_KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
_MARKS = frozenset((BOS, EOS, UNK))


class Perplexity(NamedTuple):
    """How well a model foretells a text: perplexity per word and end of sentence, with and without unknown words."""

    including_oov: float
    excluding_oov: float
    words: int
    oov: int
    sentences: int


class LanguageModel(ABC):
    """What scores texts: subclasses give a probability for each word and tell which words they know."""

    @abstractmethod
    def word_scores(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return ln P(word | words before) of each sentence's words and its end: each (words + 1,)."""

    @abstractmethod
    def knows(self, word: str) -> bool:
        """Return whether `word` is in the vocabulary."""

    @abstractmethod
    def read_vocabulary(self) -> frozenset[str]:
        """Return the words that the model knows, without <s>, </s> and <unk>."""

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Return ln P of each text as a whole sentence, float64 (texts,); an empty text is a sentence without words."""
        # A list of hypotheses often has one text twice.
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        totals = [float(x.sum()) for x in self.word_scores([words(text) for text in rows])]
        return np.array([totals[rows[text]] for text in texts])

    def oov_rate(self, texts: Sequence[str]) -> float:
        """Return the share of all words of `texts` that the model does not know; 0 where there is no word."""
        found = [word for text in texts for word in words(text)]
        unknown = sum(not self.knows(word) for word in found)
        return unknown / len(found) if found else 0.0

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> Perplexity:
        """Return the perplexity on sentences of words; KenLM's `query` defines both numbers the same way.

        Raises:
            DataError: there is no sentence.
        """
        found = [list(check_sentence(sentence)) for sentence in sentences]
        if not found:
            raise DataError("There is no sentence to measure perplexity on.")
        scores = np.concatenate(self.word_scores(found))
        known = np.array([ok for x in found for ok in (*map(self.knows, x), True)])
        return Perplexity(
            float(np.exp(-scores.mean())),
            float(np.exp(-scores[known].mean())),
            sum(map(len, found)),
            int((~known).sum()),
            len(found),
        )


class ArpaLM(LanguageModel):
    """An n-gram model in numpy arrays: read from ARPA text or from the folder that `save` writes."""

    def __init__(self, ngrams: Ngrams) -> None:
        self.ngrams = ngrams
        self.order = len(ngrams.orders)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ArpaLM:
        """Open an ARPA file (`.gz` or not) or a folder; raises as `read_arpa` and `read_arrays` do."""
        if not Path(path).is_dir():
            return cls(read_arpa(path))
        about, arrays = read_arrays(path, NGRAM_SCHEMA)
        try:
            orders = [
                Order(*(arrays[f"{name}-{n}"] for name in Order._fields))
                for n in range(1, about["order"] + 1)
            ]
            return cls(Ngrams(about["vocabulary"], orders))
        except KeyError as error:
            raise CheckpointError(f"{path} has no {error}; write the folder anew.") from error

    def save(
        self, folder: str | os.PathLike[str], *, overwrite: bool = False, **about: Any
    ) -> None:
        """Write a folder that opens at once, where ARPA text takes seconds; `about` is kept in its JSON."""
        arrays = {
            f"{name}-{n}": array
            for n, order in enumerate(self.ngrams.orders, start=1)
            for name, array in order._asdict().items()
        }
        about |= {"order": self.order, "vocabulary": self.ngrams.vocabulary}
        write_arrays(folder, NGRAM_SCHEMA, about, arrays, overwrite=overwrite)

    def word_scores(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:  # noqa: D102
        return [scores * LN10 for scores in self.ngrams.log10(sentences)]

    def knows(self, word: str) -> bool:  # noqa: D102
        return word in self.ngrams.ids and word not in _MARKS

    def read_vocabulary(self) -> frozenset[str]:  # noqa: D102
        return frozenset(self.ngrams.vocabulary) - _MARKS


class KenLM(LanguageModel):
    """An n-gram model that the package `kenlm` scores: ARPA text, or KenLM's own binary files, which only it reads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import kenlm  # type: ignore[import-not-found]
        except ImportError as error:
            raise DependencyError(
                "The package kenlm is not installed: pip install 'trunkline[lm]' (it needs cmake and a C++ "
                "compiler). ARPA files are read without it by ArpaLM."
            ) from error
        self.path = Path(path)
        if not self.path.is_file():
            raise StorageError(f"{path}: there is no such language model.")
        try:
            config = kenlm.Config()
            config.show_progress = False
            self._model = kenlm.Model(os.fspath(path), config)
        except (OSError, RuntimeError) as error:
            reason = str(error.__cause__ or error).replace("\n", " ")
            raise DataError(f"{path}: kenlm cannot read it: {reason}") from error
        self.order = int(self._model.order)

    def word_scores(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:  # noqa: D102
        scores = (self._model.full_scores(" ".join(x), bos=True, eos=True) for x in sentences)
        return [np.array([word[0] for word in x]) * LN10 for x in scores]

    def knows(self, word: str) -> bool:  # noqa: D102
        return word in self._model and word not in _MARKS

    def read_vocabulary(self) -> frozenset[str]:
        """Return the words that the model knows; a `UsageError` for a binary file, which does not tell them."""
        if is_kenlm_binary(self.path):
            raise UsageError(
                f"{self.path} does not list its words; give the ARPA file it was made of."
            )
        return frozenset(read_vocabulary(self.path)) - _MARKS


class CallableLM:
    """Any function from texts to natural-log probabilities, such as a transformer, in a language model's place."""

    def __init__(self, function: Callable[[Sequence[str]], Any]) -> None:
        self.function = function

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Return the function's answer, float64 (texts,), checked: one finite number for each text.

        Raises:
            DataError: it is something else.
        """
        scores = np.asarray(self.function(texts), dtype=np.float64)
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise DataError(
                f"The scoring function must give one finite number for each of {len(texts)} texts, "
                f"not {scores.shape} numbers of which {int((~np.isfinite(scores)).sum())} are not finite."
            )
        return scores

    def oov_rate(self, texts: Sequence[str]) -> float:
        """Return 0: a function does not tell which words it knows."""
        return 0.0


def is_kenlm_binary(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is in KenLM's binary format."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_KENLM_MAGIC)) == _KENLM_MAGIC
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error}") from error


def load_lm(path: str | os.PathLike[str]) -> LanguageModel:
    """Open a language model: ARPA text, a folder of `ArpaLM.save`, a mixture (.json), or KenLM's binary file.

    Raises:
        StorageError, DataError, CheckpointError: it is missing, or not what it should be.
        DependencyError: a binary file, and kenlm is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return ArpaLM.load(path)
    if path.suffix == ".json":
        from rescoring.mixture import Interpolated

        return Interpolated.load(path)
    if not path.exists():
        raise StorageError(f"{path}: there is no such language model.")
    return KenLM(path) if is_kenlm_binary(path) else ArpaLM.load(path)
