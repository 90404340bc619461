"""Lists of phrases (names, products, streets) and where a text has something that sounds like one of them.

Retrieval is in two steps. Candidates: every phrase of a short list; in a longer one those that share the VnSoundex
code in all words or all but one, and the nearest ones by `rescoring.vectors` (FAISS). Then the exact distance.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rescoring.corpus import read_lines
from rescoring.costs import Costs
from rescoring.phonetics import Described, describe, distance_matrix
from rescoring.soundex import vnsoundex
from rescoring.vectors import MAX_SYLLABLES, dimension, syllable_vector
from trunkline.errors import DataError, UsageError
from trunkline.syllable import parse, words

EXHAUSTIVE = 1000
"""Up to so many phrases, every one is compared with every stretch of the text."""

NEIGHBOURS = 16
"""Phrases that FAISS proposes for each stretch of the text."""

FLAT = 4000
"""From so many phrases of one length on, FAISS looks into the nearest cells only, one in `CELLS_PER_PROBE`."""

CELLS_PER_PROBE = 12


class Match(NamedTuple):
    """Words `start` to `stop` of a text sound like phrase number `phrase`; `distance` is the mean over its words."""

    start: int
    stop: int
    phrase: int
    distance: float


class PhraseList:
    """Phrases with their index; equal ones (after normalisation) are kept once, as they are first written.

    Args:
        phrases: each of one word or more (letters or digits).
        dialect: whose sounds are compared, see `rescoring.phonetics.phonetic_distance`.
        places: where each phrase stands, for messages.

    Raises:
        DataError: a phrase without a word, or no phrase at all. UsageError: one text in place of a list.
    """

    def __init__(
        self,
        phrases: Iterable[str],
        dialect: str | Costs = "any",
        *,
        places: Sequence[str] = (),
    ) -> None:
        if isinstance(phrases, str):
            raise UsageError(f"phrases must be a list, not the text {phrases!r}.")
        kept: dict[tuple[str, ...], str] = {}
        for number, phrase in enumerate(phrases):
            if not isinstance(phrase, str) or not (tokens := tuple(words(phrase))):
                place = places[number] if places else f"Phrase {number + 1}"
                raise DataError(f"{place}: {phrase!r} has no word; it needs letters or digits.")
            kept.setdefault(tokens, phrase.strip())
        if not kept:
            raise DataError("The list holds no phrase.")
        self.phrases, self.tokens, self.dialect = tuple(kept.values()), tuple(kept), dialect

    @classmethod
    def read(cls, path: str | os.PathLike[str], dialect: str | Costs = "any") -> PhraseList:
        """Return the phrases of a UTF-8 text file, one a line; blank lines are passed over.

        Raises:
            DataError: a line that is no text or has no word, named by file and line; a file without phrases.
            StorageError: the file cannot be read.
        """
        lines = {n: text for n, line in enumerate(read_lines(path), 1) if (text := line.strip())}
        if not lines:
            raise DataError(f"{path} holds no phrase; it needs one a line.")
        return cls(lines.values(), dialect, places=[f"{path}:{number}" for number in lines])

    def __len__(self) -> int:
        return len(self.phrases)

    def find(self, tokens: Sequence[str], threshold: float) -> list[Match]:
        """Return what sounds like a phrase of as many words, up to a mean distance of `threshold`; nearest first."""
        text = _Text.of(tokens, self._vocabulary, self.dialect)
        found = [x for group in self._groups for x in self._matches(group, text, threshold)]
        return sorted(found, key=lambda x: (x.distance, x.start - x.stop, x.start, x.phrase))

    def same_code(self, tokens: Sequence[str]) -> list[Match]:
        """Return what has the VnSoundex code of a phrase, word for word; nearest first. Quicker than `find`."""
        codes = tuple(vnsoundex(token) for token in tokens)
        found = [
            Match(start, start + length, phrase, self._distance(tokens, start, phrase))
            for length in self._lengths
            for start in range(len(tokens) - length + 1)
            for phrase in self._by_code.get(codes[start : start + length], ())
        ]
        return sorted(found, key=lambda x: (x.distance, x.start - x.stop, x.start, x.phrase))

    def _distance(self, tokens: Sequence[str], start: int, phrase: int) -> float:
        spoken = tokens[start : start + len(self.tokens[phrase])]
        pairs = list(zip(spoken, self.tokens[phrase], strict=True))
        return sum(_word_distance(a, b, self.dialect) for a, b in pairs) / len(pairs)

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(tokens) for tokens in self.tokens})

    @cached_property
    def _by_code(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for number, tokens in enumerate(self.tokens):
            found.setdefault(tuple(vnsoundex(token) for token in tokens), []).append(number)
        return found

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        return _Vocabulary.of(self.tokens)

    @cached_property
    def _groups(self) -> list[_Group]:
        lengths = np.array([len(tokens) for tokens in self.tokens])
        groups = []
        for length in np.unique(lengths).tolist():
            numbers = np.flatnonzero(lengths == length)
            ids = np.array([self._vocabulary.encode(self.tokens[number]) for number in numbers])
            groups.append(_Group(length, numbers, ids, self._vocabulary, self.dialect))
        return groups

    def _matches(self, group: _Group, text: _Text, threshold: float) -> Iterator[Match]:
        spans = len(text.tokens) - group.length + 1
        if spans < 1:
            return
        if len(self) <= EXHAUSTIVE:
            starts, rows = (x.ravel() for x in np.indices((spans, len(group.numbers))))
        else:
            starts, rows = group.candidates(text)
        distances = group.distances(text.tokens, starts, rows)
        for place in np.flatnonzero(distances <= threshold + 1e-6).tolist():
            start = int(starts[place])
            phrase = int(group.numbers[rows[place]])
            yield Match(start, start + group.length, phrase, float(distances[place]))


@lru_cache(maxsize=65536)
def _word_distance(a: str, b: str, dialect: str | Costs) -> float:
    return float(distance_matrix([a], [b], dialect)[0, 0])


class _Vocabulary(NamedTuple):
    """The words of all phrases, numbered; what is looked up for each of them."""

    numbers: dict[str, int]
    described: Described
    codes: dict[str, int]  # VnSoundex code -> number
    code_of: np.ndarray  # (words,)

    @classmethod
    def of(cls, phrases: Sequence[Sequence[str]]) -> _Vocabulary:
        names = list(dict.fromkeys(token for tokens in phrases for token in tokens))
        codes: dict[str, int] = {}
        code_of = np.array([codes.setdefault(vnsoundex(x), len(codes)) for x in names])
        return cls({x: i for i, x in enumerate(names)}, describe(names), codes, code_of)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        return [self.numbers[token] for token in tokens]

    def vectors(self, dialect: str | Costs) -> np.ndarray:
        """Return the words' vectors, float32 (words, dim); zeros for foreign words."""
        return _vectors(self.described.tokens, dialect)


class _Text(NamedTuple):
    """A text that is searched: its words, their VnSoundex codes, vectors, and which are foreign."""

    tokens: Sequence[str]
    codes: np.ndarray  # numbers of the vocabulary, -1 for a code that no phrase has
    vectors: np.ndarray  # (words, dim)
    foreign: np.ndarray

    @classmethod
    def of(cls, tokens: Sequence[str], vocabulary: _Vocabulary, dialect: str | Costs) -> _Text:
        codes = np.array([vocabulary.codes.get(vnsoundex(x), -1) for x in tokens], dtype=np.int64)
        foreign = np.array([parse(token) is None for token in tokens], dtype=bool)
        return cls(tokens, codes, _vectors(tokens, dialect), foreign)


def _vectors(tokens: Sequence[str], dialect: str | Costs) -> np.ndarray:
    vectors = np.zeros((len(tokens), dimension(dialect)), dtype=np.float32)
    for row, token in zip(vectors, tokens, strict=True):
        if (syllable := parse(token)) is not None:
            row[:] = syllable_vector(syllable, dialect)
    return vectors


class _Group:
    """The phrases of one length, with what finds candidates among them."""

    def __init__(
        self,
        length: int,
        numbers: np.ndarray,
        ids: np.ndarray,
        vocabulary: _Vocabulary,
        dialect: str | Costs,
    ) -> None:
        self.length, self.numbers, self.ids = length, numbers, ids
        self.vocabulary, self.dialect = vocabulary, dialect

    def distances(self, tokens: Sequence[str], starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the exact mean distance of each candidate: a stretch of the text and a phrase, (candidates,)."""
        ids = self.ids[rows]
        used = np.zeros(len(self.vocabulary.numbers), dtype=bool)
        used[ids] = True
        places = np.cumsum(used) - 1
        candidates = self.vocabulary.described.take(np.flatnonzero(used))
        costs = distance_matrix(tokens, candidates, self.dialect)
        total = np.zeros(len(rows), dtype=np.float32)
        for place in range(self.length):
            total += costs[starts + place, places[ids[:, place]]]
        return total / self.length

    def candidates(self, text: _Text) -> tuple[np.ndarray, np.ndarray]:
        """Return (starts, rows) of what may be near, each pair once."""
        count = len(self.numbers)
        pairs = itertools.chain(self._same_codes(text), self._nearest(text))
        joined = [start * count + rows for start, rows in pairs]
        unique = np.unique(np.concatenate(joined)) if joined else np.zeros(0, dtype=np.intp)
        return unique // count, unique % count

    def _same_codes(self, text: _Text) -> Iterator[tuple[int, np.ndarray]]:
        """Yield, for each start, the phrases with the same code in all words or all but one."""
        spans = sliding_window_view(text.codes, self.length)
        for wildcard, (keys, order) in self._blocks.items():
            asked = _keys(spans, wildcard)
            first, last = (np.searchsorted(keys, asked, side=x) for x in ("left", "right"))
            for start in np.flatnonzero(last > first).tolist():
                yield start, order[first[start] : last[start]]

    @cached_property
    def _blocks(self) -> dict[int | None, tuple[np.ndarray, np.ndarray]]:
        """Wildcard position -> (sorted keys, the phrases in that order). A single word must have the code itself."""
        codes = self.vocabulary.code_of[self.ids]
        blocks = {}
        for wildcard in range(self.length) if self.length > 1 else (None,):
            keys = _keys(codes, wildcard)
            order = np.argsort(keys, kind="stable")
            blocks[wildcard] = keys[order], order
        return blocks

    def _nearest(self, text: _Text) -> Iterator[tuple[int, np.ndarray]]:
        """Yield, for each start without foreign words, the phrases with the nearest vectors."""
        starts = np.flatnonzero(~sliding_window_view(text.foreign, self.length).any(axis=1))
        if self._index is None or not len(starts):
            return
        index, rows = self._index
        queries = text.vectors[starts[:, None] + np.arange(self.length)].reshape(len(starts), -1)
        _, found = index.search(queries, min(NEIGHBOURS, len(rows)))
        for start, near in zip(starts.tolist(), found, strict=True):
            yield start, rows[near[near >= 0]]

    @cached_property
    def _index(self) -> tuple[Any, np.ndarray] | None:
        """The FAISS index over phrases of Vietnamese syllables, and their rows; None where there are none."""
        foreign = self.vocabulary.described.foreign[self.ids].any(axis=1)
        rows = np.flatnonzero(~foreign)
        if self.length > MAX_SYLLABLES or not len(rows):
            return None
        import faiss

        vectors = self.vocabulary.vectors(self.dialect)[self.ids[rows]].reshape(len(rows), -1)
        index = faiss.IndexFlatL2(vectors.shape[1])
        if len(rows) >= FLAT:
            cells = int(2 * np.sqrt(len(rows)))
            index = faiss.IndexIVFFlat(index, vectors.shape[1], cells)
            index.nprobe = -(-cells // CELLS_PER_PROBE)
            index.cp.min_points_per_centroid = 1
            index.train(vectors)
        index.add(vectors)
        return index, rows


def _keys(codes: np.ndarray, wildcard: int | None) -> np.ndarray:
    """Return one number for each row of codes, (rows,), without the word at `wildcard`.

    Different rows may share a number: what is proposed wrongly is found out by the exact distance.
    """
    keys = np.zeros(len(codes), dtype=np.int64)
    for place in range(codes.shape[1]):
        if place != wildcard:
            keys = keys * np.int64(1_000_003) + codes[:, place] + 2
    return keys


def as_phrase_list(phrases: PhraseList | Iterable[str]) -> PhraseList:
    """Return the phrases with their index."""
    return phrases if isinstance(phrases, PhraseList) else PhraseList(phrases)
