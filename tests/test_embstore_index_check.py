"""What `embstore.verify` asks of indexes: a sound one is silent, a damaged or foreign one is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embstore.index import check
from embstore.index.build import build, plan
from embstore.index.folder import FAISS, IDS, INFO, find
from tests.made_stores import SPACE, add, store_of
from trunkline.checkpoint import sha256_file


@pytest.fixture
def store(tmp_path):
    store = store_of(tmp_path / "store", 300, 200)
    build(plan(store, "pooled", SPACE, "flat"))
    build(plan(store, "pooled", SPACE, "ivf", kind="ivf-sq8"))
    return store


def restate(folder) -> None:
    """Let index.json state the hashes of the files that are there."""
    info = json.loads((folder / INFO).read_text())
    for name, file in info["own"].items():
        file |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / INFO).write_text(json.dumps(info))


def test_sound_indexes_are_silent_also_when_rows_have_come_since(store):
    assert list(check(store)) == []
    add(store, 10, 5, 500)
    assert list(check(store)) == []


@pytest.mark.parametrize("name", [FAISS, IDS])
def test_a_flipped_bit_is_found(store, name):
    path = find(store.path, "flat") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    (said,) = check(store)
    assert f"{name} is not what index.json says" in said


def test_the_vectors_of_another_index_are_found(store, tmp_path):
    other = store_of(tmp_path / "other", 500)
    build(plan(other, "pooled", SPACE, "flat"))
    shutil.copy(find(other.path, "flat") / FAISS, find(store.path, "flat") / FAISS)
    restate(find(store.path, "flat"))
    said = list(check(store))
    assert len(said) == 2, "one for each file"
    assert all("are not found" in each and "Build the index again" in each for each in said)


def test_vectors_that_an_inverted_file_does_not_hold_are_found(store, tmp_path):
    other = store_of(tmp_path / "other", 1, 499)
    build(plan(other, "pooled", SPACE, "ivf", kind="ivf-sq8"))
    shutil.copy(find(other.path, "ivf") / FAISS, find(store.path, "ivf") / FAISS)
    restate(find(store.path, "ivf"))
    assert all("are not found" in said for said in check(store)) and list(check(store))


def test_ids_that_stand_for_other_rows_are_found(store):
    folder = find(store.path, "flat")
    table = pq.read_table(folder / IDS)
    names = table["call_id"].to_pylist()
    names[0], names[1] = names[1], names[0]
    pq.write_table(table.set_column(1, "call_id", pa.array(names)), folder / IDS)
    restate(folder)
    said = list(check(store))
    assert "do not fit the file's rows" in said[0], said
    assert len(said) == 1, said


def test_an_index_of_files_that_have_changed_is_found(store):
    from tests.test_embstore_index import rewrite_without

    rewrite_without(store, {"call-3"})
    said = list(check(store))
    assert len(said) == 2 and all("that have changed" in each for each in said)


def test_a_whitened_index_is_checked_too(store):
    build(plan(store, "pooled", SPACE, "white", metric="whitened"))
    assert list(check(store)) == []
    path = find(store.path, "white") / "whitening.npy"
    np.save(path, np.load(path)[:-1])
    restate(path.parent)
    (said,) = check(store)
    assert "whitening.npy has shape (16, 16), not (17, 16)" in said


def test_ids_that_do_not_fit_are_told_not_raised(store):
    folder = find(store.path, "ivf")
    pq.write_table(pq.read_table(folder / IDS).slice(0, 100), folder / IDS)
    restate(folder)
    (said,) = check(store)
    assert "does not fit together" in said
