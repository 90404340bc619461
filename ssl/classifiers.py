"""Small classifiers on pooled vectors, fitted for every layer and every learning rate at once.

What a probe measures depends on its learning rate more than on the encoder (s3prl issue 268:
speaker accuracy on HuBERT is 0.67 at 1e-4 and 0.81 at 1e-1), so none is fitted with one rate: a
grid of settings is trained side by side, as one batched product, and dev chooses.
"""

from __future__ import annotations

import copy
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
AVERAGING = 0.05
"""Dev judges a running mean of the weights, to which each step adds this share: single steps at
high rates bounce, and choosing the luckiest of them overfits dev."""


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
    """The best setting of one layer by dev, and what it makes of the test vectors: `probabilities` (cuts, classes)."""

    setting: Setting
    dev_accuracy: float
    dev_loss: float
    probabilities: Tensor


class Classifiers(nn.Module):
    """Independent classifiers for each layer and each setting of the grid.

    "linear" and "mlp" (one hidden layer) read one layer each; "weighted" is linear on a learned
    softmax over all layers, one output in all. Every parameter is (outputs, settings, ..., ...).
    """

    def __init__(self, head: HeadName, layers: int, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.head = head
        self.grid = MLP_GRID if head == "mlp" else LINEAR_GRID
        outputs, settings = 1 if head == "weighted" else layers, len(self.grid)
        if head == "mlp":
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(outputs, 1, width, HIDDEN, generator=generator) * width**-0.5
            self.hidden = nn.Parameter(noise.repeat(1, settings, 1, 1))
            self.hidden_bias = nn.Parameter(torch.zeros(outputs, settings, 1, HIDDEN))
            width = HIDDEN
        if head == "weighted":
            self.mixing = nn.Parameter(torch.zeros(1, settings, layers, 1))
        # Classes start at zero: no probe begins with an opinion.
        self.classes = nn.Parameter(torch.zeros(outputs, settings, width, classes))
        self.classes_bias = nn.Parameter(torch.zeros(outputs, settings, 1, classes))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (layers, cuts, width) to logits (outputs, settings, cuts, classes)."""
        if self.head == "linear":
            return torch.einsum("lnd,lsdc->lsnc", vectors, self.classes) + self.classes_bias
        if self.head == "mlp":
            hidden = torch.einsum("lnd,lsdh->lsnh", vectors, self.hidden) + self.hidden_bias
            return hidden.relu() @ self.classes + self.classes_bias
        mixed = torch.einsum("slo,lnd->osnd", self.mixing[0].softmax(dim=1), vectors)
        return mixed @ self.classes + self.classes_bias


class AdamW:
    """torch.optim.AdamW with a rate and a decay for each setting, which a stacked tensor needs."""

    def __init__(self, model: Classifiers) -> None:
        self.parameters = list(model.parameters())
        self.first = [torch.zeros_like(value) for value in self.parameters]
        self.second = [torch.zeros_like(value) for value in self.parameters]
        self.rate, self.decay = torch.tensor(model.grid).T[:, :, None, None]
        self.steps = 0

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Differentiate the loss and update every parameter."""
        self.steps += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        for value, gradient, first, second in zip(
            self.parameters, gradients, self.first, self.second, strict=True
        ):
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            deviation = (second / (1 - 0.999**self.steps)).sqrt() + 1e-8
            value -= self.rate * (first / (1 - 0.9**self.steps) / deviation + self.decay * value)


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
    optimiser, average = AdamW(model), copy.deepcopy(model)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    best_loss, best_accuracy = _evaluate(model, dev)
    waited = 0
    for step, batch in enumerate(_batches(cuts, seed), start=1):
        optimiser.step(_losses(model(train.vectors[:, batch]), train.targets[batch]).sum())
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(value.data, AVERAGING)
        if step % EVALUATE_EVERY:
            continue
        loss, accuracy = _evaluate(average, dev)
        better = (accuracy > best_accuracy) | ((accuracy == best_accuracy) & (loss < best_loss))
        best_loss = torch.where(better, loss, best_loss)
        best_accuracy = torch.where(better, accuracy, best_accuracy)
        for name, value in average.state_dict().items():
            best[name] = torch.where(better[:, :, None, None], value, best[name])
        waited = 0 if bool(better.any()) else waited + 1
        if waited == PATIENCE or step >= MAX_STEPS:
            break
    model.load_state_dict(best)
    with torch.no_grad():
        probabilities = model(test).softmax(dim=-1)
    fits = []
    for output, (accuracies, losses) in enumerate(zip(best_accuracy, best_loss, strict=True)):
        chosen = min(
            range(len(model.grid)), key=lambda k: (-float(accuracies[k]), float(losses[k]))
        )
        scores = float(accuracies[chosen]), float(losses[chosen])
        fits.append(Fit(model.grid[chosen], *scores, probabilities[output, chosen]))
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
