"""What `benchmarks/store.py` measures, one function a row; each runs in a process of its own.

Vectors are made up: frames are an AR(1) latent of 64 numbers mapped to 512, normalised, with two outlying dimensions;
pooled vectors lie around 3,000 centres of uneven size in a latent of 48 numbers. Seconds are processor time of all
threads unless a name says `wall`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore import EmbeddingStore, Record, Space
from embstore.schema import ROW_GROUP, round_mantissa, schema_of, vector_column, writer_options

Row = dict[str, Any]
DIM = 512
FRAMES = 90_000  # two hours
POOLED = Space(backbone="00" * 32, dim=DIM)
FRAME_SPACE = Space(backbone="00" * 32, dim=DIM, pooling="frames", precision="m10")


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def cpu(self) -> float:
        """Processor time."""
        return time.process_time() - self._cpu

    def wall(self) -> float:
        """Time that passed."""
        return time.perf_counter() - self._wall


def cpu_of(function: Callable[[], object], times: int = 3) -> float:
    """Median processor seconds of a call."""
    seconds = []
    for _ in range(times):
        clock = Clock()
        function()
        seconds.append(clock.cpu())
    return median(seconds)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Yield a dictionary that gets `mb`: the most private memory (RssAnon) above what there was before."""
    found, done = {"mb": 0.0}, threading.Event()
    before = _anonymous()

    def watch() -> None:
        while not done.wait(0.01):
            found["mb"] = max(found["mb"], _anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        found["mb"] = max(found["mb"], _anonymous() - before)
        done.set()
        watcher.join()


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("This system does not tell RssAnon.")


def made_frames(count: int, seed: int = 0) -> np.ndarray:
    """(count, DIM) float32."""
    from scipy.signal import lfilter

    generator = np.random.default_rng(seed)
    latent = lfilter(
        [0.44], [1.0, -0.9], generator.standard_normal((count, 64), np.float32), axis=0
    )
    frames = np.asarray(latent, np.float32) @ generator.standard_normal((64, DIM), np.float32)
    frames -= frames.mean(1, keepdims=True)
    frames /= frames.std(1, keepdims=True)
    frames *= generator.uniform(0.5, 1.5, DIM).astype(np.float32)
    frames[:, :2] *= 20
    return frames


def made_pooled(count: int, seed: int) -> np.ndarray:
    """(count, DIM) float32; every seed has the same centres."""
    fixed = np.random.default_rng(1234)
    centres = fixed.standard_normal((3000, 48), np.float32)
    share = fixed.pareto(1.0, 3000) + 0.1
    lift = fixed.standard_normal((48, DIM), np.float32)
    generator = np.random.default_rng(seed)
    latent = centres[generator.choice(3000, count, p=share / share.sum())]
    latent += 0.5 * generator.standard_normal((count, 48), np.float32)
    return latent @ lift + 0.5 * generator.standard_normal((count, DIM), np.float32)


def _frames_table(frames: np.ndarray, call: Any = None) -> pa.Table:
    count = len(frames)
    names = call or pa.array([f"call-{n // 3750:05d}" for n in range(count)])
    table = {
        "call_id": names, "cut_id": names, "channel": pa.repeat(pa.scalar(0, pa.int8()), count),
        "space": pa.repeat("x", count), "frame": pa.array(np.arange(count, dtype=np.int32)),
        "t_ms": pa.array(np.arange(count) * 80), "v": vector_column(frames),
    }  # fmt: skip
    return pa.table(table, schema=None if call is not None else schema_of("frames", FRAME_SPACE))


def frames_size(work: Path) -> Row:
    """Two hours of frames in the store's way, beside raw float32 and the best of native half floats."""
    import faiss

    frames = made_frames(FRAMES)
    rounded = round_mantissa(frames)
    ours, half = work / "ours.parquet", work / "half.parquet"
    table = _frames_table(rounded)
    pq.write_table(table, ours, row_group_size=ROW_GROUP, **writer_options(table.schema))
    _write_half(frames, half, table.drop_columns("v"))
    raw = frames.nbytes
    queries = made_pooled(500, 1)
    vectors = made_pooled(100_000, 2)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (queries, vectors, round_mantissa(vectors))
    ]
    exact, near = (faiss.knn(unit[0], x, 10, faiss.METRIC_INNER_PRODUCT)[1] for x in unit[1:])
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, near, strict=True)])
    return {
        "of_raw": ours.stat().st_size / raw,
        "of_native_half": ours.stat().st_size / half.stat().st_size,
        "recall_at_10": float(recall),
    }


def _write_half(
    frames: np.ndarray, path: Path, rest: pa.Table, *, statistics: bool = False
) -> None:
    """Write frames as native half floats, everything else as the store does, or with statistics of all columns."""
    flat = pa.array(frames.astype(np.float16).reshape(-1))
    kind = pa.list_(pa.field("element", pa.float16(), nullable=False), DIM)
    column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    table = rest.append_column(pa.field("v", kind, nullable=False), column)
    options = writer_options(table.schema)
    if statistics:
        options["write_statistics"] = True
    pq.write_table(table, path, row_group_size=ROW_GROUP, **options)


def frames_write(work: Path) -> Row:
    """Frames written per second of one core: the store's way, native halves, pyarrow's defaults, np.save.

    The same columns and row groups in all Parquet files (reference, 2.3). Halves are written byte-stream split and
    with zstd 1, once with the statistics that pyarrow makes of every column, which for halves are slow, and once
    without those of the vectors, as the store leaves them out.
    """
    frames = made_frames(FRAMES)
    ours, plain, raw = work / "ours.parquet", work / "default.parquet", work / "raw.npy"

    rest = _frames_table(frames).drop_columns("v")  # an export repeats one id, and makes no strings

    def write_ours() -> None:
        schema = schema_of("frames", FRAME_SPACE)
        with pq.ParquetWriter(ours, schema, **writer_options(schema)) as file:
            for first in range(0, FRAMES, ROW_GROUP):  # as the store does: it holds one row group
                column = vector_column(round_mantissa(frames[first : first + ROW_GROUP]))
                piece = rest.slice(first, ROW_GROUP).append_column(schema.field("v"), column)
                file.write_table(piece.cast(schema))
        _fsync(ours)

    def save() -> None:
        np.save(raw, frames)
        _fsync(raw)

    wall: dict[str, list[float]] = {"ours": [], "save": []}
    for _ in range(10):
        for name, function in (("ours", write_ours), ("save", save)):
            clock = Clock()
            function()
            wall[name].append(clock.wall())
    default = rest.append_column(schema_of("frames", FRAME_SPACE).field("v"), vector_column(frames))
    half = work / "half.parquet"

    def write_half(statistics: bool) -> None:
        _write_half(frames, half, rest, statistics=statistics)
        _fsync(half)

    def write_default() -> None:
        pq.write_table(default, plain, row_group_size=ROW_GROUP)
        _fsync(plain)

    ways: dict[str, Callable[[], object]] = {
        "ours": write_ours, "half": lambda: write_half(True), "plain half": lambda: write_half(False),
        "default": write_default, "save": save,
    }  # fmt: skip
    # In turns, and the best of ten each: what else runs on the machine only ever adds.
    turns = [{name: cpu_of(way, 1) for name, way in ways.items()} for _ in range(10)]
    seconds = {name: min(turn[name] for turn in turns) for name in ways}
    return {
        "frames_per_s": FRAMES / seconds["ours"],
        "of_native_half": seconds["half"] / seconds["ours"],
        "of_native_half_without_statistics": seconds["plain half"] / seconds["ours"],
        "of_pyarrow_defaults": seconds["default"] / seconds["ours"],
        "size_of_pyarrow_defaults": ours.stat().st_size / plain.stat().st_size,
        "of_np_save_wall": min(wall["save"]) / min(wall["ours"]),
        "of_np_save_cpu": seconds["save"] / seconds["ours"],
    }


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def commit(work: Path) -> Row:
    """A shard of one small call: written, flushed, logged, published; and the protocol alone, from staged to published.

    The protocol waits for the disk four times, one after the other: for what is staged, for the entry, for its name,
    and for the names of what is published. Beside it stands flushing one small new file.
    """
    shutil.rmtree(work / "commits", ignore_errors=True)
    store = EmbeddingStore.create(work / "commits")
    vectors = made_pooled(300, 0)
    wall, cpu, protocol, flush = [], [], [], []
    publish = store.log.commit

    def timed(build: Any, staged: Any = ()) -> int | None:
        clock = Clock()
        version = publish(build, staged)
        protocol.append(clock.wall())
        return version

    store.log.commit = timed
    for number, vector in enumerate(vectors):
        small = work / "commits" / f"{number}.small"
        small.write_bytes(b"x" * 4096)
        clock = Clock()
        _fsync(small)
        flush.append(clock.wall())
        small.unlink()
        clock = Clock()
        store.append(POOLED, [Record(call_id=f"call-{number}", pooled=vector)])
        wall.append(clock.wall())
        cpu.append(clock.cpu())
    return {
        "ms_wall": 1e3 * median(wall),
        "ms_wall_p95": 1e3 * float(np.quantile(wall, 0.95)),
        "ms_cpu": 1e3 * median(cpu),
        "protocol_ms_wall": 1e3 * median(protocol),
        "one_flush_ms_wall": 1e3 * median(flush),
    }


def fetch_call(work: Path) -> Row:
    """The frames of one call of ten hours, beside a file whose ids are of a dictionary type."""
    shutil.rmtree(work / "frames", ignore_errors=True)
    store = EmbeddingStore.create(work / "frames")
    parts = []
    for hour in range(10):
        frames = round_mantissa(made_frames(45_000, hour))
        calls = np.split(frames, 12)
        records = [
            Record(call_id=f"call-{12 * hour + n:05d}", frames=x) for n, x in enumerate(calls)
        ]
        store.append(FRAME_SPACE, records)
        parts.append(frames)
    names = pa.array([f"call-{n // 3750:05d}" for n in range(450_000)]).dictionary_encode()
    table = _frames_table(np.concatenate(parts), names)
    del parts
    path = work / "dictionary.parquet"
    pq.write_table(table, path, row_group_size=ROW_GROUP, **writer_options(table.schema))
    del table
    ours = cpu_of(lambda: store.frames("call-00061"), 9)
    scan = cpu_of(lambda: pq.read_table(path, filters=[("call_id", "=", "call-00061")]))
    assert len(store.frames("call-00061")) == 3750
    return {"ms_cpu": 1e3 * ours, "ms_cpu_of_a_dictionary_type": 1e3 * scan, "ratio": ours / scan}


def resume(work: Path) -> Row:
    """A store of a million calls of which nothing is left to do: opened, and every cut looked up."""
    path = work / "million"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        store = EmbeddingStore.create(path)
        for first in range(0, 1_000_000, 2000):
            store.append_columns(
                POOLED, {"call_id": [f"call-{n}" for n in range(first, first + 2000)]}
            )
        (path / "done").touch()
    clock = Clock()
    store = EmbeddingStore.open(path)
    opened = clock.cpu()
    live = store.state.live(POOLED.name)
    cut = store.log.keys.cut  # all that an export computes for a cut that is there
    missing = sum(cut(f"call-{n}", f"call-{n}", 0) not in live for n in range(1_000_000))
    return {
        "missing": missing,
        "open_s": opened,
        "seconds": clock.cpu(),
        "seconds_wall": clock.wall(),
    }


def forget(work: Path) -> Row:
    """One of 100,000 calls, with its vectors in a Flat index, forgotten."""
    from embstore.erasure import forget as erase
    from embstore.index.build import build, plan
    from embstore.index.opened import Index

    path = work / "hundred-thousand"
    shutil.rmtree(path, ignore_errors=True)
    store = EmbeddingStore.create(path)
    for first in range(0, 100_000, 5000):
        names = [f"call-{n}" for n in range(first, first + 5000)]
        store.append_columns(POOLED, {"call_id": names}, made_pooled(5000, first))
    build(plan(store, "pooled", POOLED, "all"))
    clock = Clock()
    store = EmbeddingStore.open(path)
    erase(store, ["call-61234"], [])
    row = {"seconds": clock.cpu(), "seconds_wall": clock.wall()}
    index = Index.open(store, "all")
    row["left_in_index"] = index.ids["call_id"].to_pylist().count("call-61234")
    row["vectors_left"] = index.index.ntotal
    shutil.rmtree(path)
    return row
