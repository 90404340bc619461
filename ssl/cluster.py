"""`python -m ssl.cluster`: cluster targets without training, for a round of a recipe or from any backbone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.command import run
from trunkline.errors import StorageError, UsageError


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl.cluster",
        description="Label every frame of a corpus with clusters: those of a round of CONFIG.yaml, in its run folder, "
        "or those of a layer of --backbone on --manifest. Shows how the labels use the clusters.",
        epilog="Example: python -m ssl.cluster configs/pretrain/small.yaml data.manifest=calls.jsonl out=runs/small\n"
        "         python -m ssl.cluster --backbone runs/small/backbone --layer 3 --clusters 200 "
        "--manifest calls.jsonl --out runs/clusters",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("config", nargs="?", type=Path, help="settings, as for ssl.pretrain")
    option("overrides", nargs="*", metavar="key=value", help="settings to change")
    option("--round", type=int, default=0, help="which round's targets (default 0)")
    option("--backbone", type=Path, metavar="DIR", help="cluster this backbone, without a CONFIG")
    option("--manifest", help="what to label: a manifest, or a folder of recordings")
    option("--out", type=Path, metavar="DIR", help="folder for features/ and targets/")
    option("--layer", type=int, help="layer to cluster (default: the middle one; 0: its input)")
    option("--clusters", type=int, default=200)
    option("--sample-rows", type=int, default=100_000, help="frames kept for k-means")
    option("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(_cluster, make_parser(), argv)


def _cluster(arguments: argparse.Namespace) -> dict[str, Any]:
    if (arguments.config is None) == (arguments.backbone is None):
        raise UsageError("Give either a CONFIG.yaml or a --backbone.")
    if arguments.backbone is not None:
        return _cluster_backbone(arguments)
    from ssl.config import PretrainConfig
    from ssl.recipe import Recipe
    from trunkline.settings import load_settings

    settings = load_settings(PretrainConfig, arguments.config, arguments.overrides)
    return Recipe(settings).cluster(arguments.round)


def _cluster_backbone(arguments: argparse.Namespace) -> dict[str, Any]:
    from encoder import load_backbone
    from ssl.clustering import Stretches, cluster_layer, describe
    from ssl.corpus import Features
    from trunkline.manifest import load_manifest
    from trunkline.training.tracking import locked

    if arguments.manifest is None or arguments.out is None:
        raise UsageError("--backbone needs --manifest and --out.")
    if not 2 <= arguments.clusters <= 65_535 or arguments.sample_rows < arguments.clusters:
        raise UsageError("--clusters must be 2 to 65535, and --sample-rows at least as many.")
    backbone = load_backbone(arguments.backbone)
    layer = (backbone.num_layers + 1) // 2 if arguments.layer is None else arguments.layer
    if not 0 <= layer <= backbone.num_layers:
        raise UsageError(f"--layer {layer}: the backbone has layers 0 to {backbone.num_layers}.")
    manifest = load_manifest(arguments.manifest)
    targets = arguments.out / "targets"
    with locked(arguments.out):
        if targets.exists():
            raise StorageError(f"{targets} exists already; remove it or choose another --out.")
        features = Features.prepare(
            manifest,
            backbone.config.features,
            arguments.out / "features",
            keep=True,
            max_bad_fraction=0.01,
        )
        labels = cluster_layer(
            Stretches(manifest, features, backbone),
            layer,
            arguments.clusters,
            arguments.sample_rows,
            targets,
            arguments.seed,
        )
    about = {"cuts": len(manifest), "quarantined": len(features.quarantined), "layer": layer}
    return about | describe(labels, targets)


if __name__ == "__main__":
    raise SystemExit(main())
