"""What dev says of heads while they learn, and which weights a run ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from heads.config import ChooseConfig
from heads.data import Batch, Items
from heads.decoding import greedy
from heads.recognition import RecognitionHead
from heads.task import JointTask
from heads.verification import all_pairs
from trunkline.batching import Batches, BatchPlan
from trunkline.checkpoint import read_json, write_bytes, write_json
from trunkline.errors import ConfigError, DataError
from trunkline.log import get_logger
from trunkline.metrics import character_errors, equal_error_rate, error_tradeoff
from trunkline.training import average_weights

logger = get_logger(__name__)

LOWER_IS_BETTER = ("loss", "cer", "eer")
TRIAL_VECTORS = 2000  # all pairs of more vectors take long, and dev needs no more


class DevSet:
    """The dev items, judged without augmentation, each batch in dev's context."""

    def __init__(self, items: Items, batch_seconds: float) -> None:
        self.items = items
        plan = BatchPlan(items.durations, batch_seconds, shuffle=False)
        self._batches = Batches(items, plan, items.collate)
        self._plan = plan
        self._unknown: dict[str, set[int]] = {}

    def batches(self) -> Iterator[Batch]:
        """Yield all items once; those that cannot be read are left out (training names such files too)."""
        count = len(self._plan.epoch(0))
        stream = self._batches.stream()
        for _ in range(count):
            batch = next(stream).batch
            if batch is not None:
                yield batch

    def check(self, task: JointTask) -> dict[str, int]:
        """Find the items whose label a head has no output for; they get no loss. Return their number by head.

        Raises:
            DataError: a label that the head cannot read at all.
        """
        corpus = self.items.corpus
        for name in task.heads:
            head, unknown = task.head(name), set()
            try:
                head.check_labels(corpus.known(name))
            except DataError as error:
                for cut in corpus.labelled(name):
                    try:
                        head.check_labels([corpus.labels[name][cut]])
                    except DataError:
                        unknown.add(cut)
                logger.warning(
                    "dev: %d of %d items of head %s get no loss: %s",
                    len(unknown),
                    len(corpus.labelled(name)),
                    name,
                    error,
                )
            self._unknown[name] = unknown
        return {name: len(unknown) for name, unknown in self._unknown.items()}

    @torch.no_grad()
    def evaluate(self, task: JointTask) -> dict[str, float]:
        """Return `head/metric` of every head and `loss`, the weighted sum of those that have one.

        Metrics are those of the heads' losses, averaged over items; `cer` (characters, best path) of heads that write
        text; `eer` over all pairs of heads that make speaker vectors.
        """
        totals: dict[str, dict[str, list[float]]] = {name: {} for name in task.heads}
        gathered: dict[str, list[tuple[Any, list[Any]]]] = {name: [] for name in task.heads}
        for batch in self.batches():
            with_loss, without = self._by_loss(batch)
            for name, output, labels in task.outputs(with_loss):
                loss, told = task.head(name).loss(output, labels)
                for key, value in {**told, "loss": loss}.items():
                    sums = totals[name].setdefault(key, [0.0, 0.0])
                    sums[0] += float(value) * len(labels)
                    sums[1] += len(labels)
                if not self._unknown[name]:
                    gathered[name].append((_summary(task, name, output), labels))
            if without is not None:
                for name, output, labels in task.outputs(without):
                    gathered[name].append((_summary(task, name, output), labels))
        metrics = {
            f"{name}/{key}": total / count
            for name, sums in totals.items()
            for key, (total, count) in sums.items()
        }
        for name, parts in gathered.items():
            metrics |= {f"{name}/{key}": x for key, x in _gathered(task, name, parts).items()}
        losses = [
            task.config.heads[name].weight * metrics[f"{name}/loss"]
            for name in task.heads
            if f"{name}/loss" in metrics
        ]
        return metrics | ({"loss": sum(losses)} if losses else {})

    def _by_loss(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """Return the batch with the labels that have a loss, and one for the heads where some have none."""
        if not any(self._unknown.values()):
            return batch, None
        ids, labels = self.items.ids, batch["labels"]
        unknown = {name: {ids[i] for i in cuts} for name, cuts in self._unknown.items()}
        known = {
            name: [
                None if cut in unknown[name] else label
                for cut, label in zip(batch["ids"], labels[name], strict=True)
            ]
            for name in labels
        }
        whole = {
            name: labels[name] if unknown[name] else [None] * len(labels[name]) for name in labels
        }
        return {**batch, "labels": known}, {**batch, "labels": whole}

    @torch.no_grad()
    def calibrate(self, task: JointTask) -> dict[str, dict[str, Any]]:
        """Let the heads that can set temperature, threshold or confidences by dev; return what they found."""
        task.eval()
        outputs: dict[str, tuple[list[Any], list[Any]]] = {}
        for batch in self.batches():
            for name, output, labels in task.outputs(batch):
                found = outputs.setdefault(name, ([], []))
                found[0].append(output)
                found[1].extend(labels)
        told = {}
        for name, (parts, labels) in outputs.items():
            calibrate = getattr(task.head(name), "calibrate", None)
            if calibrate is None:
                continue
            try:
                told[name] = dict(calibrate(parts, labels))
            except DataError as error:
                logger.warning("head %s stays as it is, not calibrated: %s", name, error)
        return told


def _summary(task: JointTask, name: str, output: Any) -> Any:
    """Return what of an output the metrics over all of dev need."""
    head = task.head(name)
    if isinstance(head, RecognitionHead):
        tokens = [
            greedy(head.ctc_table(output, i), blank=head.tokenizer.blank).tokens
            for i in range(len(output.lengths))
        ]
        return [head.tokenizer.decode(list(ids)) for ids in tokens]
    embedding = getattr(output, "embedding", None)
    return None if embedding is None else embedding.cpu().numpy()


def _gathered(
    task: JointTask, name: str, parts: list[tuple[Any, list[Any]]]
) -> Mapping[str, float]:
    labels = [label for _, some in parts for label in some]
    if isinstance(task.head(name), RecognitionHead):
        texts = [text for found, _ in parts for text in found]
        errors = character_errors([" ".join(str(x).split()) for x in labels], texts)
        return {"cer": float(errors.errors.sum() / max(1, errors.words.sum()))}
    if not parts or parts[0][0] is None:
        return {}
    vectors = np.concatenate([found for found, _ in parts])[:TRIAL_VECTORS]
    speakers = {str(i): str(label) for i, label in enumerate(labels[:TRIAL_VECTORS])}
    try:
        trials = all_pairs(speakers)
    except DataError:  # one cut per speaker says nothing of telling speakers apart
        return {}
    first = np.array([int(trial.enrolled) for trial in trials])
    second = np.array([int(trial.test) for trial in trials])
    scores = np.einsum("td,td->t", vectors[first], vectors[second])
    same = np.array([trial.same for trial in trials])
    return {"eer": equal_error_rate(error_tradeoff(scores, same))}


class Choice:
    """Judges the task at each evaluation, remembers the best weights, and says when it is enough.

    `choice.json` in the run folder has every evaluation; `candidates/` the weights of the best of them, so that a
    resumed run chooses as the unbroken one.
    """

    def __init__(self, folder: Path, dev: DevSet, config: ChooseConfig) -> None:
        self.folder, self.dev, self.config = folder, dev, config
        self.path = folder / "choice.json"
        self.history: list[dict[str, Any]] = read_json(self.path) if self.path.exists() else []

    def __call__(self, task: nn.Module) -> dict[str, float]:
        """Judge the weights in place; to be given to `trunkline.training.train` as `evaluate`."""
        assert isinstance(task, JointTask)
        metrics = self.dev.evaluate(task)
        row = {"step": task.updates, "score": self.score(metrics), "metrics": metrics}
        self.history = [x for x in self.history if x["step"] < task.updates] + [row]
        keep = {x["step"] for x in self._best()}
        if task.updates in keep:
            tensors = {
                k: v.detach().cpu().clone().contiguous() for k, v in task.state_dict().items()
            }
            write_bytes(self._candidate(task.updates), save(tensors))
        for path in (self.folder / "candidates").glob("step-*.safetensors"):
            if int(path.stem[5:]) not in keep:
                path.unlink()
        write_json(self.path, self.history)
        return {**metrics, "stop": float(self.enough)}

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the metric that decides, turned so that less is better.

        Raises:
            ConfigError: there is no such metric.
        """
        name = self.config.metric
        if name not in metrics:
            reason = " (no dev item has a loss: its speakers or labels are not in train)"
            raise ConfigError(
                f"choose.metric: dev gives no {name!r}{reason if name == 'loss' else ''}. "
                f"There are: {', '.join(sorted(metrics)) or 'none'}."
            )
        value = metrics[name]
        return value if name.rpartition("/")[2] in LOWER_IS_BETTER else -value

    @property
    def enough(self) -> bool:
        """Whether `patience` evaluations in a row were no better than the best before them."""
        if not self.config.patience or not self.history:
            return False
        best = min(range(len(self.history)), key=lambda i: self.history[i]["score"])
        return len(self.history) - 1 - best >= self.config.patience

    def take(self, task: JointTask) -> dict[str, Any]:
        """Put the chosen weights into the task; return which they are and what dev says of them.

        The weights are those of the best evaluation, or the mean of the `average` best if dev prefers it.
        """
        rows = self._best()
        best = rows[0]
        states = [load_file(self._candidate(row["step"])) for row in rows]
        chosen = {"steps": [best["step"]], "metrics": best["metrics"]}
        if len(states) > 1:
            task.load_state_dict(average_weights(states))
            task.eval()
            metrics = self.dev.evaluate(task)
            if self.score(metrics) < best["score"]:
                return {"steps": sorted(row["step"] for row in rows), "metrics": metrics}
        task.load_state_dict(states[0])
        task.eval()
        return chosen

    def _best(self) -> list[dict[str, Any]]:
        """Return the best evaluations, best first; of equals the earlier."""
        order = sorted(self.history, key=lambda row: (row["score"], row["step"]))
        return order[: self.config.average]

    def _candidate(self, step: int) -> Path:
        return self.folder / "candidates" / f"step-{step}.safetensors"
