"""Proof that something is forgotten: every byte of the store is read again and searched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embstore.erasure import Removed, digest
from embstore.schema import VECTORS, vectors_of
from embstore.store import EmbeddingStore

_BLOCK = 16 << 20
_NEEDLE = 32  # bytes of a vector that are searched for
_SHORTEST = 6  # bytes of an id below which chance finds it in any file


@dataclass
class Proof:
    """What was searched for where, and what was found."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    ids: int = 0
    vectors: int = 0
    shared: int = 0
    """Rows of other calls with a vector that is equal to a forgotten one; they stay."""
    only_decoded: list[str] = field(default_factory=list)
    """Ids searched for in decoded columns only: too short, or part of the id of another call."""
    found: list[str] = field(default_factory=list)


def prove(store: EmbeddingStore, ids: Iterable[str], removed: Removed) -> Proof:
    """Search a store for ids, and for the vectors that were removed in this run.

    Parquet files are searched as they are and decoded (their pages are compressed), all others as they are: ids
    as UTF-8 and as JSON writes them, vectors as float32, float16 and of length 1.
    """
    proof = Proof()
    wanted = set(ids)
    proof.ids, proof.vectors = len(wanted), len(removed.digests)
    paths = sorted(path for path in store.path.rglob("*") if path.is_file())
    shared: set[bytes] = set()
    longer: set[str] = set()
    for path in paths:
        if _is_parquet(path):
            _search_rows(path, store.path, wanted, removed, proof, shared, longer)
    proof.only_decoded = sorted(
        name
        for name in wanted
        if len(name.encode("utf-8", "surrogatepass")) < _SHORTEST or name in longer
    )
    texts = [_spellings(name) for name in sorted(wanted - set(proof.only_decoded))]
    own = [vector for vector in removed.sample if digest(vector) not in shared]
    needles = _needles(own)
    for path in paths:
        _search_bytes(path, store.path, texts, needles, proof)
    return proof


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _search_rows(
    path: Path,
    root: Path,
    wanted: set[str],
    removed: Removed,
    proof: Proof,
    shared: set[bytes],
    longer: set[str],
) -> None:
    """Search the columns of a Parquet file; note which ids are part of other ids."""
    with pq.ParquetFile(path) as reader:
        for batch in reader.iter_batches():
            proof.rows += batch.num_rows
            for item in batch.schema:
                column = batch.column(item.name)
                if pa.types.is_string(item.type):
                    values = [value for value in column.unique().to_pylist() if value is not None]
                    if wanted & set(values):
                        proof.found.append(f"{path.relative_to(root)}: {item.name}")
                    longer.update(
                        name for name in wanted for value in values if name in value != name
                    )
                elif item.name == VECTORS and removed.digests:
                    found = {digest(vector) for vector in vectors_of(column)} & removed.digests
                    proof.shared += len(found)
                    shared |= found


def _spellings(name: str) -> tuple[str, list[bytes]]:
    forms = [
        name.encode("utf-8", "surrogatepass"),
        json.dumps(name)[1:-1].encode(),
        json.dumps(name, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"),
    ]
    return name, list(dict.fromkeys(forms))


def _needles(vectors: list[np.ndarray]) -> dict[int, list[bytes]]:
    """Return what to search for, by its first 8 bytes as a number."""
    needles: dict[int, list[bytes]] = {}
    for vector in vectors:
        length = float(np.linalg.norm(vector)) or 1.0
        unit = (vector / np.float32(length)).astype(np.float32)
        for form in (vector.astype("<f4"), vector.astype("<f2"), unit.astype("<f4")):
            data = form.tobytes()[:_NEEDLE]
            if len(data) >= 16 and len(set(data)) > 4:  # zeros are everywhere
                needles.setdefault(int.from_bytes(data[:8], "little"), []).append(data)
    return needles


def _search_bytes(
    path: Path,
    root: Path,
    texts: list[tuple[str, list[bytes]]],
    needles: dict[int, list[bytes]],
    proof: Proof,
) -> None:
    name = str(path.relative_to(root))
    proof.files += 1
    proof.bytes += path.stat().st_size
    longest = max([_NEEDLE, *(len(form) for _, forms in texts for form in forms)])
    starts = np.array(sorted(needles), dtype=np.uint64)
    for block in _blocks(path, longest):
        if any(form in block for _, forms in texts for form in forms):
            proof.found.append(f"{name}: the id, in its bytes")
        if len(starts) and any(
            block.startswith(needle, place)
            for place, start in _places(block, starts)
            for needle in needles[start]
        ):
            proof.found.append(f"{name}: a vector, in its bytes")
    if any(form in name.encode("utf-8", "surrogateescape") for _, forms in texts for form in forms):
        proof.found.append(f"{name}: the id, in its name")


def _places(block: bytes, starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where in a block, at any offset, 8 bytes stand that a needle begins with."""
    for offset in range(8):
        count = (len(block) - offset) // 8
        words = np.frombuffer(block, "<u8", max(0, count), offset) if count > 0 else starts[:0]
        place = np.searchsorted(starts, words).clip(max=len(starts) - 1)
        for index in np.flatnonzero(starts[place] == words):
            yield offset + 8 * int(index), int(words[index])


def _blocks(path: Path, overlap: int) -> Iterator[bytes]:
    """Yield a file in blocks, each with the end of the one before."""
    tail = b""
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            block = tail + data
            yield block
            tail = block[-overlap:]
