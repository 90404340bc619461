"""Where a prepared file comes from: `provenance.jsonl` beside it, a line for each run of a command.

A line names the command, its arguments, the version of the toolkit, the hashes of what went in and
came out, the counts, and the time (UTC). Lines are only ever appended. A second run of the same step
appends a line with the same hashes: that is how sameness is seen.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import trunkline
from trunkline.checkpoint import sha256_file
from trunkline.errors import StorageError

FILE = "provenance.jsonl"

Record = dict[str, Any]


def record(
    output: str | os.PathLike[str],
    command: str,
    arguments: Mapping[str, Any],
    *,
    inputs: Mapping[str, str],
    counts: Mapping[str, Any],
    outputs: Iterable[str | os.PathLike[str]] | None = None,
    seconds: float | None = None,
) -> Record:
    """Append what a command did to `provenance.jsonl` beside `output`, and return the line.

    Args:
        output: the main file written (hashed), or a folder: then the record lies inside it.
        command: e.g. "split".
        arguments: what the command was given, without secrets; paths become strings.
        inputs: name of a source -> its SHA-256, such as `Manifest.fingerprint`.
        counts: of cuts, files, faults.
        outputs: the files written (hashed), where it is not `output` alone.
        seconds: how long the command took.

    Raises:
        StorageError: an output is missing, or the record cannot be written.
    """
    output = Path(output)
    folder = output if output.is_dir() else output.parent
    files = [Path(path) for path in ([output] if outputs is None else outputs)]
    now = datetime.datetime.now(datetime.UTC)
    line: Record = {
        "command": command,
        "arguments": _plain(arguments),
        "version": trunkline.__version__,
        "inputs": dict(inputs),
        "outputs": {_name(path, folder): _hash(path) for path in files},
        "counts": _plain(counts),
        "time": now.isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 3),
    }
    _append(folder / FILE, json.dumps(line, ensure_ascii=False))
    return line


def history(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records beside a file, or in a folder, oldest first; a line cut by a kill is left out."""
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"Cannot read {file}: {error.strerror}.") from error
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [record for record in records if isinstance(record, dict)]


def done_before(
    output: Path, command: str, arguments: Mapping[str, Any], inputs: Mapping[str, str]
) -> bool:
    """Return whether `output` stands as this command wrote it, from these inputs and arguments.

    That is how a step that was stopped knows which of its files it need not write again.
    """
    if not output.is_file():
        return False
    folder = output.parent
    wanted = (command, _plain(arguments), dict(inputs), trunkline.__version__)
    for line in reversed(history(folder)):
        made = tuple(line.get(name) for name in ("command", "arguments", "inputs", "version"))
        if made == wanted and _name(output, folder) in line.get("outputs", {}):
            return line["outputs"][_name(output, folder)] == _hash(output)
    return False


def _append(path: Path, text: str) -> None:
    """Append a line in one write; after a line that a kill cut short, on a line of its own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            torn = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write(b"\n" * torn + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error


def _name(path: Path, folder: Path) -> str:
    path = Path(os.path.abspath(path))
    folder = Path(os.path.abspath(folder))
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
