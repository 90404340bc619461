"""Distance tables that know your recogniser: costs learnt from what it confuses, and files to keep them in."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rescoring.alignment import align
from rescoring.costs import JOINT, PARTS, SYMBOLS, Context, Costs, Pair, default_costs
from rescoring.phonetics import distance_matrix
from rescoring.tables import pairs as read_pairs
from trunkline.checkpoint import read_json, write_json
from trunkline.errors import DataError, UsageError
from trunkline.syllable import Syllable, parse, words

SCHEMA = "trunkline.phonetic-costs/1"
GAP = 0.5
"""What a missing or added word costs in `aligned_pairs`: two unlike words rather stand alone than for each other."""

MIN_COST = 0.05
"""Nothing that is written differently becomes the same: identical stays nearer than merged."""


def aligned_pairs(reference: str, answer: str, dialect: str | Costs = "any") -> list[Pair]:
    """Return the pairs of words of a transcript and of what was recognised that stand for each other."""
    a, b = words(reference), words(answer)
    found = align(distance_matrix(a, b, dialect), gap=GAP)
    return [(a[i], b[j]) for i, j in found if i is not None and j is not None]


def learn_costs(
    pairs: Iterable[tuple[str, str]],
    prior_strength: float = 20.0,
    *,
    prior: str | Costs = "any",
) -> Costs:
    """Return costs re-estimated from aligned (spoken, recognised) syllables, drawn towards a prior.

    For each part of the syllable, the lift of two symbols is how often one was taken for the other, over how often
    that would happen if mistakes fell on symbols by their frequency. The cost of the evidence is 1 - log(lift) /
    log(largest lift), and counts as much as there are confusions of that pair, seen or expected; the prior counts
    `prior_strength` confusions. Weights and context rules stay the prior's. Pairs with a word that is no
    Vietnamese syllable are passed over.

    Args:
        pairs: equal pairs too, as they tell how frequent the symbols are.
        prior_strength: above 0; large values leave the prior as it is.
        prior: a dialect or costs.

    Raises:
        UsageError: `prior_strength` is not a positive number. DataError: no pair of Vietnamese syllables.
    """
    if not (prior_strength > 0 and math.isfinite(prior_strength)):
        raise UsageError(f"prior_strength must be a positive number, not {prior_strength!r}.")
    known = default_costs(prior) if isinstance(prior, str) else prior
    parsed = [(parse(a), parse(b)) for a, b in pairs]
    syllables = [(a, b) for a, b in parsed if a is not None and b is not None]
    if not syllables:
        raise DataError("There is no pair of Vietnamese syllables to learn costs from.")
    tables = {part: _learn(part, syllables, known, prior_strength) for part in PARTS}
    return Costs(known.weights, tables, known.contexts)


def _learn(
    part: str, pairs: Sequence[tuple[Syllable, Syllable]], prior: Costs, prior_strength: float
) -> dict[Pair, float]:
    values = [(getattr(a, part), getattr(b, part)) for a, b in pairs]
    frequency = Counter(a for a, _ in values)
    confused = Counter(tuple(sorted(pair)) for pair in values if pair[0] != pair[1])
    # The chance that a mistake falls on a pair, were both symbols drawn by their frequency.
    share = {name: count / len(values) for name, count in frequency.items()}
    unequal = 1.0 - sum(x * x for x in share.values())
    expected = {
        (a, b): confused.total() * 2 * share[a] * share[b] / unequal
        for a in share
        for b in share
        if a < b
    }
    # Half a confusion is added to both sides: one mistake of a rare pair proves little.
    lifts = {
        pair: (confused[pair] + 0.5) / (expected.get(pair, 0.0) + 0.5)
        for pair in expected.keys() | confused.keys()
    }
    largest = math.log(max(lifts.values(), default=1.0))
    table = dict(prior.tables[part])
    if largest <= 0:
        return table
    for (a, b), lift in lifts.items():
        seen = min(1.0, max(0.0, 1.0 - math.log(lift) / largest))
        evidence = max(confused[a, b], expected.get((a, b), 0.0))
        cost = (evidence * seen + prior_strength * prior.part(part, a, b)) / (
            evidence + prior_strength
        )
        table[a, b] = table[b, a] = max(MIN_COST, cost)
    return table


def save_costs(path: str | os.PathLike[str], costs: Costs) -> None:
    """Write costs as JSON that `load_costs` reads and a person can edit."""
    tables = {
        part: {f"{a or '0'}/{b or '0'}": cost for (a, b), cost in sorted(table.items()) if a < b}
        for part, table in costs.tables.items()
    }
    contexts = [
        {
            "cost": rule.cost,
            "part": rule.part,
            "pairs": sorted("/".join(x or "0" for x in sorted(pair)) for pair in rule.pairs),
            "beside": sorted(rule.symbols),
        }
        for rule in costs.contexts
    ]
    write_json(
        path,
        {"schema": SCHEMA, "weights": dict(costs.weights), "tables": tables, "contexts": contexts},
    )


def load_costs(path: str | os.PathLike[str]) -> Costs:
    """Read costs written by `save_costs`.

    Raises:
        CheckpointError: no such file, or no JSON. DataError: an unknown symbol, or a cost that is not in [0, 1].
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DataError(f"{path} holds no costs of schema {SCHEMA!r}.")
    try:
        weights = {part: _cost(path, f"weights.{part}", value["weights"][part]) for part in PARTS}
        tables = {part: _read_table(path, part, value["tables"][part]) for part in PARTS}
        contexts = tuple(_read_context(path, rule) for rule in value["contexts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is incomplete or malformed at {error}; write it anew with save_costs."
        ) from error
    if abs(sum(weights.values()) - 1) > 1e-6:
        raise DataError(f"{path}: the weights must sum to 1, not {sum(weights.values()):g}.")
    return Costs(weights, tables, contexts)


def _read_table(
    path: str | os.PathLike[str], part: str, listed: Mapping[str, float]
) -> dict[Pair, float]:
    table: dict[Pair, float] = {}
    for written, value in listed.items():
        a, b = _read_pair(path, part, written)
        table[a, b] = table[b, a] = _cost(path, f"tables.{part}.{written}", value)
    return table


def _read_context(path: str | os.PathLike[str], rule: Mapping[str, Any]) -> Context:
    part = rule["part"]
    beside = JOINT[part]
    if not set(rule["beside"]) <= set(SYMBOLS[beside]):
        raise DataError(f"{path}: contexts has no {beside} {rule['beside']!r}.")
    return Context(
        cost=_cost(path, "contexts.cost", rule["cost"]),
        part=part,
        pairs=frozenset(frozenset(_read_pair(path, part, x)) for x in rule["pairs"]),
        beside=beside,
        symbols=frozenset(rule["beside"]),
    )


def _read_pair(path: str | os.PathLike[str], part: str, written: str) -> Pair:
    pairs = read_pairs(written)
    if len(pairs) != 1 or "/" not in written or not set(pairs[0]) <= set(SYMBOLS[part]):
        raise DataError(f"{path}: {written!r} is no pair of two symbols of {part}, such as n/ng.")
    return pairs[0]


def _cost(path: str | os.PathLike[str], key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{path}: {key} must be a number from 0 to 1, not {value!r}.")
    return float(value)
