"""Meaning of hypotheses by word vectors: how well the words fit each other, or what was said before.

The only module that imports gensim, when it trains or imports vectors; scoring needs numpy alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rescoring.compounds import JOINT, Compounds
from rescoring.vector_import import check_vectors
from rescoring.word_vectors import WordVectors
from trunkline.errors import CheckpointError, ConfigError, DataError
from trunkline.syllable import words

MIN_KNOWN = 2
"""With fewer words that have a vector, nothing can be said of a text: its score is 0."""


@dataclass(frozen=True)
class Word2VecConfig:
    """Settings of gensim's Word2Vec. One worker and a seed make the same file of the same text."""

    dim: int = 100
    window: int = 5
    min_count: int = 2
    epochs: int = 5
    skip_gram: bool = True
    negative: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "window", "min_count", "epochs", "negative"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed must be from 0 to 2**32 - 1, not {self.seed}.")


class SemanticModel:
    """Scores texts with word vectors; `compounds` are joined as they were when the vectors were trained."""

    def __init__(self, vectors: WordVectors, compounds: Compounds | None = None) -> None:
        self.vectors = vectors
        self.compounds = compounds or Compounds([])

    def coherence(self, texts: Sequence[str]) -> np.ndarray:
        """Return words x mean cosine over all pairs of known tokens, float64 (texts,); 0 with fewer than two."""
        sums, known, lengths = self._sums(texts)
        pairs = known * (known - 1)
        # |a + b + ...|^2 holds every pair twice and, as the vectors have length 1, every token once.
        total = (sums**2).sum(axis=1) - known
        return lengths * np.divide(total, pairs, out=np.zeros(len(texts)), where=pairs > 0)

    def context(self, texts: Sequence[str], context: str) -> np.ndarray:
        """Return words x cosine of a text's mean vector with that of `context`, float64 (texts,).

        0 for texts with fewer than two known tokens, and for all when the context has none.
        """
        sums, known, lengths = self._sums(texts)
        (target,), _, _ = self._sums([context])
        norms = np.linalg.norm(sums, axis=1) * np.linalg.norm(target)
        told = (known >= MIN_KNOWN) & (norms > 0)
        return lengths * np.divide(sums @ target, norms, out=np.zeros(len(texts)), where=told)

    def tokens(self, text: str) -> list[str]:
        """Return the words of a text with compounds joined; one without a vector is taken apart again."""
        return self._joined(words(text))

    def _joined(self, syllables: list[str]) -> list[str]:
        if not len(self.compounds):
            return syllables
        joined = self.compounds.join(syllables)
        return [
            part
            for token in joined
            for part in ([token] if token in self.vectors else token.split(JOINT))
        ]

    def _sums(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sum of each text's unit vectors (texts, dim), its known tokens, and its words (texts,)."""
        rows = self.vectors.rows
        sums = np.zeros((len(texts), self.vectors.dim))
        known, lengths = np.zeros(len(texts)), np.zeros(len(texts))
        for number, text in enumerate(texts):
            syllables = words(text)
            found = [rows[token] for token in self._joined(syllables) if token in rows]
            known[number] = len(found)
            lengths[number] = len(syllables)
            if found:
                sums[number] = self.vectors.unit[found].sum(axis=0, dtype=np.float64)
        return sums, known, lengths

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the vectors' folder, with the compounds in its JSON."""
        about = self.vectors.about | {"compounds": self.compounds.to_list()}
        WordVectors(self.vectors.tokens, self.vectors.matrix, about).save(
            folder, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, dim: int | None = None) -> SemanticModel:
        """Open what `save` wrote; raises as `WordVectors.load`."""
        vectors = WordVectors.load(folder, dim=dim)
        compounds = vectors.about.get("compounds", [])
        if not isinstance(compounds, list) or not all(isinstance(x, str) for x in compounds):
            raise CheckpointError(f"{folder}: compounds must be a list of strings.")
        return cls(vectors, Compounds(x.split(JOINT) for x in compounds))


def train_word2vec(
    sentences: Iterable[Sequence[str]],
    config: Word2VecConfig | None = None,
    *,
    progress: Callable[[], None] | None = None,
) -> WordVectors:
    """Train skip-gram (or CBOW) vectors with negative sampling on tokens; the same input gives the same bytes.

    `sentences` is iterated once for the vocabulary and once for each epoch. `progress` is called after each epoch.

    Raises:
        DataError: no token comes `min_count` times.
    """
    from gensim.models import Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    config = config or Word2VecConfig()

    class Epochs(CallbackAny2Vec):
        def on_epoch_end(self, model: Any) -> None:
            if progress is not None:
                progress()

    # Given sentences, the constructor trains; a call of `train` after it would train a second time.
    try:
        model = Word2Vec(
            sentences,
            vector_size=config.dim,
            window=config.window,
            min_count=config.min_count,
            epochs=config.epochs,
            sg=int(config.skip_gram),
            negative=config.negative,
            seed=config.seed,
            workers=1,
            callbacks=[Epochs()],
        )
    except RuntimeError as error:  # "you must first build vocabulary": there was none to build
        raise DataError(
            f"No token comes {config.min_count} times in the text; give more text or a lower min_count."
        ) from error
    about = {"training": asdict(config) | {"sentences": model.corpus_count}}
    return WordVectors([str(x) for x in model.wv.index_to_key], np.array(model.wv.vectors), about)


def find_compounds(
    sentences: Iterable[Sequence[str]], *, min_count: int = 20, threshold: float = 0.4
) -> Compounds:
    """Return pairs of syllables that keep together: normalised pointwise mutual information above `threshold`.

    Bouma, "Normalized (pointwise) mutual information in collocation extraction" (2009): 1 for syllables that are never
    seen apart, 0 for chance.
    """
    from gensim.models.phrases import Phrases

    phrases = Phrases(
        sentences, min_count=min_count, threshold=threshold, scoring="npmi", delimiter=JOINT
    )
    return Compounds(phrase.split(JOINT) for phrase in phrases.find_phrases(sentences))


def import_vectors(
    path: str | os.PathLike[str], *, binary: bool = False, limit: int | None = None
) -> WordVectors:
    """Return the vectors of a file in word2vec's text or binary format, or fastText's text format.

    `limit` takes only the first ones. Tokens are kept as they are written: those that join syllables with ``_`` are
    used as compounds by `SemanticModel` (see `imported_model`).

    Raises:
        StorageError, DataError: as `check_vectors`; or the file ends too early.
    """
    from gensim.models import KeyedVectors

    count, dim = check_vectors(path, binary=binary)
    try:
        found = KeyedVectors.load_word2vec_format(os.fspath(path), binary=binary, limit=limit)
    except (EOFError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no word2vec {'binary' if binary else 'text'} file of {count} vectors of {dim}: {error}"
        ) from error
    about = {"imported": {"file": Path(path).name, "binary": binary, "vectors": count}}
    return WordVectors([str(x) for x in found.index_to_key], np.array(found.vectors), about)


def imported_model(vectors: WordVectors) -> SemanticModel:
    """Return a model of imported vectors, in which tokens such as ``tài_khoản`` are compounds."""
    joined = (token.split(JOINT) for token in vectors.tokens if JOINT in token.strip(JOINT))
    return SemanticModel(vectors, Compounds(x for x in joined if all(x)))
