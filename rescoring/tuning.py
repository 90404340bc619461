"""Which terms help, by how much, and with what doubt: selection, cross-validation, and the report.

A term's weight stays 0 unless lists of calls that its weight was not fitted on get better by more
than chance: forward selection by cross-validated word error rate, then a check of each chosen term
against the others without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from rescoring.features import Features
from rescoring.search import RESTARTS, fit, fit_guards
from rescoring.weights import FIELD_OF_TERM, Weights
from trunkline.errors import DataError, UsageError
from trunkline.log import get_logger, progress
from trunkline.metrics import Difference, WordErrors, interval, paired_difference

MIN_UTTERANCES, MIN_WORDS, FEW_UTTERANCES = 100, 1000, 500
FOLDS = 5
DRAWS = 1000
SEARCH_RESTARTS = 4  # while terms are compared; the final fit has more

logger = get_logger(__name__)


class Trial(NamedTuple):
    """A set of terms under cross-validation, against the set before it."""

    terms: tuple[str, ...]
    chosen: np.ndarray  # (lists,) rows, each by weights that were not fitted on its call
    against: Difference


@dataclass(frozen=True)
class Tuned:
    """Weights and how they came about.

    Args:
        weights: fitted on all lists; those of terms that do not help are 0.
        chosen: (lists,) rows under cross-validation.
        steps: what was tried, a row each.
        notes: what a reader of the figures should know.
    """

    weights: Weights
    chosen: np.ndarray
    steps: list[dict[str, Any]]
    notes: list[str]


def tune(
    features: Features,
    *,
    terms: Sequence[str] | None = None,
    folds: int = FOLDS,
    restarts: int = RESTARTS,
    seed: int = 0,
) -> Tuned:
    """Choose terms and fit their weights.

    Args:
        terms: those to try; by default all that some list has.

    Raises:
        DataError: fewer than 100 lists or 1,000 words: too few to tell help from chance.
        UsageError: an unknown term, fewer than 2 folds, a negative seed or number of restarts.
    """
    check_size(features)
    if folds < 2:
        raise UsageError(f"Cross-validation needs 2 folds or more, not {folds}.")
    if seed < 0 or restarts < 0:
        raise UsageError("seed and restarts must be 0 or more.")
    candidates = list(features.names[1:] if terms is None else dict.fromkeys(terms))
    if unknown := [name for name in candidates if name not in features.names[1:]]:
        raise UsageError(f"The lists have no term {unknown[0]!r}; they have {features.names[1:]}.")
    selection = _Selection(features, folds, seed)
    active = selection.forward(candidates)
    active = selection.backward(active)
    weights, chosen = Weights(alpha=0.0), np.zeros(len(features), dtype=np.intp)
    if active is not None:
        weights = fit(features, active, restarts=restarts, seed=seed)
        chosen = selection.held_out(tuple(active))
        if active:
            weights, chosen = selection.guards(active, weights, chosen)
    elif not features.chosen(Weights()).any():
        weights = Weights()  # the lists are in the order of am: the same, said more plainly
    return Tuned(weights, chosen, selection.steps, selection.notes)


def check_size(features: Features) -> None:
    """Refuse what is too small to tune on; warn where the weights will be unsure."""
    lists, words = len(features), int(features.words.sum())
    if lists < MIN_UTTERANCES or words < MIN_WORDS:
        raise DataError(
            f"{lists} utterances with {words} words are too few to tune on: weights fitted on fewer than "
            f"{MIN_UTTERANCES} utterances or {MIN_WORDS} words help or harm by chance. Add references, or rescore "
            "with weights that were tuned elsewhere."
        )
    if lists < FEW_UTTERANCES:
        logger.warning(
            "%d utterances are few: with %d or more the weights are surer.", lists, FEW_UTTERANCES
        )


class _Selection:
    """The trials over one set of folds; equal trials are run once."""

    def __init__(self, features: Features, folds: int, seed: int) -> None:
        self.features, self.seed = features, seed
        self.notes: list[str] = []
        self.steps: list[dict[str, Any]] = []
        self.fold = self._folds(folds)
        self._known: dict[tuple[tuple[str, ...], bool], np.ndarray] = {}

    def forward(self, candidates: Sequence[str]) -> list[str] | None:
        """Add the term that helps most as long as one helps; None: not even the order of am does."""
        listed = np.zeros(len(self.features), dtype=np.intp)
        current, active = listed, None
        sorted_by_am = not self.features.chosen(Weights()).any()
        while True:
            left = [name for name in candidates if name not in (active or ())]
            sets: list[tuple[str, ...]] = [(*(active or ()), name) for name in left]
            if active is None and not sorted_by_am:
                sets.append(())
            bar = progress(sets, description=f"terms beside {' '.join(active or ()) or 'am'}")
            trials = [self._try(names, current, "add") for names in bar]
            helpful = [trial for trial in trials if trial.against.verdict == "better"]
            if not helpful:
                return active
            best = min(helpful, key=lambda trial: trial.against.difference)
            current, active = best.chosen, list(best.terms)

    def backward(self, active: list[str] | None) -> list[str] | None:
        """Drop terms that the others make needless."""
        while active and len(active) > 1:
            current = self.held_out(tuple(active))
            needless = []
            for name in active:
                rest = tuple(x for x in active if x != name)
                trial = self._try(rest, current, "remove")
                if trial.against.verdict != "worse":
                    needless.append((trial.against.difference, name))
            if not needless:
                break
            active = [name for name in active if name != min(needless)[1]]
        return active

    def guards(
        self, active: list[str], weights: Weights, chosen: np.ndarray
    ) -> tuple[Weights, np.ndarray]:
        """Add margin and largest drop where held-out lists are better for them."""
        guarded = self.held_out(tuple(active), guards=True)
        against = self._difference(guarded, chosen)
        self._note_step("guard", (*active, "margin, max_drop"), guarded, against)
        if against.verdict != "better":
            return weights, chosen
        return fit_guards(self.features, weights), guarded

    def held_out(self, terms: tuple[str, ...], guards: bool = False) -> np.ndarray:
        """Return the rows chosen by weights fitted on the other folds, (lists,)."""
        key = (tuple(sorted(terms)), guards)
        if key not in self._known:
            chosen = np.zeros(len(self.features), dtype=np.intp)
            for number in np.unique(self.fold):
                train = self.features.at(np.flatnonzero(self.fold != number))
                weights = fit(train, terms, restarts=SEARCH_RESTARTS, seed=self.seed)
                if guards:
                    weights = fit_guards(train, weights)
                rows = np.flatnonzero(self.fold == number)
                chosen[rows] = self.features.at(rows).chosen(weights)
            self._known[key] = chosen
        return self._known[key]

    def _try(self, terms: tuple[str, ...], current: np.ndarray, what: str) -> Trial:
        chosen = self.held_out(terms)
        against = self._difference(chosen, current)
        self._note_step(what, terms, chosen, against)
        return Trial(terms, chosen, against)

    def _difference(self, chosen: np.ndarray, current: np.ndarray) -> Difference:
        return compare(self.features, chosen, current, self.seed)

    def _note_step(
        self, what: str, terms: Sequence[str], chosen: np.ndarray, against: Difference
    ) -> None:
        row = {"step": what, "terms": " ".join(terms) or "am alone"}
        row |= {"wer": self.features.scored(chosen).wer, **_doubt(against)}
        self.steps.append(row)

    def _folds(self, folds: int) -> np.ndarray:
        """Return each list's fold, (lists,); lists of one call stay together."""
        groups = self.features.groups
        names = [f"#{row}" if name is None else f"={name}" for row, name in enumerate(groups)]
        if len(set(names)) < folds:
            self.notes.append(
                f"{len(set(names))} calls are too few for {folds} folds by call: the folds are by utterance."
            )
            names = [f"#{row}" for row in range(len(groups))]
        _, members = np.unique(names, return_inverse=True)
        order = np.random.default_rng(self.seed).permutation(int(members.max()) + 1)
        return (order % folds)[members]


def compare(features: Features, chosen: np.ndarray, other: np.ndarray, seed: int = 0) -> Difference:
    """Return the word error rate of one choice minus another's, (lists,) rows each, by call."""
    return paired_difference(
        features.scored(chosen).errors,
        features.scored(other).errors,
        list(features.groups),
        sizes=features.words,
        higher_is_better=False,
        unit="call",
        resamples=DRAWS,
        seed=seed,
    )


def report(features: Features, chosen: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return how a choice of rows, (lists,), compares with the 1-best and the oracle."""
    listed = np.zeros(len(features), dtype=np.intp)
    systems = {"1-best": listed, "rescored": chosen}
    depths = [x for x in (5, 10, 20, 50) if x < features.present.shape[1]]
    systems |= {f"oracle@{depth}": features.oracle(depth) for depth in depths}
    systems[f"oracle@{features.present.shape[1]}"] = features.oracle()
    rows = [
        {"system": name, **_rates(features.scored(rows), features, seed)}
        for name, rows in systems.items()
    ]
    first, new, oracle = (features.scored(x).errors for x in (listed, chosen, features.oracle()))
    gap = int(first.sum() - oracle.sum())
    difference = compare(features, chosen, listed, seed)
    return {
        "utterances": len(features),
        "words": int(features.words.sum()),
        "calls": len(set(features.groups) - {None}) or None,
        "difference": _doubt(difference) | {"over": f"{difference.groups} {difference.unit}s"},
        "gap_closed": (first.sum() - new.sum()) / gap if gap else None,
        "utterances_better": int((new < first).sum()),
        "utterances_worse": int((new > first).sum()),
        "tables": {"Word error rates": rows},
    }


def ablations(features: Features, weights: Weights, seed: int = 0) -> list[dict[str, Any]]:
    """Return, for each term, what its weight does to the lists: the word error rate without it, and the doubt."""
    chosen = features.chosen(weights)
    rows = []
    for column, name in enumerate(features.names):
        row: dict[str, Any] = {"term": name, "weight": weights.of(name)}
        row["off_in_lists"] = int(features.off[:, column].sum())
        if weights.of(name):
            without = features.chosen(_without(weights, name))
            row["wer_without"] = features.scored(without).wer
            row |= _doubt(compare(features, without, chosen, seed))
        rows.append(row)
    return rows


def _without(weights: Weights, name: str) -> Weights:
    if name in FIELD_OF_TERM:
        return replace(weights, **{FIELD_OF_TERM[name]: 0.0})
    return replace(weights, extra={x: w for x, w in weights.extra.items() if x != name})


def _rates(scored: WordErrors, features: Features, seed: int) -> dict[str, Any]:
    doubt = interval(
        scored.errors,
        list(features.groups),
        sizes=features.words,
        unit="call",
        resamples=DRAWS,
        seed=seed,
    )
    return {
        "wer": scored.wer,
        "low": doubt.low,
        "high": doubt.high,
        "substitutions": int(scored.substitutions.sum()),
        "deletions": int(scored.deletions.sum()),
        "insertions": int(scored.insertions.sum()),
    }


def _doubt(found: Difference) -> dict[str, Any]:
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "verdict": found.verdict,
    }
