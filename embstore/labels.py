"""What heads add to a store: columns of labels, and vectors that a head has learnt to pool.

Heads run in a pass of their own, as their adapters may bend the trunk; a store's frames are those of the trunk alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embstore.schema import LEARNT
from encoder import Context
from encoder.evaluation import evaluating
from heads import load_model
from heads.head import PooledHead
from heads.session import Line, empty
from trunkline.checkpoint import read_json
from trunkline.errors import UsageError, nearest

if TYPE_CHECKING:
    from embstore.plan import ExportOptions
    from encoder import Backbone
    from trunkline.manifest import Cut


class HeadColumns:
    """The heads of one export, on its backbone."""

    def __init__(self, options: ExportOptions, backbone: Backbone) -> None:
        """Open the heads.

        Raises:
            CheckpointError: a directory that is no head of this backbone.
            UsageError: a head that cannot do what is asked.
        """
        self._names = [name for name, _ in options.heads]
        self.poolings: dict[str, tuple[str, int]] = {}
        """What was asked -> the pooling as its space names it, and its width."""
        self._poolers: dict[str, str] = {}
        folders = dict(options.heads)
        for number, asked in enumerate(name for name in options.pooled if ":" in name):
            folders[f"pooling_{number}"] = asked.partition(":")[2]
            self._poolers[f"pooling_{number}"] = asked
        self.model = load_model(backbone, folders)
        for name in self._names:
            if self.model.head(name).use not in ("classify", "transcribe"):
                raise UsageError(
                    f"The head {name!r} ({self.model.head(name).kind}) gives no label for a cut; use one that "
                    "classifies, measures or transcribes."
                )
        for name, asked in self._poolers.items():
            kind, _, folder = asked.partition(":")
            if kind not in LEARNT:
                raise UsageError(f"Unknown pooling {asked!r}.{nearest(kind, LEARNT)}")
            width = len(self._pooled(name, kind, None))
            fingerprint = read_json(Path(folder) / "head.json")["fingerprint"]
            self.poolings[asked] = f"{kind}:{fingerprint}", width

    def answers(self, cut: Cut, context: Context) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the columns of a cut, and its vectors by pooling.

        Raises:
            DataError, StorageError: as `trunkline.audio.read`.
        """
        line = Line(self.model, list(self.model.heads))
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            samples = line.hear(cut.blocks(self.model.backbone.sample_rate))
            for encoded in self.model.trunk.encode_blocks(samples, context=context):
                line.take(encoded)
            outputs = line.end()
            found = self.model.decode({name: outputs[name] for name in self._names})
            pooled = {}
            for name, asked in self._poolers.items():
                pooling = self.poolings[asked][0]
                pooled[pooling] = self._pooled(name, pooling.partition(":")[0], line)
        columns: dict[str, Any] = {}
        for name in self._names:
            label, score, confidence = label_of(found[name])
            columns |= {f"{name}_label": label, f"{name}_score": score}
            columns[f"{name}_confidence"] = confidence
        return columns, pooled

    def _pooled(self, name: str, kind: str, line: Line | None) -> np.ndarray:
        """Return the vector that a head has for a recording, or for nothing where there is none."""
        head = self.model.head(name)
        if not isinstance(head, PooledHead):
            raise UsageError(f"{self._poolers[name]}: this head ({head.kind}) does not pool.")
        with torch.no_grad():
            state = head.init_state(1) if line is None else line.states[name]
            if line is None:
                _, state = head.step(empty(head), state)
            if kind == "attentive":
                return head.pool.finish(state)[0].float().cpu().numpy()
            output = head.finish(state)
            if not hasattr(output, "embedding"):
                raise UsageError(
                    f"{self._poolers[name]}: this head ({head.kind}) knows no speakers."
                )
            return output.embedding[0].float().cpu().numpy()


def label_of(result: Any) -> tuple[str | None, float | None, float | None]:
    """Return label, score and confidence of a head's result.

    The score is the probability of the label among all (of several that apply: of the whole answer), or the number
    of a head that measures. A label that is no text is JSON.
    """
    if hasattr(result, "text"):
        return result.text, result.log_prob, result.confidence
    if hasattr(result, "value"):
        value = result.value
        return None if value is None else f"{value:g}", value, None
    label = result.label
    if label is None:
        return None, None, result.confidence
    score = result.probabilities.get(label) if isinstance(label, str) else result.confidence
    text = label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)
    return text, score, result.confidence
