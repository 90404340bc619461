"""What joins the search for text on the command line: a language model, and phrases to listen for."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.errors import StorageError, UsageError

if TYPE_CHECKING:
    from heads.recognition import RecognitionHead


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add --lm, --phrases and what belongs to them."""
    option = parser.add_argument
    option("--lm", type=Path, help="a language model (ARPA file or what --lm-loader opens)")
    option("--lm-weight", type=float, default=0.5, metavar="X", help="its weight (default 0.5)")
    option("--word-bonus", type=float, default=0.0, metavar="X", help="nats a word, with --lm")
    option(
        "--lm-loader",
        default="rescoring.lm:load_lm",
        metavar="MODULE:FUNCTION",
        help="what opens --lm (default rescoring.lm:load_lm)",
    )
    option("--phrases", type=Path, help="a text file of phrases to listen for, one a line")
    option("--boost", type=float, default=2.0, metavar="X", help="nats a word of a phrase")


def search_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the options ask for, as files that state how they were made hold it."""
    return {
        "lm": None if arguments.lm is None else [str(arguments.lm), arguments.lm_weight],
        "word_bonus": arguments.word_bonus,
        "phrases": None if arguments.phrases is None else [str(arguments.phrases), arguments.boost],
    }


def join_search(arguments: argparse.Namespace, heads: Iterable[RecognitionHead]) -> Any:
    """Let the language model and the phrases join the search of heads; return the model, None without one.

    Raises:
        UsageError: --lm-loader names nothing. StorageError: the phrases cannot be read.
    """
    from heads.decoding.boosting import PhraseBoost
    from heads.decoding.fusion import NgramFusion

    lm = None if arguments.lm is None else _loader(arguments.lm_loader)(arguments.lm)
    phrases = None if arguments.phrases is None else _lines(arguments.phrases)
    for head in heads:
        scorers: list[Any] = []
        if lm is not None:
            scorers.append(
                NgramFusion(
                    lm, head.tokenizer, weight=arguments.lm_weight, word_bonus=arguments.word_bonus
                )
            )
        if phrases is not None:
            scorers.append(PhraseBoost(phrases, head.tokenizer, boost=arguments.boost))
        head.scorers = tuple(scorers)
    return lm


def _loader(name: str) -> Any:
    """Return the function that opens a language model; heads know of none themselves."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--lm-loader {name}: {error}; give MODULE:FUNCTION.") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"Cannot read {path}: {error}") from error
