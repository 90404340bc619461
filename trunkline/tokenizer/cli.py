"""`trunkline tokenizer`: train one on transcripts, import a ChunkFormer vocabulary, look at what texts become."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline import command
from trunkline.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from trunkline.tokenizer import Tokenizer

_KINDS = ("characters", "syllables", "bpe", "unigram")
_MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the commands."""
    parser = argparse.ArgumentParser(
        prog="trunkline tokenizer",
        description=__doc__,
        epilog="Example: trunkline tokenizer train syllables normalised.jsonl tokenizers/syllables",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="make a tokenizer from transcripts",
        description="Make a tokenizer from the texts of manifests or text files, normalised before.",
        epilog="Example: trunkline tokenizer train bpe normalised.jsonl tokenizers/bpe --size 2000",
    )
    train.add_argument("kind", choices=_KINDS)
    train.add_argument("source", type=Path, nargs="+", help="manifests, or text files")
    train.add_argument("output", type=Path, help="a folder, or a .json file")
    train.add_argument("--size", type=int, help="most tokens, special ones included")
    train.add_argument("--min-count", type=int, default=1, help="leave rarer pieces out")
    train.add_argument("--split", help="only the cuts of this split, such as train")
    train.set_defaults(function=run_train)
    importer = commands.add_parser(
        "import",
        help="take over the vocab.txt of a ChunkFormer checkpoint",
        description="Write the vocabulary of a ChunkFormer or WeNet checkpoint as a tokenizer, ids kept.",
        epilog="Example: trunkline tokenizer import checkpoint/vocab.txt tokenizers/chunkformer",
    )
    importer.add_argument("vocabulary", type=Path, help="vocab.txt: a piece and its id a line")
    importer.add_argument("output", type=Path, help="a folder, or a .json file")
    importer.set_defaults(function=run_import)
    encode = commands.add_parser(
        "encode",
        help="show the pieces and ids of texts",
        description="Print the pieces and ids of texts, and how many tokens are unknown.",
        epilog="Example: trunkline tokenizer encode tokenizers/bpe 'xin chào'",
    )
    encode.add_argument("tokenizer", type=Path, help="a folder, a .json file, or a vocab.txt")
    encode.add_argument("text", nargs="+", help="texts, or - for lines of stdin")
    encode.add_argument(
        "--language", choices=("vi", "neutral"), help="normalise the texts first, as this language"
    )
    encode.set_defaults(function=run_encode)
    return parser


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    """Train and save a tokenizer, and measure it on its own texts."""
    from trunkline.tokenizer import train_tokenizer

    if args.size is not None and args.size < 1 or args.min_count < 1:
        raise UsageError("--size and --min-count must be 1 or more.")
    texts = [text for source in args.source for text in read_texts(source, args.split)]
    if not texts:
        raise DataError(f"No text in {', '.join(map(str, args.source))}.")
    tokenizer = train_tokenizer(args.kind, texts, size=args.size, min_count=args.min_count)
    path = tokenizer.save(args.output)
    tokens = unknown = words = exact = 0
    for text in texts:
        ids = tokenizer.encode(text)
        tokens += len(ids)
        unknown += ids.count(tokenizer.unk)
        words += len(text.split())
        exact += tokenizer.decode(ids) == " ".join(text.split())
    return _summary(tokenizer, path) | {
        "texts": len(texts),
        "round_trips": exact,
        "unknown_tokens": unknown,
        "tokens_per_word": round(tokens / max(1, words), 3),
    }


def run_import(args: argparse.Namespace) -> dict[str, Any]:
    """Write a vocabulary as a tokenizer."""
    from trunkline.tokenizer import import_vocabulary

    tokenizer = import_vocabulary(args.vocabulary)
    return _summary(tokenizer, tokenizer.save(args.output))


def run_encode(args: argparse.Namespace) -> dict[str, Any]:
    """Show what texts become."""
    from trunkline.text import Normaliser
    from trunkline.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    texts = sys.stdin.read().splitlines() if args.text == ["-"] else args.text
    if args.language:
        texts = [Normaliser(args.language)(text) for text in texts]
    rows = []
    for text in texts:
        ids = tokenizer.encode(text)
        pieces = [tokenizer.pieces[index] for index in ids]
        joined = ids if args.json else " ".join(map(str, ids))
        rows.append(
            {"text": text, "pieces": pieces if args.json else " ".join(pieces), "ids": joined}
        )
    unknown = tokenizer.unknown(texts)
    return {"tokenizer": str(args.tokenizer), "unknown_tokens": unknown, "tables": {"texts": rows}}


def read_texts(source: Path, split: str | None = None) -> Iterator[str]:
    """Yield the texts of a manifest (of one split of it), or the lines of a text file.

    Raises:
        StorageError: the source cannot be read.
        DataError: it holds nothing, or is wrong.
    """
    if source.is_dir() or source.suffix.lower() in _MANIFESTS:
        from trunkline.manifest import load_manifest

        manifest = load_manifest(source)
        for row in (manifest.filter(split=split) if split else manifest).rows():
            if row.get("text"):
                yield row["text"]
        return
    if split:
        raise UsageError(f"{source} is a text file and has no splits.")
    from trunkline.text import decode

    try:
        data = source.read_bytes()
    except OSError as error:
        raise StorageError(f"Cannot read {source}: {error.strerror or error}.") from error
    yield from (line for line in decode(data, str(source))[0].splitlines() if line.strip())


def _summary(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    return {
        "tokenizer": str(path),
        "kind": tokenizer.kind,
        "tokens": len(tokenizer),
        "blank": tokenizer.blank,
        "unk": tokenizer.unk,
        "sos_eos": tokenizer.sos_eos,
        "tasks": f"{tokenizer.tasks[0]}-{tokenizer.tasks[-1]}" if tokenizer.tasks else None,
        "fingerprint": tokenizer.fingerprint,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return command.run(lambda args: args.function(args), build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
