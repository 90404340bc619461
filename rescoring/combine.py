"""Order an N-best list by the weighted sum of its terms, or leave it as it is where that is safer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rescoring.consensus import Consensus, Phonetic
from rescoring.terms import TERMS, LanguageModel, ListTerms, Models, Scorer, SemanticScorer
from rescoring.weights import Weights
from trunkline.command import format_summary
from trunkline.errors import UsageError
from trunkline.nbest import NBest

if TYPE_CHECKING:
    from rescoring.phrases import PhraseList

DECIMALS = 6  # totals that differ by less are equal, so that rounding errors decide nothing


@dataclass(frozen=True)
class RescoredNBest:
    """A list with its new order.

    Args:
        nbest: the list as it was given.
        order: rows of `nbest.hyps`, the best first, (hypotheses,).
        totals: weighted sums, in nats where the weights are those of log probabilities, (hypotheses,).
        terms: each term that was computed, (hypotheses,) and not yet weighted.
        off: terms with a weight that this list could not be given.
        kept: why the recogniser's order stands ("margin", "oov"), or "" where it does not have to.
        risk: expected distance to the list, (hypotheses,), where a consensus has the last word.
    """

    nbest: NBest
    order: np.ndarray
    totals: np.ndarray
    terms: Mapping[str, np.ndarray]
    off: tuple[str, ...]
    kept: str
    risk: np.ndarray | None = None

    @property
    def best(self) -> str:
        """The text that is now first."""
        return self.nbest.hyps[int(self.order[0])].text

    def reordered(self) -> NBest:
        """Return the list in its new order, its hypotheses untouched."""
        hyps = tuple(self.nbest.hyps[index] for index in self.order)
        return dataclasses.replace(self.nbest, hyps=hyps)


class Explanation(NamedTuple):
    """Every term of every hypothesis; `str` of it is a table, the best first, with points that each term gives."""

    result: RescoredNBest
    weights: Weights
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        nbest = self.result.nbest
        head = {"utt_id": nbest.utt_id, "ref": nbest.ref, "context": nbest.context}
        head |= {"kept": self.result.kept or None, "off": ", ".join(self.result.off) or None}
        known = {name: value for name, value in head.items() if value is not None}
        title = "hypotheses, the best first (term: its value, x: value times weight)"
        return format_summary(known | {"tables": {title: self.rows}})


class Rescorer:
    """Scores N-best lists with fixed weights and models.

    Args:
        weights: of the terms; all 0 but alpha leaves the acoustic order.
        lm: a language model, such as `rescoring.lm.load_lm` returns. None: the lists' own lm.
        semantic: word vectors, such as `rescoring.semantic.SemanticModel`.
        phonetic: how phonetic distances are taken, or a dialect.
        scorers: further terms: name -> a callable that gives each text a number.
        phrases: for the term bias in every list, beside each list's own (`rescoring.bias.expander` makes
            hypotheses of them).
        consensus: let the list vote on the totals, see `Consensus`.

    Raises:
        UsageError: a weight that is not 0 for a term that no list can have, for want of its model.
    """

    def __init__(
        self,
        weights: Weights | None = None,
        lm: LanguageModel | None = None,
        semantic: SemanticScorer | None = None,
        phonetic: Phonetic | str | None = None,
        *,
        scorers: Mapping[str, Scorer] | None = None,
        phrases: PhraseList | Iterable[str] | None = None,
        consensus: Consensus | None = None,
    ) -> None:
        self.weights = Weights() if weights is None else weights
        if phonetic is None or isinstance(phonetic, str):
            phonetic = Phonetic() if phonetic is None else Phonetic(phonetic)
        if phrases is not None:
            from rescoring.phrases import as_phrase_list

            phrases = as_phrase_list(phrases)
        self.models = Models(lm, semantic, phonetic, dict(scorers or {}), phrases)
        self.consensus = consensus
        if self.weights.gamma and semantic is None:
            raise UsageError(
                f"The weights give sem {self.weights.gamma:g}, but there is no semantic model; "
                "give one, or set gamma to 0."
            )

    def with_weights(self, weights: Weights) -> Rescorer:
        """Return a rescorer with the same models and other weights."""
        models = self.models
        return Rescorer(
            weights,
            models.lm,
            models.semantic,
            models.phonetic,
            scorers=models.scorers,
            phrases=models.phrases,
            consensus=self.consensus,
        )

    def rescore(self, nbest: NBest) -> NBest:
        """Return the list in its new order; its hypotheses are not changed."""
        return self.score(nbest).reordered()

    def score(self, nbest: NBest, terms: Collection[str] | None = None) -> RescoredNBest:
        """Return the new order with totals and terms.

        Args:
            terms: compute these too, though they weigh nothing.

        Raises:
            DataError: a model gives a number that is not finite.
        """
        names = {name for name, weight in self.weights.items() if weight}
        return self._score(ListTerms(nbest, self.models), names | set(terms or ()))

    def explain(self, nbest: NBest) -> Explanation:
        """Return every term of every hypothesis, those without weight included."""
        listed = ListTerms(nbest, self.models)
        result = self._score(listed, listed.names())
        points = {
            name: self.weights.of(name) * values
            for name, values in result.terms.items()
            if self.weights.of(name)
        }
        rows = []
        for place, index in enumerate(result.order.tolist(), start=1):
            row: dict[str, Any] = {"place": place, "was": index + 1}
            row["total"] = float(result.totals[index])
            if result.risk is not None:
                row["risk"] = float(result.risk[index])
            for name, values in result.terms.items():
                row[name] = float(values[index])
                if name in points:
                    row[f"x {name}"] = float(points[name][index])
            rows.append(row | {"text": nbest.hyps[index].text})
        return Explanation(result, self.weights, rows)

    def _score(self, listed: ListTerms, names: Iterable[str]) -> RescoredNBest:
        found = {name: listed.get(name) for name in sorted(names, key=_place)}
        terms = {name: values for name, values in found.items() if values is not None}
        off = tuple(name for name in found if name not in terms and self.weights.of(name))
        totals = np.zeros(len(listed.nbest))
        for name, values in terms.items():
            totals = totals + self.weights.of(name) * values
        order, kept, risk = self._order(listed, totals)
        return RescoredNBest(listed.nbest, order, totals, terms, off, kept, risk)

    def _order(
        self, listed: ListTerms, totals: np.ndarray
    ) -> tuple[np.ndarray, str, np.ndarray | None]:
        """Return the order, why it was left, and the risk under a consensus."""
        am = listed.distinct_am[listed.members]
        acoustic = rank(self.weights.alpha * am)
        if self.weights.beta and listed.oov_rate() > self.weights.max_oov:
            return acoustic, "oov", None
        risk = None
        if self.consensus is not None:
            # One total a text: a copy must not vote twice.
            first = np.unique(listed.members, return_index=True)[1]
            risk = self.consensus.risk(listed.distinct, totals[first])[listed.members]
        eligible = None
        if self.weights.max_drop is not None:
            eligible = am >= am.max() - self.weights.max_drop
        order = rank(totals if risk is None else -risk, eligible)
        gain = totals[order[0]] - totals[acoustic[0]]
        if risk is None and gain < self.weights.margin:
            return acoustic, "margin", None
        return order, "", risk


def rank(totals: np.ndarray, eligible: np.ndarray | None = None) -> np.ndarray:
    """Return rows by total, the best first; equal ones keep their order, eligible ones come first."""
    keys = [np.arange(len(totals)), -np.round(totals, DECIMALS)]
    return np.lexsort(keys if eligible is None else [*keys, ~eligible])


def _place(name: str) -> tuple[int, str]:
    """Known terms in their order, then the others by name."""
    return (TERMS.index(name) if name in TERMS else len(TERMS), name)
