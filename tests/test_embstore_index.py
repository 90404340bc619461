"""Indexes: as good as brute force, kept up to date, joined from shards, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embstore import EmbeddingStore, Space
from embstore.index import adding
from embstore.index.adding import FlatFile, InMemory, exact, exact_index
from embstore.index.build import build, number_of_lists, plan, recalls
from embstore.index.folder import FAISS, IDS, INFO, find
from embstore.index.opened import Index
from embstore.index.update import merge, update
from embstore.where import select
from tests.made_stores import DIM, SPACE, add, calls, store_of, vectors
from trunkline.errors import DataError, UsageError


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def built(store: EmbeddingStore, name: str = "x", **options) -> Index:
    build(plan(store, "pooled", SPACE, name, **options))
    return Index.open(store, name)


def brute_force(points: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None):
    scores = unit(queries) @ unit(points).T
    if allowed is not None:
        scores[:, ~allowed] = -2
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def names(found: pa.Table, queries: int) -> list[list[str]]:
    ids, query = found["call_id"].to_pylist(), found["query"].to_pylist()
    return [
        [i for i, q in zip(ids, query, strict=True) if q == number] for number in range(queries)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EmbeddingStore:
    return store_of(tmp_path_factory.mktemp("index") / "store", 700, 900)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.concatenate([vectors(700, 0), vectors(900, 1)])


@pytest.fixture(scope="module")
def flat(store) -> Index:
    return built(store, "flat")


@pytest.fixture(scope="module")
def inverted(store) -> Index:
    return built(store, "ivf", kind="ivf-sq8")


def test_a_flat_index_finds_what_brute_force_finds(flat, points):
    queries = vectors(25, seed=5)
    found = flat.search(queries, 10)
    assert names(found, 25) == [
        [f"call-{n}" for n in row] for row in brute_force(points, queries, 10)
    ]
    assert found["rank"].to_pylist() == list(range(1, 11)) * 25
    best = (unit(queries[:1]) @ unit(points).T).max()
    assert found["score"][0].as_py() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_an_exact_index_has_the_bytes_that_faiss_writes(rows, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((rows, 5), dtype=np.float32)
    index = exact_index(5)
    index.add_with_ids(vectors, np.arange(rows, dtype=np.int64))
    faiss.write_index(index, str(tmp_path / "faiss"))
    made = exact(tmp_path / "ours", rows, 5)
    assert isinstance(made, FlatFile)
    for batch in np.array_split(vectors, 3):
        made.add(batch)
    made.finish()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "faiss").read_bytes()


def test_with_another_faiss_an_exact_index_is_made_in_memory(store, tmp_path, monkeypatch):
    expected = build(plan(store, "pooled", SPACE, "as-ever", kind="flat"))
    monkeypatch.setattr(adding, "_after", lambda rows: b"")
    assert isinstance(exact(tmp_path / "index", 3, 4), InMemory)
    made = build(plan(store, "pooled", SPACE, "other", kind="flat"))
    assert made.rows == expected.rows
    one, two = (find(store.path, name) / FAISS for name in ("as-ever", "other"))
    assert one.read_bytes() == two.read_bytes()


def test_a_row_found_says_where_it_comes_from(flat):
    (row,) = flat.search(vectors(900, 1)[25], 1).to_pylist()
    assert row["call_id"] == "call-725"
    assert (row["channel"], row["duration_ms"], row["meta_agent"]) == (1, 1000, "A2")


CONDITIONS = [
    "channel=1 and duration_ms>2000",
    "meta_agent in ['A1', null]",
    "not (meta_agent = 'A0') and sample_rate = 8000",  # a column of calls, not of pooled
    "call_id = 'call-3'",
]


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_is_kept_before_the_nearest_are_chosen(flat, inverted, points, where):
    table = pa.table(calls(1600) | {"sample_rate": [8000] * 1600})
    table = table.append_column("row", pa.array(np.arange(1600)))
    allowed = np.zeros(1600, bool)
    allowed[select(table, where)["row"].to_numpy()] = True
    queries = vectors(20, seed=6)
    k = min(10, allowed.sum())
    expected = [[f"call-{n}" for n in row] for row in brute_force(points, queries, k, allowed)]
    assert names(flat.search(queries, 10, where=where), 20) == expected
    assert names(inverted.search(queries, 10, where=where, exact=True), 20) == expected
    near = names(inverted.search(queries, 10, where=where), 20)
    assert np.mean([len(set(a) & set(b)) / k for a, b in zip(near, expected, strict=True)]) > 0.9
    assert all(len(row) == k for row in near), "short lists: too few lists were looked at"


def test_a_condition_that_nothing_fulfils_finds_nothing(flat, inverted):
    for index in (flat, inverted):
        assert not len(index.search(vectors(2), 5, where="channel = 7", exact=True))


def test_an_inverted_file_is_tuned_and_says_so(inverted, points):
    info = inverted.info
    assert info.kind == "ivf-sq8" and info.lists == number_of_lists(1600) == 32
    assert info.recall["at_10"] >= 0.95 and 1 <= info.nprobe <= info.lists
    queries = vectors(200, seed=8)
    found = names(inverted.search(queries, 10), 200)
    expected = [{f"call-{n}" for n in row} for row in brute_force(points, queries, 10)]
    recall = np.mean([len(set(a) & b) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall >= 0.9, "recall on fresh queries is far below what was written down"
    assert (find(inverted.store.path, "ivf") / FAISS).stat().st_size < 0.5 * points.nbytes


def test_exact_search_beside_an_inverted_file_is_exact(inverted, flat):
    queries = vectors(30, seed=9)
    exact = names(inverted.search(queries, 10, exact=True), 30)
    assert exact == names(flat.search(queries, 10), 30)


def test_kind_auto_is_exact_while_it_fits(store):
    chosen = plan(store, "pooled", SPACE, "auto", max_memory=1 << 30)
    assert build(chosen).kind == "flat"
    assert build(chosen._replace(max_memory=100_000)).kind == "ivf-sq8"


def test_dot_products_are_of_the_vectors_as_they_are(store, points):
    index = built(store, "dot", metric="dot")
    query = vectors(1, seed=3)
    best = int(np.argmax(query @ points.T))
    (row,) = index.search(query, 1).to_pylist()
    assert row["call_id"] == f"call-{best}"
    assert row["score"] == pytest.approx(float((query @ points[best])[0]), rel=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_an_update_adds_what_is_new_and_equals_an_index_made_afresh(tmp_path, kind):
    store = store_of(tmp_path / "store", 400, 300)
    built(store, "x", kind=kind)
    before = pq.read_table(find(store.path, "x") / IDS)
    add(store, 200, 2, 700)
    assert Index.open(store, "x").stale() != []
    assert update(store, "x") == {"added": 200, "removed": 0}
    assert update(store, "x") == {"added": 0, "removed": 0}
    index = Index.open(store, "x")
    assert index.stale() == []
    assert index.ids.slice(0, 700).equals(before), "an id came to mean another row"
    assert index.ids["id"].to_pylist() == list(range(900))
    queries = vectors(20, seed=5)
    fresh = built(store, "fresh", kind="flat")
    exact = index.search(queries, 5, exact=True)
    assert names(exact, 20) == names(fresh.search(queries, 5), 20)
    assert len(list((store.path / "index" / "x").iterdir())) == 1, "the old version is still there"


def rewrite_without(store: EmbeddingStore, gone: set[str]) -> None:
    """Write every Parquet file of pooled vectors again without some calls, as the log would have it."""
    from dataclasses import replace

    from trunkline.checkpoint import sha256_file

    for file in store.state.files_of("pooled", SPACE.name):
        path = store.path / file.path
        table = pq.read_table(path, partitioning=None)
        kept = [name not in gone for name in table["call_id"].to_pylist()]
        if all(kept):
            continue
        pq.write_table(table.filter(pa.array(kept)), path)
        changed = replace(file, rows=sum(kept), sha256=sha256_file(path))
        store.state.files[file.path] = changed


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_an_update_removes_what_is_gone_and_never_gives_its_id_again(tmp_path, kind):
    store = store_of(tmp_path / "store", 400, 300)
    built(store, "x", kind=kind)
    gone = {"call-0", "call-17", "call-399", "call-699"}
    rewrite_without(store, gone)
    add(store, 50, 2, 700)
    assert update(store, "x") == {"added": 50, "removed": 4}
    index = Index.open(store, "x")
    ids = index.ids["id"].to_pylist()
    assert ids == [n for n in range(750) if f"call-{n}" not in gone]
    assert not gone & set(index.ids["call_id"].to_pylist())
    assert index.info.next_id == 750
    queries = vectors(20, seed=5)
    fresh = built(store, "fresh", kind="flat")
    expected = names(fresh.search(queries, 5), 20)
    assert names(index.search(queries, 5, exact=True), 20) == expected
    if kind == "flat":
        assert names(index.search(queries, 5), 20) == expected


def test_a_file_with_other_rows_is_taken_anew(tmp_path):
    store = store_of(tmp_path / "store", 30)
    built(store, "x")
    (file,) = store.state.files_of("pooled", SPACE.name)
    table = pq.read_table(store.path / file.path, partitioning=None)
    pq.write_table(table.take(list(range(29, -1, -1))), store.path / file.path)
    rewrite_without(store, {"call-5"})
    assert update(store, "x") == {"added": 29, "removed": 30}
    assert Index.open(store, "x").ids["id"].to_pylist() == list(range(30, 59))


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_indexes_of_shards_join_into_that_of_the_whole(tmp_path, kind):
    store = store_of(tmp_path / "store", 300, 500, 400)
    shards = [f"s{number}" for number in range(3)]
    for number, name in enumerate(shards):
        built(store, name, kind=kind, shard=(number, 3))
    info = merge(store, "all", shards)
    whole = built(store, "whole", kind=kind)
    assert info.rows == 1200 and info.shard == ""
    index = Index.open(store, "all")
    assert index.stale() == []
    queries = vectors(30, seed=4)
    assert names(index.search(queries, 10, exact=True), 30) == names(
        whole.search(queries, 10, exact=True), 30
    )
    add(store, 10, 9, 1200)
    assert update(store, "all") == {"added": 10, "removed": 0}
    assert update(store, "s1") == {"added": 0, "removed": 0}, "a shard took the files of others"


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    store = store_of(tmp_path / "store", 300, 500)
    built(store, "a", shard=(0, 2))
    built(store, "b", kind="ivf-sq8", shard=(1, 2))
    built(store, "c", kind="ivf-sq8", shard=(0, 2), seed=3)
    with pytest.raises(UsageError, match="differ in kind"):
        merge(store, "all", ["a", "b"])
    with pytest.raises(UsageError, match="with the same --seed"):
        merge(store, "all", ["b", "c"])
    with pytest.raises(DataError, match="is in 'a' and in another"):
        merge(store, "all", ["a", "a"])
    with pytest.raises(UsageError, match="no index 'd'"):
        merge(store, "all", ["a", "d"])
    with pytest.raises(UsageError, match="there are 2 files"):
        plan(store, "pooled", SPACE, "x", shard=(2, 3))


def damaged(tmp_path: Path, *counts: int) -> tuple[EmbeddingStore, Path]:
    store = store_of(tmp_path / "store", *counts)
    built(store, "x")
    return store, find(store.path, "x")


def refit(folder: Path) -> None:
    """Let index.json state the sizes of the files that are there, as who tampers with them would."""
    info = json.loads((folder / INFO).read_text())
    for name, file in info["own"].items():
        file["bytes"] = (folder / name).stat().st_size
    (folder / INFO).write_text(json.dumps(info))


def test_ids_of_another_index_are_refused(tmp_path):
    store, folder = damaged(tmp_path, 50)
    pq.write_table(pq.read_table(folder / IDS).slice(0, 49), folder / IDS)
    with pytest.raises(DataError, match="another size than index.json says"):
        Index.open(store, "x")
    refit(folder)
    with pytest.raises(DataError, match="50 vectors in index.faiss, 49 rows in ids.parquet"):
        Index.open(store, "x")


def test_ids_that_are_not_rising_are_refused(tmp_path):
    store, folder = damaged(tmp_path, 50)
    table = pq.read_table(folder / IDS)
    pq.write_table(table.set_column(0, "id", pa.array([0] * 50)), folder / IDS)
    refit(folder)
    with pytest.raises(DataError, match="do not rise"):
        Index.open(store, "x")


def test_a_truncated_index_is_refused_and_can_be_made_again(tmp_path):
    store, folder = damaged(tmp_path, 50)
    data = (folder / FAISS).read_bytes()
    (folder / FAISS).write_bytes(data[:-100])
    with pytest.raises(DataError, match="Build the index again"):
        Index.open(store, "x")
    refit(folder)
    with pytest.raises(DataError, match="no whole FAISS index"):
        update_after_append(store)
    assert len(built(store, "x").ids) == 70


def update_after_append(store: EmbeddingStore) -> None:
    add(store, 20, 3, 50)
    update(store, "x")


def test_vectors_of_another_dimension_are_refused(flat, store, tmp_path):
    with pytest.raises(UsageError, match=r"shape \(1, 7\) does not fit vectors of 16"):
        flat.search(np.zeros(7, np.float32))
    with pytest.raises(DataError, match="NaN"):
        flat.search(np.full(DIM, np.nan))
    other = Space(backbone="cd" * 32, dim=DIM + 1)
    mixed = store_of(tmp_path / "mixed", 20)
    mixed.append_columns(other, {"call_id": ["z"]}, np.ones((1, DIM + 1), np.float32))
    (ours,) = mixed.state.files_of("pooled", SPACE.name)
    (theirs,) = mixed.state.files_of("pooled", other.name)
    shutil.copy(mixed.path / theirs.path, mixed.path / ours.path)
    with pytest.raises(DataError, match="vectors of 17 numbers, its space has 16"):
        build(plan(mixed, "pooled", SPACE, "x"))


def test_a_truncated_parquet_file_is_named(tmp_path):
    store = store_of(tmp_path / "store", 50)
    (file,) = store.state.files_of("pooled", SPACE.name)
    path = store.path / file.path
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=file.path):
        build(plan(store, "pooled", SPACE, "x"))
    assert not list((store.path / "index").rglob(INFO))


def test_what_is_killed_half_way_leaves_the_index_before(tmp_path, monkeypatch):
    store = store_of(tmp_path / "store", 50)
    built(store, "x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embstore.index.build.write_info", full)
    with pytest.raises(OSError, match="no space left"):
        build(plan(store, "pooled", SPACE, "x"))
    assert Index.open(store, "x").info.rows == 50
    assert len(list((store.path / "index" / "x").iterdir())) == 1


def test_an_unknown_index_names_the_nearest(flat, store):
    with pytest.raises(UsageError, match="no index 'falt'. Did you mean 'flat'"):
        Index.open(store, "falt")


def test_recall_does_not_count_the_query_itself():
    shares = recalls(np.array([[7, 1, 2], [8, 3, -1]]), np.array([[7, 1, 9], [8, 3, 4]]))
    assert shares.tolist() == [0.5, 1.0]
