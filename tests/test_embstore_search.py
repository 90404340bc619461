"""`embstore.search`: by call, stretch, recording and vector; conditions, files and pages; what it refuses."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from embstore import EmbeddingStore, Record, Space
from embstore.index.build import build, plan
from embstore.schema import vectors_of
from embstore.search import main, search, vector_of
from encoder import Backbone, BackboneConfig, Context
from tests.made_stores import DIM, SPACE, add, store_of, store_of_segments, vectors
from trunkline.errors import DataError, UsageError

ROOT = Path(__file__).parent.parent
ODD = "o'brien\"; DROP TABLE calls; --/../x@3"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EmbeddingStore:
    return store_of_segments(tmp_path_factory.mktemp("search") / "store")


def run(capsys, *words: object) -> tuple[int, list[dict], str]:
    """Status, rows and stderr of the command."""
    status = main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out)["tables"]["nearest"] if out else [], err


def test_a_call_finds_others_and_not_itself(store, capsys):
    status, rows, _ = run(capsys, store.path, "--like", "call-3", "--channel", "customer", "-k", 5)
    assert status == 0 and len(rows) == 5
    assert "call-3" not in [row["call_id"] for row in rows]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_stretch_is_the_mean_of_its_segments(store):
    vector, call = vector_of(store, "call-3@12-38", table="segments", channel=1)
    segments = store.fetch("call-3", table="segments", channel=1)
    assert call == "call-3"
    np.testing.assert_allclose(vector, vectors_of(segments["v"])[1:4].mean(0), atol=1e-6)
    one, _ = vector_of(store, "call-3@25", table="segments", channel=1)
    np.testing.assert_array_equal(one, vectors_of(segments["v"])[2])
    (best,) = search(store, one, 1, table="segments").to_pylist()
    assert (best["call_id"], best["start_ms"], best["channel"]) == ("call-3", 20_000, 1)


def test_without_an_index_the_vectors_themselves_are_searched(tmp_path):
    store = store_of(tmp_path / "store", 80, 60)
    queries = vectors(5, seed=9)
    where = "channel = 1 and sample_rate > 1000"
    before = search(store, queries, 4, where=where)
    build(plan(store, "pooled", SPACE, f"pooled-{SPACE.name}"))
    assert (
        search(store, queries, 4, where=where)
        .drop_columns("score")
        .equals(before.drop_columns("score"))
    )
    add(store, 10, 5, 140)
    new = vectors(10, seed=5)[3]
    assert search(store, new, 1)["call_id"].to_pylist() != ["call-143"], "not in the index yet"


@pytest.mark.parametrize("indexed", [False, True])
def test_ids_with_quotes_and_sql_are_only_ids(tmp_path, capsys, indexed):
    store = store_of(tmp_path / "store", 30)
    store.append(SPACE, [Record(call_id=ODD, pooled=vectors(1, 5)[0])])
    if indexed:
        build(plan(store, "pooled", SPACE, f"pooled-{SPACE.name}"))
    status, rows, _ = run(capsys, store.path, "--like", ODD, "-k", 3)
    assert status == 0 and ODD not in [row["call_id"] for row in rows]
    quoted = ODD.replace("'", "''")
    status, rows, _ = run(
        capsys, store.path, "--like", "call-3", "--where", f"call_id = '{quoted}'"
    )
    assert [row["call_id"] for row in rows] == [ODD]
    assert len(store.pooled().vectors) == 31


def test_results_are_written_with_the_columns_of_the_calls(store, tmp_path, capsys):
    np.save(tmp_path / "x.npy", vectors(2, 4))
    words = [store.path, "--vector", tmp_path / "x.npy", "-k", 3, "--columns", "sample_rate"]
    for name in ("found.parquet", "found.json", "found.csv"):
        status, rows, _ = run(capsys, *words, "--out", tmp_path / name)
        assert status == 0 and len(rows) == 6
    assert [row["query"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert rows[0]["sample_rate"] == 8000
    table = pq.read_table(tmp_path / "found.parquet")
    as_json = json.loads((tmp_path / "found.json").read_text())
    assert table["call_id"].to_pylist() == [row["call_id"] for row in as_json]
    assert {"exported_at", "n_frames", "file"} <= set(table.column_names)
    assert (tmp_path / "found.csv").read_text().splitlines()[0].startswith("query,rank,score")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> tuple[EmbeddingStore, Path, list[Path]]:
    """A store that a tiny backbone made of three recordings, one of them gone."""
    folder = tmp_path_factory.mktemp("spoken")
    torch.manual_seed(0)
    Backbone(BackboneConfig.preset("tiny")).save(folder / "backbone")
    from encoder import load_backbone

    backbone = load_backbone(folder / "backbone")
    space = Space(backbone=str(backbone.fingerprint), dim=backbone.d_model, context="8,40,0")
    store, paths = EmbeddingStore.create(folder / "store"), []
    for number in range(3):
        path = folder / f"call <{number}>.wav"
        waveform = np.random.default_rng(number).normal(0, 0.1 + number, 12000).astype(np.float32)
        soundfile.write(path, waveform / 10, 8000)
        encoded = backbone.encode(path, context=Context(8, 40, 0))
        pooled = encoded.frames[0].mean(0).numpy()
        record = Record(call_id=f"<b>{number}</b>", duration=1.5, pooled=pooled, file=str(path))
        store.append(space, [record])
        paths.append(path)
    paths[2].unlink()
    return store, folder / "backbone", paths


def test_a_recording_finds_itself(spoken, capsys):
    store, backbone, paths = spoken
    words = ["--audio", paths[1], "--backbone", backbone, "-k", 2]
    status, rows, _ = run(capsys, store.path, *words)
    assert status == 0
    assert rows[0]["call_id"] == "<b>1</b>" and rows[0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_page_holds_the_sound_and_runs_nothing(spoken, tmp_path, capsys):
    store, _, _ = spoken
    page = tmp_path / "found.html"
    status, _, _ = run(capsys, store.path, "--like", "<b>0</b>", "--html", page)
    text = page.read_text()
    assert status == 0
    assert "&lt;b&gt;1&lt;/b&gt;" in text and "<b>" not in text and "<script" not in text
    assert "http" not in text, "the page asks the network for something"
    assert "recording not found" in text
    (sound,) = re.findall(r"data:audio/wav;base64,([\w+/=]+)", text)
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert rate == 8000 and len(waveform) == 12000


def test_another_backbone_is_refused(spoken, tmp_path, capsys):
    store, backbone, paths = spoken
    Backbone(BackboneConfig.preset("tiny")).save(tmp_path / "other")
    status, _, err = run(capsys, store.path, "--audio", paths[0], "--backbone", tmp_path / "other")
    assert status == 2 and "is another backbone" in err
    status, _, err = run(capsys, store.path, "--audio", paths[0])
    assert status == 2 and "--audio needs --backbone" in err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "Give one of"),
        (["--like", "call-1", "--vector", "x.npy"], 2, "Give one of"),
        (["--like", "call-1"], 2, "vectors of channel 0, 1; choose one with --channel"),
        (["--like", "call-99", "--channel", "0"], 1, "no pooled of call 'call-99', channel 0"),
        (["--like", "call-1@x", "--channel", "0"], 2, "write a stretch as"),
        (["--like", "call-1@9-3", "--channel", "0"], 2, "must end after it starts"),
        (["--like", "call-1", "--channel", "left"], 2, "0, 1, agent or customer"),
        (["--vector", "missing.npy"], 1, "Cannot read --vector missing.npy"),
        (["--like", "call-1", "--channel", "0", "--where", "chanel = 1"], 2, "Did you mean 'channel'"),
        (["--like", "call-1", "--channel", "0", "--columns", "agnt"], 2, "no column 'agnt'"),
        (["--like", "call-1", "--channel", "0", "--out", "x.xls"], 2, ".parquet, .json or .csv"),
        (["--like", "call-1", "--channel", "0", "--index", "x"], 2, "no index 'x'"),
        (["--like", "call-1", "--channel", "0", "-k", "0"], 2, "k must be at least 1"),
        (["--like", "call-1", "--space", "max"], 2, "no space 'max'"),
    ],
)  # fmt: skip
def test_the_command_refuses_what_cannot_be(store, words, status, said, capsys):
    assert main([str(store.path), *words]) == status
    assert said in capsys.readouterr().err


def test_files_that_are_no_vectors_are_refused(store, tmp_path, capsys):
    cases = {
        "pickled.npy": (np.array([{"a": 1}], dtype=object), "no .npy file of numbers"),
        "words.npy": (np.array(["a"]), "must hold numbers"),
        "cube.npy": (np.zeros((2, 2, 2)), "must hold numbers in the shape"),
        "short.npy": (np.zeros(DIM - 1), f"does not fit vectors of {DIM}"),
        "nan.npy": (np.full(DIM, np.nan), "NaN"),
    }
    for name, (array, said) in cases.items():
        np.save(tmp_path / name, array, allow_pickle=True)
        assert main([str(store.path), "--vector", str(tmp_path / name)]) in (1, 2)
        assert said in capsys.readouterr().err
    (tmp_path / "text.npy").write_text("1 2 3")
    assert main([str(store.path), "--vector", str(tmp_path / "text.npy")]) == 1


def test_an_index_of_another_table_is_refused(store):
    build(plan(store, "segments", SPACE, "other"))
    with pytest.raises(UsageError, match="is of segments in"):
        search(store, vectors(1), index="other")
    with pytest.raises(DataError, match="no segments of call 'call-1', channel 0 from 900"):
        vector_of(store, "call-1@900-901", table="segments", channel=0)


def test_the_front_door_finds_the_command(store):
    result = subprocess.run(
        [sys.executable, "-m", "embstore.search", str(store.path), "--like", "call-1", "--channel", "1"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 12


def test_a_store_in_python_searches_and_forgets(tmp_path):
    made = store_of(tmp_path / "store", 30)
    found = made.search(vectors(30)[7], k=3, exact=True)
    assert found["call_id"].to_pylist()[0] == "call-7"
    assert made.forget(calls=["call-7"]).tombstones == 1
    assert "call-7" not in made.search(vectors(30)[7], k=30)["call_id"].to_pylist()
    assert len(made.pooled()[0]) == 29
