"""`trunkline data`: from a folder of raw calls to manifests to train on, one command a step."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from trunkline import command

_STEPS = "trunkline.prepare"

# Name -> (module with `add_arguments(parser)` and `run(args)`, what it does). Only the module of the
# command that was asked for is imported.
COMMANDS = {
    "inventory": (
        f"{_STEPS}.inventory",
        "measure every file and channel of a folder, and list all that is wrong",
    ),
    "check": (f"{_STEPS}.check", "list every fault of a manifest and its recordings"),
    "import": (
        f"{_STEPS}.convert",
        "write a manifest from a folder of audio, CSV, TSV, Kaldi, NeMo or Lhotse data",
    ),
    "dedupe": (
        f"{_STEPS}.dedupe",
        "find recordings that are there twice, to the sample or by ear, and keep one",
    ),
    "augment": (f"{_STEPS}.augment", "measure telephone augmentation, or write examples to hear"),
    "normalise": (f"{_STEPS}.normalise", "transcripts as the words that were said, with a report"),
    "segment": (f"{_STEPS}.segment", "whole channels become turns, both parties on one timeline"),
    "split": (f"{_STEPS}.split", "train, dev and test that share no call, speaker or phone"),
    "tag": (f"{_STEPS}.tag", "mark what is wrong with transcripts and turns; nothing is deleted"),
    "filter": (f"{_STEPS}.filter", "choose cuts by an expression over columns and tags"),
    "audit": (f"{_STEPS}.audit", "balance of speakers, channels, noise and labels, with advice"),
    "pseudonymise": (f"{_STEPS}.pseudonymise", "keyed names for calls, speakers, phones and files"),
    "scan": (f"{_STEPS}.scan", "refuse what holds telephone, card or account numbers"),
    "shard": (f"{_STEPS}.shard", "k of n parts of a manifest, the same everywhere and every time"),
    "merge": (f"{_STEPS}.merge", "several manifests as one; an id that stands twice is named"),
    "stats": (f"{_STEPS}.stats", "how much there is, and of what"),
    "licence": (f"{_STEPS}.licence", "show or set the licence of each cut"),
}


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the arguments of the chosen one."""
    parser = argparse.ArgumentParser(
        prog="trunkline data",
        description=__doc__,
        epilog="Example: trunkline data check calls.jsonl --samples. When each word of the texts was said, and which "
        "texts do not fit their audio, tells `trunkline align`, which needs a head that writes text.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, what) in COMMANDS.items():
        child = commands.add_parser(name, help=what)
        if name == chosen:
            step = importlib.import_module(module)
            step.add_arguments(child)
            child.set_defaults(function=step.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    return command.run(lambda args: args.function(args), build_parser(chosen), words)


if __name__ == "__main__":
    raise SystemExit(main())
