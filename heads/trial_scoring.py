"""The scores of a speaker head on trials: equal error rate, detection cost, and the curve between both errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from heads.predictions import ScoredTrial
from heads.scoring import Score, ScoreOptions
from heads.verification import Cohort, Trial, enrol, score_trials
from trunkline import metrics
from trunkline.charts import det_chart
from trunkline.errors import UsageError
from trunkline.report import Figure

MOST_POINTS = 400

MEASURES: dict[str, Callable[[metrics.ErrorTradeoff], float]] = {
    "eer": metrics.equal_error_rate,
    "min_dcf_0.01": partial(metrics.min_dcf, p_target=0.01),
    "min_dcf_0.05": partial(metrics.min_dcf, p_target=0.05),
}
"""The second is the usual cost, one target in a hundred; the third, one in twenty, suits a bank."""


class TrialScorer:
    """Scores of one speaker head in one context."""

    main = "eer"
    higher_is_better = False

    def __init__(self, trials: Sequence[ScoredTrial], options: ScoreOptions) -> None:
        self.trials = list(trials)
        self.options = options
        self.scored = np.array([trial.score for trial in trials])
        self.same = np.array([trial.same for trial in trials], dtype=bool)
        sides = [trial.speakers for trial in trials if trial.speakers is not None]
        self.speakers = (
            ([left for left, _ in sides], [right for _, right in sides])
            if len(sides) == len(trials)
            else None
        )
        self.tradeoff = metrics.error_tradeoff(self.scored, self.same)

    def scores(self) -> list[Score]:
        """Return EER and minDCF with intervals by speaker, and the threshold at the EER."""
        found = []
        for name, measure in MEASURES.items():
            drawn = metrics.trial_interval(
                measure,
                self.scored,
                self.same,
                self.speakers,
                seed=self.options.seed,
                resamples=self.options.resamples,
            )
            found.append(Score.of(name, measure(self.tradeoff), drawn))
        found.append(Score("threshold_at_eer", self.threshold()))
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of trials of each kind."""
        return {
            "trials": len(self.trials),
            "same_speaker": int(self.same.sum()),
            "different_speakers": int((~self.same).sum()),
        }

    def compare(self, other: TrialScorer) -> metrics.Difference:
        """Test whether this system has a lower EER than another on the same trials."""
        if [(x.enrolled, x.test) for x in self.trials] != [
            (x.enrolled, x.test) for x in other.trials
        ]:
            raise UsageError("The two systems were scored on different trials.")
        return metrics.trial_difference(
            metrics.equal_error_rate,
            self.scored,
            other.scored,
            self.same,
            self.speakers,
            seed=self.options.seed,
            resamples=self.options.resamples,
        )

    def curve(self) -> list[tuple[float, float]]:
        """Return points (false alarms, misses) of the DET curve, thinned."""
        points = np.stack([self.tradeoff.false_alarm, self.tradeoff.miss], axis=1)
        step = max(1, len(points) // MOST_POINTS)
        return [(float(x), float(y)) for x, y in points[::step]]

    def worst(self) -> list[dict[str, Any]]:
        """Return the trials that are most wrong at the threshold of the EER."""
        threshold = self.threshold()
        wrongness = np.where(self.same, threshold - self.scored, self.scored - threshold)
        order = [int(place) for place in np.argsort(-wrongness)[:15] if wrongness[place] > 0]
        return [
            {
                "enrolled": self.trials[place].enrolled,
                "test": self.trials[place].test,
                "same": self.trials[place].same,
                "score": self.trials[place].score,
            }
            for place in order
        ]

    def threshold(self) -> float:
        """Return the threshold at which both errors are (nearly) equal."""
        place = int(np.argmax(self.tradeoff.miss >= self.tradeoff.false_alarm))
        return float(self.tradeoff.thresholds[min(place, len(self.tradeoff.thresholds) - 2)])


def det_figure(scorers: Mapping[str, TrialScorer]) -> Figure:
    """Return the DET curves of several systems or contexts in one picture."""
    title = "Detection error trade-off (misses upwards)"
    return Figure(title, det_chart({name: x.curve() for name, x in scorers.items()}, name=title))


def cohort_of(
    voices: Mapping[str, Sequence[float]], speakers: Mapping[str, str | None], top: int
) -> Cohort:
    """Return a cohort, one vector a speaker, from vectors by cut and the cuts' speakers (unknown: each its own)."""
    cuts: dict[str, list[Sequence[float]]] = {}
    for name, vector in voices.items():
        if len(vector):
            cuts.setdefault(f"={speakers[name]}" if speakers.get(name) else f"#{name}", []).append(
                vector
            )
    return Cohort(np.array([enrol(vectors) for vectors in cuts.values()]), top)


def scored_trials(
    name: str,
    context: str,
    trials: Sequence[Trial],
    voices: Mapping[str, Sequence[float]],
    speakers: Mapping[str, str | None],
    cohort: Cohort | None = None,
) -> list[ScoredTrial]:
    """Return the trials with their scores; raises as `score_trials`."""
    rows = []
    for trial, score in zip(trials, score_trials(trials, voices, cohort), strict=True):
        left, right = speakers.get(trial.enrolled), speakers.get(trial.test)
        sides = None if left is None or right is None else (left, right)
        rows.append(
            ScoredTrial(name, context, trial.enrolled, trial.test, trial.same, float(score), sides)
        )
    return rows
