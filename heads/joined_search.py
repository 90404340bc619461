"""What joins the search for text: a language model, and phrases to listen for; and the options of commands for it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.errors import StorageError, UsageError

if TYPE_CHECKING:
    from heads.recognition import RecognitionHead


LM_WEIGHT = 0.5
BOOST = 2.0


def add_scorers(
    heads: Iterable[RecognitionHead],
    *,
    lm: Any = None,
    lm_weight: float = LM_WEIGHT,
    word_bonus: float = 0.0,
    phrases: Sequence[str] | None = None,
    boost: float = BOOST,
) -> None:
    """Let a language model and phrases join the search of heads, each if it is given, and nothing else.

    Args:
        heads: those that write text.
        lm: an n-gram model, as `rescoring.lm.load_lm` opens it.
        lm_weight: its weight beside the frames.
        word_bonus: nats a word, with a model.
        phrases: what to listen for.
        boost: nats a word of a phrase.
    """
    from heads.decoding.boosting import PhraseBoost
    from heads.decoding.fusion import NgramFusion

    for head in heads:
        scorers: list[Any] = []
        if lm is not None:
            scorers.append(NgramFusion(lm, head.tokenizer, weight=lm_weight, word_bonus=word_bonus))
        if phrases is not None:
            scorers.append(PhraseBoost(phrases, head.tokenizer, boost=boost))
        head.scorers = tuple(scorers)


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add --lm, --phrases and what belongs to them."""
    option = parser.add_argument
    option("--lm", type=Path, help="a language model (ARPA file or what --lm-loader opens)")
    option(
        "--lm-weight",
        type=float,
        default=LM_WEIGHT,
        metavar="X",
        help="its weight (default %(default)s)",
    )
    option("--word-bonus", type=float, default=0.0, metavar="X", help="nats a word, with --lm")
    option(
        "--lm-loader",
        default="rescoring.lm:load_lm",
        metavar="MODULE:FUNCTION",
        help="what opens --lm (default rescoring.lm:load_lm)",
    )
    option("--phrases", type=Path, help="a text file of phrases to listen for, one a line")
    option("--boost", type=float, default=BOOST, metavar="X", help="nats a word of a phrase")


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
    lm = None if arguments.lm is None else _loader(arguments.lm_loader)(arguments.lm)
    phrases = None if arguments.phrases is None else _lines(arguments.phrases)
    add_scorers(
        heads,
        lm=lm,
        lm_weight=arguments.lm_weight,
        word_bonus=arguments.word_bonus,
        phrases=phrases,
        boost=arguments.boost,
    )
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
