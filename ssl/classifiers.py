"""Small classifiers on pooled vectors, fitted for every layer and every learning rate at once.

What a probe measures depends on its learning rate more than on the encoder (s3prl issue 268:
speaker accuracy on HuBERT is 0.67 at 1e-4 and 0.81 at 1e-1), so none is fitted with one rate: a
grid of settings is trained side by side, as one batched product, and dev chooses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

HeadName: TypeAlias = Literal["linear", "weighted", "mlp"]

HIDDEN = 64
BATCH = 256
MAX_STEPS = 400
EVALUATE_EVERY = 10
PATIENCE = 8
"""Fitting ends after so many evaluations in which no setting of any layer did better on dev."""


class Setting(NamedTuple):
    """One point of the search."""

    learning_rate: float
    weight_decay: float


LEARNING_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
LINEAR_GRID = tuple(itertools.starmap(Setting, itertools.product(LEARNING_RATES, (0.0, 1.0))))
MLP_GRID = tuple(Setting(rate, 1.0) for rate in LEARNING_RATES)
"""Half the grid: the hidden layer takes most of the time, and dev preferred the decay."""


class Examples(NamedTuple):
    """Standardised pooled vectors (layers, cuts, width), and class numbers (cuts,)."""

    vectors: Tensor
    targets: Tensor


class Fit(NamedTuple):
    """The best setting of one layer by dev; `answers` are its classes (cuts,) of the test vectors."""

    setting: Setting
    dev_accuracy: float
    dev_loss: float
    answers: Tensor


class Classifiers(nn.Module):
    """Independent classifiers for each layer and each setting of the grid.

    "linear" and "mlp" (one hidden layer) read one layer each; "weighted" is linear on a learned
    softmax over all layers, one output in all. Every parameter of a setting has three dimensions,
    the first of which counts the outputs.
    """

    def __init__(self, head: HeadName, layers: int, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.grid = MLP_GRID if head == "mlp" else LINEAR_GRID
        outputs = 1 if head == "weighted" else layers
        start = {}
        if head == "mlp":
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(outputs, width, HIDDEN, generator=generator)
            start["hidden"] = noise * width**-0.5
            start["hidden_bias"] = torch.zeros(outputs, 1, HIDDEN)
        if head == "weighted":
            start["mixing"] = torch.zeros(1, layers, 1)
        # Classes start at zero: no probe begins with an opinion.
        start["classes"] = torch.zeros(outputs, HIDDEN if head == "mlp" else width, classes)
        start["classes_bias"] = torch.zeros(outputs, 1, classes)
        self.head = head
        self.settings = nn.ModuleList(
            nn.ParameterDict({name: value.clone() for name, value in start.items()})
            for _ in self.grid
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (layers, cuts, width) to logits (outputs, settings, cuts, classes)."""
        if self.head == "mlp":
            hidden = torch.einsum("lnd,lsdh->lsnh", vectors, self._stacked("hidden"))
            hidden = (hidden + self._stacked("hidden_bias")).relu()
            return hidden @ self._stacked("classes") + self._stacked("classes_bias")
        equation = "lnd,lsdc->lsnc"
        if self.head == "weighted":
            weights = self._stacked("mixing")[0, :, :, 0].softmax(dim=1)
            vectors = torch.einsum("sl,lnd->snd", weights, vectors)
            equation = "snd,osdc->osnc"
        logits = torch.einsum(equation, vectors, self._stacked("classes"))
        return logits + self._stacked("classes_bias")

    def _stacked(self, name: str) -> Tensor:
        return torch.stack([parameters[name] for parameters in self.settings], dim=1)


def fit(
    head: HeadName, train: Examples, dev: Examples, test: Tensor, classes: int, seed: int
) -> list[Fit]:
    """Fit one classifier per layer (one in all for "weighted"); dev chooses its setting and step.

    The choice is by dev accuracy, then loss: by loss alone, unseen speakers (on whom a classifier
    is over-confident long before it is at its best) would stop it far too early.

    Args:
        head: see `Classifiers`.
        train: fitted on with AdamW, in batches of `BATCH`.
        dev: scored every `EVALUATE_EVERY` steps.
        test: vectors (layers, cuts, width) to classify at the end.
        classes: number of classes.
        seed: of the hidden layer's first weights and of the order of batches.
    """
    layers, cuts, width = train.vectors.shape
    model = Classifiers(head, layers, width, classes, seed)
    optimiser = torch.optim.AdamW(
        {"params": list(parameters.values()), "lr": rate, "weight_decay": decay}
        for parameters, (rate, decay) in zip(model.settings, model.grid, strict=True)
    )
    best = {name: value.clone() for name, value in model.state_dict().items()}
    best_loss, best_accuracy = _evaluate(model, dev)
    waited = 0
    for step, batch in enumerate(_batches(cuts, seed), start=1):
        loss = _losses(model(train.vectors[:, batch]), train.targets[batch]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % EVALUATE_EVERY:
            continue
        loss, accuracy = _evaluate(model, dev)
        better = (accuracy > best_accuracy) | ((accuracy == best_accuracy) & (loss < best_loss))
        best_loss = torch.where(better, loss, best_loss)
        best_accuracy = torch.where(better, accuracy, best_accuracy)
        _keep(best, model, better)
        waited = 0 if bool(better.any()) else waited + 1
        if waited == PATIENCE or step >= MAX_STEPS:
            break
    model.load_state_dict(best)
    with torch.no_grad():
        answers = model(test).argmax(dim=-1)
    fits = []
    for output, (accuracies, losses) in enumerate(zip(best_accuracy, best_loss, strict=True)):
        chosen = min(
            range(len(model.grid)), key=lambda k: (-float(accuracies[k]), float(losses[k]))
        )
        scores = float(accuracies[chosen]), float(losses[chosen])
        fits.append(Fit(model.grid[chosen], *scores, answers[output, chosen]))
    return fits


def _batches(cuts: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of indices for ever, each pass in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(cuts, generator=generator).split(BATCH)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of each classifier, (outputs, settings)."""
    outputs, settings, cuts, classes = logits.shape
    repeated = targets.expand(outputs, settings, cuts).reshape(-1)
    losses = functional.cross_entropy(logits.reshape(-1, classes), repeated, reduction="none")
    return losses.view(outputs, settings, cuts).mean(dim=2)


@torch.no_grad()
def _evaluate(model: Classifiers, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of each classifier, both (outputs, settings)."""
    logits = model(examples.vectors)
    correct = logits.argmax(dim=-1) == examples.targets
    return _losses(logits, examples.targets), correct.float().mean(dim=-1)


def _keep(best: dict[str, Tensor], model: Classifiers, better: Tensor) -> None:
    """Copy the parameters of those classifiers (outputs, settings) that became better."""
    for number, parameters in enumerate(model.settings):
        for name, value in parameters.items():
            key = f"settings.{number}.{name}"
            best[key] = torch.where(better[:, number, None, None], value.detach(), best[key])
