"""`python -m rescoring.tune`: which terms help on lists whose references are known, and with which weights."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescoring.options import (
    add_model_options,
    build_expander,
    build_rescorer,
    refuse_inputs_as_output,
    sources,
)
from trunkline.command import Summary, run

if TYPE_CHECKING:
    from rescoring.tuning import Tuned


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_tune, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.tune",
        description="Fit the weights of language model, meaning, sound, phrases and length on N-best lists with "
        "references. A term's weight stays 0 unless it helps calls that it was not fitted on by more than chance.",
        epilog="example: python -m rescoring.tune dev.nbest.jsonl --lm models/lm --out weights.json",
    )
    option = parser.add_argument
    option("lists", type=Path, metavar="FILE", help="N-best lists with ref, and group for the call")
    option("--out", type=Path, metavar="FILE", help="write the weights as JSON")
    option(
        "--test", type=Path, metavar="FILE", help="lists of other calls to measure the weights on"
    )
    option(
        "--terms", metavar="A,B", help="terms to try; default: every term that the lists can have"
    )
    option("--folds", type=int, default=5, help="of the cross-validation, by call (%(default)s)")
    option("--restarts", type=int, default=20, help="random starts of the final fit (%(default)s)")
    option("--seed", type=int, default=0)
    add_model_options(parser)
    return parser


def _tune(arguments: argparse.Namespace) -> Summary:
    from rescoring.features import collect
    from rescoring.tuning import ablations, report, tune
    from trunkline.errors import UsageError
    from trunkline.nbest import read_nbest

    refuse_inputs_as_output(arguments.out, filter(None, (arguments.lists, arguments.test)))
    if arguments.out and arguments.out.is_dir():  # not after minutes of work
        raise UsageError(f"--out {arguments.out} is a folder; give the file's name.")
    rescorer = build_rescorer(arguments)
    terms = [x.strip() for x in arguments.terms.split(",")] if arguments.terms else None
    settings = {"terms": terms, "folds": arguments.folds, "restarts": arguments.restarts}
    lists = list(read_nbest(arguments.lists))
    features = collect(lists, rescorer)
    tuned = tune(features, **settings, seed=arguments.seed)
    wider = list(map(build_expander(arguments, rescorer.with_weights(tuned.weights)), lists))
    if wider != lists:
        # Candidates are copies of the text that wins without phrases, which takes weights; theirs are fitted after.
        features = collect(wider, rescorer)
        tuned = tune(features, **settings, seed=arguments.seed)
    summary: Summary = {
        "measured_by": f"{arguments.folds}-fold cross-validation",
        **report(features, tuned.chosen, arguments.seed),
        "notes": tuned.notes,
    }
    if arguments.out:
        _save(arguments, tuned, summary)
        summary["weights"] = str(arguments.out)
    tables = summary["tables"]
    title = "Terms (without: the word error rate of all lists when only this weight is set to 0)"
    tables[title] = ablations(features, tuned.weights, arguments.seed)
    tables["Steps (held-out word error rate, and its difference from the set before)"] = tuned.steps
    if arguments.test:
        expanded = build_expander(arguments, rescorer.with_weights(tuned.weights))
        test = collect(map(expanded, read_nbest(arguments.test)), rescorer)
        found = report(test, test.chosen(tuned.weights), arguments.seed)
        tables |= {f"{name} of {arguments.test}": x for name, x in found.pop("tables").items()}
        summary["test"] = found
    return summary


def _save(arguments: argparse.Namespace, tuned: Tuned, summary: dict[str, Any]) -> None:
    about = {"lists": str(arguments.lists), **sources(arguments), "seed": arguments.seed}
    figures = {name: value for name, value in summary.items() if name not in ("tables", "notes")}
    weights = dataclasses.replace(tuned.weights, tuning=about | {"found": figures})
    weights.save(arguments.out)


if __name__ == "__main__":
    raise SystemExit(main())
