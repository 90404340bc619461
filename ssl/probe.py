"""`python -m ssl.probe`: compare what frozen backbones, untrained ones and MFCC know about a label."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from encoder import Backbone, Context
    from ssl.pooled import Extractor, Pooled
    from ssl.probing import LabelledCuts, Row

SPLITS = ("train", "dev", "test")
HEADS = {"linear": ("linear", "weighted"), "mlp": ("mlp",), "both": ("linear", "weighted", "mlp")}
MFCC_RATE = 8000
MAX_DRAWS = 20


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
    from ssl.probing import labelled_cuts, probe
    from trunkline.checkpoint import write_json
    from trunkline.manifest import load_manifest

    context = Context.parse(arguments.context)
    if len(set(arguments.backbone)) < len(arguments.backbone):
        raise UsageError("A --backbone is given twice; each is compared with the first.")
    cuts = labelled_cuts(
        load_manifest(arguments.manifest),
        arguments.label,
        train=arguments.train_split,
        dev=arguments.dev_split,
        test=arguments.test_split,
        seed=arguments.seed,
    )
    draws = {name: _draws(name, arguments.seed) for name in arguments.backbone}
    extractors = {
        draw: _extractor(draw, cuts, context, arguments)
        for drawn in draws.values()
        for draw in drawn
    }
    heads, left_out = HEADS[arguments.head], []
    rows: dict[str, list[Row]] = {}
    features: dict[str, Pooled] = {}
    for name, extractor in extractors.items():
        features = {
            split: extract(extractor, getattr(cuts, split), description=f"{name}: {split}")
            for split in SPLITS
        }
        left_out += [fault for part in features.values() for fault in part.faults]
        # What cannot be read is asked of no other backbone: they are compared cut by cut.
        cuts = cuts._replace(**{split: part.cuts for split, part in features.items()})
        rows[name] = probe(features, cuts.label, extractor.layers, heads=heads, seed=arguments.seed)
    found = {name: [rows[draw] for draw in drawn] for name, drawn in draws.items()}
    report = _about(arguments, cuts, features, left_out) | {"tables": _tables(cuts, found)}
    if arguments.out:
        write_json(arguments.out, report)
    return report


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
    name: str, cuts: LabelledCuts, context: Context, arguments: argparse.Namespace
) -> Extractor:
    """Return the features that a --backbone names."""
    from encoder import load_backbone
    from ssl.pooled import BackboneFeatures, MfccFeatures

    kind, _, after = name.partition("@")
    if kind == "mfcc":
        return MfccFeatures(_number(after, name, MFCC_RATE), pooling=arguments.pooling)
    if kind.startswith("random:"):
        seed = _number(after, name, arguments.seed)
        backbone = _untrained(kind.removeprefix("random:"), seed, cuts)
    else:
        backbone = load_backbone(name)
    return BackboneFeatures(
        backbone.to(arguments.device), context=context, pooling=arguments.pooling
    )


def _untrained(source: str, seed: int, cuts: LabelledCuts) -> Backbone:
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
        normalise_by(backbone, cuts.train)
    return backbone


def _number(text: str, name: str, default: int) -> int:
    if text and not text.isdecimal():
        raise UsageError(f"--backbone {name}: what follows @ must be a whole number, not {text!r}.")
    return int(text) if text else default


def _about(
    arguments: argparse.Namespace,
    cuts: LabelledCuts,
    features: dict[str, Pooled],
    left_out: list[str],
) -> Summary:
    from ssl.probing import classes_of
    from trunkline.metrics import majority_accuracy

    classes = [classes_of(getattr(cuts, split), cuts.label) for split in SPLITS]
    about: Summary = {
        "manifest": arguments.manifest,
        "label": cuts.label,
        "classes": len(set(classes[0])),
        "context": arguments.context,
        "pooling": arguments.pooling,
        "majority_accuracy": majority_accuracy(classes[0], classes[2]),
    }
    about |= {f"{split}_cuts": len(getattr(cuts, split)) for split in SPLITS}
    about |= {
        "padded_to_one_frame": sum(part.short for part in features.values()),
        "cropped_to_60_s": sum(part.cropped for part in features.values()),
        "left_out": left_out,
        "notes": cuts.notes,
    }
    return about


def _tables(
    cuts: LabelledCuts, found: dict[str, list[list[Row]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return what dev prefers of each backbone and head, the comparison with the first, all rows.

    `found` has the rows of every draw of a backbone; dev chooses for each draw by itself.
    """
    from ssl.probing import groups_of
    from trunkline.metrics import paired_difference

    first = next(iter(found))
    heads = list(dict.fromkeys(row.head for draws in found.values() for row in draws[0]))
    preferred, compared = [], []
    for head in (*heads, "any") if len(heads) > 1 else heads:
        chosen = {
            name: row
            for name, draws in found.items()
            if (row := _preferred(draws, head, cuts)) is not None
        }
        preferred += [
            {"backbone": name, "among": head} | _cells(row) for name, row in chosen.items()
        ]
        for name, row in chosen.items():
            if name == first or first not in chosen:
                continue
            groups, unit = groups_of(cuts.test, cuts.label)
            result = paired_difference(chosen[first].correct, row.correct, groups, unit=unit)
            compared.append({"backbone": first, "against": name, "head": head} | result._asdict())
    tables = {"Layer chosen on dev": preferred}
    if compared:
        tables["Paired comparison (difference of accuracies, 95 % interval)"] = compared
    return tables | {
        f"All layers of {name}": [_cells(row) for row in _layers(draws, cuts)]
        for name, draws in found.items()
    }


def _preferred(draws: list[list[Row]], head: str, cuts: LabelledCuts) -> Row | None:
    """Return what dev prefers among the rows of a head (or "any"), as the mean of the draws."""
    from ssl.probing import best, mean_of_draws

    among = [[row for row in rows if head in (row.head, "any")] for rows in draws]
    if not all(among):
        return None
    return mean_of_draws([best(rows) for rows in among], cuts.test, cuts.label)


def _layers(draws: list[list[Row]], cuts: LabelledCuts) -> list[Row]:
    """Return every head and layer, each as the mean of the draws."""
    from ssl.probing import mean_of_draws

    return [mean_of_draws(rows, cuts.test, cuts.label) for rows in zip(*draws, strict=True)]


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
