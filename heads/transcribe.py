"""`trunkline transcribe`: what was said in a recording, a folder or a manifest."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.joined_search import add_search_options, join_search, search_settings
from trunkline import quarantine
from trunkline.command import Summary, run
from trunkline.errors import DataError, DependencyError, StorageError, UsageError, nearest

if TYPE_CHECKING:
    from heads.model import MultiHeadModel
    from heads.recognition import RecognitionHead
    from heads.transcripts import Transcriber

UNREADABLE = (DataError, StorageError, DependencyError)
FORMATS = ("srt", "vtt", "textgrid")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline transcribe",
        description="Transcribe recordings, each channel by itself: a JSON line a cut with its text, words, times (in "
        "the recording) and confidences, to stdout or to OUT/transcripts.jsonl. With OUT the same command goes on "
        "where it stopped, and OUT/quarantine.jsonl tells what could not be read. Where a line is digitally silent "
        "nothing is written; of music and noise low confidences tell.",
        epilog="Example: trunkline transcribe runs/small/backbone runs/ctc/heads/ctc calls.jsonl --out transcripts "
        "--formats srt --nbest",
    )
    option = parser.add_argument
    option("backbone", metavar="BACKBONE", help="a backbone directory, or chunkformer:DIR")
    option("head", type=Path, metavar="HEAD", help="a head directory of kind ctc or aed")
    option("source", type=Path, metavar="SOURCE", help="a recording, a folder or a manifest")
    option("--out", type=Path, help="the folder to write; stdout without it")
    option("--formats", default="", help=f"files beside it, with commas: {', '.join(FORMATS)}")
    option("--nbest", action="store_true", help="write OUT/nbest.jsonl, for rescoring")
    option(
        "--context",
        default="64,128,128",
        help="what a frame sees: chunk,left,right in frames of 80 ms (default 64,128,128), or 'full'",
    )
    option("--channel", help="only this channel: agent, customer, or a number; all by default")
    add_search_options(parser)
    option("--any-trunk", action="store_true", help="take a head of another backbone")
    option("--device", default="cpu", help="where the model runs: cpu, cuda, ...")
    quarantine.add_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_transcribe, build_parser(), argv)


def _transcribe(arguments: argparse.Namespace) -> Summary | None:
    from encoder import Context
    from heads.model import load_model
    from heads.transcripts import Transcriber, TranscriptFolder
    from trunkline.manifest import load_cuts
    from trunkline.training.tracking import locked

    context = Context.parse(arguments.context)
    formats = _formats(arguments)
    quarantine.check_option(arguments.max_bad_fraction)
    manifest = load_cuts(arguments.source, arguments.channel)
    model = load_model(
        arguments.backbone,
        {"text": arguments.head},
        any_trunk=arguments.any_trunk,
        device=arguments.device,
    )
    lm = join_search(arguments, [_head_of(model, arguments.head)])
    work = Transcriber(model, context, lm)
    if arguments.out is None:
        return _to_stdout(work, manifest)
    about = {
        "kind": "trunkline.transcripts",
        "backbone": model.backbone.fingerprint,
        "head": str(arguments.head),
        "context": list(context),
        **search_settings(arguments),
        "formats": formats,
        "nbest": arguments.nbest,
    }
    with locked(arguments.out):
        folder = TranscriptFolder(arguments.out, about, formats, arguments.nbest)
        return _to_folder(work, manifest, folder, arguments)


def _formats(arguments: argparse.Namespace) -> list[str]:
    formats = [x for x in arguments.formats.split(",") if x]
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--formats: no format {name!r}.{nearest(name, FORMATS)}")
    if arguments.out is None and (formats or arguments.nbest):
        raise UsageError("--formats and --nbest write files; say where with --out.")
    return formats


def _head_of(model: MultiHeadModel, folder: Path) -> RecognitionHead:
    from heads.recognition import RecognitionHead

    head = model.head("text")
    if not isinstance(head, RecognitionHead):
        raise UsageError(f"{folder} is a head of kind {head.kind}, which writes no text.")
    return head


def _to_stdout(work: Transcriber, manifest: Any) -> None:
    for index in range(len(manifest)):
        found = work.transcribe(manifest[index])
        print(json.dumps(found.to_row(), ensure_ascii=False), file=sys.stdout, flush=True)


def _to_folder(
    work: Transcriber, manifest: Any, folder: Any, arguments: argparse.Namespace
) -> Summary:
    from trunkline.log import progress

    faults: list[dict[str, Any]] = []
    words = empty = done = 0
    seconds = 0.0
    began = time.perf_counter()
    with progress(total=len(manifest), description="Transcribing", unit="cuts") as bar:
        for index in range(len(manifest)):
            cut = manifest[index]
            bar.advance()
            if cut.id in folder.done:
                continue
            try:
                found = work.transcribe(cut)
            except UNREADABLE as error:
                faults.append(folder.quarantine(cut, error))
                quarantine.check_share(faults, len(manifest), arguments.max_bad_fraction)
                continue
            folder.write(found)
            done += 1
            words += len(found.words)
            empty += not found.words
            seconds += found.duration
    spent = time.perf_counter() - began
    return {
        "out": str(arguments.out),
        "cuts": len(manifest),
        "transcribed": done,
        "already_there": len(manifest) - done - len(faults),
        "quarantined": len(faults),
        "words": words,
        "without_words": empty,
        "audio_hours": seconds / 3600,
        "times_real_time": seconds / spent if done else None,
        "tables": {"Quarantined": faults} if faults else {},
    }


if __name__ == "__main__":
    raise SystemExit(main())
