"""What tuning looks at again and again, computed once: every term and every edit count of every list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rescoring.combine import DECIMALS, Rescorer
from rescoring.terms import ListTerms
from rescoring.weights import Weights
from trunkline.errors import DataError
from trunkline.metrics import WordErrors, word_errors
from trunkline.nbest import NBest
from trunkline.syllable import words as words_of


@dataclass(frozen=True)
class Features:
    """The terms and errors of U lists of up to N hypotheses; shorter lists are padded.

    Args:
        names: the T terms; the first is am.
        groups: the call of each list, or None, U of them.
        values: (U, N, T), 0 where a term is off.
        present: (U, N), False in the padding.
        edits: (U, N, 3) substitutions, deletions, insertions.
        words: (U,) words of each reference.
        blocked: (U,) the language model knows too few of the list's words.
        off: (U, T) the term is off for the list.
    """

    names: tuple[str, ...]
    groups: tuple[str | None, ...]
    values: np.ndarray
    present: np.ndarray
    edits: np.ndarray
    words: np.ndarray
    blocked: np.ndarray
    off: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    @property
    def errors(self) -> np.ndarray:
        """All edits of each hypothesis, (U, N)."""
        return self.edits.sum(axis=2)

    def at(self, rows: np.ndarray) -> Features:
        """Return some of the lists."""
        per_list = [x.name for x in fields(self) if x.name not in ("names", "groups")]
        groups = tuple(self.groups[row] for row in rows.tolist())
        return replace(self, groups=groups, **{x: getattr(self, x)[rows] for x in per_list})

    def scored(self, chosen: np.ndarray) -> WordErrors:
        """Return the word errors of one hypothesis a list, (U,) rows."""
        edits = self.edits[np.arange(len(self)), chosen]
        return WordErrors(edits[:, 0], edits[:, 1], edits[:, 2], self.words)

    def oracle(self, depth: int | None = None) -> np.ndarray:
        """Return the row with the fewest errors among the first `depth` of each list, (U,)."""
        errors = np.where(self.present, self.errors, np.iinfo(np.int64).max)
        return errors[:, :depth].argmin(axis=1)

    def totals(self, weights: np.ndarray) -> np.ndarray:
        """Return (U, N) weighted sums; -inf in the padding."""
        return np.where(self.present, self.values @ weights, -np.inf)

    def chosen(self, weights: Weights) -> np.ndarray:
        """Return the row that `Rescorer` with these weights puts first, (U,)."""
        vector = np.array([weights.of(name) for name in self.names])
        am = np.where(self.present, self.values[..., 0], -np.inf)
        acoustic = _first(np.where(self.present, weights.alpha * self.values[..., 0], -np.inf))
        totals = self.totals(vector)
        everyone = np.arange(len(self))
        found = totals
        if weights.max_drop is not None:
            found = np.where(
                am >= am.max(axis=1, keepdims=True) - weights.max_drop, totals, -np.inf
            )
        best = _first(found)
        gain = totals[everyone, best] - totals[everyone, acoustic]
        kept = gain < weights.margin
        if weights.beta:
            kept = kept | self.blocked
        return np.where(kept, acoustic, best)


def collect(
    lists: Iterable[NBest],
    rescorer: Rescorer,
    *,
    tokenize: Callable[[str], Sequence[str]] = words_of,
) -> Features:
    """Return the features of lists with references.

    Args:
        rescorer: its models compute the terms; of its weights only `max_oov` is looked at.
        tokenize: text -> the words that errors are counted in.

    Raises:
        DataError: no lists, or one without a reference.
    """
    lists = list(lists)
    if not lists:
        raise DataError("There are no N-best lists to tune on.")
    if without := [nbest.utt_id for nbest in lists if nbest.ref is None]:
        raise DataError(
            f"{len(without)} lists have no ref, the first is {without[0]!r}; tuning and scoring need what was said."
        )
    listed = [ListTerms(nbest, rescorer.models) for nbest in lists]
    names = list(dict.fromkeys(name for terms in listed for name in terms.names()))
    count, longest = len(lists), max(map(len, lists))
    values, off = np.zeros((count, longest, len(names))), np.zeros((count, len(names)), dtype=bool)
    for row, terms in enumerate(listed):
        for column, name in enumerate(names):
            if (found := terms.get(name)) is None:
                off[row, column] = True
            else:
                values[row, : len(found), column] = found
    used = np.flatnonzero(~off.all(axis=0))
    present = np.arange(longest) < np.array([len(nbest) for nbest in lists])[:, None]
    edits, words = _edits(lists, present, tokenize)
    limit = rescorer.weights.max_oov
    return Features(
        names=tuple(names[column] for column in used),
        groups=tuple(nbest.group for nbest in lists),
        values=values[..., used],
        present=present,
        edits=edits,
        words=words,
        blocked=np.array([terms.oov_rate() > limit for terms in listed]),
        off=off[:, used],
    )


def _edits(
    lists: Sequence[NBest], present: np.ndarray, tokenize: Callable[[str], Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (U, N, 3) edits and (U,) reference words; each distinct pair is aligned once."""
    references = [" ".join(tokenize(nbest.ref or "")) for nbest in lists]
    pairs: dict[tuple[int, str], int] = {}
    places = np.zeros(present.shape, dtype=np.intp)
    for row, nbest in enumerate(lists):
        for column, text in enumerate(nbest.texts):
            pair = (row, " ".join(tokenize(text)))
            places[row, column] = pairs.setdefault(pair, len(pairs))
    counted = word_errors([references[row] for row, _ in pairs], [text for _, text in pairs])
    table = np.stack([counted.substitutions, counted.deletions, counted.insertions], axis=1)
    edits = np.where(present[..., None], table[places], 0)
    return edits, counted.words[places[:, 0]]


def _first(totals: np.ndarray) -> np.ndarray:
    """Return the row of the highest total of each list, the first of equal ones."""
    return np.round(totals, DECIMALS).argmax(axis=1)
