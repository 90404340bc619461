"""Two language models as one: a large one of written text, say, and a small one of what is said on the telephone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rescoring.lm import MIXTURE_SCHEMA, LanguageModel, load_lm
from rescoring.ngrams import check_sentence
from trunkline.checkpoint import read_json, write_json
from trunkline.errors import CheckpointError, DataError, UsageError

_HALVINGS = 30


class Interpolated(LanguageModel):
    """The linear mixture `weight` P1 + (1 - `weight`) P2 over the union of both vocabularies.

    What a model gives to <unk> is shared evenly by the words that only the other knows and by the unknown, so that
    the mixture adds up to one and a model does not gain by knowing few words.
    """

    def __init__(self, first: LanguageModel, second: LanguageModel, weight: float = 0.5) -> None:
        if not 0.0 <= weight <= 1.0:
            raise UsageError(f"The weight of the first model must be from 0 to 1, not {weight}.")
        self.first, self.second, self.weight = first, second, float(weight)
        words = first.read_vocabulary(), second.read_vocabulary()
        self._words = words[0] | words[1]
        self._share = [-math.log1p(len(self._words) - len(x)) for x in words]

    def knows(self, word: str) -> bool:  # noqa: D102
        return word in self._words

    def read_vocabulary(self) -> frozenset[str]:  # noqa: D102
        return self._words

    def word_scores(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:  # noqa: D102
        if not sentences:
            return []
        first, second = self._both(sentences)
        with np.errstate(divide="ignore"):
            weights = np.log([self.weight, 1.0 - self.weight])
        mixed = np.logaddexp(weights[0] + first, weights[1] + second)
        return np.split(mixed, np.cumsum([len(x) + 1 for x in sentences])[:-1])

    def tuned(self, sentences: Iterable[Sequence[str]]) -> Interpolated:
        """Return the mixture under which `sentences` of words are likeliest, which is where EM leads.

        Words that neither model knows do not count. Text that one of the models was trained on gives it the whole
        weight: take other text.

        Raises:
            DataError: there is no sentence, or no word either model knows.
        """
        found = [list(check_sentence(sentence)) for sentence in sentences if sentence]
        if not found:
            raise DataError("There is no sentence to tune the weight of two language models on.")
        known = np.array([ok for x in found for ok in (*map(self.knows, x), True)])
        first, second = (scores[known] for scores in self._both(found))
        ratio = np.exp(np.clip(second - first, -700.0, 700.0))
        # The likelihood is concave in the weight: halving finds where expectation maximisation would end, soon
        # even where that is 0 or 1.
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            weight = (low + high) / 2
            slope = np.mean((1.0 - ratio) / (weight + (1.0 - weight) * ratio))
            low, high = (weight, high) if slope > 0 else (low, weight)
        weight = round((low + high) / 2, 6)
        return Interpolated(self.first, self.second, weight)

    def _both(self, sentences: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return each model's ln P of all words and ends on end, unknown words with their share of <unk>."""
        scores = []
        for model, share in zip((self.first, self.second), self._share, strict=True):
            unknown = [not ok for x in sentences for ok in (*map(model.knows, x), True)]
            scores.append(
                np.concatenate(model.word_scores(sentences)) + np.where(unknown, share, 0.0)
            )
        return scores[0], scores[1]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Interpolated:
        """Open a mixture that `write_mixture` wrote; its models' paths are relative to it."""
        path = Path(path)
        value = read_json(path)
        if not isinstance(value, dict) or value.get("schema") != MIXTURE_SCHEMA:
            raise CheckpointError(f"{path} is no mixture of language models ({MIXTURE_SCHEMA}).")
        models, weight = value.get("models"), value.get("weight")
        if (
            not isinstance(models, list)
            or len(models) != 2
            or not all(isinstance(x, str) for x in models)
            or not isinstance(weight, int | float)
        ):
            raise CheckpointError(f"{path} must name two models and the weight of the first.")
        first, second = (load_lm(path.parent / model) for model in models)
        return cls(first, second, weight)


def write_mixture(
    path: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    weight: float,
) -> None:
    """Write a file that `load_lm` opens as the mixture of two models' files, the first with `weight`."""
    folder = Path(path).parent
    names = [os.path.relpath(model, folder) for model in models]
    write_json(path, {"schema": MIXTURE_SCHEMA, "models": names, "weight": weight})
