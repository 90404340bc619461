"""`trunkline data inventory`: one row a file and channel of a folder, and all that is wrong there."""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trunkline.errors import StorageError, UsageError
from trunkline.prepare.folder import Fault, Listing, list_folder

Row = dict[str, Any]

COLUMNS: dict[str, type] = {
    "file": str, "channel": int, "channels": int, "bytes": int, "duration": float,
    "sample_rate": int, "codec": str, "peak_dbfs": float, "level_dbfs": float, "noise_dbfs": float,
    "snr_db": float, "speech_share": float, "clipped_share": float, "offset": float,
    "dual_mono": bool, "crosstalk_db": float, "transcript": str, "transcript_encoding": str,
    "words": int, "language": str, "content_hash": str, "duplicate_of": str, "faults": str,
}  # fmt: skip

KINDS = {
    "unreadable": "the file may not be read or is no recording",
    "empty": "the recording holds no bytes or no samples",
    "truncated": "the recording ends before its header says, or is damaged",
    "nan": "NaN or infinite samples",
    "scale": "float samples that are not scaled to [-1, 1]",
    "suffix": "the file's name promises another format than it holds",
    "short": "less than 0.1 s",
    "silent": "no sample reaches -60 dB of full scale",
    "dead_channel": "one channel is silent, another is not",
    "no_speech": "the level never changes: a tone, noise or hum",
    "noisy": "speech less than 5 dB over noise",
    "quiet": "speech below -50 dB of full scale",
    "clipped": "flat tops near full scale",
    "offset": "samples whose mean is not 0",
    "upsampled": "a wide-band rate that holds a telephone's band",
    "dual_mono": "both channels hold one signal",
    "crosstalk": "the other side is heard in this channel",
    "duplicate": "another file holds the same samples",
    "transcript_empty": "the transcript holds no text",
    "transcript_encoding": "the transcript is not UTF-8",
    "transcript_binary": "the transcript is no text",
    "transcript_unreadable": "the transcript may not be read",
    "no_transcript": "no transcript, though most recordings beside it have one",
    "no_recording": "a transcript without its recording",
    "name_clash": "names that differ in capitals or Unicode form only",
    "name_nfd": "a name in decomposed Unicode",
    "name_encoding": "a name that is not UTF-8",
    "broken_link": "a link to what is not there",
    "link_loop": "a folder that links to one it lies in",
    "unreadable_folder": "a folder that may not be read",
}

_SHOWN = 20  # faults printed; all of them are in faults.jsonl and in the JSON output
_VERSION = "1"  # of the measurements; another version measures anew


class Inventory(NamedTuple):
    """The rows of a folder, in order, and every fault, those of rows included."""

    listing: Listing
    rows: list[Row]
    faults: list[Fault]


def take_inventory(root: Path, journal: Path, jobs: int = 1) -> Inventory:
    """Measure every recording below a folder; what the journal knows is not measured again.

    Raises:
        StorageError: the folder may not be read, or the journal not written.
        UsageError: the folder holds no recordings.
    """
    from trunkline.prepare.journal import map_resumable, state_of

    listing = list_folder(root)
    if not listing.recordings:
        raise UsageError(f"{root} holds no recordings; `trunkline data import` tells what is read.")
    items = [(name, listing.transcripts.get(name, {})) for name in listing.recordings]
    keys = [
        "\0".join([_VERSION, name, state_of(root / name)])
        + "".join(f"\0{text}\0{state_of(root / text)}" for text in texts.values())
        for name, texts in items
    ]
    measured = map_resumable(
        functools.partial(_examine, str(root)),
        items,
        keys,
        journal,
        jobs=jobs,
        description="inventory",
        unit="files",
    )
    rows = [
        {"file": name} | row
        for (name, _), key in zip(items, keys, strict=True)
        for row in measured[key]
    ]
    _mark_duplicates(rows)
    by_name = collections.defaultdict(list)
    for fault in listing.faults:
        by_name[fault.file].append(fault)
    names = set(listing.recordings)
    faults = [fault for fault in listing.faults if fault.file not in names]
    first_of: set[str] = set()
    for row in rows:
        name = row["file"]
        row["faults"] = [[f.kind, f.message] for f in by_name[name]] + row["faults"]
        own = f"{name}#{row['channel']}" if "channel" in row and row["channels"] > 1 else name
        for kind, message in row["faults"]:
            whole = kind not in _OF_A_CHANNEL
            if not whole or f"{name} {kind}" not in first_of:
                faults.append(Fault(name if whole else own, kind, message))
            first_of.add(f"{name} {kind}")
    return Inventory(listing, rows, faults)


_OF_A_CHANNEL = {"silent", "dead_channel", "no_speech", "noisy", "quiet", "clipped", "offset"}
_OF_A_CHANNEL |= {"upsampled", "crosstalk", "duplicate"}


def _examine(root: str, item: tuple[str, dict[int | None, str]]) -> list[Row]:
    """Return the rows of a recording with what their transcripts say of them."""
    from trunkline.prepare.measure import measure_file

    name, texts = item
    rows = measure_file(Path(root, name))
    told = {text: _about(root, text) for text in texts.values()}
    joined = []
    for row in rows:
        text = texts.get(row.get("channel"), texts.get(None))
        about, fault = told.get(text or "", ({}, []))
        joined.append(row | about | {"faults": row["faults"] + fault})
    return joined


def _about(root: str, text: str) -> tuple[Row, list[list[str]]]:
    """Return what a row says of its transcript, and what is wrong with that."""
    from trunkline.prepare.language import guess_language
    from trunkline.prepare.transcripts import read_transcript

    about: Row = {"transcript": text}
    try:
        transcript = read_transcript(Path(root, text))
    except StorageError as error:
        return about, [["transcript_unreadable", str(error)]]
    about["transcript_encoding"] = transcript.encoding or None
    about["words"] = len(transcript.text.split())
    if transcript.text:
        about["language"] = guess_language(transcript.text)
    return about, [[transcript.fault, transcript.message]] if transcript.fault else []


def _mark_duplicates(rows: list[Row]) -> None:
    """Name, for each channel, the first one of another file with the same samples.

    Channels of one file that are alike are dual mono, and silence is not content.
    """
    first: dict[str, Row] = {}
    for row in rows:
        kinds = {kind for kind, _ in row["faults"]}
        if "content_hash" not in row or kinds & {"silent", "dead_channel"}:
            continue
        original = first.setdefault(row["content_hash"], row)
        if original["file"] != row["file"]:
            where = original["file"]
            if original["channels"] > 1:
                where += f"#{original['channel']}"
            row["duplicate_of"] = where
            row["faults"].append(["duplicate", f"holds the same samples as {where}"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Decode every recording below FOLDER and write inventory.parquet, inventory.csv and "
        "faults.jsonl to OUT: size, duration, rate, codec, level, noise, speech, clipping, dual "
        "mono, cross-talk, transcript, language, content hash. Nothing in FOLDER is changed. Run "
        "again to go on, or to add what is new. Exit status 0 also where there are faults."
    )
    parser.epilog = "Example: trunkline data inventory /path/to/recordings inventory"
    parser.add_argument("folder", type=Path, help="a folder of recordings")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: every core)")
    parser.add_argument("--afresh", action="store_true", help="measure again what is known")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the inventory of a folder."""
    from trunkline.manifest_table import write_columns
    from trunkline.prepare import provenance
    from trunkline.prepare.journal import cores
    from trunkline.prepare.lines import arguments_of, dump, write

    if args.jobs < 0:
        raise UsageError(f"--jobs must be 0 (every core) or more, not {args.jobs}.")
    began = time.monotonic()
    # Absolute, and named by the folder too: two folders may share an OUT.
    folder = args.folder.resolve()
    mark = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:12]
    journal = args.out / f".inventory-{mark}.jsonl"
    if args.afresh:
        journal.unlink(missing_ok=True)
    found = take_inventory(folder, journal, args.jobs or cores())
    parquet, csv, faults = (
        args.out / name for name in ("inventory.parquet", "inventory.csv", "faults.jsonl")
    )
    write_columns((_plain(row) for row in found.rows), COLUMNS, parquet, csv)
    lines = [dump({k: _printable(v) for k, v in fault._asdict().items()}) for fault in found.faults]
    write(faults, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    summary = summarise(found)
    provenance.record(
        args.out,
        "inventory",
        arguments_of(args),
        inputs={str(folder): _content(found.rows)},
        outputs=[parquet, csv, faults],
        counts={name: value for name, value in summary.items() if name != "tables"},
        seconds=time.monotonic() - began,
    )
    told = [{name: _printable(value) for name, value in f._asdict().items()} for f in found.faults]
    shown = len(told) if args.json else _SHOWN
    title = f"faults (first {shown})" if len(told) > shown else "faults"
    return {
        "folder": str(args.folder),
        "out": str(args.out),
        **{name: value for name, value in summary.items() if name != "tables"},
        "tables": summary["tables"] | ({title: told[:shown]} if told else {}),
    }


def summarise(found: Inventory) -> dict[str, Any]:
    """Return counts and tables over an inventory; the counts of its tables add up to the totals."""
    unread = sum("content_hash" not in row for row in found.rows)
    files = {row["file"]: row for row in found.rows}
    seconds = sum(row.get("duration") or 0.0 for row in files.values() if "content_hash" in row)
    bad = {row["file"] for row in found.rows if row["faults"]}
    formats = collections.Counter(
        (row.get("codec") or "unread", row.get("sample_rate"), row.get("channels"))
        for row in files.values()
    )
    languages = collections.Counter(row.get("language") or "-" for row in files.values())
    kinds = collections.Counter(fault.kind for fault in found.faults)
    return {
        "files": len(files),
        "files_read": len(files) - unread,
        "files_unread": unread,
        "files_without_fault": len(files) - len(bad),
        "rows": len(found.rows),
        "hours": round(seconds / 3600, 4),
        "transcripts": sum(row.get("transcript") is not None for row in files.values()),
        "faults": len(found.faults),
        "tables": {
            "formats": [
                {"codec": codec, "rate": rate, "channels": channels, "files": count}
                for (codec, rate, channels), count in formats.most_common()
            ],
            "medians": list(_medians(found.rows)),
            "languages of transcripts": [
                {"language": name, "files": count} for name, count in languages.most_common()
            ],
            "kinds of fault": [
                {"kind": kind, "count": kinds[kind], "means": what}
                for kind, what in KINDS.items()
                if kinds[kind]
            ],
        },
    }


def _medians(rows: list[Row]) -> Iterator[Row]:
    import numpy as np

    for name in ("duration", "level_dbfs", "noise_dbfs", "snr_db", "speech_share"):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            low, middle, high = np.percentile(values, [5, 50, 95]).tolist()
            yield {"column": name, "5 %": low, "median": middle, "95 %": high}


def _plain(row: Row) -> Row:
    """Return a row with its kinds of fault in one cell, and no text that UTF-8 cannot hold."""
    kinds = ";".join(dict.fromkeys(kind for kind, _ in row["faults"]))
    return {name: _printable(value) for name, value in row.items()} | {"faults": kinds}


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _content(rows: list[Row]) -> str:
    """Return a SHA-256 over what all recordings hold, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['file']}\0{row.get('content_hash')}\n".encode("utf-8", "replace"))
    return digest.hexdigest()
