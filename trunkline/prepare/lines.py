"""What every step over manifests shares: lines in, bad ones set aside, lines out, a record of it."""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trunkline import importers, log
from trunkline.errors import DataError, StorageError, UsageError
from trunkline.manifest import Manifest, load_manifest, manifest_of_rows
from trunkline.manifest_table import write_whole
from trunkline.prepare import provenance
from trunkline.prepare.options import MAX_BAD
from trunkline.rows import Row, parse_row

_logger = log.get_logger(__name__)
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Step:
    """One run of a command: manifests in, bad lines set aside, files out, a line of provenance.

    `arguments` are recorded as given, so secrets do not belong in them. What is set aside goes to
    `NAME.quarantine.jsonl` beside the output, with file, line and reason.
    """

    def __init__(
        self, command: str, arguments: Mapping[str, Any], *, max_bad: float = MAX_BAD
    ) -> None:
        if not 0 <= max_bad <= 1:
            raise UsageError(f"--max-bad must be a share from 0 to 1, not {max_bad}.")
        self.command, self.arguments, self.max_bad = command, dict(arguments), max_bad
        self.inputs: dict[str, str] = {}
        self.quarantined: list[Row] = []
        self.lines = 0
        self._began = time.monotonic()

    def read(self, source: str | os.PathLike[str], *, format: str = "auto") -> Manifest:
        """Return the manifest of a source; lines of JSON or of a table that cannot be read are set aside.

        Raises:
            StorageError: the source is missing.
            DataError: nothing in it can be read, or more than `max_bad` of it cannot.
        """
        path = Path(os.path.abspath(source))
        aside = functools.partial(self.set_aside, path)
        if path.is_dir() and format in ("auto", "directory") and importers.detect(path) != "kaldi":
            manifest = manifest_of_rows(path, importers.read_directory(path, aside))
        else:
            try:
                manifest = load_manifest(path, format=format)
            except DataError:
                kind = importers.detect(path) if format == "auto" else format
                if kind in ("jsonl", "nemo"):
                    rows = self._sound_lines(path)
                elif kind in ("csv", "tsv"):
                    rows = importers.read_table(path, aside)
                else:
                    raise
                manifest = manifest_of_rows(path, rows)
        self.lines += len(manifest) + len(self.quarantined)
        self.inputs[str(source)] = manifest.fingerprint
        self.check_limit()
        return manifest

    def _sound_lines(self, path: Path) -> Iterator[tuple[int, Row]]:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip():
                        row = parse_row(line.removeprefix(b"\xef\xbb\xbf"), f"{path}:{number}")
                        yield number, row
                except DataError as error:
                    self.set_aside(path, number, str(error))

    def set_aside(self, file: Path, line: int, reason: str, **more: Any) -> None:
        """Note that a line or item is left out, and why."""
        self.quarantined.append({"file": str(file), "line": line, "reason": reason} | more)

    def check_limit(self) -> None:
        """Stop when too much was set aside.

        Raises:
            DataError: more than `max_bad` of the lines; the message names the first.
        """
        bad = len(self.quarantined)
        if bad and bad > self.max_bad * self.lines:
            first = self.quarantined[0]
            raise DataError(
                f"{bad} of {self.lines} lines cannot be used, more than --max-bad {self.max_bad:g} "
                f"allows. The first: {first['reason']}"
            )

    def write(self, path: Path, lines: Iterable[str]) -> int:
        """Write a manifest of these lines, whole or not at all, and return their number."""
        count = 0

        def fill(file: BinaryIO) -> None:
            nonlocal count
            for line in lines:
                file.write(line.encode() + b"\n")
                count += 1

        write(path, fill)
        return count

    def write_aside(self, output: Path) -> None:
        """Write what was set aside beside the output; without any, remove the file of an earlier run."""
        aside = output.with_name(f"{output.name.removesuffix('.jsonl')}.quarantine.jsonl")
        if self.quarantined:
            _logger.warning("%d lines are set aside in %s.", len(self.quarantined), aside)
            self.write(aside, map(dump, self.quarantined))
        else:
            aside.unlink(missing_ok=True)

    def finish(
        self, output: Path, counts: Mapping[str, Any], outputs: Iterable[Path] | None = None
    ) -> Row:
        """Write what was set aside and the line of provenance; return the summary of the command.

        `output` is the manifest written, or the folder of the `outputs`.
        """
        self.check_limit()
        self.write_aside(output / "lines" if output.is_dir() else output)
        counts = dict(counts) | {"set_aside": len(self.quarantined)}
        provenance.record(
            output,
            self.command,
            self.arguments,
            inputs=self.inputs,
            outputs=outputs,
            counts=counts,
            seconds=time.monotonic() - self._began,
        )
        return {"output": str(output), **counts}


def write(path: Path, fill: Any) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    try:
        write_whole(Path(os.path.abspath(path)), fill)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error


def changed(manifest: Manifest, output: Path, changes: Iterable[Row | None]) -> Iterator[str]:
    """Yield the lines of a manifest with changes; None leaves a cut out, {} leaves it as it is.

    A value of None removes its key. Relative paths are made to hold from the output's folder. Lines
    that nothing changes in are the same bytes.
    """
    pairs = zip(manifest.rows(), changes, strict=True)
    return _written(manifest, output, pairs)


def rewritten(
    manifest: Manifest, output: Path, change: Callable[[Row], Row | None]
) -> Iterator[str]:
    """Yield what `changed` does, with `change(row)` of each row in order: rows are read once."""
    return _written(manifest, output, ((row, change(row)) for row in manifest.rows()))


def _written(
    manifest: Manifest, output: Path, pairs: Iterable[tuple[Row, Row | None]]
) -> Iterator[str]:
    home = Path(os.path.abspath(output)).parent
    with log.progress(total=len(manifest), description=output.name, unit="cuts") as bar:
        for row, change in pairs:
            bar.advance()
            if change is not None:
                yield line(manifest, row, home, change)


def line(manifest: Manifest, row: Row, home: Path, change: Row) -> str:
    """Return a row of `Manifest.rows` as a line of a manifest in the folder `home` (absolute), see `changed`."""
    moved = home != manifest.root
    if not change and not moved:
        return row["json"]
    there = any(part in row["json"] for part in ("\\u", *(f'"{name}"' for name in change)))
    if not moved and not there:
        return _extended(row["json"], change)
    written = json.loads(row["json"])
    if moved:
        # Ids and calls that were made of the path stay, though the path is another.
        written = {"id": row["id"], "call_id": row["call_id"]} | written
        written["audio_filepath"] = _moved(row, manifest.root, home)
    written |= change
    return dump({name: value for name, value in written.items() if value is not None})


def _extended(text: str, change: Row) -> str:
    """Return a line of JSON with keys that it has not yet: what stands in it need not be parsed."""
    new = {name: value for name, value in change.items() if value is not None}
    return f"{text.rstrip()[:-1]}, {dump(new)[1:]}" if new else text


def dump(row: Row) -> str:
    """Return a row as a line of JSON."""
    try:
        return _to_json(row)
    except (TypeError, ValueError) as error:
        raise DataError(f"Cut {row.get('id')!r} cannot be written as JSON: {error}.") from error


def stated_seconds(manifest: Manifest) -> np.ndarray:
    """Return (cuts,) what `seconds` does of each row, without opening recordings."""
    start, end, duration = (
        manifest.column(name).astype(np.float64) for name in ("start", "end", "duration")
    )
    return np.where(np.isnan(end), duration, end - np.nan_to_num(start))


def seconds(row: Row) -> float:
    """Return the seconds a row states: end - start, else its duration, else NaN."""
    if row["end"] is not None:
        return row["end"] - (row["start"] or 0.0)
    return float("nan") if row["duration"] is None else row["duration"]


def arguments_of(args: argparse.Namespace) -> Row:
    """Return what a command was given, for its line of provenance."""
    left_out = {"function", "command", "debug", "json", "quiet"}
    return {name: value for name, value in vars(args).items() if name not in left_out}


def _moved(row: Row, root: Path, home: Path) -> str:
    path = os.path.normpath(os.path.join(root, row["audio_filepath"]))
    return os.path.relpath(path, home) if path.startswith(f"{home}{os.sep}") else path
