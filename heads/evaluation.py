"""One evaluation: the scores of heads in their contexts, and what is written of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heads.predictions import PREDICTIONS, TRIALS, Prediction, ScoredTrial, write_lines
from heads.scorers import SCORERS
from heads.scoring import Score, ScoreOptions, Scorer
from heads.trial_scoring import TrialScorer, det_figure
from trunkline.checkpoint import write_json, write_text
from trunkline.errors import DataError
from trunkline.report import Figure, write_page


class Evaluation:
    """Scores of heads in their contexts; `write` makes the files."""

    def __init__(
        self,
        predictions: Iterable[Prediction],
        trials: Iterable[ScoredTrial],
        options: ScoreOptions,
        baselines: Mapping[str, Any] | None = None,
    ) -> None:
        """Score; raises a DataError where there is nothing to score."""
        self.predictions, self.trials = list(predictions), list(trials)
        self.options = options
        self.notes: list[str] = []
        self.more: dict[str, list[dict[str, Any]]] = {}
        """Further tables for the report."""
        found: dict[tuple[str, str], list[Any]] = {}
        for row in (*self.predictions, *self.trials):
            found.setdefault((row.head, row.context), []).append(row)
        if not found:
            raise DataError("There is nothing to score: no predictions and no trials.")
        self.scorers: dict[tuple[str, str], Scorer | TrialScorer] = {}
        for (head, context), rows in found.items():
            if isinstance(rows[0], ScoredTrial):
                self.scorers[head, context] = TrialScorer(rows, options)
            else:
                scorer = SCORERS[rows[0].kind]
                self.scorers[head, context] = scorer(rows, options, (baselines or {}).get(head))
        self._scores = {key: scorer.scores() for key, scorer in self.scorers.items()}

    def details(self) -> dict[str, Scorer | TrialScorer]:
        """Return the scorer of each head in its first context."""
        first: dict[str, Scorer | TrialScorer] = {}
        for (head, _), scorer in self.scorers.items():
            first.setdefault(head, scorer)
        return first

    def context_rows(self) -> list[dict[str, Any]]:
        """Return a row for each head and context: its scores, and whether it differs from the first context."""
        rows = []
        first = self.details()
        for (head, context), scorer in self.scorers.items():
            scores = self._scores[head, context]
            row: dict[str, Any] = {"head": head, "context": context} | scorer.counts()
            for score in scores:
                row[score.metric] = score.value
                if score.metric == scorer.main:
                    row |= {"low": score.low, "high": score.high, "over": score.over}
            if scorer is not first[head]:
                row["than the first"] = scorer.compare(first[head]).verdict  # type: ignore[arg-type]
            rows.append(row)
        return rows

    def score_rows(self) -> list[dict[str, Any]]:
        """Return every score as a row of its own: head, context, slice, metric, value, interval."""
        rows = []
        for (head, context), scorer in self.scorers.items():
            about = {"head": head, "context": context}
            rows += [
                about | {"by": "", "slice": "all"} | score._asdict()
                for score in self._scores[head, context]
            ]
            if not isinstance(scorer, Scorer):
                continue
            for part in scorer.slice_rows():
                found = Score(
                    scorer.main, part[scorer.main], part["low"], part["high"], part["over"]
                )
                rows.append(
                    about
                    | {"by": part["by"], "slice": part["slice"], "cuts": part["cuts"]}
                    | found._asdict()
                )
        return rows

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of the report, the contexts first."""
        tables = {"Scores (95 % intervals of the first)": self.context_rows()}
        for head, scorer in self.details().items():
            if isinstance(scorer, Scorer):
                tables |= {f"{head}: {name}": rows for name, rows in scorer.tables().items()}
                tables[f"{head}: slices"] = scorer.slice_rows()
            tables[f"{head}: most wrong"] = scorer.worst()
        return tables | self.more

    def figures(self) -> list[Figure]:
        """Return the pictures of every head in its first context, and DET curves over contexts."""
        found: list[Figure] = []
        curves: dict[str, TrialScorer] = {}
        for (head, context), scorer in self.scorers.items():
            if isinstance(scorer, TrialScorer):
                curves[f"{head}, {context}"] = scorer
        for head, scorer in self.details().items():
            if isinstance(scorer, Scorer):
                found += [Figure(f"{head}: {x.title}", x.chart) for x in scorer.figures()]
        return [*found, det_figure(curves)] if curves else found

    def summary(self) -> dict[str, Any]:
        """Return what the command prints."""
        return {"notes": self.notes, "tables": {"Scores": self.context_rows()}}

    def write(self, folder: Path, title: str, about: Mapping[str, Any]) -> None:
        """Write predictions, trials, scores (CSV and JSON) and the report into a folder.

        Raises:
            StorageError: a file cannot be written.
        """
        write_lines(folder / PREDICTIONS, self.predictions)
        if self.trials:
            write_lines(folder / TRIALS, self.trials)
        scores = self.score_rows()
        write_text(folder / "scores.csv", _csv(scores))
        write_json(
            folder / "scores.json",
            {
                **about,
                "notes": self.notes,
                "contexts": _finite(self.context_rows()),
                "scores": _finite(scores),
            },
        )
        write_page(
            folder / "report.html",
            title,
            notes=self.notes,
            tables=self.tables(),
            figures=self.figures(),
        )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _finite(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that JSON can hold: infinite thresholds become None."""
    return [
        {
            key: None if isinstance(value, float) and not abs(value) < float("inf") else value
            for key, value in row.items()
        }
        for row in rows
    ]
