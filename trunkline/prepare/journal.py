"""Work over many files that can be stopped anywhere and goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from trunkline import log
from trunkline.errors import DataError, StorageError

Item = TypeVar("Item")

_CHUNK = 8  # items a worker gets at once


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_resumable(
    function: Callable[[Item], Any],
    items: Sequence[Item],
    keys: Sequence[str],
    journal: Path,
    *,
    jobs: int,
    description: str,
    unit: str,
) -> dict[str, Any]:
    """Return `function(item)` by key, kept in a journal so that a second run does only what is new.

    Args:
        function: of one item, to JSON; runs in `jobs` processes.
        items: what there is.
        keys: names each item and its state (size, time of change): another state, another key.
        journal: JSON lines of key and result, appended as results come.
        jobs: processes; 1 works in this one.
        description: of the progress bar.
        unit: of the progress bar.

    Raises:
        StorageError: the journal cannot be written (disk full); what it holds stays.
        DataError: a worker died.
    """
    known = _read(journal)
    todo = [(key, item) for key, item in zip(keys, items, strict=True) if key not in known]
    results = _results(function, [item for _, item in todo], jobs)
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(journal, "a", encoding="utf-8") as file,
            log.progress(total=len(items), description=description, unit=unit) as bar,
        ):
            bar.advance(len(items) - len(todo))
            if todo and file.tell():
                file.write("\n")  # ends a line that a kill cut short
            for (key, _), result in zip(todo, results, strict=True):
                known[key] = result
                file.write(json.dumps([key, result], ensure_ascii=True) + "\n")
                file.flush()
                bar.advance()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died (out of memory?). Run again with --jobs 1; what is done is kept."
        ) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Cannot write {journal}: {error.strerror or error}.") from error
    return {key: known[key] for key in keys}


def state_of(path: Path) -> str:
    """Return a file's size and time of change, "gone" where it cannot be seen."""
    try:
        stat = path.stat()
    except OSError:
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _results(function: Callable[[Any], Any], items: list[Any], jobs: int) -> Iterator[Any]:
    if jobs == 1 or len(items) < 2 * _CHUNK:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(function, items, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(journal: Path) -> dict[str, Any]:
    try:
        lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"Cannot read {journal}: {error.strerror}.") from error
    known = {}
    for line in lines:
        try:
            key, result = json.loads(line)
        except (json.JSONDecodeError, ValueError, TypeError):
            continue  # cut short by a kill: that item is done again
        known[key] = result
    return known
