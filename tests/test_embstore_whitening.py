"""The whitened metric: what one direction drowned is found again, and the index keeps its measure."""

from __future__ import annotations

import numpy as np
import pytest

from embstore import EmbeddingStore, Space
from embstore.index.build import build, plan
from embstore.index.metric import Metric, whitening
from embstore.index.opened import Index
from embstore.index.update import merge, update
from trunkline.errors import UsageError

DIM = 12
SPACE = Space(backbone="ab" * 32, dim=DIM)


def drowned(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of four groups, and their groups, under an offset and one direction of large spread."""
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 4, count)
    points = 0.3 * generator.standard_normal((count, DIM))
    points[np.arange(count), groups] += 1
    points[:, 10] += 30 * generator.standard_normal(count)
    return (points + 50).astype(np.float32), groups


def store_of(path, *counts: int) -> tuple[EmbeddingStore, list[np.ndarray]]:
    store, groups = EmbeddingStore.create(path), []
    for number, count in enumerate(counts):
        vectors, found = drowned(count, number)
        columns = {"call_id": [f"{number}-{row}-{group}" for row, group in enumerate(found)]}
        store.append_columns(SPACE, columns, vectors)
        groups.append(found)
    return store, groups


def share_of_own_group(index: Index) -> float:
    queries, groups = drowned(80, 99)
    found = index.search(queries, 5)["call_id"].to_pylist()
    wanted = np.repeat(groups, 5)
    return float(
        np.mean([name.endswith(f"-{group}") for name, group in zip(found, wanted, strict=True)])
    )


def test_whitened_vectors_have_no_mean_and_one_spread():
    vectors, _ = drowned(4000, 0)
    metric = whitening(vectors)
    assert metric.mean is not None and metric.matrix is not None
    white = (vectors - metric.mean) @ metric.matrix
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)
    covariance = np.cov(white.T)
    np.testing.assert_allclose(covariance, np.diag(covariance.diagonal()), atol=1e-3)
    spread = covariance.diagonal()
    assert spread.max() < 2 * spread.min(), "before it was 3,000 times"
    np.testing.assert_allclose(np.linalg.norm(metric.prepare(vectors), axis=1), 1, atol=1e-5)


def test_a_constant_and_few_vectors_can_be_whitened():
    for vectors in (np.ones((5, DIM), np.float32), drowned(3, 0)[0]):
        assert np.isfinite(whitening(vectors).prepare(vectors)).all()


def test_cosine_and_dot_are_what_they_are_called():
    vectors, _ = drowned(5, 1)
    assert Metric("dot").prepare(vectors) is vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(Metric("cosine").prepare(vectors), vectors / norms, rtol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_whitening_finds_what_the_cosine_does_not(tmp_path, kind):
    store, _ = store_of(tmp_path / "store", 600, 300)
    build(plan(store, "pooled", SPACE, "plain"))
    build(plan(store, "pooled", SPACE, "white", kind=kind, metric="whitened"))
    plain, white = Index.open(store, "plain"), Index.open(store, "white")
    assert share_of_own_group(white) > 0.8 > 0.7 > share_of_own_group(plain)
    queries, _ = drowned(10, 98)
    exact = white.search(queries, 5, exact=True)
    again = white.search(queries, 5)
    assert set(exact["call_id"].to_pylist()) & set(again["call_id"].to_pylist())
    if kind == "flat":
        assert exact.equals(again)


def test_an_update_and_a_merge_keep_the_measure(tmp_path):
    store, _ = store_of(tmp_path / "store", 400, 400)
    for number in range(2):
        build(plan(store, "pooled", SPACE, f"s{number}", metric="whitened", shard=(number, 2)))
    merge(store, "all", ["s0", "s1"])
    build(plan(store, "pooled", SPACE, "whole", metric="whitened"))
    queries, _ = drowned(20, 97)
    merged, whole = Index.open(store, "all"), Index.open(store, "whole")
    np.testing.assert_array_equal(merged.metric.matrix, whole.metric.matrix)
    assert merged.search(queries, 5)["call_id"].equals(whole.search(queries, 5)["call_id"])
    vectors, _ = drowned(50, 7)
    store.append_columns(SPACE, {"call_id": [f"new-{n}" for n in range(50)]}, vectors)
    assert update(store, "all")["added"] == 50
    updated = Index.open(store, "all")
    np.testing.assert_array_equal(updated.metric.matrix, whole.metric.matrix)
    assert updated.search(vectors[3], 1)["call_id"].to_pylist() == ["new-3"]
    build(plan(store, "pooled", SPACE, "late", metric="whitened", shard=(2, 3)))
    with pytest.raises(UsageError, match="whitened by different samples"):
        merge(store, "wrong", ["s0", "late"])
