"""The scores of each kind of answer: texts, classes, sets of labels, numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from heads.frame_scoring import FrameScorer
from heads.predictions import Kind
from heads.scoring import Score, ScoreOptions, Scorer
from heads.spelling import SpellingVariants
from trunkline import metrics
from trunkline.charts import heat_map
from trunkline.errors import DataError, StorageError
from trunkline.report import Figure

MOST_CLASSES_DRAWN = 40


class TextScorer(Scorer):
    """Word, character and sentence error rates."""

    main = "wer"
    higher_is_better = False

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return word errors and words of the references."""
        prepare = text_preparation(self.options)
        self.references = [prepare(row.reference) for row in self.rows]
        self.answers = [prepare(row.answer or "") for row in self.rows]
        self.words = metrics.word_errors(self.references, self.answers)
        self.characters = metrics.character_errors(self.references, self.answers)
        return self.words.errors.astype(np.float64), self.words.words.astype(np.float64)

    def right(self) -> np.ndarray:
        """Return whether each text has no error."""
        return self.words.errors == 0

    def others(self) -> list[Score]:
        """Return CER, SER, and the WER of phrases and of other words where phrases are given."""
        found = [self._rate("cer", self.characters)]
        if self.options.phrases:
            words = phrase_words(self.options)
            parts = metrics.split_word_errors(self.references, self.answers, words)
            found += [
                self._rate(name, part) for name, part in zip(("b_wer", "u_wer"), parts, strict=True)
            ]
        wrong = (~self.right()).astype(np.float64)
        drawn = metrics.interval(wrong, self.groups, seed=self.options.seed, unit=self.unit)
        return [*filter(None, found), Score.of("ser", self.words.ser, drawn)]

    def _rate(self, metric: str, edits: metrics.WordErrors) -> Score | None:
        """Return an error rate with its interval, None where the references have nothing of what it counts."""
        if not edits.words.sum():
            return None
        drawn = metrics.interval(
            edits.errors,
            self.groups,
            sizes=edits.words,
            seed=self.options.seed,
            unit=self.unit,
            resamples=self.options.resamples,
        )
        return Score.of(metric, edits.wer, drawn)

    def counts(self) -> dict[str, int]:
        """Return words, edits, and empty texts on either side."""
        silent = np.array([not text for text in self.references])
        return {
            "cuts": len(self.rows),
            "words": int(self.words.words.sum()),
            "substitutions": int(self.words.substitutions.sum()),
            "deletions": int(self.words.deletions.sum()),
            "insertions": int(self.words.insertions.sum()),
            "empty_references": int(silent.sum()),
            "empty_hypotheses": sum(not text for text in self.answers),
            "words_where_nothing_was_said": int(self.words.insertions[silent].sum()),
        }


class ClassScorer(Scorer):
    """Accuracy, macro-F1 and unweighted average recall."""

    main = "accuracy"

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each answer is right; no answer is wrong."""
        self.truth = [str(row.reference) for row in self.rows]
        self.found = ["(none)" if row.answer is None else str(row.answer) for row in self.rows]
        right = np.array([a == b for a, b in zip(self.truth, self.found, strict=True)])
        self.matrix, self.names = metrics.confusion_matrix(self.truth, self.found)
        place = {name: index for index, name in enumerate(self.names)}
        codes = [
            place[a] * len(self.names) + place[b]
            for a, b in zip(self.truth, self.found, strict=True)
        ]
        self.codes = np.array(codes)
        return right.astype(np.float64), np.ones(len(self.rows))

    def drawn_matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the confusion matrix of some rows, (classes, classes)."""
        size = len(self.names)
        return np.bincount(self.codes[rows], minlength=size * size).reshape(size, size)

    def others(self) -> list[Score]:
        """Return macro-F1, UAR, and the accuracy of the commonest training class."""
        found = [
            self._score("macro_f1", lambda rows: metrics.macro_f1_of(self.drawn_matrix(rows))),
            self._score("uar", lambda rows: metrics.uar_of(self.drawn_matrix(rows))),
        ]
        if self.baseline is not None:
            always = [str(self.baseline)] * len(self.truth)
            found.append(Score("majority_accuracy", metrics.accuracy(self.truth, always)))
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of cuts, classes, and cuts without an answer."""
        return {
            "cuts": len(self.rows),
            "classes": len(set(self.truth)),
            "no_answer": sum(row.answer is None for row in self.rows),
        }

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the score of each class."""
        rows = [score._asdict() for score in metrics.class_scores(self.matrix, self.names)]
        return {"Per class": rows}

    def figures(self) -> list[Figure]:
        """Return the confusion matrix first."""
        if len(self.names) > MOST_CLASSES_DRAWN:
            return super().figures()
        title = "Confusion matrix"
        chart = heat_map(
            self.matrix.tolist(), self.names, name=title, across="answer", down="reference"
        )
        return [Figure(title, chart), *super().figures()]


class SetScorer(Scorer):
    """Answers that are sets of labels or filled slots: all of them right, and F1."""

    main = "exact"

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each set is right as a whole."""
        self.truth = [frozenset(row.reference) for row in self.rows]
        self.found = [frozenset(row.answer or ()) for row in self.rows]
        right = [a == b for a, b in zip(self.truth, self.found, strict=True)]
        return np.array(right, dtype=np.float64), np.ones(len(self.rows))

    def others(self) -> list[Score]:
        """Return F1 over all labels and the mean of each label's, and what is right without listening."""

        def scores(rows: np.ndarray) -> metrics.SetScores:
            return metrics.set_scores([self.truth[r] for r in rows], [self.found[r] for r in rows])

        found = [
            self._score("micro_f1", lambda rows: scores(rows).micro_f1),
            self._score("macro_f1", lambda rows: scores(rows).macro_f1),
        ]
        if self.baseline is not None:
            same = [truth == frozenset(self.baseline) for truth in self.truth]
            found.append(Score("majority_exact", float(np.mean(same))))
        return found

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the score of each label."""
        return {
            "Per label": [each._asdict() for each in metrics.label_scores(self.truth, self.found)]
        }


class NumberScorer(Scorer):
    """Answers that are numbers: mean absolute error."""

    main = "mae"
    higher_is_better = False
    percent = False

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return absolute errors; a cut without an answer is left out, and counted."""
        there = np.array([row.answer is not None for row in self.rows])
        if not there.any():
            raise DataError("There is nothing to score: no cut has an answer.")
        self.truth = np.array([float(row.reference) for row in self.rows])
        self.found = np.array([float(row.answer or 0.0) for row in self.rows])
        return np.where(there, np.abs(self.truth - self.found), 0.0), there.astype(np.float64)

    def right(self) -> np.ndarray:
        """Return whether each number is met exactly."""
        return self.values == 0

    def others(self) -> list[Score]:
        """Return the root of the mean squared error, the correlation, and the error of always the training mean."""
        there = self.sizes > 0
        truth, found = self.truth[there], self.found[there]
        scores = [Score("rmse", float(np.sqrt(np.mean((truth - found) ** 2))))]
        if truth.std() > 0 and found.std() > 0:
            scores.append(Score("correlation", float(np.corrcoef(truth, found)[0, 1])))
        if self.baseline is not None:
            scores.append(Score("baseline_mae", float(np.mean(np.abs(truth - self.baseline)))))
        return scores

    def counts(self) -> dict[str, int]:
        """Return the number of cuts, and of those without an answer."""
        return {"cuts": len(self.rows), "no_answer": int((self.sizes == 0).sum())}


SCORERS: dict[Kind, type[Scorer]] = {
    "text": TextScorer,
    "classes": ClassScorer,
    "sets": SetScorer,
    "numbers": NumberScorer,
    "frames": FrameScorer,
}


def text_preparation(options: ScoreOptions) -> Callable[[str], str]:
    """Return what texts go through before they are compared."""
    variants = SpellingVariants.load(options.spelling) if options.spelling else None
    if options.normalise == "none":
        return variants or (lambda text: " ".join(text.split()))
    from trunkline.text import Normaliser

    normaliser = Normaliser(options.normalise)
    return (lambda text: variants(normaliser(text))) if variants else normaliser


def phrase_words(options: ScoreOptions) -> set[str]:
    """Return the words of the phrases, prepared as texts are.

    Raises:
        StorageError: the file cannot be read. DataError: it holds no phrase.
    """
    try:
        lines = Path(options.phrases or "").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(
            f"Cannot read the phrases {options.phrases}: {error.strerror}."
        ) from error
    prepare = text_preparation(options)
    words = {word for line in lines for word in prepare(line).split()}
    if not words:
        raise DataError(f"{options.phrases} holds no phrases.")
    return words
