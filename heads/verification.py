"""Speakers by their vectors: enrol, verify, identify; trials, cosine scores and their normalisation by a cohort."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trunkline.errors import DataError, StorageError, UsageError, nearest

COHORT_SIZE = 300
_SAME = {"1": True, "target": True, "0": False, "nontarget": False}


class Trial(NamedTuple):
    """Is the voice of cut `test` that of cut (or speaker) `enrolled`? `same` is the truth, `line` of the file."""

    enrolled: str
    test: str
    same: bool
    line: int = 0


class Identified(NamedTuple):
    """The enrolled speaker whose voice is nearest, and how near; None where no one is near enough."""

    speaker: str | None
    score: float


def read_trials(path: str | os.PathLike[str]) -> list[Trial]:
    """Return the trials of a file: lines ``1 enrolled test`` (VoxCeleb) or ``enrolled test target`` (Kaldi).

    Raises:
        StorageError: the file cannot be read.
        DataError: it holds no trials, or a line is neither (named as file:line).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(f"Cannot read the trials {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error
    trials = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) == 3 and words[0] in ("0", "1"):
            trials.append(Trial(words[1], words[2], _SAME[words[0]], number))
        elif len(words) == 3 and words[2] in _SAME:
            trials.append(Trial(words[0], words[1], _SAME[words[2]], number))
        else:
            raise DataError(
                f"{path}:{number}: {line!r} is no trial; write '1 id id' or '0 id id', or 'id id target' or "
                "'id id nontarget'."
            )
    if not trials:
        raise DataError(f"{path} holds no trials.")
    return trials


def check_trials(trials: Sequence[Trial], known: Sequence[str] | set[str], path: str = "") -> None:
    """Raise a `DataError` that names the first trial with an id that is unknown, and how many there are."""
    ids = set(known)
    wrong = [trial for trial in trials if not {trial.enrolled, trial.test} <= ids]
    if wrong:
        first = wrong[0]
        name = first.enrolled if first.enrolled not in ids else first.test
        raise DataError(
            f"{path}:{first.line}: trial names {name!r}, which is no id of the manifest."
            f"{nearest(name, sorted(ids)[:5000]) if len(ids) <= 5000 else ''} "
            f"{len(wrong)} of {len(trials)} trials name unknown ids."
        )


def all_pairs(speakers: Mapping[str, str]) -> list[Trial]:
    """Return a trial for every pair of cuts, {id: speaker}; with many cuts give a file of trials instead.

    Raises:
        DataError: no speaker has two cuts, or there is one speaker only.
    """
    ids = list(speakers)
    trials = [
        Trial(a, b, speakers[a] == speakers[b]) for i, a in enumerate(ids) for b in ids[i + 1 :]
    ]
    if not any(trial.same for trial in trials) or all(trial.same for trial in trials):
        raise DataError(
            f"{len(ids)} cuts of {len(set(speakers.values()))} speakers make no trials: two speakers are needed, "
            "and one of them twice."
        )
    return trials


def enrol(vectors: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return one vector (dim,) of length 1 for a speaker from those of its cuts, (cuts, dim).

    Raises:
        DataError: no vector that is not empty.
    """
    heard = [_unit(np.asarray(vector, dtype=np.float64)) for vector in vectors if len(vector)]
    if not heard:
        raise DataError("There is nothing to enrol: no cut with any speech frame.")
    return _unit(np.mean(heard, axis=0))


def cosine_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines (..., a, b) between vectors (a, dim) and (b, dim)."""
    return _unit(np.asarray(a, dtype=np.float64)) @ _unit(np.asarray(b, dtype=np.float64)).T


class Cohort:
    """Vectors of other speakers, one a speaker, against which scores are normalised (adaptive symmetric norm).

    A score is replaced by its mean distance, in standard deviations, from the scores of either side with its `top`
    nearest cohort speakers.

    Source: Matějka et al., "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017,
    section 2.
    """

    def __init__(self, vectors: np.ndarray, top: int = COHORT_SIZE) -> None:
        self.vectors = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
        self.top = min(top, len(self.vectors))
        if self.top < 2:
            raise UsageError(
                f"A cohort of {len(self.vectors)} speakers with top={top} has no spread; give at least 2."
            )

    def statistics(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation (cuts,) of the scores of vectors (cuts, dim) with their nearest of the cohort."""
        scores = cosine_scores(np.atleast_2d(vectors), self.vectors)
        nearest_scores = np.sort(scores, axis=1)[:, -self.top :]
        return nearest_scores.mean(axis=1), np.maximum(nearest_scores.std(axis=1), 1e-6)

    def normalise(self, scores: np.ndarray, enrolled: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Return normalised scores (trials,) of trials between `enrolled` and `test`, (trials, dim) each."""
        left, right = self.statistics(enrolled), self.statistics(test)
        return 0.5 * ((scores - left[0]) / left[1] + (scores - right[0]) / right[1])


def score_trials(
    trials: Sequence[Trial], vectors: Mapping[str, Sequence[float]], cohort: Cohort | None = None
) -> np.ndarray:
    """Return the score of each trial, (trials,): the cosine, normalised by a cohort where one is given.

    A trial with a cut in which nothing was heard scores as low as a cosine can, -1: it is refused, and counted.

    Raises:
        DataError: a trial names an id without a vector.
    """
    check_trials(trials, set(vectors))
    names = sorted({name for trial in trials for name in (trial.enrolled, trial.test)})
    heard = [name for name in names if len(vectors[name])]
    if not heard:
        raise DataError("Nothing was heard in any cut of the trials.")
    place = {name: index for index, name in enumerate(heard)}
    table = _unit(np.array([vectors[name] for name in heard], dtype=np.float64))
    left = np.array([place.get(trial.enrolled, -1) for trial in trials])
    right = np.array([place.get(trial.test, -1) for trial in trials])
    scores = np.einsum("td,td->t", table[left], table[right])
    if cohort is not None:
        mean, deviation = cohort.statistics(table)
        scores = 0.5 * (
            (scores - mean[left]) / deviation[left] + (scores - mean[right]) / deviation[right]
        )
    silent = (left < 0) | (right < 0)
    return np.where(silent, min(-1.0, float(scores.min())), scores)


class Voices:
    """Enrolled speakers, {name: vector (dim,)}; vectors come from a speaker head and are averaged by `enrol`."""

    def __init__(self, voices: Mapping[str, np.ndarray], cohort: Cohort | None = None) -> None:
        if not voices:
            raise UsageError("No speaker is enrolled.")
        self.names = list(voices)
        self.table = np.stack([_unit(np.asarray(voices[name], float)) for name in self.names])
        self.cohort = cohort

    def verify(self, speaker: str, vector: Sequence[float] | np.ndarray) -> float:
        """Return how well a voice fits an enrolled speaker; compare with a threshold chosen on trials.

        Raises:
            UsageError: nobody is enrolled by that name. DataError: the vector is empty (nothing was heard).
        """
        if speaker not in self.names:
            raise UsageError(f"{speaker!r} is not enrolled.{nearest(speaker, self.names)}")
        return float(self._scores(vector)[self.names.index(speaker)])

    def identify(
        self, vector: Sequence[float] | np.ndarray, threshold: float = -np.inf
    ) -> Identified:
        """Return the enrolled speaker whose voice is nearest, or None below the threshold.

        Raises:
            DataError: the vector is empty (nothing was heard).
        """
        scores = self._scores(vector)
        best = int(scores.argmax())
        score = float(scores[best])
        return Identified(self.names[best] if score >= threshold else None, score)

    def _scores(self, vector: Sequence[float] | np.ndarray) -> np.ndarray:
        test = np.asarray(vector, dtype=np.float64)
        if not test.size:
            raise DataError("Nothing was heard, so there is no voice to compare.")
        if test.shape != self.table.shape[1:]:
            raise DataError(
                f"A vector of shape {test.shape} cannot be compared with voices of width {self.table.shape[1]}."
            )
        scores = cosine_scores(self.table, test[None])[:, 0]
        if self.cohort is None:
            return scores
        return self.cohort.normalise(scores, self.table, np.broadcast_to(test, self.table.shape))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
