"""`python -m heads.sweep CONFIG.yaml --space SPACE.yaml`: which settings are best, found by Optuna trial by trial."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.command import run


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m heads.sweep",
        description="Try settings of heads.train, chosen by Optuna (the extra `sweep`), and say which are best by a "
        "metric of dev, with its 95 % interval. Trials lie in an SQLite file; run the same command again to go on, a "
        "trial that was cut off included. Writes results.csv and best.json.",
        epilog="Example: python -m heads.sweep configs/heads/intent.yaml backbone=runs/small/backbone "
        "data.train=calls.jsonl --space configs/heads/space.yaml --metric intent/accuracy --out runs/sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("config", type=Path, help="settings of heads.train")
    option("overrides", nargs="*", metavar="key=value", help="settings to change in every trial")
    option(
        "--space",
        type=Path,
        required=True,
        help="YAML: a setting a line, with {low, high, log, whole} or {choices: [...]}",
    )
    option(
        "--metric", default="loss", help="metric of dev, such as intent/accuracy (default: loss)"
    )
    option("--trials", type=int, default=20, help="how many in all (default 20)")
    option("--out", type=Path, required=True, help="folder of the sweep")
    option("--seed", type=int, default=0, help="of the search")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(_sweep, make_parser(), argv)


def _sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    from heads.study import Sweep

    sweep = Sweep(
        arguments.config,
        arguments.overrides,
        space=arguments.space,
        metric=arguments.metric,
        out=arguments.out,
        seed=arguments.seed,
    )
    return sweep.run(arguments.trials)


if __name__ == "__main__":
    raise SystemExit(main())
