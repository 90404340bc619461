"""`python -m embstore.drift`: do the vectors of two periods, channels or campaigns come from one distribution?

Three measures, from coarse to fine: how far the means are apart; the population stability index (PSI) along principal
directions; the maximum mean discrepancy (Gretton et al. 2012, eq. 5) with a Gaussian kernel, whose p-value comes
from permutations. Calls are permuted, never single segments, as what one call says is alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embstore.options import add_store, chosen_space
from trunkline.command import Summary, run
from trunkline.errors import DataError, UsageError

if TYPE_CHECKING:
    from embstore.schema import Space
    from embstore.store import EmbeddingStore

BINS = 10
DIRECTIONS = 10
STABLE, SHIFTED = 0.1, 0.25
"""Below the one a PSI is usually read as no change, above the other as a large one."""


class Discrepancy(NamedTuple):
    """Maximum mean discrepancy of two samples, and the share of permutations that reach it."""

    mmd: float
    p_value: float
    bandwidth: float
    """Of the kernel exp(-d^2 / (2 bandwidth^2)): the median distance."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_drift, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.drift",
        description="Compare the vectors for which condition A holds with those for which B does: distance of the "
        "means, population stability along principal directions, and a permutation test over calls.",
        epilog="example: python -m embstore.drift store/ \"started_at < '2026-02-01'\" \"started_at >= '2026-02-01'\"",
    )
    add_store(parser)
    option = parser.add_argument
    option("a", metavar="A", help='condition of the rows before, or of one kind: "channel = 0"')
    option("b", metavar="B", help="condition of the rows after, or of the other kind")
    option(
        "--rows",
        type=int,
        default=2000,
        help="rows of each side at most, drawn at random, default 2000",
    )
    option("--permutations", type=int, default=1000, help="of the test, default 1000")
    option(
        "--directions",
        type=int,
        default=DIRECTIONS,
        help="principal directions for PSI, default 10",
    )
    option("--seed", type=int, default=0)
    return parser


def mean_shift(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return how far two means (rows, dim) are apart: `shift` in standard deviations of a row, and their `cosine`."""
    first, second = a.mean(0, dtype=np.float64), b.mean(0, dtype=np.float64)
    spread = np.sqrt((a.var(0, dtype=np.float64).sum() + b.var(0, dtype=np.float64).sum()) / 2)
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return {
        "shift": float(np.linalg.norm(first - second) / max(spread, 1e-12)),
        "cosine": float(first @ second / lengths) if lengths > 0 else 1.0,
    }


def psi(a: np.ndarray, b: np.ndarray, bins: int = BINS) -> float:
    """Return the population stability index of two samples of a number: sum (q - p) ln(q / p) over bins.

    Bins hold equal shares of `a`; half a row is added to each, so that an empty one is not infinite.
    """
    edges = np.unique(np.quantile(a, np.linspace(0, 1, bins + 1)[1:-1]))
    p, q = (
        np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) + 0.5
        for x in (a, b)
    )
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def principal_directions(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions (count, dim) along which vectors vary most, and their shares of the variance."""
    centred = (vectors - vectors.mean(0)).astype(np.float64)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    shares = values**2 / max(float((values**2).sum()), 1e-30)
    # The sign is free; that of the largest number is made positive, so that results repeat.
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return (directions * signs[:, None])[:count], shares[:count]


def discrepancy(
    a: np.ndarray,
    b: np.ndarray,
    calls_a: Sequence[Any],
    calls_b: Sequence[Any],
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Discrepancy:
    """Return the maximum mean discrepancy of two samples and its p-value.

    Args:
        a: (rows, dim), and b: (other rows, dim).
        calls_a: the call each row of `a` belongs to; a call on both sides (two channels) changes sides as a
            pair, others are dealt out again.
        calls_b: likewise.
        permutations: how often; the p-value is never below 1 / (permutations + 1).
        seed: of the permutations.
    """
    rows = np.concatenate([a, b]).astype(np.float64)
    squares = (rows**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)
    upper = distances[np.triu_indices(len(rows), 1)]
    bandwidth = float(np.sqrt(np.median(upper[upper > 0]))) if (upper > 0).any() else 1.0
    kernel = np.exp(-distances / (2 * bandwidth**2))
    sides = np.r_[np.ones(len(a), bool), np.zeros(len(b), bool)]
    deal = _Dealer([*calls_a, *calls_b], sides)
    generator = np.random.default_rng(seed)
    reached = 1
    observed = _mmd_squared(kernel, sides[:, None])[0]
    for first in range(0, permutations, 100):
        count = min(100, permutations - first)
        dealt = np.stack([deal(generator) for _ in range(count)], axis=1)
        reached += int((_mmd_squared(kernel, dealt) >= observed - 1e-12).sum())
    return Discrepancy(float(np.sqrt(max(observed, 0))), reached / (permutations + 1), bandwidth)


def _mmd_squared(kernel: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the squared discrepancy for each column of `sides` (rows, columns), True for the first sample."""
    first = sides.sum(0)
    weights = np.where(sides, 1 / np.maximum(first, 1), -1 / np.maximum(len(sides) - first, 1))
    return (weights * (kernel @ weights)).sum(0)


class _Dealer:
    """Deals rows to two sides at random, all rows of one call's side together."""

    def __init__(self, calls: Sequence[Any], sides: np.ndarray) -> None:
        units: dict[tuple[Any, bool], list[int]] = {}
        for row, key in enumerate(zip(calls, sides.tolist(), strict=True)):
            units.setdefault(key, []).append(row)
        self.rows = list(units.values())
        self.sides = np.array([side for _, side in units])
        numbers = {key: number for number, key in enumerate(units)}
        self.pairs = np.array(
            [(numbers[call, True], numbers[call, False]) for call, side in units if side and (call, False) in units],
            int,
        ).reshape(-1, 2)  # fmt: skip
        self.single = np.setdiff1d(np.arange(len(units)), self.pairs)
        self.unit_of = np.empty(len(sides), int)
        for number, members in enumerate(self.rows):
            self.unit_of[members] = number

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        """Return (rows,) bool: the first side."""
        sides = self.sides.copy()
        sides[self.single] = generator.permutation(sides[self.single])
        swap = self.pairs[generator.random(len(self.pairs)) < 0.5]
        sides[swap[:, 0]], sides[swap[:, 1]] = False, True
        return sides[self.unit_of]


def drift(
    store: EmbeddingStore,
    a: str,
    b: str,
    *,
    table: str = "pooled",
    space: Space,
    where: str | None = None,
    rows: int = 2000,
    permutations: int = 1000,
    directions: int = DIRECTIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the vectors, divided by their lengths, of the rows for which conditions `a` and `b` hold.

    Returns:
        rows, calls, `shift` and `cosine` of the means, `mmd`, `p_value`, the largest PSI, and a table of directions.

    Raises:
        UsageError: a condition cannot be asked.
        DataError: one side has fewer than two rows.
    """
    from embstore.sampling import sample, unit

    found = []
    for number, side in enumerate((a, b)):
        condition = side if where is None else f"({where}) and ({side})"
        vectors, keys = sample(store, table, space, condition, limit=rows, seed=seed + number)
        if len(vectors) < 2:
            raise DataError(f"{condition}: only one row; a comparison needs more.")
        found.append((unit(vectors), keys["call_id"].to_pylist()))
    (first, calls_a), (second, calls_b) = found
    axes, shares = principal_directions(np.concatenate([first, second]), directions)
    along = [
        {
            "direction": number + 1,
            "variance": float(share),
            "psi": psi(first @ axis, second @ axis),
            "shift": mean_shift((first @ axis)[:, None], (second @ axis)[:, None])["shift"],
        }
        for number, (axis, share) in enumerate(zip(axes, shares, strict=True))
    ]
    test = discrepancy(first, second, calls_a, calls_b, permutations=permutations, seed=seed)
    largest = max(row["psi"] for row in along)
    return {
        "rows_a": len(first), "rows_b": len(second),
        "calls_a": len(set(calls_a)), "calls_b": len(set(calls_b)),
        **mean_shift(first, second),
        "mmd": test.mmd, "p_value": test.p_value,
        "largest_psi": largest,
        "psi_reads_as": "stable" if largest < STABLE else "some change" if largest < SHIFTED else "large change",
        "tables": {"principal directions": along},
    }  # fmt: skip


def _drift(arguments: argparse.Namespace) -> Summary:
    for name, least in (("rows", 2), ("permutations", 19), ("directions", 1)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} must be at least {least}.")
    from embstore.store import EmbeddingStore

    store = EmbeddingStore.open(arguments.store)
    return drift(
        store, arguments.a, arguments.b, table=arguments.table,
        space=chosen_space(store, arguments.table, arguments.space), where=arguments.where,
        rows=arguments.rows, permutations=arguments.permutations, directions=arguments.directions,
        seed=arguments.seed,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
