"""Kill -9 at random with two exporters and two deleters, at every fail-point, a full disk, a flipped bit.

    python -m benchmarks.store_torture --kills 500 --out benchmarks/results/store_torture.json

Counts what must be 0: cuts lost, cuts doubled, rows visible to a reader who globs that no log entry names, erased calls
that are visible, and damage that `verify` does not find.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore import EmbeddingStore, Record, Segment, Space
from embstore.erasure import forget, sweep
from embstore.log import CommitLog
from embstore.schema import VECTORS, vectors_of
from embstore.state import Commit, split
from embstore.verify import verify
from trunkline.checkpoint import write_json
from trunkline.command import Summary, run
from trunkline.errors import DataError, StorageError

DIM = 32
SPACE = Space(backbone="cd" * 32, dim=DIM)
WINDOW, SHARD = 120, 12
"""Calls that both exporters are at together, and calls of one commit."""
FORGOTTEN = 8
"""Of so many calls in a row, each deleter forgets one."""
FAILPOINTS = ("entry_written", "staged", "before_commit", "committed", "published_one")
ERASING = ("erased", "before_swept")

_fork = get_context("forkserver")
_fork.set_forkserver_preload(["benchmarks.store_torture"])


def name_of(number: int) -> str:
    """Return the id of a call."""
    return f"call-{number:07d}/'x'"


def vector_of(number: int) -> np.ndarray:
    """Return the vector of a call, of no other call."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


def record_of(number: int) -> Record:
    """Return a call with one pooled vector and two segments."""
    vector = vector_of(number)
    segments = [Segment(0, 10, 2 * vector), Segment(10, 20, 3 * vector)]
    return Record(name_of(number), duration=20.0, n_frames=250, pooled=vector, segments=segments)


def exporter(path: str, rank: int, windows: int, begun: Any = None) -> None:
    """Add the calls of all windows, in an order of its own."""
    store = EmbeddingStore.open(path)
    _tell(begun)
    for window in range(windows):
        calls = list(range(window * WINDOW, (window + 1) * WINDOW))
        for first in range(0, WINDOW, SHARD):
            part = calls[::-1][first : first + SHARD] if rank else calls[first : first + SHARD]
            store.refresh()
            live, keys = store.state.live(SPACE.name), store.log.keys
            new = [n for n in part if keys.cut(name_of(n), name_of(n), 0) not in live]
            if new:
                store.append(SPACE, map(record_of, new))
        store.log.collect()


def deleter(path: str, rank: int, windows: int, begun: Any = None) -> None:
    """Forget every `FORGOTTEN`-th call, some before they come."""
    store = EmbeddingStore.open(path)
    _tell(begun)
    sweep(store)
    for window in range(windows):
        numbers = range(window * WINDOW + rank, (window + 1) * WINDOW, FORGOTTEN)
        for first in range(0, len(numbers), 3):
            store.refresh()
            part = [n for n in numbers[first : first + 3] if not store.is_erased(name_of(n))]
            if part:
                forget(store, map(name_of, part))
        while window * WINDOW * 2 // SHARD > store.refresh():  # not far ahead of the exporters
            time.sleep(0.01)


def _tell(begun: Any) -> None:
    if begun is not None:
        begun.set()


def look(path: str) -> dict[str, int]:
    """Return what a reader who globs and a reader of the log see that should not be, at this moment."""
    root = Path(path)
    rows: dict[str, int] = {}
    names = ("rows", "doubled", "uncommitted", "wrong", "unreadable", "missed")
    seen: dict[str, int] = dict.fromkeys(names, 0)
    for file in sorted(root.glob("pooled/**/*.parquet")):
        try:
            table = pq.read_table(file, columns=["call_id", VECTORS])
        except (pa.ArrowException, OSError):
            seen["unreadable"] += 1
            continue
        for call, vector in zip(
            table.column(0).to_pylist(), vectors_of(table.column(1)), strict=True
        ):
            rows[call] = rows.get(call, 0) + 1
            seen["wrong"] += not np.array_equal(vector, vector_of(int(call[5:12])))
    store = EmbeddingStore.open(root)
    added, gone = _history(store)
    keys = store.log.keys
    for call, count in rows.items():
        seen["rows"] += count
        seen["doubled"] += count - 1
        seen["uncommitted"] += keys.pair(call, call, 0) not in added
    before = set().union(*map(split, store.state.cuts.get(SPACE.name, {}).values()))
    found = {call for batch in store.scan("pooled", SPACE, ["call_id"]) for call in batch[0].to_pylist()}  # fmt: skip
    _, gone = _history(store)
    missed = before - {keys.pair(call, call, 0) for call in found}
    seen["missed"] = len(missed - gone)
    return seen


def _history(store: EmbeddingStore) -> tuple[set[bytes], set[bytes]]:
    """Return all pairs that were ever added, and all that were ever left out, by the log as it is now."""
    log = CommitLog(store.storage, store.log.keys)
    added: set[bytes] = set()
    gone: set[bytes] = set()

    def note(version: int, commit: Commit) -> None:
        for pairs in commit.cuts.values():
            added.update(split(pairs))
        for versions in commit.gone.values():
            for pairs in versions.values():
                gone.update(split(pairs))
        apply(version, commit)

    apply, log.state.apply = log.state.apply, note  # type: ignore[method-assign]
    log.refresh()
    return added, gone


def _looking(path: str, results: Any, stop: Any) -> None:
    while not stop.is_set():
        results.put(look(path))
        stop.wait(1.0)
    results.put(None)


def torture(folder: Path, kills: int, *, seed: int = 0, delay: float | None = None) -> Summary:
    """Run two exporters and two deleters, kill one of them `kills` times, let them finish, and count.

    Args:
        folder: an empty folder.
        kills: how often.
        seed: of whom and when.
        delay: seconds until the next kill, at most; a few commits' time by default.
    """
    path = folder / "store"
    began = time.perf_counter()
    EmbeddingStore.create(path).add_space(SPACE)
    chance = random.Random(seed)
    windows, roles = 1, (exporter, exporter, deleter, deleter)
    running: dict[int, BaseProcess] = {}
    begun: dict[int, Any] = {}
    ended: set[int] = set()
    results, stop = _fork.SimpleQueue(), _fork.Event()
    watcher = _fork.Process(target=_looking, args=(str(path), results, stop))
    watcher.start()
    delay = delay or _time_of_commits(folder)
    done = 0
    while done < kills:
        for place, process in list(running.items()):
            if process.exitcode is not None:
                if process.exitcode:
                    raise DataError(f"{roles[place].__name__} ended with {process.exitcode}.")
                ended.add(place)
                del running[place]
        if len(ended) == len(roles):
            windows += 1
            ended.clear()
        for place, role in enumerate(roles):
            if place not in running and place not in ended:
                begun[place] = _fork.Event()
                running[place] = _started(role, path, place % 2, windows, begun[place])
        time.sleep(chance.uniform(0, delay))
        # One at work; one in ten while it starts.
        working = [place for place in running if begun[place].is_set()]
        if not working and chance.random() > 0.1:
            continue
        place = chance.choice(working or list(running))
        process = running[place]
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            if process.exitcode == -signal.SIGKILL:
                done += 1
                del running[place]
    for process in running.values():
        process.kill()
        process.join()
    stop.set()
    looks = []
    while (seen := results.get()) is not None:
        looks.append(seen)
    watcher.join()
    for place, role in enumerate(roles):  # nobody is killed any more
        process = _started(role, path, place % 2, windows)
        process.join()
        assert process.exitcode == 0
    outcome = _count(path, windows)
    names = ("doubled", "uncommitted", "wrong", "unreadable", "missed")
    return {
        "kills": done,
        "calls": windows * WINDOW,
        "log_entries": EmbeddingStore.open(path).state.version,
        "looks": len(looks),
        "while_killing": {name: sum(seen[name] for seen in looks) for name in names},
        **outcome,
        "seconds": time.perf_counter() - began,
    }


def _started(role: Any, path: Path, rank: int, windows: int, begun: Any = None) -> BaseProcess:
    process = _fork.Process(target=role, args=(str(path), rank, windows, begun))
    process.start()
    return process


def _time_of_commits(folder: Path) -> float:
    """Return how long a process takes for its start and a few commits, on this machine as it is now."""
    EmbeddingStore.create(folder / "timed")
    began = time.perf_counter()
    _started(exporter, folder / "timed", 0, 1).join()
    shutil.rmtree(folder / "timed")
    return max(0.02, 2 * (time.perf_counter() - began))


def _count(path: Path, windows: int) -> Summary:
    """Compare what is there with what should be."""
    store = EmbeddingStore.open(path)
    sweep(store)
    expected = {n for n in range(windows * WINDOW) if n % FORGOTTEN not in (0, 1)}
    vectors, keys = store.pooled(SPACE)
    found = [int(call[5:12]) for call in keys.column("call_id").to_pylist()]
    wrong = sum(
        not np.array_equal(vector, vector_of(number))
        for vector, number in zip(vectors, found, strict=True)
    )
    erased = [name_of(n).encode() for n in range(windows * WINDOW) if n % FORGOTTEN in (0, 1)]
    everything = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    return {
        "expected": len(expected),
        "lost": len(expected - set(found)),
        "doubled": len(found) - len(set(found)),
        "resurrected": len(set(found) - expected),
        "wrong_vectors": wrong,
        "erased_ids_in_raw_files": sum(name in everything for name in erased),
        "faults": [fault._asdict() for fault in verify(store)],
    }


def failpoints(folder: Path) -> Summary:
    """Die at every fail-point once, as an exporter and as a deleter; return what the next run leaves wrong."""
    outcome: dict[str, Any] = {}
    for role, names in ((exporter, FAILPOINTS), (deleter, (*FAILPOINTS, *ERASING))):
        for name in names:
            path = folder / f"{role.__name__}-{name}"
            EmbeddingStore.create(path).add_space(SPACE)
            if role is deleter:
                _started(exporter, path, 0, 1).join()
            code = f"from benchmarks.store_torture import *; {role.__name__}({str(path)!r}, 0, 1)"
            environment = os.environ | {"EMBSTORE_FAIL_AT": name}
            process = subprocess.run([sys.executable, "-c", code], env=environment)
            seen = look(str(path))
            for each, rank in ((exporter, 0), (deleter, 0), (deleter, 1)):
                _started(each, path, rank, 1).join()
            counted = _count(path, 1)
            bad = {k: v for k, v in counted.items() if k != "expected" and v}
            bad |= {k: v for k, v in seen.items() if k != "rows" and v}
            died = process.returncode == -signal.SIGKILL
            outcome[f"{role.__name__} at {name}"] = bad or ("right" if died else "did not die")
    return outcome


def flipped_bits(folder: Path, per_file: int, seed: int = 0) -> Summary:
    """Flip a bit in every file of a store, one at a time, and count those that `verify` does not find."""
    path = folder / "flipped"
    EmbeddingStore.create(path).add_space(SPACE)
    for role in (exporter, deleter):
        role(str(path), 0, 1)
    chance, flips, missed = random.Random(seed), 0, []
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        if file.name == "README.txt":
            continue
        whole = file.read_bytes()
        for _ in range(per_file):
            place, bit = chance.randrange(len(whole)), chance.randrange(8)
            data = bytearray(whole)
            data[place] ^= 1 << bit
            file.write_bytes(data)
            flips += 1
            try:
                found = bool(verify(EmbeddingStore.open(path), quick=True))
            except (DataError, StorageError):
                found = True  # refused with a sentence
            if not found:
                missed.append(f"{file.relative_to(path)}: bit {bit} of byte {place}")
        file.write_bytes(whole)
    mended = len(verify(EmbeddingStore.open(path)))
    return {"flips": flips, "not_found": missed, "faults_when_mended": mended}


def full_disk(folder: Path, megabytes: int = 3) -> Summary:
    """Fill a small tmpfs, look, make room, and finish; says so where this system lets nobody mount one."""
    place = folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        return {"skipped": "this system does not let us mount a tmpfs"}
    try:
        store = EmbeddingStore.create(place / "store")
        added, message = 0, ""
        try:
            for number in range(0, 1 << 20, SHARD):
                added += store.append(SPACE, map(record_of, range(number, number + SHARD))).added
        except StorageError as error:
            message = str(error).replace(f"{place}/", "")
        seen = look(str(place / "store"))
        faults = len(verify(EmbeddingStore.open(place / "store")))
        staged = len(list((place / "store" / "_staging").iterdir()))
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        store = EmbeddingStore.open(place / "store")
        more = store.append(SPACE, map(record_of, range(added + 5 * SHARD)))
        return {
            "committed_when_full": added, "message": message, "visible": seen.pop("rows"), "seen": seen,
            "faults_when_full": faults, "staged_left": staged, "added_after": more.added,
            "already_after": more.already, "faults_after": len(verify(store)),
        }  # fmt: skip
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store_torture.json"))
    return run(_main, parser, argv)


def _main(arguments: argparse.Namespace) -> Summary:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: Summary = {"failpoints": failpoints(folder)}
        result["flipped_bits"] = flipped_bits(folder, 5)
        result["full_disk"] = full_disk(folder)
        result["random_kills"] = torture(folder, arguments.kills, seed=arguments.seed)
    write_json(arguments.out, result)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
