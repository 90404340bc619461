"""`python -m heads.train CONFIG.yaml [key=value ...]`: labelled cuts in, a directory per head out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trunkline.command import run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m heads.train",
        description="Train one head, or several jointly, on a frozen, adapted or learning trunk: frames, training, "
        "choice by dev, calibration, export. Run the same command again to go on where it stopped.",
        epilog="Example: python -m heads.train configs/heads/intent.yaml backbone=runs/small/backbone "
        "data.train=calls.jsonl out=runs/intent",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="settings, e.g. configs/heads/intent.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, e.g. train.steps=500"
    )
    parser.add_argument(
        "--lr-search",
        action="store_true",
        help="first try the rates of search.rates on kept frames of the frozen trunk, and take each head's best",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(_train, make_parser(), argv)


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from heads.config import HeadsConfig
    from heads.run import HeadsRun, with_rates
    from heads.search import search_rates
    from trunkline.settings import load_settings

    config = load_settings(HeadsConfig, arguments.config, arguments.overrides)
    if config.train.threads is not None:
        import torch

        torch.set_num_threads(config.train.threads)
    if not arguments.lr_search:
        return HeadsRun(config).run()
    rates, trials = search_rates(config)
    summary = HeadsRun(replace(with_rates(config, rates))).run()
    tables = {"Learning rates on dev": trials, **summary.get("tables", {})}
    return {**summary, "rates": rates, "tables": tables}


if __name__ == "__main__":
    raise SystemExit(main())
