"""`python -m ssl.pretrain CONFIG.yaml [key=value ...]`: unlabelled recordings in, a backbone directory out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.command import run

STAGES = ("features", "targets", "train", "all")


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl.pretrain",
        description="Pretrain a backbone on unlabelled calls: features, k-means targets, masked prediction, "
        "re-clustering, export. Run the same command again to go on where it stopped.",
        epilog="Example: python -m ssl.pretrain configs/pretrain/small.yaml data.manifest=calls.jsonl out=runs/small",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="settings, e.g. configs/pretrain/small.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, e.g. train.steps=500"
    )
    parser.add_argument(
        "--stage", choices=STAGES, default="all", help="stop after this stage of the next round"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(_pretrain, make_parser(), argv)


def _pretrain(arguments: argparse.Namespace) -> dict[str, Any]:
    from ssl.config import PretrainConfig
    from ssl.recipe import Recipe
    from trunkline.settings import load_settings

    return Recipe(load_settings(PretrainConfig, arguments.config, arguments.overrides)).run(
        arguments.stage
    )


if __name__ == "__main__":
    raise SystemExit(main())
