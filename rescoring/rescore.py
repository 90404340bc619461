"""`python -m rescoring.rescore`: bring N-best lists into a better order, with weights that were tuned."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescoring.options import (
    add_model_options,
    add_weight_options,
    build_expander,
    build_weighted_rescorer,
    refuse_inputs_as_output,
)
from trunkline.command import Summary, run

if TYPE_CHECKING:
    from rescoring.combine import RescoredNBest
    from trunkline.nbest import NBest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_rescore, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.rescore",
        description="Rescore N-best lists. The hypotheses come out in their new order and otherwise as they were; "
        "`rescored` tells their totals, where they stood, and why a list was left as it was.",
        epilog="example: python -m rescoring.rescore calls.nbest.jsonl --weights weights.json --lm models/lm "
        "--out rescored.nbest.jsonl",
    )
    option = parser.add_argument
    option("lists", type=Path, metavar="FILE", help="N-best lists, JSONL")
    option("--out", type=Path, required=True, metavar="FILE", help="the lists in their new order")
    add_weight_options(parser)
    add_model_options(parser)
    return parser


class _Tally:
    """Counts what happened to the lists, and keeps the texts whose errors are to be counted."""

    def __init__(self) -> None:
        self.lists = self.changed = self.added = 0
        self.kept: Counter[str] = Counter()
        self.off: Counter[str] = Counter()
        self.texts: list[tuple[str, str, str]] = []
        self.groups: list[str | None] = []

    def add(self, given: NBest, result: RescoredNBest) -> None:
        """Note one list."""
        from trunkline.syllable import words

        self.lists += 1
        self.changed += result.best != given.hyps[0].text
        self.added += len(result.nbest) - len(given)
        self.kept[result.kept] += bool(result.kept)
        self.off.update(result.off)
        if given.ref is not None:
            texts = (given.ref, given.hyps[0].text, result.best)
            self.texts.append(tuple(" ".join(words(text)) for text in texts))  # type: ignore[arg-type]
            self.groups.append(given.group)

    def summary(self) -> Summary:
        """Return the counts and, where there are references, the word error rates before and after."""
        found: Summary = {"lists": self.lists, "new_1-best": self.changed}
        found["hypotheses_added"] = self.added
        found["kept"] = {name: count for name, count in self.kept.items() if count}
        found["off_in_lists"] = dict(self.off)
        if self.texts:
            found |= self._rates()
        return found

    def _rates(self) -> Summary:
        from trunkline.metrics import paired_difference, word_errors

        references, before, after = zip(*self.texts, strict=True)
        old, new = word_errors(references, before), word_errors(references, after)
        if not old.words.sum():
            return {}
        difference = paired_difference(
            new.errors,
            old.errors,
            self.groups,
            sizes=old.words,
            higher_is_better=False,
            unit="call",
            resamples=1000,
        )
        return {
            "with_ref": len(self.texts),
            "wer_before": old.wer,
            "wer_after": new.wer,
            "utterances_better": int((new.errors < old.errors).sum()),
            "utterances_worse": int((new.errors > old.errors).sum()),
            "difference": difference._asdict(),
        }


def _rescore(arguments: argparse.Namespace) -> Summary:
    from trunkline.log import get_logger, progress
    from trunkline.nbest import read_nbest, write_nbest

    refuse_inputs_as_output(arguments.out, [arguments.lists])
    rescorer = build_weighted_rescorer(arguments)
    expanded = build_expander(arguments, rescorer)
    tally = _Tally()

    def rescored() -> Iterator[NBest]:
        for nbest in progress(read_nbest(arguments.lists), description="rescoring", unit="lists"):
            result = rescorer.score(expanded(nbest))
            tally.add(nbest, result)
            yield _annotated(result)

    write_nbest(arguments.out, rescored())
    for name, count in tally.off.items():
        if count == tally.lists:
            get_logger(__name__).warning(
                "The term %s has a weight, but no list has its score: it did nothing.", name
            )
    return tally.summary() | {"out": str(arguments.out)}


def _annotated(result: RescoredNBest) -> NBest:
    """Return the list in its new order with what was decided, in its extra key `rescored`."""
    about: dict[str, Any] = {
        "totals": [round(x, 6) for x in result.totals[result.order].tolist()],
        "was": (result.order + 1).tolist(),
    }
    if result.kept:
        about["kept"] = result.kept
    if result.off:
        about["off"] = list(result.off)
    nbest = result.reordered()
    return dataclasses.replace(nbest, extra={**nbest.extra, "rescored": about})


if __name__ == "__main__":
    raise SystemExit(main())
