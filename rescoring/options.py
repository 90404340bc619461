"""What the commands of rescoring share: the options of models and weights, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.errors import UsageError

if TYPE_CHECKING:
    from rescoring.combine import Rescorer
    from rescoring.costs import Costs
    from rescoring.weights import Weights
    from trunkline.nbest import NBest


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --lm, --semantic, --phrases and what goes with them."""
    group = parser.add_argument_group(
        "models (a term without its model is off, or as the lists give it)"
    )
    option = group.add_argument
    option(
        "--lm", type=Path, metavar="FILE", help="language model: ARPA, KenLM's binary, or a folder"
    )
    option(
        "--semantic", type=Path, metavar="DIR", help="word vectors, as rescoring.train writes them"
    )
    option(
        "--phrases", type=Path, metavar="FILE", help="names and products to listen for, one a line"
    )
    option(
        "--threshold",
        type=float,
        metavar="D",
        help="how far (mean phonetic distance) a stretch of the best text may be from a phrase, --phrases' or the "
        "list's own, to give the list a further hypothesis with the phrase; default: by the number of phrases",
    )
    option("--no-expand", action="store_true", help="add no hypotheses")
    option(
        "--dialect",
        default="any",
        metavar="NAME",
        help="for phonetic distances: any, north, centre, south, or a file of rescoring.train costs",
    )
    option(
        "--pivots",
        type=int,
        default=20,
        metavar="N",
        help="texts that phon compares with (%(default)s)",
    )


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --set and --consensus."""
    option = parser.add_argument
    option(
        "--weights",
        type=Path,
        metavar="FILE",
        help="as rescoring.tune writes them; default: all 0 but alpha",
    )
    option(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="another value for a weight or guard: beta=0.6, margin=2, extra.NAME=1; may be repeated",
    )
    option("--consensus", choices=("word", "phonetic"), help="let the list vote, by this distance")
    option("--scale", type=float, default=0.1, help="of the totals, for the vote (%(default)s)")


def build_rescorer(
    arguments: argparse.Namespace, weights: Weights | None = None, **more: Any
) -> Rescorer:
    """Return the rescorer that the options ask for; `more` goes to `Rescorer` as it is."""
    from rescoring.combine import Rescorer
    from rescoring.consensus import Phonetic

    dialect = read_dialect(arguments.dialect)
    lm = semantic = None
    if arguments.lm:
        from rescoring.lm import load_lm

        lm = load_lm(arguments.lm)
    if arguments.semantic:
        from rescoring.semantic import SemanticModel

        semantic = SemanticModel.load(arguments.semantic)
    if arguments.phrases:
        from rescoring.phrases import PhraseList

        more["phrases"] = PhraseList.read(arguments.phrases, dialect)
    phonetic = Phonetic(dialect, pivots=arguments.pivots)
    return Rescorer(weights, lm, semantic, phonetic, **more)


def read_dialect(name: str) -> str | Costs:
    """Return a dialect's name as it is, or the costs in the file of that name."""
    from rescoring.confusions import load_costs
    from rescoring.costs import DIALECTS, default_costs

    if name in DIALECTS or not Path(name).exists():
        default_costs(name)
        return name
    return load_costs(name)


def build_weighted_rescorer(arguments: argparse.Namespace) -> Rescorer:
    """Return the rescorer with the models, the weights and the consensus that the options ask for."""
    from rescoring.consensus import Consensus
    from rescoring.weights import Weights

    weights = Weights.load(arguments.weights) if arguments.weights else Weights()
    weights = weights.changed(arguments.set)
    consensus = None
    if arguments.consensus:
        dialect = read_dialect(arguments.dialect)
        consensus = Consensus(arguments.consensus, arguments.scale, dialect)
    return build_rescorer(arguments, weights, consensus=consensus)


def build_expander(arguments: argparse.Namespace, rescorer: Rescorer) -> Callable[[NBest], NBest]:
    """Return what adds hypotheses with phrases to a list (`rescoring.bias.expander`), unless --no-expand."""
    threshold = arguments.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold must be from 0 to 1, not {threshold:g}.")
    if arguments.no_expand:
        return lambda nbest: nbest
    from rescoring.bias import expander

    return expander(rescorer, threshold=threshold)


def refuse_inputs_as_output(out: Path | None, inputs: Iterable[Path]) -> None:
    """Raise a `UsageError` where writing to `out` would replace one of the files that are read."""
    for given in inputs:
        if out and out.exists() and given.exists() and out.samefile(given):
            raise UsageError(f"{out} is a file that is read; give the output another name.")


def sources(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the models' options as a record keeps them."""
    names = ("lm", "semantic", "phrases", "threshold", "no_expand", "dialect", "pivots")
    found = {name: getattr(arguments, name) for name in names}
    return {
        name: str(x) if isinstance(x, Path) else x for name, x in found.items() if x is not None
    }
