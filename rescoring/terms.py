"""The terms of a score, each (hypotheses,) over one list, or off for the whole list.

A score that some hypothesis lacks switches its term off for that list; it is never read as 0,
which among log probabilities would win. Nothing is normalised inside a list: that would throw
away how sure the recogniser was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rescoring.consensus import Phonetic, expected_distances
from trunkline.errors import DataError, UsageError
from trunkline.nbest import NBest
from trunkline.syllable import words

if TYPE_CHECKING:
    from rescoring.phrases import PhraseList

TERMS = ("am", "lm", "sem", "phon", "bias", "len")
SECOND_TEXT = "second"  # key of NBest.extra: what another recogniser heard

Scorer = Callable[[Sequence[str]], np.ndarray]


class LanguageModel(Protocol):
    """What the term lm asks of a language model."""

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Return natural-log probabilities, end of sentence counted, (texts,)."""
        ...

    def oov_rate(self, texts: Sequence[str]) -> float:
        """Return the share of words that the model does not know."""
        ...


class SemanticScorer(Protocol):
    """What the term sem asks of word vectors."""

    def coherence(self, texts: Sequence[str]) -> np.ndarray:
        """Return how well each text's words fit each other, times their number, (texts,)."""
        ...

    def context(self, texts: Sequence[str], context: str) -> np.ndarray:
        """Return how well each text fits a context, times its words, (texts,)."""
        ...


@dataclass(frozen=True)
class Models:
    """What terms are computed with; a part that is None leaves its term to the lists, or off."""

    lm: LanguageModel | None = None
    semantic: SemanticScorer | None = None
    phonetic: Phonetic = field(default_factory=Phonetic)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    phrases: PhraseList | None = None

    def __post_init__(self) -> None:
        if clash := sorted(set(self.scorers) & set(TERMS)):
            raise UsageError(f"A scorer has the name of the term {clash[0]!r}; give it another.")


class ListTerms:
    """The terms of one list, each computed when it is asked for.

    Texts that are equal after normalisation are one text: its am is the log of the summed
    probabilities of its different alignments, and an exact copy adds nothing.
    """

    def __init__(self, nbest: NBest, models: Models) -> None:
        self.nbest, self.models = nbest, models
        self.tokens = [tuple(words(text)) for text in nbest.texts]
        number: dict[tuple[str, ...], int] = {}
        self.members = np.array([number.setdefault(x, len(number)) for x in self.tokens])
        self.distinct = list(number)  # each text's words, once
        scores = np.array([hypothesis.am for hypothesis in nbest.hyps], dtype=np.float64)
        self.distinct_am = _merged(scores, self.members, len(number))

    def get(self, term: str) -> np.ndarray | None:
        """Return a term's values (hypotheses,), or None where it is off.

        Raises:
            DataError: a model answers with numbers that are not finite, or not one a text.
        """
        if term in TERMS:
            found = self._own(term)
        elif term in self.models.scorers:
            found = self._ask(self.models.scorers[term], self._as_written())
        else:
            found = self._given([x.extra.get(term) for x in self.nbest.hyps])
        return None if found is None else self._checked(found, term)

    def names(self) -> list[str]:
        """Return the terms that this list could have: the fixed ones, scorers', and its own extras."""
        own = (name for hypothesis in self.nbest.hyps for name in hypothesis.extra)
        return list(dict.fromkeys([*TERMS, *self.models.scorers, *own]))

    def oov_rate(self) -> float:
        """Return the share of words that the language model does not know; 0 without a model."""
        if self.models.lm is None:
            return 0.0
        return float(self.models.lm.oov_rate([" ".join(tokens) for tokens in self.distinct]))

    def _lm(self) -> np.ndarray | None:
        if self.models.lm is not None:
            return self._ask(self.models.lm.score)
        return self._given([x.lm for x in self.nbest.hyps])

    def _sem(self) -> np.ndarray | None:
        semantic = self.models.semantic
        if semantic is None:
            return None
        context = self.nbest.context
        if context is not None and words(context):
            return self._ask(lambda texts: semantic.context(texts, context))
        return self._ask(semantic.coherence)

    def _phon(self) -> np.ndarray:
        second = self.nbest.extra.get(SECOND_TEXT)
        settings = self.models.phonetic
        if isinstance(second, str):
            # Closeness to one text: a list whose other text has all the probability.
            tokens = [tuple(words(second)), *self.distinct]
            am = np.full(len(tokens), -np.inf)
            am[0] = 0.0
            only = Phonetic(settings.dialect, pivots=1, scale=settings.scale)
            return -expected_distances(tokens, am, only)[1:][self.members]
        return -expected_distances(self.distinct, self.distinct_am, settings)[self.members]

    def _bias(self) -> np.ndarray | None:
        """Points for the phrases of every list and for those of this one that are not among them."""
        general, own = self.models.phrases, self.nbest.bias
        if general is not None:
            own = tuple(x for x in own if tuple(words(x)) not in _tokens_of(general))
        if general is None and not own:
            return None
        from rescoring.bias import bias_scores

        try:
            found = [
                self._ask(lambda texts, phrases=phrases: bias_scores(texts, phrases))
                for phrases in (general, own)
                if phrases
            ]
        except DataError as error:
            raise DataError(f"{self.nbest.utt_id}: {error}") from error
        return np.sum(found, axis=0)

    def _own(self, term: str) -> np.ndarray | None:
        match term:
            case "am":
                return self.distinct_am[self.members]
            case "lm":
                return self._lm()
            case "sem":
                return self._sem()
            case "phon":
                return self._phon()
            case "bias":
                return self._bias()
            case _:
                return np.array([len(tokens) for tokens in self.tokens], dtype=np.float64)

    def _as_written(self) -> list[str]:
        """Return each distinct text with its case and punctuation, the same whatever the list's order."""
        written: dict[int, str] = {}
        for text, member in zip(self.nbest.texts, self.members.tolist(), strict=True):
            written[member] = min(text, written.get(member, text))
        return [written[member] for member in range(len(self.distinct))]

    def _ask(self, scorer: Scorer, texts: list[str] | None = None) -> np.ndarray:
        """Score each distinct text once, by default as `words` normalises it."""
        texts = [" ".join(tokens) for tokens in self.distinct] if texts is None else texts
        found = np.asarray(scorer(texts), dtype=np.float64)
        if found.shape != (len(texts),):
            raise DataError(
                f"{self.nbest.utt_id}: a scorer gave {found.shape} numbers for {len(texts)} texts."
            )
        return found[self.members]

    @staticmethod
    def _given(scores: Collection[float | None]) -> np.ndarray | None:
        known = [score for score in scores if score is not None]
        return np.array(known, dtype=np.float64) if len(known) == len(scores) else None

    def _checked(self, found: np.ndarray, term: str) -> np.ndarray:
        if not np.isfinite(found).all():
            text = self.nbest.texts[int(np.flatnonzero(~np.isfinite(found))[0])]
            raise DataError(f"{self.nbest.utt_id}: term {term} of {text!r} is not finite.")
        return found


@lru_cache(maxsize=8)
def _tokens_of(phrases: PhraseList) -> frozenset[tuple[str, ...]]:
    return frozenset(phrases.tokens)


def _merged(am: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """Return log sum exp of each text's unequal scores, (texts,)."""
    if count == len(am):
        return am
    result = np.full(count, -np.inf)
    for text, score in sorted(set(zip(members.tolist(), am.tolist(), strict=True))):
        result[text] = np.logaddexp(result[text], score)
    return result
