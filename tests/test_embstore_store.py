"""The store: what is added is found again, once, by whoever reads; what is wrong is refused by name."""

from __future__ import annotations

import datetime
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from embedding_stores import DIM, FRAME_SPACE, SPACE, column, filled, record, vector

from embstore import EmbeddingStore, Record
from embstore import log as commit_log
from embstore.erasure import forget
from embstore.state import PAIR
from embstore.verify import CORRUPT, verify
from embstore.verify import main as verify_command
from trunkline.errors import DataError, StorageError, UsageError

ROOT = Path(__file__).parent.parent
ODD = [
    "a/b/../c",
    "it's",
    'say "x"',
    "'; DROP TABLE calls; --",
    "điện thoại ☎",
    "x" * 1000,
    "..",
    "\n",
]


def names(count: int) -> list[str]:
    return [f"call-{number:03d}" for number in range(count)]


def test_what_was_added_is_found_by_scan_fetch_pooled_and_any_reader(tmp_path):
    store = filled(tmp_path / "s", names(25))
    vectors, keys = store.pooled()
    assert keys.column("call_id").to_pylist() == names(25)
    for name, found in zip(names(25), vectors, strict=True):
        np.testing.assert_array_equal(found, vector(name))
    row = store.fetch("call-007").to_pylist()[0]
    assert (row["pool"], row["duration_ms"], row["channel"]) == ("mean", 20_000, 0)
    assert store.fetch("call-007", table="segments", start=10.0).num_rows == 1
    assert store.fetch("nobody").num_rows == 0
    some = store.scan("pooled", columns=["call_id"], where=pc.field("call_id") >= "call-020")
    assert sum(batch.num_rows for batch in some) == 5
    assert sum(b.num_rows for b in store.scan("pooled", where="call_id = 'call-003'")) == 1
    assert sum(b.num_rows for b in store.scan("pooled", after=2)) == 5
    globbed = pa.concat_tables(
        [pq.read_table(path) for path in (tmp_path / "s").glob("pooled/**/*.parquet")]
    )
    assert sorted(globbed.column("call_id").to_pylist()) == names(25)
    assert verify(store) == []


def test_a_cut_is_there_once_whatever_is_asked(tmp_path):
    store = filled(tmp_path / "s", names(10))
    other = EmbeddingStore.open(tmp_path / "s")
    assert other.append(SPACE, map(record, names(10))) == (None, 0, 10, 0)
    done = other.append(SPACE, [record(name) for name in [*names(12), "call-011"][2:12]])
    assert (done.added, done.already) == (2, 8)
    assert store.append(SPACE, [record("call-011"), record("call-012")]).added == 1, (
        "it reads first"
    )
    assert sorted(column(store)) == names(13) and verify(store) == []


def test_channels_cuts_and_spaces_are_apart(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s")
    both = [record("a", 0), record("a", 1), record("a", 0, cut_id="a@5", start=5.0)]
    assert store.append(SPACE, both).added == 3
    louder = replace(SPACE, backbone="ef" * 32)
    assert store.append(louder, both[:1]).added == 1
    assert store.fetch("a", space=SPACE).num_rows == 3
    assert store.fetch("a", space=SPACE, channel=1).num_rows == 1
    with pytest.raises(UsageError, match="several spaces, which never mix. Choose one by name"):
        store.pooled()
    with pytest.raises(UsageError, match="has no space 'maen'"):
        store.pooled("maen")
    with pytest.raises(UsageError, match="no column 'vv'"):
        list(store.scan("pooled", SPACE, ["vv"]))
    with pytest.raises(UsageError, match="Unknown table 'poled'. Did you mean 'pooled'"):
        list(store.scan("poled"))


def test_frames_are_found_by_time_and_given_without_a_copy(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s")
    rng = np.random.default_rng(0)
    frames = {name: rng.standard_normal((9000, DIM)).astype(np.float32) for name in ("a", "b")}
    pieces = {name: [value[:4000], value[4000:]] for name, value in frames.items()}
    store.append(FRAME_SPACE, [Record(name, frames=iter(pieces[name])) for name in pieces])
    for name, whole in frames.items():
        found = store.frames(name, 100.0, 104.0)
        times = FRAME_SPACE.first_time + np.arange(9000) * FRAME_SPACE.frame_shift
        inside = (np.rint(times * 1000) >= 100_000) & (np.rint(times * 1000) < 104_000)
        np.testing.assert_allclose(found, whole[inside], rtol=2**-11)
        assert not found.flags.owndata and not found.flags.writeable, "a view of what was read"
        np.testing.assert_allclose(store.frames(name), whole, rtol=2**-11)
    assert column(store, "frame", "frames") == 2 * list(range(9000))
    with pytest.raises(DataError, match="no frames of call 'a', channel 1"):
        store.frames("a", channel=1)
    assert verify(store) == []


@pytest.mark.parametrize("name", ODD)
def test_ids_are_data_never_paths_or_code(tmp_path, name):
    store = filled(tmp_path / "s", [name, "other"])
    assert store.fetch(name).num_rows == 1
    assert name in column(EmbeddingStore.open(tmp_path / "s"))
    files = {path.name for path in (tmp_path / "s").rglob("*")}
    assert not any("other" in each for each in files) and len(list(tmp_path.iterdir())) == 1
    assert forget(store, [name]).rows["pooled"] == 1
    assert column(store) == ["other"] and verify(store) == []


def test_the_log_tells_nobody_who_was_in_the_store(tmp_path):
    store = filled(tmp_path / "s", ["call-of-somebody"])
    forget(store, ["call-of-somebody"])
    for path in (tmp_path / "s" / "_log").iterdir():
        assert b"somebody" not in path.read_bytes()
    mode = stat.S_IMODE((tmp_path / "s" / "store.key").stat().st_mode)
    assert mode == 0o600


def test_a_checkpoint_is_the_state_and_a_damaged_one_is_passed_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(commit_log, "CHECKPOINT_EVERY", 4)
    store = filled(tmp_path / "s", names(60), 10)
    forget(store, ["call-003", "call-059"])
    filled(tmp_path / "s", names(90), 10)
    log = tmp_path / "s" / "_log"
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    assert len(checkpoints) >= 3
    plain = EmbeddingStore.open(tmp_path / "s").state
    assert verify(EmbeddingStore.open(tmp_path / "s")) == []
    data = bytearray(checkpoints[-1].read_bytes())
    data[len(data) // 2] ^= 4
    checkpoints[-1].write_bytes(data)
    store = EmbeddingStore.open(tmp_path / "s")
    assert store.state.files == plain.files and store.state.erased == plain.erased
    assert [fault.kind for fault in verify(store)] in (["damaged"], ["log"])
    for path in checkpoints:
        path.unlink()
    replayed = EmbeddingStore.open(tmp_path / "s").state
    assert replayed.files == plain.files and replayed.cuts == plain.cuts


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    store = filled(tmp_path / "s", names(5))
    times = [json.loads(path.read_text())["at"] for path in (tmp_path / "s" / "_log").iterdir()]

    class Early(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr(commit_log.datetime, "datetime", Early)
    monkeypatch.setattr("time.time", lambda: 0.0)
    store = EmbeddingStore.open(tmp_path / "s")
    assert store.append(SPACE, map(record, names(8))).added == 3
    with store.shard() as shard:
        shard.add(SPACE, record("held"))
        assert EmbeddingStore.open(tmp_path / "s").log.collect() == 0, "somebody alive holds it"
        assert shard.commit().added == 1
    monkeypatch.undo()
    entries = sorted((tmp_path / "s" / "_log").iterdir())
    assert json.loads(entries[-1].read_text())["at"] >= max(times)
    assert sorted(column(store)) == [*names(8), "held"] and verify(store) == []


def test_a_store_of_a_newer_version_or_none_at_all_is_refused(tmp_path):
    filled(tmp_path / "s", names(1))
    about = tmp_path / "s" / "store.json"
    about.write_text(json.dumps({"format": "trunkline-embstore", "version": 2}))
    for way in (EmbeddingStore.open, EmbeddingStore.create):
        with pytest.raises(DataError, match="of version 2, this toolkit reads up to 1; upgrade"):
            way(tmp_path / "s")
    about.write_text('{"format": "other"}')
    with pytest.raises(DataError, match="does not describe an embedding store"):
        EmbeddingStore.open(tmp_path / "s")
    about.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        EmbeddingStore.open(tmp_path / "s")
    with pytest.raises(StorageError, match="is not an embedding store"):
        EmbeddingStore.open(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(StorageError, match="is no store and holds thesis.doc"):
        EmbeddingStore.create(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.doc"]


def test_vectors_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s")
    wrong = [
        (record("a", pooled=np.zeros(DIM + 1)), "takes vectors"),
        (record("a", pooled=np.full(DIM, np.nan)), "finite vectors"),
        (record("a", channel=300), "column channel takes int8"),
    ]
    for bad, message in wrong:
        with pytest.raises((DataError, ValueError), match=message):
            store.append(SPACE, [record("b"), bad])
    assert store.refresh() == 0 and column(store) == []
    assert list((tmp_path / "s" / "_staging").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser may write anywhere")
def test_a_disk_that_may_only_be_read_is_read_and_not_written(tmp_path):
    filled(tmp_path / "s", names(3))
    for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    store = EmbeddingStore.open(tmp_path / "s")
    assert sorted(column(store)) == names(3)
    with pytest.raises(StorageError, match="must lie where you may write"):
        store.append(SPACE, [record("new")])


def test_a_refused_write_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    store = filled(tmp_path / "s", names(3))

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(StorageError, match="Read-only file system; the store must lie where"):
            store.append(SPACE, [record("new")])
        patch.undo()
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StorageError, match="Read-only file system"):
            store.append(SPACE, [record("late")])
    found = EmbeddingStore.open(tmp_path / "s")
    assert sorted(column(found)) == [*names(3), "late"], "committed, so it is published when opened"
    assert verify(found) == []


def fault_kinds(store: Path, capsys) -> set[str]:
    capsys.readouterr()
    status = verify_command([str(store), "--json"])
    summary = json.loads(capsys.readouterr().out)
    kinds = {fault["kind"] for fault in summary["tables"].get("Faults", [])}
    assert status == (CORRUPT if kinds else 0)
    return kinds


def test_verify_finds_what_is_missing_damaged_foreign_or_doubled(tmp_path, capsys):
    path = tmp_path / "s"
    filled(path, names(30))
    assert fault_kinds(path, capsys) == set()
    part = sorted(path.glob("pooled/**/*.parquet"))[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    assert "damaged" in fault_kinds(path, capsys)
    with pytest.raises(DataError, match="missing or damaged"):
        column(EmbeddingStore.open(path))
    part.unlink()
    assert "missing" in fault_kinds(path, capsys)
    part.write_bytes(whole)
    (part.parent / "mine.parquet").write_bytes(whole)
    assert fault_kinds(path, capsys) == {"foreign"}
    assert len(column(EmbeddingStore.open(path))) == 30, "the store reads only its own files"
    (part.parent / "mine.parquet").unlink()
    entry = path / "_log" / "0000000002.json"
    text = entry.read_text()
    entry.write_text(text.replace('"kind":"add"', '"kind":"sad"'))
    assert fault_kinds(path, capsys) == {"log"}
    entry.write_text(text)
    assert fault_kinds(path, capsys) == set()


def test_verify_finds_rows_that_are_not_what_the_log_says(tmp_path):
    """A file whose hash is right, but whose rows are not: written by something else than the store."""
    store = filled(tmp_path / "s", names(10))
    file = next(file for file in store.state.files.values() if file.table == "pooled")
    table = store.table(file)
    doubled = pa.concat_tables([table.slice(0, 9), table.slice(0, 1)])
    foreign = table.set_column(0, table.schema.field(0), pa.array([f"x{n}" for n in range(10)]))
    poisoned = table.to_pydict()
    poisoned["v"][3][0] = float("nan")
    from embstore.checks import check_rows

    for wrong in (doubled, foreign, pa.table(poisoned, table.schema), table.drop_columns(["pool"])):
        pq.write_table(wrong, tmp_path / "s" / file.path)
        assert any(fault.file == file.path for fault in check_rows(store))


def test_reading_needs_no_torch_and_no_faiss(tmp_path):
    filled(tmp_path / "s", names(3))
    code = (
        "import sys; from embstore import EmbeddingStore; store = EmbeddingStore.open(sys.argv[1]); "
        "assert len(store.pooled().vectors) == 3 and store.fetch('call-001').num_rows == 1; "
        "assert sum(b.num_rows for b in store.scan('calls', where='duration_ms > 5')) == 3; "
        "print(sorted({'torch', 'faiss', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


def test_the_state_is_small(tmp_path):
    store = filled(tmp_path / "s", names(20))
    assert sum(len(pairs) for pairs in store.state.cuts[SPACE.name].values()) == 20 * PAIR
