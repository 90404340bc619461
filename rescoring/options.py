"""What the commands that rescore have in common: the models' options, and the rescorer that they make."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescoring.combine import Rescorer
    from rescoring.weights import Weights


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --lm, --semantic, --phrases, --dialect and --pivots."""
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
        help="with --phrases: a stretch of the 1-best this near (phonetic distance) to a phrase "
        "gives the list a further hypothesis with the phrase; tune it to the size of the list",
    )
    option("--dialect", default="any", help="for phonetic distances: any, north, centre, south")
    option(
        "--pivots",
        type=int,
        default=20,
        metavar="N",
        help="texts that phon compares with (%(default)s)",
    )


def build_rescorer(
    arguments: argparse.Namespace, weights: Weights | None = None, **more: Any
) -> Rescorer:
    """Return the rescorer that the options ask for; `more` goes to `Rescorer` as it is."""
    from rescoring.combine import Rescorer
    from rescoring.consensus import Phonetic

    lm = semantic = None
    if arguments.lm:
        from rescoring.lm import load_lm

        lm = load_lm(arguments.lm)
    if arguments.semantic:
        from rescoring.semantic import SemanticModel

        semantic = SemanticModel.load(arguments.semantic)
    if arguments.phrases:
        from rescoring.phrases import PhraseList

        more["phrases"] = PhraseList.read(arguments.phrases, arguments.dialect)
        more["threshold"] = arguments.threshold
    elif arguments.threshold is not None:
        from trunkline.errors import UsageError

        raise UsageError("--threshold says how near to a phrase; give --phrases too.")
    phonetic = Phonetic(arguments.dialect, pivots=arguments.pivots)
    return Rescorer(weights, lm, semantic, phonetic, **more)


def sources(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the models' options as a record keeps them."""
    names = ("lm", "semantic", "phrases", "threshold", "dialect", "pivots")
    found = {name: getattr(arguments, name) for name in names}
    return {
        name: str(x) if isinstance(x, Path) else x for name, x in found.items() if x is not None
    }
