"""What it costs to hear one Vietnamese syllable as another: tables per part, dialect profiles, learning them anew."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from rescoring.tables import load_table, pairs
from trunkline.errors import UsageError, nearest
from trunkline.syllable import RIMES, Syllable

DIALECTS = ("any", "north", "centre", "south")
PARTS = ("onset", "glide", "nucleus", "coda", "tone")
JOINT = {"onset": "glide", "nucleus": "coda"}
"""Part -> the part that stands beside it in rules of context."""

_ONSETS = " b ch d đ g gi h k kh l m n ng nh p ph r s t th tr v x"  # the first is none

SYMBOLS: dict[str, tuple[str, ...]] = {
    "onset": tuple(_ONSETS.split(" ")),
    "glide": ("", "w"),
    "nucleus": tuple(dict.fromkeys(rime.nucleus for rime in RIMES.values())),
    "coda": tuple(sorted({rime.coda for rime in RIMES.values()})),
    "tone": ("", "f", "s", "r", "x", "j"),
}
"""Every value that a part of a `Syllable` can have."""

_NUMBERS = {part: {name: number for number, name in enumerate(SYMBOLS[part])} for part in PARTS}

Pair = tuple[str, str]


@dataclass(frozen=True)
class Context:
    """A cost for two symbols of `part` beside one of `symbols`: some dialect merges them there, not everywhere.

    Nuclei merge before a coda (tim and tiêm in the South), onsets before the glide (quan and oan): `part` and `beside`
    are a pair of `JOINT`.
    """

    cost: float
    part: str
    pairs: frozenset[frozenset[str]]
    beside: str
    symbols: frozenset[str]

    def matches(self, a: Syllable, b: Syllable) -> bool:
        """Tell whether the rule speaks of these syllables."""
        beside = getattr(a, self.beside)
        return (
            beside == getattr(b, self.beside)
            and beside in self.symbols
            and frozenset((getattr(a, self.part), getattr(b, self.part))) in self.pairs
        )


@dataclass(frozen=True, eq=False)
class Costs:
    """Weights of the parts (their sum is 1) and, per part, the costs of unequal symbols; 1 where none is listed."""

    weights: Mapping[str, float]
    tables: Mapping[str, Mapping[Pair, float]]
    contexts: tuple[Context, ...] = ()

    def part(self, part: str, a: str, b: str) -> float:
        """Return the unweighted cost of two symbols of one part, in [0, 1]."""
        return 0.0 if a == b else self.tables[part].get((a, b), 1.0)

    def in_context(self, part: str, a: Syllable, b: Syllable) -> float:
        """Return the unweighted cost of one part of two syllables, with the rules of context."""
        fitting = (x.cost for x in self.contexts if x.part == part and x.matches(a, b))
        return min(self.part(part, getattr(a, part), getattr(b, part)), *fitting, 1.0)

    def syllables(self, a: Syllable, b: Syllable) -> float:
        """Return the distance of two syllables, in [0, 1]; 0 only when they sound the same everywhere."""
        return sum(self.weights[part] * self.in_context(part, a, b) for part in PARTS)


@cache
def default_costs(dialect: str = "any") -> Costs:
    """Return the shipped costs: "any" takes the cheapest dialect part by part, a named one keeps only its mergers."""
    if dialect not in DIALECTS:
        raise UsageError(f"There is no dialect {dialect!r}.{nearest(dialect, DIALECTS)}")
    data = load_table("distance")
    tables: dict[str, Mapping[Pair, float]] = {"glide": {}}
    for part in ("onset", "nucleus", "coda", "tone"):
        costs = _listed(data[part])
        for pair in _merged_elsewhere(data["mergers"], part, dialect):
            costs[pair] = data["mergers"]["elsewhere"]
        tables[part] = _symmetric(_with_rare_symbols(part, costs))
    contexts = tuple(
        Context(
            cost=rule["cost"],
            part=rule["part"],
            pairs=frozenset(map(frozenset, pairs(rule["pairs"]))),
            beside=JOINT[rule["part"]],
            symbols=frozenset(rule["beside"].split()),
        )
        for rule in data["contexts"]
        if dialect == "any" or dialect in rule["dialects"].split()
    )
    return Costs(data["weights"], tables, contexts)


def _listed(table: Mapping[str, str]) -> dict[Pair, float]:
    return {pair: float(cost) for cost, listed in table.items() for pair in pairs(listed)}


def _merged_elsewhere(
    mergers: Mapping[str, Mapping[str, str]], part: str, dialect: str
) -> list[Pair]:
    """Return the mergers of a part that `dialect` does not share; none for "any"."""
    if dialect == "any":
        return []
    return [
        pair
        for listed, where in mergers.get(part, {}).items()
        for pair in pairs(listed)
        if dialect not in where.split()
    ]


def _with_rare_symbols(part: str, costs: dict[Pair, float]) -> dict[Pair, float]:
    """Let long oo and ôô take the costs of o and ô, and final k those of c, where they have none of their own."""
    alike = {"nucleus": {"oo": "o", "ôô": "ô"}, "coda": {"k": "c"}}.get(part, {})
    known = _symmetric(costs)
    for a, b in itertools.combinations(SYMBOLS[part], 2):
        as_a, as_b = alike.get(a, a), alike.get(b, b)
        if (a, b) not in known and (as_a, as_b) in known:
            costs[a, b] = known[as_a, as_b]
    return costs


def _symmetric(costs: Mapping[Pair, float]) -> dict[Pair, float]:
    return dict(costs) | {(b, a): cost for (a, b), cost in costs.items()}


@dataclass(frozen=True, eq=False)
class CostMatrices:
    """`Costs` as two float32 tables, so that syllables become two whole numbers and a distance two look-ups.

    `head` is (heads, heads) over onset, glide and tone; `rime` is (rimes, rimes) over nucleus and coda.
    """

    head: np.ndarray
    rime: np.ndarray

    @classmethod
    def of(cls, costs: Costs) -> CostMatrices:
        """Return the tables of `costs`, weighted, in the numbering of `head_number` and `rime_number`."""
        head = _sum_over_products(_joint(costs, "onset"), _weighted(costs, "tone"))
        return cls(head.astype(np.float32), _joint(costs, "nucleus").astype(np.float32))


def part_matrix(costs: Costs, part: str) -> np.ndarray:
    """Return the unweighted costs of a part as (symbols, symbols), in the order of `SYMBOLS`."""
    return np.array([[costs.part(part, a, b) for b in SYMBOLS[part]] for a in SYMBOLS[part]])


def _weighted(costs: Costs, part: str) -> np.ndarray:
    return costs.weights[part] * part_matrix(costs, part)


def _joint(costs: Costs, part: str) -> np.ndarray:
    """Return the weighted costs of a part and the one beside it, numbered as products of both, with the rules."""
    beside = JOINT[part]
    result = _sum_over_products(_weighted(costs, part), _weighted(costs, beside))
    for rule in costs.contexts:
        pairs_both_ways = itertools.chain(*(itertools.permutations(x, 2) for x in rule.pairs))
        for (a, b), symbol in itertools.product(pairs_both_ways, rule.symbols):
            if rule.part == part:
                row, column = (_NUMBERS[part][x] * len(_NUMBERS[beside]) for x in (a, b))
                place = row + _NUMBERS[beside][symbol], column + _NUMBERS[beside][symbol]
                result[place] = min(result[place], costs.weights[part] * rule.cost)
    return result


def _sum_over_products(*matrices: np.ndarray) -> np.ndarray:
    """Return, for the product of several symbol sets, the sum of their costs: (product, product)."""
    total = np.zeros((1, 1))
    for matrix in matrices:
        size = len(total) * len(matrix)
        total = (total[:, None, :, None] + matrix[None, :, None, :]).reshape(size, size)
    return total


def head_number(syllable: Syllable) -> int:
    """Return the row of a syllable's onset, glide and tone in `CostMatrices.head`."""
    onset, glide, tone = (
        _NUMBERS[part][getattr(syllable, part)] for part in ("onset", "glide", "tone")
    )
    return (onset * len(SYMBOLS["glide"]) + glide) * len(SYMBOLS["tone"]) + tone


def rime_number(syllable: Syllable) -> int:
    """Return the row of a syllable's nucleus and coda in `CostMatrices.rime`."""
    return (
        _NUMBERS["nucleus"][syllable.nucleus] * len(SYMBOLS["coda"])
        + _NUMBERS["coda"][syllable.coda]
    )


@lru_cache(maxsize=16)
def matrices_of(costs: Costs) -> CostMatrices:
    """Return `CostMatrices.of(costs)`, kept for the costs in use."""
    return CostMatrices.of(costs)
