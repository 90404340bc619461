"""Edit distances of many pairs at once: a loop over positions, numpy over the pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distances(
    substitution: np.ndarray, lengths_a: np.ndarray, lengths_b: np.ndarray
) -> np.ndarray:
    """Return the cheapest way from a to b for every pair, float32 (pairs,); insertion and deletion cost 1.

    `substitution` (pairs, longest a, longest b) is the cost of replacing a's i-th by b's j-th token; what lies beyond
    a pair's lengths is not looked at.
    """
    pairs, rows, columns = substitution.shape
    everyone = np.arange(pairs)
    steps = np.arange(columns + 1, dtype=np.float32)[:, None]
    # Positions first, pairs last: every operation runs over contiguous pairs.
    costs = np.ascontiguousarray(substitution.transpose(1, 2, 0), dtype=np.float32)
    row = np.repeat(steps, pairs, axis=1)
    result = row[lengths_b, everyone]
    for i in range(rows):
        following = row + 1
        np.minimum(following[1:], row[:-1] + costs[i], out=following[1:])
        # min over k <= j of cost[k] + (j - k), the insertions, as a running minimum.
        following -= steps
        np.minimum.accumulate(following, axis=0, out=following)
        following += steps
        row = following
        done = lengths_a == i + 1
        result[done] = row[lengths_b[done], everyone[done]]
    return result


def align(substitution: np.ndarray, gap: float = 1.0) -> list[tuple[int | None, int | None]]:
    """Return the cheapest alignment for substitution costs (a, b): pairs of positions, None where one has no partner.

    Insertion and deletion cost `gap`; of equally cheap ways the one with more substitutions is taken.
    """
    rows, columns = substitution.shape
    substitution = substitution.astype(np.float64)
    total = np.zeros((rows + 1, columns + 1))
    total[:, 0], total[0] = gap * np.arange(rows + 1), gap * np.arange(columns + 1)
    for i in range(rows):
        for j in range(columns):
            total[i + 1, j + 1] = min(
                total[i, j] + substitution[i, j], total[i, j + 1] + gap, total[i + 1, j] + gap
            )
    pairs: list[tuple[int | None, int | None]] = []
    i, j = rows, columns
    while i or j:
        if i and j and total[i, j] == total[i - 1, j - 1] + substitution[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and total[i, j] == total[i - 1, j] + gap:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def string_distances(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """Return the Levenshtein distance of every pair of strings over the longer one's length, float32 (pairs,)."""
    codes_a, lengths_a = _codes(a)
    codes_b, lengths_b = _codes(b)
    unequal = codes_a[:, :, None] != codes_b[:, None, :]
    longest = np.maximum(lengths_a, lengths_b)
    return edit_distances(unequal, lengths_a, lengths_b) / np.maximum(longest, 1).astype(np.float32)


def _codes(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(string) for string in strings], dtype=np.intp)
    codes = np.zeros((len(strings), max(lengths, default=0)), dtype=np.int32)
    for row, string in zip(codes, strings, strict=True):
        row[: len(string)] = [ord(letter) for letter in string]
    return codes, lengths
