"""`python -m ssl.probe`: compare what frozen backbones, untrained ones and MFCC know about a label."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from encoder import Backbone, Context
    from ssl.pooled import Extractor, Pooled
    from ssl.probing import LabelledCuts, Row
    from trunkline.manifest import Cut, Manifest

SPLITS = ("train", "dev", "test")
HEADS = {"linear": ("linear", "weighted"), "mlp": ("mlp",), "both": ("linear", "weighted", "mlp")}
MFCC_RATE = 8000
MAX_DRAWS = 20


class Readable(NamedTuple):
    """What reading the cuts met: those left out with their faults, and how many were padded or cropped."""

    left_out: list[str]
    short: int
    cropped: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_probe, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ssl.probe",
        description="Train small classifiers on frozen features of every layer and score them on test. "
        "The learning rate, the step and the layer are chosen on dev, never on test.",
        epilog="example: python -m ssl.probe --backbone runs/small/backbone --backbone random:small "
        "--backbone mfcc --manifest commands.jsonl --label intent",
    )
    option = parser.add_argument
    option(
        "--backbone",
        action="append",
        required=True,
        help="a backbone directory; 'random:PRESET' or 'random:DIR' (same shape, untrained), with @SEED if wanted, "
        "or the mean of several as @FIRST-LAST; 'mfcc', with @HZ if wanted. Repeat to compare: the first against "
        "the others",
    )
    option("--manifest", required=True, help="labelled manifest or its folder")
    option("--label", required=True, help="a key of the manifest's rows or of their 'labels'")
    option("--train-split", default="train", metavar="NAME")
    option(
        "--dev-split", metavar="NAME", help="default: dev, or 15 %% of train where there is none"
    )
    option("--test-split", default="test", metavar="NAME")
    option(
        "--folds",
        type=int,
        default=0,
        metavar="N",
        help="instead of splits: deal all speakers (or calls, or cuts) into N parts and test each once",
    )
    option(
        "--rotate",
        type=int,
        default=0,
        metavar="N",
        help="deal the speakers (or calls, or cuts) of train and dev into N parts: each is dev once, all choose the "
        "layer, and the N classifiers answer together; where dev has few speakers",
    )
    option(
        "--relative-to-voice",
        action="store_true",
        help="take out of every vector what its voice (speaker, or call and channel) has in all its cuts; no label is "
        "looked at",
    )
    option(
        "--context", default="full", help="'full', or chunk,left,right in frames of 80 ms: 8,40,0"
    )
    option("--pooling", default="mean+std", choices=("mean", "mean+std"))
    option("--head", default="both", choices=tuple(HEADS))
    option("--seed", type=int, default=0)
    option("--device", default="cpu", help="where backbones run: cpu, cuda, ...")
    option("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    return parser


def _probe(arguments: argparse.Namespace) -> Summary:
    from encoder import Context
    from ssl.pooled import extract
    from trunkline.checkpoint import write_json
    from trunkline.manifest import load_manifest

    context = Context.parse(arguments.context)
    if len(set(arguments.backbone)) < len(arguments.backbone):
        raise UsageError("A --backbone is given twice; each is compared with the first.")
    folds = _of_voices(_folds(load_manifest(arguments.manifest), arguments), arguments)
    rotations = [_rotations(fold, arguments) for fold in folds]
    cuts = [cut for part in (folds[0].train, folds[0].dev, folds[0].test) for cut in part]
    draws = {name: _draws(name, arguments.seed) for name in arguments.backbone}
    extractors = {
        draw: _extractor(draw, folds[0].train, context, arguments)
        for drawn in draws.values()
        for draw in drawn
    }
    readable = Readable([], 0, 0)
    rows: dict[str, list[list[Row]]] = {}
    for name, extractor in extractors.items():
        features = extract(extractor, cuts, description=name)
        readable = Readable(
            [*readable.left_out, *features.faults], features.short, features.cropped
        )
        # What cannot be read is asked of no other backbone: they are compared cut by cut.
        cuts = features.cuts
        rows[name] = _answered(rotations, features, extractor.layers, arguments)
    folds = [
        _there(fold, cuts)._replace(notes=several[0].notes)
        for fold, several in zip(folds, rotations, strict=True)
    ]
    found = {name: [rows[draw] for draw in drawn] for name, drawn in draws.items()}
    report = _about(arguments, folds, readable) | {"tables": _tables(folds, found)}
    if arguments.out:
        write_json(arguments.out, report)
    return report


def _folds(manifest: Manifest, arguments: argparse.Namespace) -> list[LabelledCuts]:
    """Return the manifest's splits, or the folds that were asked for."""
    from ssl.folds import folded_cuts
    from ssl.probing import labelled_cuts

    if arguments.folds:
        return folded_cuts(manifest, arguments.label, arguments.folds, seed=arguments.seed)
    splits = {name: getattr(arguments, f"{name}_split") for name in SPLITS}
    return [labelled_cuts(manifest, arguments.label, **splits, seed=arguments.seed)]


def _of_voices(folds: list[LabelledCuts], arguments: argparse.Namespace) -> list[LabelledCuts]:
    """Return the folds, with a remark on how many voices there are where vectors are to be relative to them."""
    from ssl.voices import known_voices

    if not arguments.relative_to_voice:
        return folds
    cuts = [cut for split in SPLITS for cut in getattr(folds[0], split)]
    voices = known_voices(cuts, arguments.label)
    note = f"Vectors are relative to their voices, of which {voices} have several cuts."
    return [fold._replace(notes=[*fold.notes, note]) for fold in folds]


def _there(fold: LabelledCuts, cuts: list[Cut]) -> LabelledCuts:
    """Return what of a fold is among the cuts."""
    there = {id(cut) for cut in cuts}
    parts = {split: [cut for cut in getattr(fold, split) if id(cut) in there] for split in SPLITS}
    return fold._replace(**parts)


def _rotations(fold: LabelledCuts, arguments: argparse.Namespace) -> list[LabelledCuts]:
    """Return a fold as it is, or with every part of train and dev as dev."""
    from ssl.folds import rotated_cuts

    return rotated_cuts(fold, arguments.rotate, seed=arguments.seed) if arguments.rotate else [fold]


def _answered(
    folds: list[list[LabelledCuts]],
    features: Pooled,
    layers: tuple[str, ...],
    arguments: argparse.Namespace,
) -> list[list[Row]]:
    """Return the rows of each fold, which its rotations answer together."""
    from ssl.folds import answered_together, picked
    from ssl.probing import probe
    from ssl.voices import relative_to_voices

    answered = []
    for rotations in folds:
        parts = [
            {split: picked(features, getattr(cuts, split)) for split in SPLITS}
            for cuts in rotations
        ]
        if arguments.relative_to_voice:
            parts = [relative_to_voices(part) for part in parts]
        label, tested = rotations[0].label, parts[0]["test"].cuts
        rows = [
            probe(part, label, layers, heads=HEADS[arguments.head], seed=arguments.seed)
            for part in parts
        ]
        answered.append(
            [answered_together(several, tested, label) for several in zip(*rows, strict=True)]
        )
    return answered


def _draws(name: str, seed: int) -> list[str]:
    """Return the names of the single backbones that a --backbone stands for: several of random:...@FIRST-LAST."""
    kind, _, after = name.partition("@")
    if not kind.startswith("random:"):
        return [name]
    first, several, last = after.partition("-")
    start = _number(first, name, seed)
    end = _number(last, name, start)
    if several and not (first and last and start < end < start + MAX_DRAWS):
        raise UsageError(
            f"--backbone {name}: what follows @ must be a seed, or two as FIRST-LAST, of {MAX_DRAWS} draws at most."
        )
    return [f"{kind}@{number}" for number in range(start, end + 1)]


def _extractor(
    name: str, train: list[Cut], context: Context, arguments: argparse.Namespace
) -> Extractor:
    """Return the features that a --backbone names."""
    from encoder import load_backbone
    from ssl.pooled import BackboneFeatures, MfccFeatures

    kind, _, after = name.partition("@")
    if kind == "mfcc":
        return MfccFeatures(_number(after, name, MFCC_RATE), pooling=arguments.pooling)
    if kind.startswith("random:"):
        seed = _number(after, name, arguments.seed)
        backbone = _untrained(kind.removeprefix("random:"), seed, train)
    else:
        backbone = load_backbone(name)
    return BackboneFeatures(
        backbone.to(arguments.device), context=context, pooling=arguments.pooling
    )


def _untrained(source: str, seed: int, train: list[Cut]) -> Backbone:
    """Return a backbone of a preset, or of a directory's shape and normalisation, as initialised."""
    import torch

    from encoder import Backbone, BackboneConfig, load_backbone
    from ssl.pooled import normalise_by

    trained = load_backbone(source) if Path(source).is_dir() else None
    config = trained.config if trained else BackboneConfig.preset(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(config)
    if trained:
        backbone.feature_mean.copy_(trained.feature_mean)
        backbone.feature_scale.copy_(trained.feature_scale)
    else:
        normalise_by(backbone, train)
    return backbone


def _number(text: str, name: str, default: int) -> int:
    if text and not text.isdecimal():
        raise UsageError(f"--backbone {name}: what follows @ must be a whole number, not {text!r}.")
    return int(text) if text else default


def _about(
    arguments: argparse.Namespace,
    folds: list[LabelledCuts],
    readable: Readable,
) -> Summary:
    from ssl.probing import classes_of
    from trunkline.metrics import majority_accuracy

    label = arguments.label
    train, test = classes_of(folds[0].train, label), classes_of(_tested(folds), label)
    about: Summary = {
        "manifest": arguments.manifest,
        "label": label,
        "classes": len(set(train)),
        "context": arguments.context,
        "pooling": arguments.pooling,
        "majority_accuracy": majority_accuracy(train, test),
    }
    if len(folds) > 1:
        about |= {"folds": len(folds), "test_cuts": len(test)}
    else:
        about |= {f"{split}_cuts": len(getattr(folds[0], split)) for split in SPLITS}
    if arguments.rotate:
        about["rotations"] = arguments.rotate
    return about | {
        "padded_to_one_frame": readable.short,
        "cropped_to_60_s": readable.cropped,
        "left_out": readable.left_out,
        "notes": folds[0].notes,
    }


def _tested(folds: list[LabelledCuts]) -> list[Cut]:
    """Return the test cuts, one fold after the other."""
    return [cut for fold in folds for cut in fold.test]


def _tables(
    folds: list[LabelledCuts], found: dict[str, list[list[list[Row]]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return what dev prefers of each backbone and head, the comparison with the first, all rows.

    `found` has the rows of every draw of a backbone and fold; dev chooses for each draw and fold by itself.
    """
    from ssl.probing import groups_of
    from trunkline.metrics import paired_difference

    first, label, tested = next(iter(found)), folds[0].label, _tested(folds)
    heads = list(dict.fromkeys(row.head for draws in found.values() for row in draws[0][0]))
    preferred, compared = [], []
    for head in (*heads, "any") if len(heads) > 1 else heads:
        chosen = {
            name: row
            for name, draws in found.items()
            if (row := _preferred(draws, head, tested, label)) is not None
        }
        preferred += [
            {"backbone": name, "among": head} | _cells(row) for name, row in chosen.items()
        ]
        for name, row in chosen.items():
            if name == first or first not in chosen:
                continue
            groups, unit = groups_of(tested, label)
            result = paired_difference(chosen[first].correct, row.correct, groups, unit=unit)
            compared.append({"backbone": first, "against": name, "head": head} | result._asdict())
    tables = {"Layer chosen on dev": preferred}
    if compared:
        tables["Paired comparison (difference of accuracies, 95 % interval)"] = compared
    return tables | {
        f"All layers of {name}": [_cells(row) for row in _layers(draws, tested, label)]
        for name, draws in found.items()
    }


def _preferred(draws: list[list[list[Row]]], head: str, cuts: list[Cut], label: str) -> Row | None:
    """Return what dev prefers among the rows of a head (or "any"), over all folds, as the mean of the draws."""
    from ssl.folds import joined
    from ssl.probing import best, mean_of_draws

    among = [
        [[row for row in rows if head in (row.head, "any")] for rows in folds] for folds in draws
    ]
    if not all(rows for folds in among for rows in folds):
        return None
    whole = [joined([best(rows) for rows in folds], cuts, label) for folds in among]
    return mean_of_draws(whole, cuts, label)


def _layers(draws: list[list[list[Row]]], cuts: list[Cut], label: str) -> list[Row]:
    """Return every head and layer, over all folds, each as the mean of the draws."""
    from ssl.folds import joined
    from ssl.probing import mean_of_draws

    whole = [[joined(rows, cuts, label) for rows in zip(*folds, strict=True)] for folds in draws]
    return [mean_of_draws(rows, cuts, label) for rows in zip(*whole, strict=True)]


def _cells(row: Row) -> dict[str, Any]:
    return {
        "head": row.head,
        "layer": row.layer,
        "learning_rate": row.learning_rate,
        "weight_decay": row.weight_decay,
        "dev_accuracy": row.dev_accuracy,
        "accuracy": row.accuracy,
        "low": row.interval.low,
        "high": row.interval.high,
        "over": f"{row.interval.groups} {row.interval.unit}s",
        "macro_f1": row.macro_f1,
        "uar": row.uar,
    } | (
        {
            "draws": len(row.accuracies),
            "lowest": min(row.accuracies),
            "highest": max(row.accuracies),
        }
        if row.accuracies
        else {}
    )


if __name__ == "__main__":
    raise SystemExit(main())
