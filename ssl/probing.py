"""What frozen features know: small classifiers on pooled vectors, scored with their doubt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from encoder import Backbone, Context
from ssl.classifiers import Examples, Fit, HeadName, fit
from ssl.pooled import BackboneFeatures, Pooled, extract
from trunkline.errors import DataError, UsageError, nearest
from trunkline.manifest import Cut, Manifest
from trunkline.metrics import Interval, accuracy, bootstrap_groups, interval, macro_f1, uar

CARVED_FRACTION = 0.15
MIN_GROUPS_TO_CARVE = 7
"""With fewer speakers, one set aside would be missed in train."""


class LabelledCuts(NamedTuple):
    """Cuts that have the label, by split, and remarks on how they were chosen."""

    label: str
    train: list[Cut]
    dev: list[Cut]
    test: list[Cut]
    notes: list[str]


@dataclass(frozen=True)
class Row:
    """The score on test of one classifier, or the mean of one for each draw, chosen without looking at test."""

    layer: str
    head: str
    learning_rate: float | None
    weight_decay: float | None
    dev_accuracy: float
    dev_loss: float
    accuracy: float
    macro_f1: float
    uar: float
    interval: Interval
    correct: np.ndarray
    """(cuts,) whether each answer is right, in the order of the test cuts, for paired comparisons; (draws, cuts) of
    several draws."""
    answers: tuple[str, ...] = ()
    """The classes that were told, of one draw."""
    classes: tuple[str, ...] = ()
    """Those that could be told."""
    probabilities: np.ndarray | None = None
    """(cuts, classes) of one classifier, or the mean of several."""
    accuracies: tuple[float, ...] = ()
    """Of each draw, where there are several."""


def labelled_cuts(
    manifest: Manifest,
    label: str,
    *,
    train: str = "train",
    dev: str | None = None,
    test: str = "test",
    seed: int = 0,
) -> LabelledCuts:
    """Sort the cuts that have `label` into splits.

    Without `dev` the split "dev" is taken if there is one, else 15 % of train, by speaker where
    there are enough. Where no cut names a split, test is drawn in the same way.

    Raises:
        UsageError: no cut has the label, or none of a split that was named.
        DataError: train has one class, or not even two cuts for a class.
    """
    labelled, notes = with_label(manifest, label)
    splits: dict[str, list[Cut]] = {}
    for cut in labelled:
        splits.setdefault(cut.split or "", []).append(cut)
    if splits.keys() == {""}:
        splits[train], splits[test], how = _carve(splits.pop(""), label, seed)
        notes.append(f"No cut names its split: {len(splits[test])} serve as test, {how}.")
    for name in (train, test, dev or train):
        if name not in splits:
            raise UsageError(
                f"{manifest.path} has no cut with {label!r} in split {name!r}."
                f"{nearest(name, splits)}"
            )
    if not (dev_cuts := splits.get(dev or "dev", [])):
        splits[train], dev_cuts, how = _carve(splits[train], label, seed)
        notes.append(f"There is no dev split: {len(dev_cuts)} cuts of {train} serve, {how}.")
    classes = set(classes_of(splits[train], label))
    if len(classes) < 2 or len(splits[train]) < 2 * len(classes):
        raise DataError(
            f"{manifest.path}: {label!r} has {len(classes)} classes in {len(splits[train])} cuts "
            "of train; a probe needs at least two classes, with two cuts each."
        )
    if unseen := set(classes_of(splits[test], label)) - classes:
        notes.append(f"Not in train, so never answered: {', '.join(sorted(unseen)[:10])}.")
    return LabelledCuts(label, splits[train], dev_cuts, splits[test], notes)


def with_label(manifest: Manifest, label: str) -> tuple[list[Cut], list[str]]:
    """Return the cuts that have a label, and a remark where others have not.

    Raises:
        UsageError: no cut has it.
    """
    labelled = [cut for cut in manifest if cut.label(label) is not None]
    if not labelled:
        known = {name for cut in manifest for name in (*cut.labels, *cut.extra)} | {"speaker"}
        raise UsageError(f"{manifest.path} has no label {label!r}.{nearest(label, known)}")
    missing = len(manifest) - len(labelled)
    remark = f"{missing} of {len(manifest)} cuts have no {label!r} and are left out."
    return labelled, [remark] if missing else []


def classes_of(cuts: Sequence[Cut], label: str) -> list[str]:
    """Return the class of each cut; numbers and truth values are classes by their text."""
    return [str(cut.label(label)) for cut in cuts]


def groups_of(cuts: Sequence[Cut], label: str) -> tuple[list[str | None], str]:
    """Return by what to group cuts for `trunkline.metrics`, and its name: speaker, call or cut."""
    if label == "speaker":
        return [None] * len(cuts), "cut"
    return bootstrap_groups([cut.speaker for cut in cuts], [cut.call_id for cut in cuts])


def _carve(cuts: list[Cut], label: str, seed: int) -> tuple[list[Cut], list[Cut], str]:
    """Return the rest, the part set aside, and how it was drawn."""
    names, unit = groups_of(cuts, label)
    if len(set(names) - {None}) < MIN_GROUPS_TO_CARVE:
        names, unit = [None] * len(cuts), "cut"
    keys = [
        f"#{cut.id}" if name is None else f"={name}" for cut, name in zip(cuts, names, strict=True)
    ]
    order = sorted(set(keys))
    np.random.default_rng(seed).shuffle(order)
    sizes = np.cumsum([keys.count(key) for key in order])
    chosen = set(order[: int(np.searchsorted(sizes, CARVED_FRACTION * len(cuts))) + 1])
    apart = [key in chosen for key in keys]
    rest = [cut for cut, taken in zip(cuts, apart, strict=True) if not taken]
    return (
        rest,
        [cut for cut, taken in zip(cuts, apart, strict=True) if taken],
        f"drawn {unit} by {unit}",
    )


def probe(
    features: Mapping[str, Pooled],
    label: str,
    layers: Sequence[str],
    *,
    heads: Iterable[HeadName] = ("linear", "weighted", "mlp"),
    seed: int = 0,
) -> list[Row]:
    """Fit classifiers on train, choose their settings on dev, and score them on test.

    Args:
        features: pooled cuts of "train", "dev" and "test".
        label: which label of the cuts to learn.
        layers: names of the layers, as in `Extractor.layers`.
        heads: "weighted" (a softmax over layers) is left out where there is one layer only.

    Returns:
        One row per head and layer; `best` says which one dev prefers.
    """
    train, dev, test = (features[name] for name in ("train", "dev", "test"))
    names = sorted(set(classes_of(train.cuts, label)))
    number = {name: index for index, name in enumerate(names)}
    mean, deviation = train.vectors.mean(dim=0), train.vectors.std(dim=0, unbiased=False)

    def examples(part: Pooled) -> Examples:
        vectors = (part.vectors - mean) / deviation.clamp_min(1e-5)
        # A class that train has not is -1: no answer equals it.
        targets = [number.get(name, -1) for name in classes_of(part.cuts, label)]
        return Examples(vectors.transpose(0, 1).contiguous(), torch.tensor(targets))

    fitted, chooser, scored = examples(train), examples(dev), examples(test)
    chooser = Examples(
        chooser.vectors[:, chooser.targets >= 0], chooser.targets[chooser.targets >= 0]
    )
    rows = []
    for head in heads:
        if head == "weighted" and len(layers) == 1:
            continue
        fits = fit(head, fitted, chooser, scored.vectors, len(names), seed)
        for layer, result in zip(("all",) if head == "weighted" else layers, fits, strict=True):
            rows.append(_row(layer, head, result, names, test.cuts, label, seed))
    return rows


def _row(
    layer: str,
    head: HeadName,
    fitted: Fit,
    names: list[str],
    cuts: list[Cut],
    label: str,
    seed: int,
) -> Row:
    probabilities = fitted.probabilities.numpy()
    answers = [names[index] for index in probabilities.argmax(axis=1)]
    return Row(
        layer,
        head,
        *fitted.setting,
        fitted.dev_accuracy,
        fitted.dev_loss,
        **scored(answers, cuts, label, seed),
        classes=tuple(names),
        probabilities=probabilities,
    )


def scored(
    answers: Sequence[str], cuts: Sequence[Cut], label: str, seed: int = 0
) -> dict[str, Any]:
    """Return what a row holds of the answers to test cuts: accuracy, macro F1, UAR, interval, what is right."""
    reference = classes_of(cuts, label)
    correct = np.array(reference) == np.array(answers)
    groups, unit = groups_of(cuts, label)
    return {
        "accuracy": accuracy(reference, answers),
        "macro_f1": macro_f1(reference, answers),
        "uar": uar(reference, answers),
        "interval": interval(correct, groups, unit=unit, seed=seed),
        "correct": correct,
        "answers": tuple(answers),
    }


def best(rows: Iterable[Row]) -> Row:
    """Return the row that dev prefers; test has no say."""
    return min(rows, key=lambda row: (-row.dev_accuracy, row.dev_loss))


def common(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what is chosen of a row (layer, head, setting), as far as the rows agree on it."""

    def shared(name: str, otherwise: Any) -> Any:
        values = {getattr(row, name) for row in rows}
        return values.pop() if len(values) == 1 else otherwise

    return {
        "layer": shared("layer", "various"),
        "head": shared("head", "various"),
        "learning_rate": shared("learning_rate", None),
        "weight_decay": shared("weight_decay", None),
    }


def mean_of_draws(rows: Sequence[Row], cuts: Sequence[Cut], label: str, seed: int = 0) -> Row:
    """Return the mean of one row for each draw of an untrained backbone; of one draw, the row itself.

    Its interval, and comparisons with it, are those of untrained backbones in general: draws are resampled beside
    cuts.
    """
    if len(rows) == 1:
        return rows[0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    correct = np.stack([row.correct for row in rows])
    groups, unit = groups_of(cuts, label)
    return Row(
        **common(rows),
        dev_accuracy=mean("dev_accuracy"),
        dev_loss=mean("dev_loss"),
        accuracy=mean("accuracy"),
        macro_f1=mean("macro_f1"),
        uar=mean("uar"),
        interval=interval(correct, groups, unit=unit, seed=seed),
        correct=correct,
        accuracies=tuple(row.accuracy for row in rows),
    )


def quick_probe(
    backbone: Backbone, manifest: Manifest, label: str, *, context: Context = Context.full()
) -> float:
    """Return the test accuracy of linear probes on a frozen backbone, layer chosen on dev."""
    cuts = labelled_cuts(manifest, label)
    extractor = BackboneFeatures(backbone, context=context)
    features = {name: extract(extractor, getattr(cuts, name)) for name in ("train", "dev", "test")}
    return best(probe(features, label, extractor.layers, heads=("linear",))).accuracy
