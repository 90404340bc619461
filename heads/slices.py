"""Parts of a test set: by channel, duration, number of words, signal-to-noise ratio, speaker, language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from heads.predictions import Prediction
from trunkline.errors import ConfigError, nearest

ROLES = {0: "agent (0)", 1: "customer (1)"}
UNKNOWN = "not known"

_NAMED: dict[str, Callable[[Prediction], str]] = {
    "channel": lambda row: (
        UNKNOWN if row.channel is None else ROLES.get(row.channel, str(row.channel))
    ),
    "speaker": lambda row: row.speaker or UNKNOWN,
    "language": lambda row: row.language or UNKNOWN,
}
_MEASURED: dict[str, tuple[str, Callable[[Prediction], float | None]]] = {
    "duration": ("s", lambda row: row.duration),
    "words": ("", lambda row: row.words),
    "snr": ("dB", lambda row: row.snr),
}
DIMENSIONS = (*_NAMED, *_MEASURED)


@dataclass(frozen=True)
class SliceOptions:
    """By what a test set is cut into slices, and where."""

    by: tuple[str, ...] = ("channel", "duration", "words", "snr", "speaker", "language")
    duration: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Edges in seconds; a slice holds its lower edge."""
    words: tuple[float, ...] = (1, 2, 3, 5, 9, 17)
    """Edges in words of the reference; below the first are references without a word."""
    snr: tuple[float, ...] = (5.0, 10.0, 20.0, 30.0)
    """Edges in dB; `trunkline data inventory` measures the key `snr_db`."""
    most: int = 30
    """Of speakers and languages only those with most cuts, so many; the others are taken together."""

    def __post_init__(self) -> None:
        for name in self.by:
            if name not in DIMENSIONS:
                raise ConfigError(
                    f"by: there are no slices by {name!r}.{nearest(name, DIMENSIONS)}"
                )
        for name in _MEASURED:
            edges = getattr(self, name)
            if any(after <= before for before, after in pairwise(edges)):
                raise ConfigError(f"{name}: edges must rise, not {list(edges)}.")
        if self.most < 1:
            raise ConfigError(f"most: must be at least 1, not {self.most}.")


def slices_of(
    rows: Sequence[Prediction], options: SliceOptions
) -> dict[str, dict[str, np.ndarray]]:
    """Return {dimension: {slice: numbers of its rows}}; a dimension that nothing is known of is left out.

    Every row is in one slice of each dimension.
    """
    found = {}
    for dimension in options.by:
        if dimension in _NAMED:
            parts = _by_name([_NAMED[dimension](row) for row in rows], options.most)
        else:
            unit, value = _MEASURED[dimension]
            parts = _by_edges([value(row) for row in rows], getattr(options, dimension), unit)
        if set(parts) - {UNKNOWN}:
            found[dimension] = parts
    return found


def _by_name(names: Sequence[str], most: int) -> dict[str, np.ndarray]:
    values, counts = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
    order = sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda x: (-x[1], x[0]))
    kept = {name for name, _ in order[:most]}
    labels = np.array([name if name in kept else "others" for name in names])
    shown = [name for name, _ in order[:most]] + ["others"] * (len(order) > most)
    return {name: np.flatnonzero(labels == name) for name in shown}


def _by_edges(
    values: Sequence[float | None], edges: Sequence[float], unit: str
) -> dict[str, np.ndarray]:
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    bounds = [-np.inf, *edges, np.inf]
    parts = {}
    for low, high in pairwise(bounds):
        rows = np.flatnonzero((numbers >= low) & (numbers < high))
        if len(rows):
            parts[_range(low, high, unit)] = rows
    if np.isnan(numbers).any():
        parts[UNKNOWN] = np.flatnonzero(np.isnan(numbers))
    return parts


def _range(low: float, high: float, unit: str) -> str:
    unit = f" {unit}" if unit else ""
    if low == -np.inf:
        return f"below {high:g}{unit}"
    if high == np.inf:
        return f"{low:g}{unit} and more"
    if not unit and high - low == 1:
        return f"{low:g}"
    return f"{low:g} to {high - 1:g}" if not unit else f"{low:g} to {high:g}{unit}"
