"""Scores of predictions: what a head is worth, with intervals, tables and pictures.

The main score of every kind is a sum over cuts divided by a sum of sizes (errors over words, right answers over
cuts), so that slices, intervals and paired tests are one code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from heads.predictions import Prediction
from heads.slices import SliceOptions, slices_of
from trunkline import metrics
from trunkline.charts import Bar, bar_chart, line_chart
from trunkline.errors import ConfigError, DataError
from trunkline.report import Figure

WORST_SHOWN = 15


@dataclass(frozen=True)
class ScoreOptions:
    """How predictions are scored."""

    by: Literal["auto", "speaker", "call", "cut"] = "auto"
    """What intervals draw: speakers where they are known, else calls, else cuts."""
    resamples: int = 1000
    """Draws of each interval."""
    seed: int = 0
    spelling: str | None = None
    """File of spelling variants that are no errors, such as configs/heads/spelling_vi.txt."""
    phrases: str | None = None
    """File of phrases, one a line: the WER of their words (`b_wer`) and of all others (`u_wer`), as for boosting."""
    normalise: Literal["none", "neutral", "vi"] = "none"
    """Bring both texts into the form of `trunkline.text` first."""
    slices: SliceOptions = field(default_factory=SliceOptions)

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(
                f"resamples: fewer than 100 mean nothing, and {self.resamples} are wanted."
            )


class Score(NamedTuple):
    """A number with its 95 % interval, where it has one, and over what that was drawn."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    over: str = ""

    @classmethod
    def of(cls, metric: str, value: float, found: metrics.Interval) -> Score:
        """Return a score with an interval."""
        return cls(metric, value, found.low, found.high, f"{found.groups} {found.unit}s")


class Scorer:
    """Scores of one head in one context; subclasses say what counts."""

    main: ClassVar[str]
    """Name of the main score."""
    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = True

    def __init__(
        self, rows: Sequence[Prediction], options: ScoreOptions, baseline: Any = None
    ) -> None:
        """Measure every row.

        Args:
            rows: predictions of one head in one context.
            options: how to score.
            baseline: the answer that needs no sound, such as the commonest of training.

        Raises:
            DataError: there is nothing to score.
        """
        if not rows:
            raise DataError("There is nothing to score: no predictions.")
        self.rows = list(rows)
        self.options = options
        self.baseline = baseline
        self.groups, self.unit = groups_of(self.rows, options.by)
        self.values, self.sizes = self.measure()

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what each row adds to the main score, and its size, (rows,) each."""
        raise NotImplementedError

    def right(self) -> np.ndarray:
        """Return whether each whole answer is right, (rows,)."""
        return self.values == 1

    def main_score(self, rows: np.ndarray | None = None) -> Score | None:
        """Return the main score of some rows, of all by default; None where they have no size (no words)."""
        chosen = np.arange(len(self.rows)) if rows is None else rows
        if not self.sizes[chosen].sum() > 0:
            return None
        value = float(self.values[chosen].sum() / self.sizes[chosen].sum())
        found = metrics.interval(
            self.values[chosen],
            [self.groups[row] for row in chosen],
            sizes=self.sizes[chosen],
            seed=self.options.seed,
            unit=self.unit,
            resamples=self.options.resamples,
        )
        return Score.of(self.main, value, found)

    def scores(self) -> list[Score]:
        """Return the main score, then the others."""
        main = self.main_score()
        return [*([main] if main else []), *self.others(), *self._calibration()]

    def others(self) -> list[Score]:
        """Return further scores."""
        return []

    def counts(self) -> dict[str, int]:
        """Return how many cuts there are of what kind."""
        return {"cuts": len(self.rows)}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return tables for the report."""
        return {}

    def figures(self) -> list[Figure]:
        """Return pictures for the report: error by length, and the calibration curve where there are confidences."""
        found = []
        for dimension, title in (("words", "number of words"), ("duration", "duration")):
            bars = [
                Bar(row["slice"], row[self.main], row["low"], row["high"])
                for row in self.slice_rows((dimension,))
                if row[self.main] is not None
            ]
            if len(bars) > 1:
                name = f"{self.main} by {title}"
                found.append(
                    Figure(name, bar_chart(bars, percent=self.percent, name=name, x_name=title))
                )
                break
        if self._sure() is not None:
            found.append(self._calibration_curve())
        return found

    def slice_rows(self, by: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the main score of each slice."""
        rows = []
        parts = slices_of(self.rows, self.options.slices)
        for dimension, slices in parts.items():
            if by is not None and dimension not in by:
                continue
            for name, chosen in slices.items():
                score = self.main_score(chosen)
                rows.append(
                    {
                        "by": dimension,
                        "slice": name,
                        "cuts": len(chosen),
                        "size": float(self.sizes[chosen].sum()),
                        self.main: score.value if score else None,
                        "low": score.low if score else None,
                        "high": score.high if score else None,
                        "over": score.over if score else "",
                    }
                )
        return rows

    def worst(self) -> list[dict[str, Any]]:
        """Return the answers that are most wrong, the most confident first where there is a confidence."""
        wrong = [row for row in range(len(self.rows)) if not self.right()[row]]

        def badness(row: int) -> tuple[float, float]:
            loss = 0.0 if self.higher_is_better else float(self.values[row])
            return (-loss, -(self.rows[row].confidence or 0.0))

        return [
            {
                "id": self.rows[row].id,
                "reference": self.rows[row].reference,
                "answer": self.rows[row].answer,
                "confidence": self.rows[row].confidence,
            }
            for row in sorted(wrong, key=badness)[:WORST_SHOWN]
        ]

    def compare(self, other: Scorer) -> metrics.Difference:
        """Test whether this system is better than another on the same cuts, in the same order."""
        return metrics.paired_difference(
            self.values,
            other.values,
            self.groups,
            sizes=self.sizes,
            higher_is_better=self.higher_is_better,
            seed=self.options.seed,
            unit=self.unit,
            resamples=self.options.resamples,
        )

    def _interval(self, statistic: Callable[[np.ndarray], float]) -> metrics.Interval:
        return metrics.statistic_interval(
            statistic,
            len(self.rows),
            self.groups,
            seed=self.options.seed,
            unit=self.unit,
            resamples=self.options.resamples,
        )

    def _score(self, metric: str, statistic: Callable[[np.ndarray], float]) -> Score:
        value = statistic(np.arange(len(self.rows)))
        return Score.of(metric, value, self._interval(statistic))

    def _sure(self) -> np.ndarray | None:
        given = [row.confidence for row in self.rows]
        return None if None in given else np.array(given, dtype=np.float64)

    def _calibration(self) -> list[Score]:
        sure = self._sure()
        if sure is None:
            return []
        right = self.right()
        found = [Score("ece", metrics.expected_calibration_error(sure, right))]
        kept = np.array([not row.abstained for row in self.rows])
        if not kept.all():
            found.append(Score("answered", float(kept.mean())))
            if kept.any():
                found.append(Score("precision_of_answered", float(right[kept].mean())))
        return found

    def _calibration_curve(self) -> Figure:
        sure = self._sure()
        assert sure is not None
        bins = metrics.confidence_bins(sure, self.right())
        points = [(each.confidence, each.accuracy) for each in bins]
        chart = line_chart(
            {"share of right answers": points},
            percent=True,
            name="calibration",
            x_name="confidence",
            x_percent=True,
            ideal=True,
        )
        return Figure("Calibration: right answers at each confidence", chart)


def groups_of(rows: Sequence[Prediction], by: str) -> tuple[list[str | None], str]:
    """Return by what rows are drawn, and its name.

    Raises:
        ConfigError: `by` names what no row has.
    """
    speakers, calls = [row.speaker for row in rows], [row.call for row in rows]
    if by == "auto":
        return metrics.bootstrap_groups(speakers, calls)
    if by == "cut":
        return [None] * len(rows), "cut"
    names = speakers if by == "speaker" else calls
    if all(name is None for name in names):
        raise ConfigError(f"by: the manifest names no {by}; take by=auto or by=cut.")
    return names, by
