"""`trunkline align`: when each word of a transcript was said, and how well text and audio fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trunkline.command import Summary, run
from trunkline.errors import DataError, DependencyError, StorageError, UsageError
from trunkline.quarantine import fault

if TYPE_CHECKING:
    from encoder import Context
    from heads.model import MultiHeadModel
    from heads.recognition import RecognitionHead
    from trunkline.rows import Cut

UNREADABLE = (DataError, StorageError, DependencyError)
_WORST = 5


class Aligned(NamedTuple):
    """The words of a cut with their times in the recording, and how well text and audio fit."""

    words: list[list[Any]]
    """[word, start, end, mean ln P of its frames]; seconds."""
    score: float
    """Mean ln P of the frames that belong to a token; near 0 is good, below about -2 the text may be wrong."""
    coverage: float
    """Share of the cut's frames from the first word to the last: a long rest may hold what is not in the text."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline align",
        description="Align the texts of a manifest to their audio with a CTC (or attention) head. Every line gets "
        "`words` ([word, start, end, score], seconds in the recording), `align_score` and `align_coverage`; sort by "
        "them to find transcripts that are wrong. Cuts without a text are passed over, those that cannot be aligned "
        "(a text with more tokens than the audio has frames, say) go to OUT's .quarantine.jsonl with the reason.",
        epilog="Example: trunkline align runs/small/backbone runs/ctc/heads/ctc calls.jsonl aligned.jsonl",
    )
    option = parser.add_argument
    option("backbone", metavar="BACKBONE", help="a backbone directory, or chunkformer:DIR")
    option("head", type=Path, metavar="HEAD", help="a head directory of kind ctc or aed")
    option("source", type=Path, metavar="MANIFEST", help="a manifest with texts")
    option("out", type=Path, metavar="OUT", help="the manifest to write")
    option(
        "--context",
        default="64,128,128",
        help="what a frame sees: chunk,left,right in frames of 80 ms (default 64,128,128), or 'full'",
    )
    option("--any-trunk", action="store_true", help="take a head of another backbone")
    option("--device", default="cpu", help="where the model runs: cpu, cuda, ...")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_align, build_parser(), argv)


def _align(arguments: argparse.Namespace) -> Summary:
    import json

    import numpy as np

    from encoder import Context
    from heads.model import load_model
    from heads.recognition import RecognitionHead
    from trunkline.checkpoint import write_text
    from trunkline.log import progress
    from trunkline.manifest import load_manifest, write_manifest

    context = Context.parse(arguments.context)
    if arguments.out.exists() and arguments.out.samefile(arguments.source):
        raise UsageError(f"{arguments.out} is the manifest itself; write to another file.")
    manifest = load_manifest(arguments.source)
    model = load_model(
        arguments.backbone,
        {"text": arguments.head},
        any_trunk=arguments.any_trunk,
        device=arguments.device,
    )
    head = model.head("text")
    if not isinstance(head, RecognitionHead):
        raise UsageError(f"{arguments.head} is a head of kind {head.kind}, which writes no text.")
    rows, faults, found = [], [], []
    for cut in progress(manifest, description="Aligning", unit="cuts"):
        if cut.text is None:
            continue
        try:
            aligned = align(model, head, cut, context)
        except UNREADABLE as error:
            faults.append(fault(cut, error))
            continue
        found.append((cut.id, aligned))
        told = {"words": aligned.words, "align_score": round(aligned.score, 4)}
        rows.append(cut.to_row() | told | {"align_coverage": round(aligned.coverage, 4)})
    if not found:
        reasons = " ".join(fault["reason"] for fault in faults[:3])
        raise DataError(
            f"{arguments.source}: no cut could be aligned. {reasons or 'None has a text.'}"
        )
    write_manifest(rows, arguments.out)
    lines = "".join(json.dumps(fault, ensure_ascii=False) + "\n" for fault in faults)
    write_text(arguments.out.with_suffix(".quarantine.jsonl"), lines)
    worst = sorted(found, key=lambda x: x[1].score)[:_WORST]
    return {
        "out": str(arguments.out),
        "aligned": len(found),
        "without_text": len(manifest) - len(found) - len(faults),
        "quarantined": len(faults),
        "words": sum(len(x.words) for _, x in found),
        "score": float(np.median([x.score for _, x in found])),
        "coverage": float(np.median([x.coverage for _, x in found])),
        "tables": {
            "Worst scores": [
                {"id": name, "score": x.score, "coverage": x.coverage} for name, x in worst
            ],
            **({"Quarantined": faults} if faults else {}),
        },
    }


def align(model: MultiHeadModel, head: RecognitionHead, cut: Cut, context: Context) -> Aligned:
    """Return the alignment of a cut's text.

    Raises:
        DataError: the audio cannot be read; the text is empty, has letters that the head does not know, or more tokens
            than there are frames.
    """
    from heads.alignment import force_align, span_seconds, word_spans

    text = " ".join((cut.text or "").split())
    tokens = head.tokenizer.encode(text)
    if not tokens:
        raise DataError(f"The text of {cut.id} is empty.")
    if head.tokenizer.unk in tokens:
        raise DataError(
            f"The text {text!r} has letters that the head does not write; normalise it as in training."
        )
    waveform = cut.load(model.backbone.sample_rate)
    output = model.outputs(waveform, context=context, heads=["text"])["text"]
    table = head.ctc_table(output, 0)
    spans = word_spans(force_align(table, tokens, blank=head.tokenizer.blank).spans, head.tokenizer)
    shift = head.symbol_shift
    times = (output.times[0] + (cut.start or 0.0)).tolist()
    words = []
    for span in spans:
        start, end = span_seconds(span.start, span.end, times, shift)
        words.append([span.word, round(start, 4), round(end, 4), round(span.log_prob, 4)])
    frames = sum(x.end - x.start for x in spans)
    score = sum(x.log_prob * (x.end - x.start) for x in spans) / frames
    return Aligned(words, score, (spans[-1].end - spans[0].start) / len(table))


if __name__ == "__main__":
    raise SystemExit(main())
