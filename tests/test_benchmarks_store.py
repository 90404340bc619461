"""The store's benchmarks: readers are checked by every value, claims and costs follow from the figures."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from benchmarks import readers, store, store_costs, store_retrieval
from benchmarks._reading import READERS

MEASURED = {
    "frames_size": {"of_raw": 0.44, "recall_at_10": 0.999, "of_native_half": 1.03},
    "frames_write": {"frames_per_s": 200_000.0, "of_native_half": 1.1},
    "store_million": {"of_raw": 0.85},
    "build_ivf": {"file_of_raw": 0.26},
    "export": {"encoding_s": 36.0, "hours": 1.0, "threads": 1, "load_before": 0.5, "outside": 0.01},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return readers.make_store(tmp_path_factory.mktemp("readers") / "store")


@pytest.mark.parametrize("engine", ["pyarrow", "pandas", "duckdb", "polars"])
def test_what_is_installed_reads_every_value(made, engine):
    pytest.importorskip(engine)
    path, expected = made
    found = json.loads(json.dumps(READERS[engine](path, readers.QUERY)))
    assert readers.differences(found, expected) == []


def test_a_wrong_value_is_a_difference(made):
    path, expected = made
    for table, name, value in (
        ("pooled", "rows", 3),
        ("frames", "sum", expected["frames"]["sum"] + 1),
        ("segments", "vector", [0.0] * readers.DIM),
        ("calls", "started", "2026-01-31T15:30:00"),
    ):
        wrong = copy.deepcopy(expected)
        wrong[table][name] = value
        assert [each.partition(":")[0] for each in readers.differences(wrong, expected)] == [
            f"{table}.{name}"
        ]
    assert len(readers.differences({}, expected)) == 15


def test_the_matrix_is_written_row_by_row_and_kept(tmp_path, capsys):
    out = tmp_path / "readers.json"
    kept = {"engine": "polars", "version": "0", "reads": False, "said": "kept"}
    out.write_text(json.dumps({"rows": [kept]}))
    assert readers.main(["--engine", "pyarrow", "polars", "--here", "--out", str(out)]) == 0
    first, second = json.loads(out.read_text())["rows"]
    assert first["engine"] == "pyarrow" and first["reads"] and second == kept
    assert "| " not in capsys.readouterr().out
    text, table = list(readers.tables(json.loads(out.read_text())))[1:]
    assert "compared" in text and table[0]["reads all values"] == "yes"


def test_claims_are_judged_by_their_figures():
    rows = {row["claim"]: row["holds"] for row in store.claims(MEASURED)}
    assert rows["frame store, of raw float32"] is True
    assert rows["frames written, of native half floats"] is False
    assert "forgetting one of 100,000 calls, s" not in rows, (
        "nothing is claimed that was not measured"
    )
    assert all(row in [*store.ROWS, "export"] for _, row, *_ in store.TARGETS)


def test_costs_follow_from_the_figures(tmp_path, capsys):
    path = tmp_path / "store.json"
    path.write_text(json.dumps(MEASURED))
    assert store_costs.main(["--results", str(path), "--dim", "512", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["tables"]
    rows = {row["setting"]: row for row in said["costs"]}
    segments = rows["segments of 10 s"]
    assert segments["vectors_of_1000_h"] == 720_000
    assert segments["bytes_of_1000_h"] == f"{720_000 * 2048 * 0.85 / 1e9:.3g} GB"
    frames = rows["frames, 10 mantissa bits"]
    assert frames["vectors_of_1000_h"] == 90_000_000
    assert float(frames["core_hours_writing_1000_h"]) == pytest.approx(
        90e6 / 200_000 / 3600, rel=0.01
    )
    (encoding,) = said["encoding"]
    assert float(encoding["wall_hours_of_1000_call_hours"]) == pytest.approx(20)
    assert store_costs.main(["--results", str(tmp_path / "none.json")]) == 1
    assert store_costs.main(["--results", str(path), "--dim", "0"]) == 2


def test_precision_counts_only_what_may_be_found():
    class Cut:
        def __init__(self, label: str | None, speaker: str | None) -> None:
            self.speaker, self._label = speaker, label

        def label(self, name: str) -> str | None:
            return self._label

    cuts = {
        "a": Cut("x", "s1"), "b": Cut("x", "s1"), "c": Cut("x", "s2"), "d": Cut("y", "s2"),
        "e": Cut(None, "s2"),
    }  # fmt: skip
    ranked = {name: [other for other in "abcde" if other != name] for name in cuts}
    hits = dict.fromkeys(store_retrieval.SYSTEMS, ranked)
    others, apart = store_retrieval.precisions("word", cuts, hits)  # type: ignore[arg-type]
    assert others["queries"] == 3 and others["among"] == "others"
    assert others["pretrained"]["precision"] == pytest.approx(np.mean([2 / 3] * 3))
    assert others["chance"] == pytest.approx(2 / 3)
    assert apart["queries"] == 3 and apart["chance"] == pytest.approx(np.mean([0.5, 0.5, 1.0]))
    assert apart["against_mfcc"] == "not distinguishable"
