"""How alike Vietnamese syllables, words and phrases sound: distances in [0, 1], one by one and over whole lists.

`python -m rescoring.phonetics "bánh" "bàn"` shows the parts of one comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rescoring.alignment import align, edit_distances, string_distances
from rescoring.costs import (
    PARTS,
    Costs,
    default_costs,
    head_number,
    matrices_of,
    rime_number,
)
from rescoring.telex import to_telex
from trunkline.command import Summary, run
from trunkline.errors import UsageError
from trunkline.syllable import parse, words

FOREIGN_FLOOR = 0.10
"""Unequal tokens are never nearer than a merger, even when one is spelled like the other's Telex (see, sê)."""

MAX_CELLS = 1 << 22
"""Cells of substitution costs held at once when many pairs of sentences are compared."""


def phonetic_distance(a: str, b: str, dialect: str | Costs = "any") -> float:
    """Return how unlike two texts sound, in [0, 1]: 0 for the same sounds, 1 for nothing in common.

    For two syllables it is the weighted cost of their unequal parts; for longer texts the edit distance over
    `words`, with insertion and deletion 1, divided by the longer one's number of words. A word that is no
    Vietnamese syllable costs 0 to itself, else the edit distance of the Telex spellings over the longer one's
    length. `dialect` is "any" (what merges somewhere is near), "north", "centre", "south", or `Costs` of your own.
    """
    return sentence_distance(words(a), words(b), dialect)


def phonetic_similarity(a: str, b: str, dialect: str | Costs = "any") -> float:
    """Return 1 - `phonetic_distance`."""
    return 1.0 - phonetic_distance(a, b, dialect)


def sentence_distance(
    tokens_a: Sequence[str], tokens_b: Sequence[str], dialect: str | Costs = "any"
) -> float:
    """Return `phonetic_distance` of two lists of tokens."""
    return float(sentence_distances(tokens_a, [tokens_b], dialect)[0])


def sentence_distances(
    pivot: Sequence[str], sentences: Sequence[Sequence[str]], dialect: str | Costs = "any"
) -> np.ndarray:
    """Return the distance of every sentence from `pivot`, float32 of shape (sentences,)."""
    return cross_distances(sentences, [pivot], dialect)[:, 0]


def cross_distances(
    sentences: Sequence[Sequence[str]],
    pivots: Sequence[Sequence[str]],
    dialect: str | Costs = "any",
) -> np.ndarray:
    """Return the distance of every sentence from every pivot, float32 (sentences, pivots)."""
    numbered = _number([*sentences, *pivots], dialect)
    rows, columns = np.indices((len(sentences), len(pivots))).reshape(2, -1)
    apart = _distances(numbered, rows, len(sentences) + columns)
    return apart.reshape(len(sentences), len(pivots))


def pairwise_distances(
    sentences: Sequence[Sequence[str]], dialect: str | Costs = "any"
) -> np.ndarray:
    """Return the distance of every sentence from every other one, float32 (sentences, sentences), symmetric."""
    count = len(sentences)
    result = np.zeros((count, count), dtype=np.float32)
    numbered = _number(sentences, dialect)
    left, right = np.triu_indices(count, k=1)
    result[left, right] = result[right, left] = _distances(numbered, left, right)
    return result


class Described(NamedTuple):
    """Tokens and their rows in the cost matrices, for lists that are compared again and again."""

    tokens: Sequence[str]
    heads: np.ndarray  # (tokens,), 0 for foreign tokens
    rimes: np.ndarray
    foreign: np.ndarray  # bool: no Vietnamese syllable

    def take(self, places: np.ndarray) -> Described:
        """Return the tokens at these places."""
        chosen: list[str] = [self.tokens[int(place)] for place in places]
        return Described(chosen, self.heads[places], self.rimes[places], self.foreign[places])


def describe(tokens: Sequence[str]) -> Described:
    """Return what `distance_matrix` looks up for each token; tokens are as `trunkline.syllable.words` gives them."""
    rows = np.array([_describe(token) for token in tokens], dtype=np.intp).reshape(-1, 3)
    return Described(tokens, rows[:, 0], rows[:, 1], rows[:, 2].astype(bool))


def distance_matrix(
    tokens_a: Sequence[str] | Described,
    tokens_b: Sequence[str] | Described,
    dialect: str | Costs = "any",
) -> np.ndarray:
    """Return the distance of every token of a list from every token of another, float32 (a, b)."""
    costs = default_costs(dialect) if isinstance(dialect, str) else dialect
    matrices = matrices_of(costs)
    a, b = (x if isinstance(x, Described) else describe(x) for x in (tokens_a, tokens_b))
    result = matrices.head[a.heads[:, None], b.heads] + matrices.rime[a.rimes[:, None], b.rimes]
    if a.foreign.any() or b.foreign.any():
        rows, columns = np.nonzero(a.foreign[:, None] | b.foreign)
        result[rows, columns] = _foreign_distances(a.take(rows).tokens, b.take(columns).tokens)
    return result


class _Numbered(NamedTuple):
    """Sentences as rows of token numbers, padded with 0, and what a token costs for another."""

    ids: np.ndarray  # (sentences, longest)
    lengths: np.ndarray  # (sentences,)
    costs: np.ndarray  # (vocabulary, vocabulary)


@lru_cache(maxsize=65536)
def _describe(token: str) -> tuple[int, int, bool]:
    syllable = parse(token)
    if syllable is None:
        return 0, 0, True
    return head_number(syllable), rime_number(syllable), False


def _foreign_distances(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """Return the distances of pairs in which at least one token is no syllable."""
    distances = np.maximum(
        string_distances([*map(to_telex, a)], [*map(to_telex, b)]), FOREIGN_FLOOR
    )
    return np.where([x == y for x, y in zip(a, b, strict=True)], np.float32(0), distances)


def _number(sentences: Sequence[Sequence[str]], dialect: str | Costs) -> _Numbered:
    numbers: dict[str, int] = {}
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.intp)
    ids = np.zeros((len(sentences), max(lengths, default=0)), dtype=np.intp)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = [numbers.setdefault(token, len(numbers)) for token in sentence]
    vocabulary = list(numbers)
    return _Numbered(ids, lengths, distance_matrix(vocabulary, vocabulary, dialect))


def _distances(numbered: _Numbered, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the length-normalised distances of pairs of sentences, given by their rows; a block of pairs at a time."""
    longest = np.maximum(numbered.lengths[left], numbered.lengths[right])
    result = np.zeros(len(left), dtype=np.float32)
    if not len(numbered.costs):  # no sentence has a word
        return result
    ids, lengths = numbered.ids, numbered.lengths
    step = max(1, MAX_CELLS // ids.shape[1] ** 2)
    for start in range(0, len(left), step):
        a, b = left[start : start + step], right[start : start + step]
        substitution = numbered.costs[ids[a, :, None], ids[b, None, :]]
        result[start : start + step] = edit_distances(substitution, lengths[a], lengths[b])
    return result / np.maximum(longest, 1).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_phonetics, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.phonetics",
        description="Tell how alike two Vietnamese words or phrases sound, and why.",
        epilog='example: python -m rescoring.phonetics "bánh" "bàn"',
    )
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument(
        "--dialect",
        default="any",
        metavar="NAME",
        help="any (what merges somewhere is near), north, centre, south, or a file of rescoring.train costs",
    )
    return parser


def _phonetics(arguments: argparse.Namespace) -> Summary:
    from rescoring.dialects import DIALECTS as SPOKEN
    from rescoring.dialects import transcribe
    from rescoring.options import read_dialect
    from rescoring.soundex import vnsoundex

    texts = arguments.a, arguments.b
    tokens_a, tokens_b = map(words, texts)
    for text, tokens in zip(texts, (tokens_a, tokens_b), strict=True):
        if not tokens:
            raise UsageError(f"{text!r} has no word to compare; give letters or digits.")
    dialect = read_dialect(arguments.dialect)
    distance = phonetic_distance(*texts, dialect)
    aligned = align(distance_matrix(tokens_a, tokens_b, dialect))
    rows = [
        _compare("" if i is None else tokens_a[i], "" if j is None else tokens_b[j], dialect)
        for i, j in aligned
    ]
    forms = [
        {"text": text, "telex": to_telex(text), "vnsoundex": vnsoundex(text)}
        | {name: transcribe(text, name) for name in SPOKEN}
        for text in texts
    ]
    tables = {"Forms": forms, "Words side by side (weighted cost of each part)": rows}
    return {
        "dialect": arguments.dialect,
        "distance": distance,
        "similarity": 1.0 - distance,
        "tables": tables,
    }


def _compare(a: str, b: str, dialect: str | Costs) -> dict[str, str | float | None]:
    """Return the costs of two words, part by part where both are syllables; "" is a missing word."""
    row: dict[str, str | float | None] = {"a": a, "b": b, "distance": 1.0}
    if not a or not b:
        return row
    row["distance"] = float(distance_matrix([a], [b], dialect)[0, 0])
    first, second = parse(a), parse(b)
    costs = default_costs(dialect) if isinstance(dialect, str) else dialect
    if first is None or second is None:
        return row | dict.fromkeys(PARTS)
    return row | {x: costs.weights[x] * costs.in_context(x, first, second) for x in PARTS}


if __name__ == "__main__":
    raise SystemExit(main())
