"""Scores of heads that answer for every frame: the share of the time in which the right class was given."""

from __future__ import annotations

from typing import Any

import numpy as np

from heads.frame_spans import seconds_by_class
from heads.scoring import Score, Scorer
from trunkline import metrics
from trunkline.errors import DataError


class FrameScorer(Scorer):
    """Accuracy and macro-F1 over time; a long cut weighs more than a short one."""

    main = "frame_accuracy"

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds that are right, and those that the reference says anything of."""
        self.shares = [seconds_by_class(row.reference, row.answer or []) for row in self.rows]
        self.names = sorted({name for share in self.shares for pair in share for name in pair})
        place = {name: index for index, name in enumerate(self.names)}
        self.matrices = np.zeros((len(self.rows), len(self.names), len(self.names)))
        for row, share in enumerate(self.shares):
            for (truth, said), seconds in share.items():
                self.matrices[row, place[truth], place[said]] = seconds
        sizes = self.matrices.sum(axis=(1, 2))
        if not sizes.sum() > 0:
            raise DataError("There is nothing to score: no label says anything of any time.")
        return np.trace(self.matrices, axis1=1, axis2=2), sizes

    def right(self) -> np.ndarray:
        """Return whether each cut is right throughout."""
        return self.values >= self.sizes - 1e-6

    def others(self) -> list[Score]:
        """Return the macro-F1 over time."""
        return [
            self._score("macro_f1", lambda rows: metrics.macro_f1_of(self.matrices[rows].sum(0)))
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of cuts, and the whole seconds that are judged."""
        return {"cuts": len(self.rows), "seconds": round(float(self.sizes.sum()))}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the score of each class, over time."""
        matrix = self.matrices.sum(axis=0)
        rows = []
        for index, name in enumerate(self.names):
            hits, there, said = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
            rows.append(
                {
                    "name": name,
                    "seconds": float(there),
                    "answered_seconds": float(said),
                    "precision": float(hits / said) if said else None,
                    "recall": float(hits / there) if there else None,
                }
            )
        return {"Per class": rows}
