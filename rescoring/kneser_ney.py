"""Modified Kneser-Ney n-gram models, estimated as KenLM's `lmplz` does, with numpy.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998), section 3 and equation
(26); Heafield et al., "Scalable modified Kneser-Ney language model estimation" (ACL 2013): interpolated at every
order, unigrams with the uniform distribution, in which <unk> has its share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from rescoring.ngrams import BOS, EOS, UNK, Ngrams, Order, check_sentence
from trunkline.errors import DataError, UsageError

MAX_ORDER = 6
UNK_ROW, BOS_ROW, EOS_ROW = range(3)
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where the text has too few n-grams to estimate them (lmplz --discount_fallback)."""


class Counts(NamedTuple):
    """The n-grams of one length that occur in the text, sorted by (`prefix`, `word`).

    `suffix` is the row of the last n-1 words in the order below; `raw` how often the n-gram occurs; `adjusted`
    the number of different words before it, or `raw` for the longest and for those that begin with <s>.
    """

    prefix: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    raw: np.ndarray
    adjusted: np.ndarray


class Trained(NamedTuple):
    """A model and what it was made from; `discounts` (order, 3) are those for counts 1, 2 and 3 or more."""

    ngrams: Ngrams
    discounts: list[tuple[float, float, float]]
    fallbacks: list[int]
    sentences: int
    words: int


def train(
    sentences: Iterable[Sequence[str]],
    order: int = 4,
    *,
    prune: Sequence[int] = (),
    fallback: Sequence[float] | None = FALLBACK,
) -> Trained:
    """Estimate an n-gram model of `order` from sentences of words; empty sentences are left out.

    `prune[n-1]` leaves n-grams of length n out that occur at most so often (the last value holds for longer ones;
    0 keeps all, and the first must be 0). `fallback` are the discounts of an order for which the text is too small
    or too odd to estimate them; with None that is an error, as it is for lmplz.

    Raises:
        UsageError: `order`, `prune` or `fallback` is out of range, or a sentence is a text.
        DataError: there is no sentence, none is long enough for `order`, or a word is <s>, </s> or <unk>.
    """
    thresholds = _thresholds(order, prune)
    if fallback is not None and (
        len(fallback) != 3 or not all(0 <= x <= n for n, x in enumerate(fallback, start=1))
    ):
        raise UsageError(
            f"Fallback discounts must be three, the n-th from 0 to n, not {list(fallback)}."
        )
    vocabulary, ids, lengths = _number(sentences)
    counts = _count(ids, lengths, order, len(vocabulary))
    discounts: list[tuple[float, float, float]] = []
    fallbacks: list[int] = []
    gammas: list[np.ndarray] = []  # the share that each context leaves to the order below
    probs = [np.array([1.0 / (len(vocabulary) - 1)])]  # uniform: <unk> counts, <s> does not
    for length, (these, threshold) in enumerate(zip(counts, thresholds, strict=True), start=1):
        discount = _discounts(these, length, fallback)
        if discount is None:
            assert fallback is not None
            discount = (fallback[0], fallback[1], fallback[2])
            fallbacks.append(length)
        discounts.append(discount)
        gamma, prob = _interpolate(these, discount, threshold, probs[-1])
        gammas.append(gamma)
        probs.append(prob)
    ngrams = Ngrams(vocabulary, _orders(counts, thresholds, probs[1:], gammas[1:]))
    return Trained(
        ngrams, discounts, fallbacks, len(lengths), int(lengths.sum()) - 2 * len(lengths)
    )


def _thresholds(order: int, prune: Sequence[int]) -> list[int]:
    if not 1 <= order <= MAX_ORDER:
        raise UsageError(f"The order of a language model is 1 to {MAX_ORDER}, not {order}.")
    if len(prune) > order or list(prune) != sorted(prune) or any(x < 0 for x in prune[:1]):
        raise UsageError(
            f"Pruning thresholds must not fall, with one for each order at most, not {list(prune)}."
        )
    if any(prune[:1]):
        raise UsageError("Unigrams are never pruned; the first threshold must be 0.")
    values = [*prune] or [0]
    return values + values[-1:] * (order - len(values))


def _number(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the vocabulary, and the numbers of all words between <s> and </s> with the sentences' lengths."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    for mark in (UNK, BOS, EOS):
        ids[mark]
    numbers: list[np.ndarray] = []
    lengths: list[int] = []
    for words in map(check_sentence, sentences):
        if words:
            numbers.append(
                np.array([BOS_ROW, *map(ids.__getitem__, words), EOS_ROW], dtype=np.int32)
            )
            lengths.append(len(words) + 2)
    if not numbers:
        raise DataError("There is no sentence to train a language model on.")
    stream = np.concatenate(numbers)
    vocabulary = list(ids)
    if [*np.bincount(stream, minlength=3)[:3]] != [0, len(lengths), len(lengths)]:
        raise DataError(f"The words {UNK}, {BOS} and {EOS} stand for something else; replace them.")
    for word in vocabulary:
        if word.split() != [word]:
            raise DataError(
                f"The word {word!r} is empty or has a space in it; ARPA files cannot hold it."
            )
    return vocabulary, stream, np.array(lengths)


def _count(ids: np.ndarray, lengths: np.ndarray, order: int, vocabulary: int) -> list[Counts]:
    """Return the counts of n-grams of length 1 to `order`."""
    if max(lengths) < order:
        raise DataError(
            f"No sentence has the {order - 1} words or more that order {order} needs; choose a lower order."
        )
    place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    unigrams = np.arange(vocabulary)
    nothing = np.zeros_like(unigrams)
    raw = np.bincount(ids, minlength=vocabulary)
    counts = [Counts(nothing, unigrams, nothing, raw, raw)]
    begins = [unigrams == BOS_ROW]  # the n-grams whose first word is <s>
    rows = ids.astype(np.int64)  # row of the n-gram that ends at each place
    for length in range(2, order + 1):
        ends = np.flatnonzero(place >= length - 1)
        keys, first, inverse, raw = np.unique(
            rows[ends - 1] * vocabulary + ids[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        prefix, word = np.divmod(keys, vocabulary)
        counts.append(Counts(prefix, word, rows[ends[first]], raw, raw))
        begins.append(begins[-1][prefix])
        rows[ends] = inverse
    # An n-gram counts as often as there are different words before it; nothing comes before <s>.
    for n in range(order - 1):
        before = np.bincount(counts[n + 1].suffix, minlength=len(counts[n].raw))
        counts[n] = counts[n]._replace(adjusted=np.where(begins[n], counts[n].raw, before))
    counts[0].adjusted[BOS_ROW] = 0  # <s> is never predicted
    return counts


def _discounts(
    counts: Counts, length: int, fallback: Sequence[float] | None
) -> tuple[float, float, float] | None:
    """Return the discounts of counts 1, 2 and 3 or more; None where the fallback must do.

    Chen and Goodman, equation (26): D_k = k - (k + 1) Y n_(k+1) / n_k with Y = n_1 / (n_1 + 2 n_2).
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts.adjusted, 5), minlength=6)[1:5].tolist()
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= x <= k for k, x in enumerate(found, start=1)):
            return found
    if fallback is not None:
        return None
    raise DataError(
        f"The discounts of {length}-grams cannot be estimated: {n1}, {n2}, {n3} and {n4} of them occur after 1, 2, 3 "
        "and 4 words. The text is small or has doubled lines; use more text, a lower order, or fallback discounts."
    )


def _interpolate(
    counts: Counts, discount: Sequence[float], threshold: int, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each context leaves to the order below, (contexts,), and the probabilities, (n-grams,).

    What pruned n-grams would have got goes to the order below, too.
    """
    taken = np.array([0.0, *discount])[np.minimum(counts.adjusted, 3)]
    left = np.where(counts.raw > threshold, taken, counts.adjusted)
    total = np.bincount(counts.prefix, counts.adjusted, minlength=len(lower))
    # A context that nothing follows, such as one that ends in </s>, leaves everything.
    gamma = np.divide(
        np.bincount(counts.prefix, left, minlength=len(lower)),
        total,
        out=np.ones(len(total)),
        where=total > 0,
    )
    own = (counts.adjusted - taken) / total[counts.prefix]
    return gamma, own + gamma[counts.prefix] * lower[counts.suffix]


def _orders(
    counts: Sequence[Counts],
    thresholds: Sequence[int],
    probs: Sequence[np.ndarray],
    gammas: Sequence[np.ndarray],
) -> list[Order]:
    """Return what is not pruned, in log10; the longest n-grams have no back-off."""
    orders = []
    below = np.zeros(1, dtype=np.int64)  # row before pruning -> row after, of the order below
    for n, (these, threshold) in enumerate(zip(counts, thresholds, strict=True)):
        # Words outside the text are kept (<unk>), as are <s> and </s>: only longer n-grams are pruned.
        kept = these.raw > threshold if n else np.ones(len(these.raw), dtype=bool)
        backoff = gammas[n] if n < len(gammas) else np.ones(len(kept))
        orders.append(
            Order(
                below[these.prefix[kept]].astype(np.int32),
                these.word[kept].astype(np.int32),
                _log10(probs[n][kept]),
                _log10(backoff[kept]),
            )
        )
        below = np.cumsum(kept) - 1
    # KenLM writes P(<s>) = 1; it is never used, as nothing predicts <s>.
    orders[0].log_prob[counts[0].word == BOS_ROW] = 0.0
    return orders


def _log10(values: np.ndarray) -> np.ndarray:
    """Return float32 logarithms; 0, which a discount of 0 or of all leaves, is -99 as in other tools' ARPA files."""
    return np.log10(np.maximum(values, 1e-99)).astype(np.float32)
