"""Classification of turns or whole calls: one class, several labels, or slots; with believable confidences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Encoded
from heads.calibration import abstain_threshold, fit_temperature
from heads.fusion import VectorFusion, read_vectors
from heads.head import HeadLabels, HeadOptions, PooledHead, PooledOptions, TrunkSpec
from heads.label_space import IGNORED, Answer, LabelSpace, Task, read_answer
from heads.pooling import PoolState
from heads.registry import register_head
from trunkline.errors import ConfigError, UsageError
from trunkline.log import get_logger
from trunkline.metrics import expected_calibration_error, set_scores

logger = get_logger(__name__)


@dataclass(frozen=True)
class ClassificationOptions(PooledOptions):
    """The settings of a classification head."""

    task: Task = "classes"
    """classes (one of several), labels (any number of them, a list), slots ({slot: value}, each optional)."""
    attend: Literal["together", "each"] = "together"
    """each: every slot (or label) has an attention of its own, as its word stands at a place of its own."""
    balance: Literal["none", "weighted", "logit_adjusted"] = "none"
    """For classes of unequal size: weigh items by 1 / class frequency, or train with the classes' log frequency
    added to the logits and answer without it (Menon et al., ICLR 2021, equation 10). Both favour rare classes."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes of its group: few labels are learnt less by heart."""
    precision: float | None = None
    """Wanted share of right answers; below the confidence that gives it on dev the head abstains."""
    unseen: Literal["error", "ignore"] = "error"
    """What the loss does with a label that was not in training; in answers it is always counted as missed."""
    vector: str = ""
    """Key of a vector in the manifest (text, context) to fuse with; cuts without it are answered from sound alone."""
    vector_dim: int = 0
    """Width of that vector; 0 means no fusion."""
    vector_missing: float = 0.3
    """Share of vectors left out in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing: must lie in [0, 1), not {self.label_smoothing}.")
        if self.attend == "each" and (self.pooling != "attention" or self.task == "classes"):
            raise ConfigError(
                f"attend=each is for slots and labels, and for pooling=attention; here are task={self.task} and "
                f"pooling={self.pooling}."
            )
        if self.precision is not None and not 0 < self.precision <= 1:
            raise ConfigError(f"precision: must lie in (0, 1], not {self.precision}.")
        if bool(self.vector) != bool(self.vector_dim) or self.vector_dim < 0:
            raise ConfigError(
                f"vector={self.vector!r} and vector_dim={self.vector_dim} belong together: the manifest key of the "
                "vectors, and their width."
            )
        if not 0 <= self.vector_missing < 1:
            raise ConfigError(f"vector_missing: must lie in [0, 1), not {self.vector_missing}.")


class Classification(NamedTuple):
    """Output of a classification head."""

    logits: Tensor
    """(batch, outputs), before temperature."""
    lengths: Tensor
    """(batch,) frames that the answer rests on."""


class Classified(NamedTuple):
    """The answer for one turn or call."""

    label: Answer | None
    """The class; or the labels that apply; or {slot: value}. None where nothing was heard."""
    confidence: float
    """Probability that the whole answer is right."""
    abstained: bool
    """The confidence is below the threshold: do not act on the label."""
    probabilities: dict[str, float]
    """Of each output."""


class ClassificationHead(PooledHead):
    """Pools the turn and scores the outputs; see `ClassificationOptions`."""

    Options: ClassVar[type[HeadOptions]] = ClassificationOptions
    options: ClassificationOptions  # type: ignore[assignment]
    view: Tensor
    weight: Tensor
    prior: Tensor

    def __init__(
        self, options: ClassificationOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if labels is None or not labels.names:
            raise ConfigError(f"A {self.kind} head needs its labels; make them with `prepare`.")
        self.space = LabelSpace.from_labels(labels)
        outputs = len(self.space.names)
        self.output = nn.Linear(self.pooled_dim // self.pool.views, outputs)
        self.fusion = (
            VectorFusion(
                options.vector_dim,
                outputs,
                hidden=options.hidden or trunk.dim,
                missing=options.vector_missing,
            )
            if options.vector_dim
            else None
        )
        views = [range(outputs)] if self.pool.views == 1 else self.space.parts()
        of_output = [view for view, places in enumerate(views) for _ in places]
        self.register_buffer("view", torch.tensor(of_output), persistent=False)
        weight, prior = balances(self.space, options.balance)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("prior", prior, persistent=False)

    @classmethod
    def prepare(cls, options: ClassificationOptions, labels: Iterable[Any]) -> HeadLabels:
        """Return classes, labels or slots of the training cuts; raises as `LabelSpace.of_labels`."""
        return LabelSpace.of_labels(options.task, labels).to_labels()

    @classmethod
    def count_views(cls, options: ClassificationOptions, labels: HeadLabels | None) -> int:
        """Return the number of attentions: one, or with `attend` "each" one for each slot or label."""
        if options.attend == "together" or labels is None:
            return 1
        return len(LabelSpace.from_labels(labels).parts())

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError that names the labels that were not in training, or are ill-typed."""
        self.space.check(labels)

    def forward(self, encoded: Encoded, vectors: Tensor | None = None) -> Classification:
        """Pool and score; `vectors` (batch, vector_dim) are fused where given, rows of NaN are missing ones."""
        state = self.step(encoded, self.init_state(len(encoded.lengths)))[1]
        return self.finish(state, vectors)

    def finish(self, state: PoolState, vectors: Tensor | None = None) -> Classification:
        """Return the scores for everything heard."""
        output = self.classify(self.pool.finish(state), state.lengths)
        if vectors is None:
            return output
        if self.fusion is None:
            raise UsageError(f"This {self.kind} head was made without fusion (vector_dim=0).")
        return output._replace(logits=output.logits + self.fusion(vectors))

    def classify(self, pooled: Tensor, lengths: Tensor) -> Classification:
        """Return the scores of pooled turns."""
        pooled = pooled.to(self.output.weight.dtype).unflatten(1, (self.pool.views, -1))
        if self.pool.views == 1:
            return Classification(self.output(pooled[:, 0]), lengths)
        seen = pooled[:, self.view]
        logits = torch.einsum("bod,od->bo", seen, self.output.weight) + self.output.bias
        return Classification(logits, lengths)

    def vectors(self, values: Sequence[Any]) -> Tensor | None:
        """Return what `forward` takes, from `cut.label(options.vector)` of each cut; None without fusion.

        Raises:
            DataError: a vector of another width, or one that is no list of finite numbers.
        """
        return read_vectors(values, self.options.vector_dim) if self.fusion is not None else None

    def loss(
        self, output: Classification, labels: Sequence[Any]
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the mean cross-entropy of the items (of their slots, of their labels) and the accuracy.

        Accuracy asks for the whole answer; for slots and sets of labels there is also `micro_f1` of the batch, by which
        dev can choose where whole answers are rare.

        Raises:
            DataError: a label that was not in training, unless `unseen` is "ignore".
        """
        if self.options.unseen == "error":
            self.space.check(labels)
        targets = self.space.targets(labels).to(output.logits.device)
        smoothing = self.options.label_smoothing if self.training else 0.0
        items = _cross_entropy(
            output.logits + self.prior, targets, self.space, self.weight, smoothing
        )
        chosen = _chosen(output.logits, self.space)
        metrics = {"accuracy": float((chosen == targets).all(dim=1).float().mean())}
        if self.options.task != "classes":
            found = [self.space.answer(self._places(row)) for row in chosen.tolist()]
            truth = [read_answer(label, self.options.task) for label in labels]
            metrics["micro_f1"] = set_scores(_parts(truth), _parts(found)).micro_f1
        return items.mean(), metrics

    def decode(self, output: Classification) -> list[Classified]:
        """Return answers with calibrated confidences; a turn without frames has no label and confidence 0."""
        # In double precision, as `calibrate` had them: a confidence on the threshold is not below it.
        logits = output.logits.detach().double() / self.calibration.get("temperature", 1.0)
        probabilities = _probabilities(logits, self.space)
        confidence = _confidence(probabilities, self.space)
        threshold = self.calibration.get("threshold") or 0.0
        results = []
        for row, chosen in enumerate(_chosen(logits, self.space).tolist()):
            heard = bool(output.lengths[row] > 0)
            sure = float(confidence[row]) if heard else 0.0
            results.append(
                Classified(
                    self.space.answer(self._places(chosen)) if heard else None,
                    sure,
                    not heard or sure < threshold,
                    dict(zip(self.space.names, probabilities[row].tolist(), strict=True)),
                )
            )
        return results

    def calibrate(
        self, outputs: Classification | Sequence[Classification], labels: Sequence[Any]
    ) -> dict[str, Any]:
        """Set temperature and abstain threshold by dev data, and return them with what they were worth there.

        The result, also kept in `calibration`: `temperature`, `ece_before`, `ece_after`, and with the option
        `precision` also `threshold` (None where it cannot be had), `precision_on_dev`, `coverage_on_dev`.

        Args:
            outputs: of `forward` on dev, one or several batches.
            labels: one per item; a label that was not in training counts as answered wrongly.
        """
        batches = [outputs] if isinstance(outputs, Classification) else list(outputs)
        logits = torch.cat([batch.logits.detach().double() for batch in batches])
        targets = self.space.targets(labels).to(logits.device)

        def loss(inverse: float) -> float:
            return float(_cross_entropy(inverse * logits, targets, self.space, None).mean())

        temperature = fit_temperature(loss)
        correct = (_chosen(logits, self.space) == targets).all(dim=1).cpu().numpy()
        before, after = (
            _confidence(_probabilities(logits / t, self.space), self.space).cpu().numpy()
            for t in (1.0, temperature)
        )
        found: dict[str, Any] = {
            "temperature": temperature,
            "ece_before": expected_calibration_error(before, correct),
            "ece_after": expected_calibration_error(after, correct),
            "items": len(correct),
        }
        if self.options.precision is not None:
            kept = abstain_threshold(after, correct, self.options.precision)
            if kept is None:
                logger.warning(
                    "no confidence gives a precision of %g on %d dev items; the %s head will not abstain",
                    self.options.precision,
                    len(correct),
                    self.kind,
                )
            found |= {
                "threshold": kept.threshold if kept else None,
                "precision_on_dev": kept.precision if kept else None,
                "coverage_on_dev": kept.coverage if kept else None,
            }
        self.calibration = found
        return found

    def is_right(self, answer: Answer | None, label: Any) -> bool:
        """Return whether an answer of `decode` equals a raw label."""
        return answer == read_answer(label, self.options.task)

    def _places(self, chosen: Sequence[float]) -> list[int]:
        if self.space.task == "labels":
            return [place for place, on in enumerate(chosen) if on]
        groups = self.space.groups.values()
        return [group[int(place)] for group, place in zip(groups, chosen, strict=True)]


def balances(space: LabelSpace, balance: str) -> tuple[Tensor, Tensor]:
    """Return the weight of each output and what is added to its logit in training, (outputs,) each.

    Weights have mean 1 over the training items, so that a learning rate means the same with and without them.
    """
    counts = torch.tensor(space.counts, dtype=torch.float32).clamp_min(1.0)
    weight, prior = torch.ones(len(counts)), torch.zeros(len(counts))
    if space.task == "labels":
        others = (space.items - counts).clamp_min(1.0)
        if balance == "weighted":
            weight = others / counts
        elif balance == "logit_adjusted":
            prior = (counts / others).log()
        return weight, prior
    for group in space.groups.values():
        places = list(group)
        if balance == "weighted":
            weight[places] = space.items / (len(places) * counts[places])
        elif balance == "logit_adjusted":
            prior[places] = (counts[places] / space.items).log()
    return weight, prior


def _cross_entropy(
    logits: Tensor,
    targets: Tensor,
    space: LabelSpace,
    weight: Tensor | None,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of each item, (batch,), the mean over its groups or labels; ignored targets cost nothing."""
    if space.task == "labels":
        return functional.binary_cross_entropy_with_logits(
            logits,
            targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2,
            pos_weight=weight,
            reduction="none",
        ).mean(dim=1)
    losses = []
    for column, group in enumerate(space.groups.values()):
        places = list(group)
        losses.append(
            functional.cross_entropy(
                logits[:, places],
                targets[:, column],
                weight=None if weight is None else weight[places],
                ignore_index=IGNORED,
                reduction="none",
                label_smoothing=smoothing,
            )
        )
    return torch.stack(losses, dim=1).mean(dim=1)


def _probabilities(logits: Tensor, space: LabelSpace) -> Tensor:
    if space.task == "labels":
        return logits.sigmoid()
    # The groups follow one another in the outputs.
    return torch.cat([logits[:, list(group)].softmax(dim=1) for group in space.groups.values()], 1)


def _confidence(probabilities: Tensor, space: LabelSpace) -> Tensor:
    """Return the probability that the whole answer is right, (batch,), its parts taken as independent."""
    if space.task == "labels":
        return torch.maximum(probabilities, 1 - probabilities).prod(dim=1)
    parts = [probabilities[:, list(group)].amax(dim=1) for group in space.groups.values()]
    return torch.stack(parts, dim=1).prod(dim=1)


def _chosen(logits: Tensor, space: LabelSpace) -> Tensor:
    """Return the answer in the form of `LabelSpace.targets`."""
    if space.task == "labels":
        return (logits > 0).to(torch.float32)
    groups = space.groups.values()
    return torch.stack([logits[:, list(group)].argmax(dim=1) for group in groups], dim=1)


def _parts(answers: Sequence[Answer]) -> list[list[str]]:
    """Return sets of labels, or slots as ``slot=value``."""
    return [
        [f"{slot}={value}" for slot, value in answer.items()]
        if isinstance(answer, dict)
        else list(answer)
        for answer in answers
    ]


@register_head("intent")
class IntentHead(ClassificationHead):
    """What a turn is about, or with ``task: slots`` what was asked for; the label is `intent`, or as `label` says."""


@register_head("sentiment")
class SentimentHead(ClassificationHead):
    """How a turn or a call sounds; the label is `sentiment`, or as `label` says (`emotion`, `satisfaction`)."""
