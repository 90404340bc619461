"""Statistics, clusters and plots of a store."""

from __future__ import annotations

import importlib.util
import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embstore import cluster, plot, stats
from embstore.index.build import build, plan
from embstore.sampling import sample, unit
from tests.made_stores import DIM, SPACE, add, store_of, store_of_segments
from trunkline.errors import DataError, DependencyError, UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = store_of(tmp_path_factory.mktemp("analysis") / "store", 300, 200)
    build(plan(store, "pooled", SPACE, "all"))
    return store


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return store_of_segments(tmp_path_factory.mktemp("segments") / "store")


# ---- sampling


def test_a_sample_is_of_the_rows_that_were_asked_for(store):
    vectors, keys = store.pooled()
    found, rows = sample(
        store, "pooled", SPACE, "channel = 1 and sample_rate = 8000", limit=40, seed=3
    )
    names = keys["call_id"].to_pylist()
    assert len(rows) == 40 and set(rows["channel"].to_pylist()) == {1}
    places = [names.index(name) for name in rows["call_id"].to_pylist()]
    assert places == sorted(places)
    np.testing.assert_array_equal(found, vectors[places])
    whole, all_rows = sample(store, "pooled", SPACE)
    np.testing.assert_array_equal(whole, vectors)
    assert all_rows["call_id"].to_pylist() == names
    with pytest.raises(DataError, match="for which channel = 9"):
        sample(store, "pooled", SPACE, "channel = 9")


# ---- stats


def test_stats_add_up(store, capsys):
    assert stats.main([str(store.path), "--vectors", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (space,) = said["tables"]["spaces"]
    assert (space["calls"], space["cuts"], space["dim"]) == (500, 500, DIM)
    assert space["hours"] == pytest.approx(500 * 3000 / 3.6e6)
    rows = {row["table"]: row["rows"] for row in said["tables"]["tables"]}
    assert rows == {"calls": 500, "pooled": 500}
    megabytes = sum(row["megabytes"] for row in said["tables"]["tables"])
    assert said["megabytes"] == pytest.approx(megabytes)
    (index,) = said["tables"]["indexes"]
    assert index["up_to_date"] is True and index["recall_at_10"] == 1.0
    (vectors,) = said["tables"]["vectors"]
    assert vectors["rows"] == 500 and vectors["not_finite"] == 0


def test_an_index_that_lacks_rows_is_told(tmp_path, capsys):
    store = store_of(tmp_path / "store", 30)
    build(plan(store, "pooled", SPACE, "all"))
    add(store, 5, 9, 30)
    assert stats.main([str(store.path)]) == 0
    assert "no\n" in capsys.readouterr().out


def test_spread_knows_the_simple_cases():
    generator = np.random.default_rng(0)
    ball = stats.spread(generator.standard_normal((4000, 8)).astype(np.float32))
    assert ball["effective_dim"] == pytest.approx(8, rel=0.02)
    assert ball["mean_cosine"] == pytest.approx(0, abs=0.01)
    line = np.outer(generator.uniform(1, 2, 50), np.ones(8)).astype(np.float32)
    found = stats.spread(np.concatenate([line, np.zeros((1, 8), np.float32)]))
    assert found["mean_cosine"] == pytest.approx(1) and found["zero"] == 1
    assert stats.spread(line)["effective_dim"] == pytest.approx(1)


# ---- clusters


def blobs(sizes: tuple[int, ...], width: float = 0.02) -> np.ndarray:
    generator = np.random.default_rng(1)
    centres = np.eye(DIM)[: len(sizes)]
    points = np.repeat(centres, sizes, axis=0)
    return unit((points + width * generator.standard_normal(points.shape)).astype(np.float32))


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_clusters_are_the_groups_there_are_largest_first(method):
    points = blobs((30, 60, 45))
    found = cluster.kmeans(points, 3) if method == "kmeans" else cluster.hdbscan(points, 10)
    labels = found.labels
    np.testing.assert_array_equal(labels, np.repeat([2, 0, 1], [30, 60, 45]))
    for label, medoid in enumerate(found.medoids):
        members = np.flatnonzero(labels == label)
        centre = points[members].mean(0)
        nearest = members[np.linalg.norm(points[members] - centre, axis=1).argmin()]
        assert medoid in members
        assert np.linalg.norm(points[medoid] - points[nearest]) < 0.1


def test_hdbscan_leaves_strangers_alone():
    strangers = unit(np.random.default_rng(5).standard_normal((8, DIM)).astype(np.float32))
    found = cluster.hdbscan(np.concatenate([blobs((40, 40)), strangers]), 15)
    alone = found.labels == -1
    assert alone[80:].sum() >= 6 and alone[:80].sum() <= 8
    np.testing.assert_array_equal(np.isnan(found.distances), alone)
    assert len(found.medoids) == 2


def test_clusters_become_columns_with_reasons(segments, tmp_path, capsys):
    out, page = tmp_path / "clusters.parquet", tmp_path / "medoids.html"
    words = [
        str(segments.path),
        "--table",
        "segments",
        "-k",
        "6",
        "--describe",
        "channel",
        "--json",
    ]
    assert cluster.main([*words, "--out", str(out), "--html", str(page)]) == 0
    said = json.loads(capsys.readouterr().out)
    table = pq.read_table(out)
    assert len(table) == said["rows"] == 120 and said["clusters"] == 6
    assert {
        "call_id",
        "cut_id",
        "channel",
        "start_ms",
        "end_ms",
        "cluster",
        "distance",
        "medoid",
    } <= set(table.column_names)
    medoids = table.filter(table["medoid"])
    assert sorted(medoids["cluster"].to_pylist()) == list(range(6))
    listed = said["tables"]["clusters"]
    assert [row["size"] for row in listed] == sorted((row["size"] for row in listed), reverse=True)
    assert sum(row["share"] for row in listed) == pytest.approx(1)
    assert "%" in listed[0]["common"]
    row = table.to_pylist()[7]
    assert row["reason"].startswith(f"cluster {row['cluster']}, ")
    assert row["reason"].endswith(f"like {listed[row['cluster']]['medoid']}")
    assert "the store does not say where the recording is" in page.read_text()
    assert cluster.main([*words, "--out", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert [row["cluster"] for row in again] == table["cluster"].to_pylist(), "not repeatable"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-k", "501"], 2, "501 clusters of 500 rows"),
        (["-k", "0"], 2, "0 clusters"),
        (["--method", "hdbscan", "--min-size", "1"], 2, "--min-size 1"),
        (["--describe", "agent"], 2, "no column 'agent'"),
        (["--out", "x.txt"], 2, ".parquet, .json or .csv"),
        (["--where", "channel = 4"], 1, "has no pooled"),
        (["--rows", "0"], 2, "at least 1"),
    ],
)
def test_clusters_that_cannot_be_are_refused(store, words, status, said, capsys):
    assert cluster.main([str(store.path), *words]) == status
    assert said in capsys.readouterr().err


def test_hdbscan_of_too_many_rows_is_refused(monkeypatch):
    monkeypatch.setattr(cluster, "HDBSCAN_ROWS", 100)
    with pytest.raises(UsageError, match="takes 100 rows at most, not 135"):
        cluster.hdbscan(blobs((90, 45)), 10)


# ---- plots


def test_pca_keeps_what_lies_in_a_plane():
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((50, 2)) * [5, 2]
    axes = np.linalg.qr(generator.standard_normal((DIM, 2)))[0]
    points, share = plot.pca(flat @ axes.T)
    assert share == pytest.approx(1)
    distances = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (flat, points)]
    np.testing.assert_allclose(*distances, atol=1e-9)


def test_a_page_and_a_picture_show_every_point(store, tmp_path, capsys):
    page, picture = tmp_path / "map.html", tmp_path / "map.png"
    words = ["--colour", "meta_agent", "--html", str(page), "--png", str(picture), "--json"]
    assert plot.main([str(store.path), *words]) == 0
    said = json.loads(capsys.readouterr().out)
    text = page.read_text()
    assert text.count("<circle") == said["points"] == 500
    assert 0 < said["variance_shown"] < 1
    assert "not stated" in text and "http" not in text and "<script" not in text
    from PIL import Image

    image = Image.open(io.BytesIO(picture.read_bytes()))
    assert image.size == (2 * plot.WIDTH, 2 * plot.HEIGHT)
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10, "the picture is empty"


def test_colours_are_few():
    names = pa.chunked_array([["a"] * 5 + ["b"] * 3 + [None] + [f"x{n}" for n in range(20)]])
    groups, shown = plot.groups_of(names)
    assert shown[0] == "a" and shown[-1] == plot.OTHER and len(shown) == plot.COLOURS
    assert groups[0] == 0 and groups[-1] == len(shown) - 1
    numbers = pa.chunked_array([[float(n) for n in range(100)] + [None]])
    groups, shown = plot.groups_of(numbers)
    assert len(shown) == 6 and shown[-1] == "not stated" and groups[-1] == 5
    assert np.bincount(groups)[:5].tolist() == [20] * 5


def test_hostile_names_stay_text(tmp_path):
    plane = plot.Plane(np.array([[0.0, 0], [1, 1]]), np.array([0, 1]), ["<b>x</b>", "y"], "about")
    text = plot.page(plane, ["<script>alert(1)</script>", "'\""], "a <b> title")
    assert "<script>" not in text and "<b>" not in text


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed")
def test_umap_is_asked_for_by_name(store, tmp_path, capsys):
    words = [str(store.path), "--method", "umap", "--html", str(tmp_path / "x.html")]
    assert plot.main(words) == 1
    assert "pip install 'trunkline[umap]'" in capsys.readouterr().err
    with pytest.raises(DependencyError):
        plot.umap(np.zeros((3, 4)), 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give --html FILE, --png FILE"),
        (["--html", "x.html", "--colour", "agent"], "no column 'agent'"),
        (["--html", "x.html", "--rows", "1"], "at least 2"),
    ],
)
def test_plots_that_cannot_be_are_refused(store, words, said, capsys):
    assert plot.main([str(store.path), *words]) == 2
    assert said in capsys.readouterr().err


def test_vectors_of_one_direction_can_be_drawn():
    line = np.outer(np.arange(5.0), np.ones(3))
    points, share = plot.pca(line)
    assert share == pytest.approx(1) and np.isfinite(plot.scaled(points)).all()
    assert not math.isnan(plot.pca(np.ones((4, 3)))[1])
