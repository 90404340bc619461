"""Phrases to expect (names, products, streets): what sounds like one is offered as a hypothesis, and competes.

`expand` adds copies of a hypothesis in which stretches that sound like a phrase are replaced by it; the term
bias (`bias_scores`) rewards texts that hold phrases; the weights decide. Nothing is overwritten. How far a stretch
may be from a phrase depends on how many phrases there are: a long list has something near everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from rescoring.alignment import align
from rescoring.phrases import Match, PhraseList, as_phrase_list
from trunkline.errors import DataError, UsageError
from trunkline.nbest import Hypothesis, NBest
from trunkline.syllable import word_spans, words

if TYPE_CHECKING:
    from rescoring.combine import RescoredNBest, Rescorer

KAPPA = 10.0
"""Nats of am that a candidate loses for a word replaced by one with which it has nothing in common."""

LIMIT = 5
EXPANDED = "expanded"
"""Key of `Hypothesis.extra` (the summed distance) and of `NBest.extra` (what was replaced) that flags candidates."""

REACH = 0.05
"""Mean distance at which a stretch of text no longer counts as the phrase in `bias_scores`."""

WIDEST, NARROWEST = 0.16, 0.04
THRESHOLDS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12, 0.14, 0.16, 0.20)


def default_threshold(count: int) -> float:
    """Return how far from a phrase a stretch may be, for a list of `count` phrases: .16 up to 100, .08 at 1,000.

    In simulations on dev those were best for lists of 100 and 1,000, and .20 ruined the latter (reference, section
    3.7). `tune_threshold` finds the value for a list and a recogniser.
    """
    if count < 1:
        raise UsageError(f"A list has 1 phrase or more, not {count}.")
    return max(NARROWEST, WIDEST - 0.08 * max(0.0, math.log10(count) - 2))


def bias_scores(texts: Sequence[str], phrases: PhraseList | Sequence[str]) -> np.ndarray:
    """Return how many words of each text belong to a phrase, weighed by likeness, (texts,).

    A stretch counts fully when it is the phrase and nothing from a distance of `REACH` on; stretches do not overlap.
    """
    listed = phrases if isinstance(phrases, PhraseList) else _indexed(tuple(phrases))
    return np.array([_bias_score(words(text), listed) for text in texts], dtype=np.float64)


def _bias_score(tokens: Sequence[str], phrases: PhraseList) -> float:
    near = [match for match in phrases.same_code(tokens) if match.distance < REACH]
    near.sort(key=lambda x: (x.start - x.stop, x.distance))
    return sum((match.stop - match.start) * (1 - match.distance / REACH) for match in _apart(near))


def expand(
    nbest: NBest,
    phrases: PhraseList | Iterable[str] | None = None,
    *,
    row: int | None = None,
    threshold: float | None = None,
    kappa: float = KAPPA,
    limit: int = LIMIT,
) -> NBest:
    """Return the list with up to `limit` candidates behind its hypotheses, or itself when nothing is near a phrase.

    Candidates are copies of one hypothesis: first all replacements that do not overlap, then one at a time, nearest
    first. A candidate's am is the copied one's minus `kappa` times the summed distance; its lm
    and other scores are the copied one's, as nobody has scored the new text. It is flagged in its `extra`, and the
    list's `extra` tells what was replaced by what.

    Args:
        phrases: to look for, beside the list's own `bias`.
        row: the hypothesis that is copied, by default the acoustically best; see `expander`.
        threshold: mean distance up to which a stretch is replaced; by default `default_threshold` of the list's size.

    Raises:
        UsageError: a threshold, kappa or limit below 0. DataError: a phrase without a word.
    """
    if limit < 0 or kappa < 0 or (threshold is not None and not 0 <= threshold <= 1):
        raise UsageError("threshold must be from 0 to 1, kappa and limit 0 or more.")
    best = max(nbest.hyps, key=lambda x: x.am) if row is None else nbest.hyps[row]
    tokens = words(best.text)
    replacements = _apart_from_right(
        [
            _Replacement(*match, listed.phrases[match.phrase], listed.tokens[match.phrase])
            for listed in _lists(phrases, nbest.bias)
            for match in listed.find(
                tokens, default_threshold(len(listed)) if threshold is None else threshold
            )
        ],
        tokens,
    )
    known = {tuple(words(text)) for text in nbest.texts}
    hyps, told = list(nbest.hyps), []
    for chosen in _choices(replacements):
        if len(told) >= limit:
            break
        text = _replaced(best.text, chosen)
        if tuple(words(text)) in known:
            continue
        known.add(tuple(words(text)))
        distance = sum(x.distance * (x.stop - x.start) for x in chosen)
        told.append(_tell(len(hyps), chosen, tokens))
        hyps.append(
            Hypothesis(
                text, best.am - kappa * distance, best.lm, {**best.extra, EXPANDED: distance}
            )
        )
    if not told:
        return nbest
    return dataclasses.replace(nbest, hyps=tuple(hyps), extra={**nbest.extra, EXPANDED: told})


def expander(
    rescorer: Rescorer, *, threshold: float | None = None, kappa: float = KAPPA, limit: int = LIMIT
) -> Callable[[NBest], NBest]:
    """Return what adds candidates to a list: copies of the text that `rescorer` puts first when bias does not count.

    A candidate is as wrong elsewhere as what it copies, so that is the best text without phrases: were the term bias
    heard already, a text with a phrase and other errors would be copied, or need no candidate. Lists are searched for
    the rescorer's phrases and their own; one without any is returned as it is.

    Raises, when called:
        DataError: a phrase of the list has no word; the message names the list.
    """
    plain = rescorer.with_weights(dataclasses.replace(rescorer.weights, bias=0.0))
    phrases = rescorer.models.phrases

    def expanded(nbest: NBest) -> NBest:
        if phrases is None and not nbest.bias:
            return nbest
        row = int(plain.score(nbest).order[0])
        try:
            return expand(nbest, phrases, row=row, threshold=threshold, kappa=kappa, limit=limit)
        except DataError as error:
            raise DataError(f"{nbest.utt_id}: {error}") from error

    return expanded


class _Replacement(NamedTuple):
    start: int
    stop: int
    phrase: int
    distance: float
    written: str
    tokens: tuple[str, ...]


Span = TypeVar("Span", Match, _Replacement)


def _lists(phrases: PhraseList | Iterable[str] | None, own: tuple[str, ...]) -> list[PhraseList]:
    given = [] if phrases is None else [as_phrase_list(phrases)]
    return [*given, _indexed(own)] if own else given


@lru_cache(maxsize=64)
def _indexed(phrases: tuple[str, ...]) -> PhraseList:
    return PhraseList(phrases)


def _apart_from_right(found: Iterable[_Replacement], tokens: Sequence[str]) -> list[_Replacement]:
    """Return the replacements, nearest first, that leave alone what is a phrase of at least their length already."""
    ordered = sorted(found, key=lambda x: (x.distance, x.start - x.stop, x.start, x.tokens))
    right = [x for x in ordered if list(x.tokens) == list(tokens[x.start : x.stop])]
    return [
        x
        for x in ordered
        if not any(_overlap(x, y) and y.stop - y.start >= x.stop - x.start for y in right)
    ]


def _choices(replacements: Sequence[_Replacement]) -> Iterable[list[_Replacement]]:
    together = _apart(replacements)
    if len(together) > 1:
        yield together
    yield from ([x] for x in replacements)


def _apart(found: Sequence[Span]) -> list[Span]:
    """Return the first of those that overlap, in the order given."""
    kept: list[Span] = []
    for match in found:
        if not any(_overlap(match, other) for other in kept):
            kept.append(match)
    return kept


def _overlap(a: Match | _Replacement, b: Match | _Replacement) -> bool:
    return a.start < b.stop and b.start < a.stop


def _replaced(text: str, chosen: Sequence[_Replacement]) -> str:
    mended, spans = word_spans(text)
    for x in sorted(chosen, reverse=True):
        mended = mended[: spans[x.start][0]] + x.written + mended[spans[x.stop - 1][1] :]
    return mended


def _tell(row: int, chosen: Sequence[_Replacement], tokens: Sequence[str]) -> dict[str, Any]:
    replaced = [
        {
            "heard": " ".join(tokens[x.start : x.stop]),
            "phrase": x.written,
            "distance": round(x.distance, 4),
        }
        for x in chosen
    ]
    return {"hypothesis": row, "replaced": replaced}


class PhraseErrors(NamedTuple):
    """Word errors on phrases and elsewhere, per utterance (utterances,).

    A word of the reference is biased when it stands in a phrase; substituted or left out, it is a biased error. An
    added word is one when it stands in a phrase of the answer (Le et al., Interspeech 2021, B-WER and U-WER).
    """

    biased_errors: np.ndarray
    biased_words: np.ndarray
    unbiased_errors: np.ndarray
    unbiased_words: np.ndarray

    @property
    def biased_rate(self) -> float:
        """Errors on phrases over the words of phrases; nan where the references hold none."""
        return _rate(self.biased_errors, self.biased_words)

    @property
    def unbiased_rate(self) -> float:
        """Errors elsewhere over the words elsewhere."""
        return _rate(self.unbiased_errors, self.unbiased_words)


def _rate(errors: np.ndarray, count: np.ndarray) -> float:
    return float(errors.sum() / count.sum()) if count.sum() else math.nan


def phrase_errors(
    references: Sequence[str], answers: Sequence[str], phrases: PhraseList | Iterable[str]
) -> PhraseErrors:
    """Return the word errors of each answer, on phrases and elsewhere apart.

    Raises:
        UsageError: the sequences differ in length.
    """
    if len(references) != len(answers):
        raise UsageError(f"There are {len(references)} references but {len(answers)} answers.")
    listed = as_phrase_list(phrases)
    rows = [
        _errors(words(reference), words(answer), listed)
        for reference, answer in zip(references, answers, strict=True)
    ]
    return PhraseErrors(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def _errors(reference: list[str], answer: list[str], phrases: PhraseList) -> tuple[int, ...]:
    in_reference, in_answer = (_in_phrases(x, phrases) for x in (reference, answer))
    unequal = np.array([[a != b for b in answer] for a in reference], dtype=np.float64)
    biased = unbiased = 0
    for i, j in align(unequal.reshape(len(reference), len(answer))):
        if i is not None and j is not None and reference[i] == answer[j]:
            continue
        if in_reference[i] if i is not None else in_answer[j or 0]:
            biased += 1
        else:
            unbiased += 1
    count = sum(in_reference)
    return biased, count, unbiased, len(reference) - count


def _in_phrases(tokens: list[str], phrases: PhraseList) -> list[bool]:
    inside = [False] * len(tokens)
    for match in phrases.same_code(tokens):
        if list(phrases.tokens[match.phrase]) == tokens[match.start : match.stop]:
            inside[match.start : match.stop] = [True] * (match.stop - match.start)
    return inside


class Threshold(NamedTuple):
    """A threshold with what `tune_threshold` measured at each one: word error rate, biased, unbiased."""

    value: float
    rows: list[dict[str, float]]


def tune_threshold(
    lists: Sequence[NBest],
    phrases: PhraseList | Iterable[str],
    decide: Callable[[NBest], str],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    kappa: float = KAPPA,
) -> Threshold:
    """Return the threshold with the fewest word errors on lists with references; of equals the smallest.

    Only thresholds at which words outside the phrases get no worse than at the smallest one are considered.

    Args:
        decide: gives the text chosen from an expanded list, `lambda x: rescorer.score(x).best` for instance.

    Raises:
        DataError: no list has a reference.
    """
    known = [nbest for nbest in lists if nbest.ref is not None]
    if not known:
        raise DataError("No list has a reference (ref); a threshold cannot be tuned without.")
    listed = as_phrase_list(phrases)
    rows = []
    for threshold in sorted(set(thresholds)):
        expanded = (expand(x, listed, threshold=threshold, kappa=kappa) for x in known)
        found = phrase_errors([x.ref or "" for x in known], [decide(x) for x in expanded], listed)
        errors = int(found.biased_errors.sum() + found.unbiased_errors.sum())
        rows.append(
            {
                "threshold": threshold,
                "errors": errors,
                "biased": found.biased_rate,
                "unbiased": found.unbiased_rate,
            }
        )
    harmless = [row for row in rows if row["unbiased"] <= rows[0]["unbiased"]] or rows[:1]
    return Threshold(min(harmless, key=lambda row: row["errors"])["threshold"], rows)


class Staged(NamedTuple):
    """What `StagedRescorer` made of a list, and at which stage: "meaning" or "sound"."""

    result: RescoredNBest
    stage: str


@dataclasses.dataclass(frozen=True, eq=False)
class StagedRescorer:
    """Meaning first, sound second: phrases are looked for by sound only where meaning does not settle a list.

    Args:
        meaning: with language model or word vectors.
        sound: for lists that are not settled; it sees them expanded, and should weigh the term bias.
        phrases: to look for.
        sure: nats by which the winner must lead the next text to settle a list.
        threshold, kappa: see `expand`.

    Raises:
        UsageError: `sure` is below 0.
    """

    meaning: Rescorer
    sound: Rescorer
    phrases: PhraseList
    sure: float = 2.0
    threshold: float | None = None
    kappa: float = KAPPA

    def __post_init__(self) -> None:
        if not self.sure >= 0:
            raise UsageError(f"sure must be 0 or more, not {self.sure!r}.")

    def score(self, nbest: NBest) -> Staged:
        """Return the list's order and the stage that decided it."""
        first = self.meaning.score(nbest)
        if not first.kept and _lead(first) >= self.sure:
            return Staged(first, "meaning")
        wider = expand(
            nbest,
            self.phrases,
            row=int(first.order[0]),
            threshold=self.threshold,
            kappa=self.kappa,
        )
        return Staged(self.sound.score(wider), "sound")


def _lead(result: RescoredNBest) -> float:
    """Return by how much the winner leads the next other text, in nats; infinite when there is none."""
    texts = [tuple(words(text)) for text in result.nbest.texts]
    first, *rest = result.order.tolist()
    others = [result.totals[row] for row in rest if texts[row] != texts[first]]
    return float(result.totals[first] - max(others)) if others else math.inf
