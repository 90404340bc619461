"""From N-best lists to better ones: train a language model, tune the weights, rescore, and ask why.

    python -m examples.rescore_calls                       # made-up bank calls, simulated lists
    python -m examples.rescore_calls --lists calls.nbest.jsonl --text turns.txt

Without --lists the recogniser is simulated (`rescoring.simulate`): the figures then show that the
parts work together, not how well a real recogniser will fare. With --lists, lists with `ref` are
split by call: half to tune on, half to measure on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.bank_dialogues import AGENT_NAMES, Customer, write_dialogue
from rescoring import NBest, Rescorer, read_nbest
from rescoring.corpus import read_lines
from rescoring.features import collect
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.simulate import simulate
from rescoring.tuning import report, tune
from trunkline.command import Summary, run
from trunkline.errors import DataError, UsageError
from trunkline.syllable import words

CALLS = 60
TRAINING_CALLS = 2000
ADDRESSES = ("anh", "chị", "chú", "cô")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    return run(_rescore_calls, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.rescore_calls",
        description="Train a language model, tune weights on half of the calls, rescore the others, and explain "
        "one decision. Without --lists the recogniser is simulated.",
        epilog="example: python -m examples.rescore_calls",
    )
    option = parser.add_argument
    option(
        "--lists",
        type=Path,
        metavar="FILE",
        help="N-best lists with ref and group, as heads write them",
    )
    option("--text", type=Path, metavar="FILE", help="text for the language model, one turn a line")
    option("--calls", type=int, default=CALLS, help="simulated calls (%(default)s)")
    option("--seed", type=int, default=0)
    return parser


def _rescore_calls(arguments: argparse.Namespace) -> Summary:
    if arguments.calls < 2 or arguments.seed < 0:
        raise UsageError("--calls must be 2 or more, --seed 0 or more.")
    given = arguments.lists and list(read_nbest(arguments.lists))
    dev, test = _halves(given or _simulated_lists(arguments.calls, arguments.seed))
    if arguments.text:
        text = list(read_lines(arguments.text))
    else:
        # Calls of other customers; made from the same sentences, so the model knows the domain well.
        text = [line for call in made_up_calls(TRAINING_CALLS, arguments.seed + 1) for line in call]
    lm = ArpaLM(train([found for line in text if (found := words(line))]).ngrams)

    models = Rescorer(lm=lm)
    tuned = tune(collect(dev, models), terms=["lm", "len"], seed=arguments.seed)
    test_features = collect(test, models)
    chosen = test_features.chosen(tuned.weights)
    found = report(test_features, chosen, arguments.seed)

    changed = next((x for x, row in zip(test, chosen, strict=True) if row), None)
    if changed is not None and not arguments.quiet:
        explained = Rescorer(tuned.weights, lm).explain(changed)
        print(explained._replace(rows=explained.rows[:5]), file=sys.stderr)
    return {
        "simulated": not arguments.lists,
        "tuned_on": len(dev),
        "weights": {name: weight for name, weight in tuned.weights.items() if weight},
        **found,
    }


def made_up_calls(count: int, seed: int) -> list[list[str]]:
    """Return the turns of made-up calls."""
    rng = np.random.default_rng(seed)
    customers = [Customer(address, "north") for address in ADDRESSES]
    return [
        [
            line.text
            for line in write_dialogue(
                rng, customers[int(rng.integers(len(customers)))], str(rng.choice(AGENT_NAMES))
            )
        ]
        for _ in range(count)
    ]


def _simulated_lists(count: int, seed: int) -> list[NBest]:
    calls = made_up_calls(count, seed)
    groups = [f"call{number:04d}" for number, call in enumerate(calls) for _ in call]
    return list(simulate([line for call in calls for line in call], groups=groups, seed=seed))


def _halves(lists: Sequence[NBest]) -> tuple[list[NBest], list[NBest]]:
    """Return the lists of every other call, and those of the rest."""
    calls = {name: number for number, name in enumerate(dict.fromkeys(x.group for x in lists))}
    if len(calls) < 2:
        raise DataError("The lists are of one call; to tune and to measure takes two ('group').")
    dev = [x for x in lists if calls[x.group] % 2 == 0]
    return dev, [x for x in lists if calls[x.group] % 2]


if __name__ == "__main__":
    raise SystemExit(main())
