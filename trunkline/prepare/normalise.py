"""`trunkline data normalise`: transcripts as the words that were said, and what was changed or not understood.

A manifest keeps each text as it was in `text_written`, and gets the tags `filler` and `not_understood`; nothing is
left out. A text file (any name but those of manifests) is read line by line.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from trunkline.errors import DataError, StorageError, UsageError
from trunkline.rows import Row
from trunkline.text import LANGUAGES, TONE_MARKS, Normalised, Normaliser, decode

_MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
_EXAMPLES = 10  # of each rule and each kind of flag in the report
FILLER, NOT_UNDERSTOOD = "filler", "not_understood"


class Report:
    """What the rules changed and what was not understood, summed over all texts."""

    def __init__(self) -> None:
        self.texts = self.altered = self.flagged = self.fillers = self.words = 0
        self.rules: Counter[str] = Counter()
        self.examples: dict[str, list[Row]] = {}
        self.flags: dict[str, Counter[str]] = {}

    def add(self, where: str, written: str, result: Normalised) -> None:
        """Count one text; `where` names it in the examples."""
        self.texts += 1
        self.words += len(result.text.split())
        self.altered += result.text != written
        self.flagged += bool(result.flags)
        self.fillers += len(result.tags)
        self.rules.update(result.counts())
        for change in result.changes:
            for rule in change.rules:
                kept = self.examples.setdefault(rule, [])
                if len(kept) < _EXAMPLES:
                    kept.append({"where": where, **change._asdict()})
        for flag in result.flags:
            self.flags.setdefault(flag.kind, Counter())[flag.text] += 1

    def counts(self) -> Row:
        """Return the sums that a summary shows."""
        return {
            "texts": self.texts,
            "words": self.words,
            "altered": self.altered,
            "with_flags": self.flagged,
            "fillers": self.fillers,
        }

    def to_dict(self) -> Row:
        """Return all of it: per rule its count and first examples, per kind of flag its most frequent texts."""
        rules = {
            rule: {"count": count, "examples": self.examples[rule]}
            for rule, count in self.rules.most_common()
        }
        flags = {
            kind: {"count": sum(texts.values()), "texts": dict(texts.most_common(100))}
            for kind, texts in sorted(self.flags.items())
        }
        return self.counts() | {"rules": rules, "not_understood": flags}

    def tables(self) -> dict[str, list[Row]]:
        """Return what was changed and flagged, as the tables of a summary."""
        changed = [{"rule": rule, "changes": count} for rule, count in self.rules.most_common()]
        flags = [
            {
                "kind": kind,
                "count": sum(texts.values()),
                "most frequent": " ".join(text for text, _ in texts.most_common(5)),
            }
            for kind, texts in sorted(self.flags.items())
        ]
        return {"changed by": changed, "not understood": flags}


class Normalisers:
    """The normaliser of each row's language: Vietnamese unless the row says otherwise."""

    def __init__(self, language: str, **settings: Any) -> None:
        self.language = language
        self._made = {name: Normaliser(name, **settings) for name in LANGUAGES}

    def of(self, stated: str | None) -> Normaliser:
        """Return the one for a row that states this language (vi, vi-VN, en, or nothing)."""
        if self.language != "auto":
            return self._made[self.language]
        vietnamese = not stated or stated.lower().replace("_", "-").split("-")[0] in ("vi", "vie")
        return self._made["vi" if vietnamese else "neutral"]


def normalise_row(
    row: Row, source: str, normalisers: Normalisers, report: Report, changes: TextIO | None = None
) -> Row:
    """Return what changes in a row: its `text`, `text_written` and `tags`; {} where nothing does.

    The text goes into `report`, and as a line of JSON into `changes` where that is given.
    """
    written = row.get("text")
    if written is None:
        return {}
    where = row.get("id") or f"{source}:{row['line']}"
    result = normalisers.of(row.get("language")).explain(written)
    report.add(where, written, result)
    if changes is not None:
        changes.write(_line(where, written, result))
    change: Row = {}
    if result.text != written:
        change = {"text": result.text}
        if "text_written" not in row:
            change["text_written"] = written
    new = [FILLER] * bool(result.tags) + [NOT_UNDERSTOOD] * bool(result.flags)
    tags = [*row["tags"], *(tag for tag in new if tag not in row["tags"])]
    return change | ({"tags": tags} if tags != row["tags"] else {})


def normalise_lines(
    lines: Iterable[str],
    name: str,
    normaliser: Normaliser,
    report: Report,
    changes: TextIO | None,
) -> Iterator[str]:
    """Yield each line normalised; empty ones stay, so that line numbers hold."""
    for number, line in enumerate(lines, start=1):
        result = normaliser.explain(line)
        report.add(f"{name}:{number}", line, result)
        if changes is not None:
            changes.write(_line(f"{name}:{number}", line, result))
        yield result.text


def _line(where: str, written: str, result: Normalised) -> str:
    from trunkline.prepare.lines import dump

    fields = {
        "id": where,
        "text_written": written,
        "text": result.text,
        "changes": [change._asdict() for change in result.changes],
        "flags": [mark._asdict() for mark in result.flags],
        "tags": [mark._asdict() for mark in result.tags],
    }
    return f"{dump(fields)}\n"


def read_lines(path: Path) -> tuple[list[str], str, str]:
    """Return the lines of a text file of any encoding, the encoding, and the SHA-256 of its bytes.

    Raises:
        StorageError: the file cannot be read.
        DataError: it holds nothing, or its encoding is not known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    text, encoding = decode(data, str(path))
    if not text.strip():
        raise DataError(f"{path} holds no text.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return lines, encoding, hashlib.sha256(data).hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Write SOURCE, a manifest or a text file, with its transcripts normalised. Nothing is left out: what is "
        "not understood stays, and is tagged and reported."
    )
    parser.epilog = (
        "Example: trunkline data normalise calls.jsonl normalised.jsonl --report report.json"
    )
    parser.add_argument("source", type=Path, help="a manifest, or a text file with a text a line")
    parser.add_argument("output", type=Path, help="the file to write, of the same kind")
    parser.add_argument(
        "--language",
        choices=("auto", *LANGUAGES),
        default="auto",
        help="auto: as each row says, Vietnamese where it says nothing; neutral: numbers stay",
    )
    parser.add_argument("--tone-mark", choices=TONE_MARKS, default="old", help="hòa, hoà, or as is")
    parser.add_argument(
        "--drop-annotations", action="store_true", help="leave [cười] out instead of <laugh>"
    )
    parser.add_argument(
        "--spell-acronyms", action="store_true", help="read unknown acronyms letter by letter"
    )
    parser.add_argument(
        "--readings", type=Path, help="own short forms: written<TAB>reading on each line"
    )
    parser.add_argument("--report", type=Path, help="counts and examples of each rule, as JSON")
    parser.add_argument("--changes", type=Path, help="every change of every text, a JSON line each")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Normalise a manifest or a text file."""
    from trunkline import log
    from trunkline.checkpoint import write_file, write_json
    from trunkline.prepare.lines import Step, arguments_of, rewritten

    if args.source.resolve() == args.output.resolve():
        raise UsageError(f"{args.output} is the source itself; name another file to write.")
    normalisers = Normalisers(
        args.language,
        tone_mark=args.tone_mark,
        annotations="drop" if args.drop_annotations else "tag",
        spell_acronyms=args.spell_acronyms,
        readings=args.readings,
    )
    step = Step("normalise", arguments_of(args), max_bad=args.max_bad)
    report = Report()
    more: Row = {}
    # Both files come of one pass; the list of changes may be as long as the texts.
    with write_file(args.changes) if args.changes else nullcontext() as changes:
        if args.source.is_dir() or args.source.suffix.lower() in _MANIFESTS:
            manifest = step.read(args.source)
            name = manifest.path.name
            lines = rewritten(
                manifest,
                args.output,
                lambda row: normalise_row(row, name, normalisers, report, changes),
            )
            step.write(args.output, lines)
            if not report.texts:
                log.get_logger(__name__).warning("%s has no cut with a text.", args.source)
        else:
            lines, more["encoding"], step.inputs[str(args.source)] = read_lines(args.source)
            name = args.source.name
            texts = normalise_lines(lines, name, normalisers.of(None), report, changes)
            step.write(args.output, texts)
    if args.report:
        write_json(args.report, report.to_dict())
    return step.finish(args.output, report.counts() | more) | {"tables": report.tables()}
