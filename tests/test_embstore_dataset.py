"""A store as a PyTorch data set: every row once, in an order that a seed decides, whatever the workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from embedding_stores import DIM, FRAME_SPACE, SPACE, filled, record, vector
from torch.utils.data import DataLoader

from embstore import EmbeddingStore, Record
from trunkline.errors import UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("data") / "s", [f"c{n:02d}" for n in range(30)], 5)


def ids(data) -> list[str]:
    return [item["call_id"] for item in data]


def test_each_row_comes_once_with_its_vector_and_columns(store):
    items = list(store.as_torch_dataset(columns=["duration_ms"]))
    assert sorted(ids(items)) == [f"c{n:02d}" for n in range(30)]
    for item in items:
        assert item["vector"].dtype == torch.float32 and item["duration_ms"] == 20_000
        np.testing.assert_array_equal(item["vector"].numpy(), vector(item["call_id"]))
    assert len(list(store.as_torch_dataset("segments", where="start_ms = 0"))) == 30


def test_the_order_is_decided_by_seed_and_epoch(store):
    data = store.as_torch_dataset(seed=1)
    first = ids(data)
    assert ids(data) == first != sorted(first)
    data.set_epoch(1)
    assert ids(data) != first and sorted(ids(data)) == sorted(first)
    assert ids(store.as_torch_dataset(seed=None)) == sorted(first)


def test_workers_and_processes_take_different_rows(store, monkeypatch):
    data = store.as_torch_dataset(seed=3)
    loaded = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert sorted(ids(loaded)) == sorted(ids(data))
    parts = []
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        parts += ids(data)
    assert len(parts) == len(set(parts)) == 30


def test_frames_come_as_whole_cuts(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s")
    rng = np.random.default_rng(0)
    frames = {name: rng.standard_normal((100 + 9 * n, DIM)) for n, name in enumerate("abcd")}
    store.append(FRAME_SPACE, [Record(name, frames=frames[name]) for name in "abcd"])
    items = list(store.as_torch_dataset("frames"))
    assert sorted(ids(items)) == list("abcd")
    for item in items:
        np.testing.assert_allclose(item["frames"].numpy(), frames[item["call_id"]], rtol=2**-10)


def test_what_is_not_there_is_refused_at_once(store):
    with pytest.raises(UsageError, match="has no column 'agent'"):
        store.as_torch_dataset(columns=["agent"])
    with pytest.raises(UsageError, match="has no space 'frames'"):
        store.as_torch_dataset("frames")
    assert store.append(SPACE, [record("c00")]).already == 1
