"""What was forgotten is nowhere: not in tables, indexes, sidecars, lists or the log, and it does not come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from embedding_stores import DIM, FRAME_SPACE, SPACE, column, filled, record, vector

from embstore import EmbeddingStore, Record, erasure
from embstore.erasure import forget, leave_out, sweep
from embstore.forget import main as forget_command
from embstore.proof import prove
from embstore.verify import verify


def names(count: int) -> list[str]:
    return [f"call-{number:03d}" for number in range(count)]


def raw_bytes(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file())


def run(capsys, store: Path, *words: str) -> tuple[int, dict]:
    capsys.readouterr()
    status = forget_command([str(store), *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """Twenty calls of one voice each, frames and a `.npy` file of some, a quarantine list, a plot."""
    store = filled(tmp_path / "s", names(20))
    space = store.add_space(FRAME_SPACE)
    rng = np.random.default_rng(0)
    with store.shard() as shard:
        for name in names(3):
            frames = rng.standard_normal((50, DIM)).astype(np.float32)
            sink = shard.npy(space, store.log.keys.pair(name, name, 0))
            sink.write(frames)
            shard.take(sink)
            shard.add(space, Record(name, frames=frames))
        shard.add_errors(
            [
                {
                    "call_id": name,
                    "cut_id": name,
                    "channel": 1,
                    "file": f"{name}.wav",
                    "reason": "broken",
                }
                for name in ("call-001", "call-015")
            ]  # fmt: skip
        )
        shard.commit()
    (store.path / "derived").mkdir()
    (store.path / "derived" / "map.html").write_text("<p>call-001</p>")
    return store


def test_a_forgotten_call_is_in_no_byte_of_the_store(store, capsys):
    path = store.path
    frames, pooled = store.frames("call-001"), vector("call-001")
    npy = next(
        array for array in map(np.load, sorted(path.rglob("*.npy"))) if np.allclose(array, frames, atol=1e-2)
    )  # fmt: skip
    before = raw_bytes(path)
    assert b"call-001" in before and npy.tobytes() in before
    status, summary = run(capsys, path, "--call", "call-001", "--prove")
    assert status == 0 and summary["proof"]["proved"] and not summary["forgotten_before"]
    assert summary["rows_removed"] == {"calls": 2, "pooled": 1, "segments": 2, "frames": 50, "errors": 1}  # fmt: skip
    assert summary["proof"]["vectors"] >= 53 and summary["proof"]["files"] > 8
    after = raw_bytes(path)
    for needle in (b"call-001", pooled.tobytes()[:32], frames[7].tobytes()[:32], npy[7].tobytes()):
        assert needle not in after
    found = EmbeddingStore.open(path)
    assert sorted(column(found)) == [name for name in names(20) if name != "call-001"]
    assert len(list(path.rglob("*.npy"))) == 2 and verify(found) == []
    assert found.append(SPACE, [record("call-001")]).erased == 1, "it does not come again"
    status, summary = run(capsys, path, "--call", "call-001", "--prove")
    assert status == 0 and summary["forgotten_before"] and summary["rows_removed"] == 0


def test_a_speaker_is_forgotten_with_every_cut_and_no_other(tmp_path):
    store = filled(tmp_path / "s", [])
    cuts = [
        record("a", 0, speaker="Lan"),
        record("a", 1, speaker="Minh"),
        record("b", 0, speaker="Lan"),
    ]
    store.append(SPACE, cuts)
    removed = forget(store, speakers=["Lan"])
    assert removed.rows == {"calls": 2, "pooled": 2, "segments": 4}
    assert column(store, "speaker", "calls") == ["Minh"] and verify(store) == []
    done = store.append(SPACE, [record("c", speaker="Lan"), record("c", 1, speaker="Hoa")])
    assert (done.added, done.erased) == (1, 1)
    assert b"Lan" not in raw_bytes(store.path)


def test_a_file_of_ids_is_forgotten_and_the_tombstone_holds_a_hash_only(store, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("call-002\n\ncall-019\nnever seen\n")
    status, summary = run(capsys, store.path, "--file", str(tmp_path / "ids.txt"))
    assert status == 0 and summary["asked"] == 3 and summary["rows_removed"]["pooled"] == 2
    entries = [json.loads(path.read_text()) for path in sorted((store.path / "_log").iterdir())]
    (tombstone,) = [entry for entry in entries if entry["kind"] == "erase"]
    assert len(tombstone["erased"]) == 3 and tombstone["signature"]
    assert set(tombstone) == {"version", "at", "kind", "erased", "signature"}
    assert EmbeddingStore.open(store.path).append(SPACE, [record("never seen")]).erased == 1


@pytest.mark.parametrize("step", ["_leave_out", "_clean_errors", "_clean_derived"])
def test_an_interrupted_forgetting_is_told_and_finished_by_the_next(
    store, monkeypatch, step, capsys
):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasure, step, die)
        with pytest.raises(KeyboardInterrupt):
            forget(store, ["call-001"])
    found = EmbeddingStore.open(store.path)
    assert {fault.kind for fault in verify(found)} >= {"unfinished"}
    assert found.append(SPACE, [record("call-001")]).added == 0
    status, summary = run(capsys, store.path, "--resume")
    assert status == 0
    found = EmbeddingStore.open(store.path)
    assert verify(found) == [] and not found.state.unswept
    assert b"call-001" not in raw_bytes(store.path)


def test_two_who_forget_at_once_do_no_harm(tmp_path):
    filled(tmp_path / "s", names(20))
    one, other = EmbeddingStore.open(tmp_path / "s"), EmbeddingStore.open(tmp_path / "s")
    forget(one, names(20)[:10:2])
    forget(other, names(20)[1:10:2])  # as it saw the store before
    sweep(one)
    assert sorted(column(EmbeddingStore.open(tmp_path / "s"))) == names(20)[10:]
    assert verify(EmbeddingStore.open(tmp_path / "s")) == []


def test_left_out_cuts_may_come_again(tmp_path):
    store = filled(tmp_path / "s", names(5))
    pair = store.log.keys.pair("call-002", "call-002", 0)
    assert leave_out(store, [pair]).rows["pooled"] == 1
    assert store.append(SPACE, [record("call-002")]).added == 1 and verify(store) == []


def test_the_proof_finds_what_was_left_behind(store):
    removed = forget(store, ["call-001"])
    assert prove(store, ["call-001"], removed).found == []
    for name, content in (
        ("note.txt", b"about call-001"),
        ("cache.bin", b"\x00" * 5 + vector("call-001").tobytes() + b"\x01"),
        ("half.bin", (2 * vector("call-001")).astype(np.float16).tobytes()),
    ):
        (store.path / name).write_bytes(content)
        found = prove(store, ["call-001"], removed).found
        assert len(found) == 1 and found[0].startswith(name), name
        (store.path / name).unlink()


def test_an_id_that_is_part_of_another_is_looked_for_where_ids_stand(tmp_path):
    store = filled(tmp_path / "s", ["call-1", "call-10", "7"])
    removed = forget(store, ["call-1", "7"])
    proof = prove(store, ["call-1", "7"], removed)
    assert proof.found == [] and proof.only_decoded == ["7", "call-1"]
    assert column(store) == ["call-10"]


def test_an_equal_vector_of_another_call_stays_and_is_counted(tmp_path):
    store = filled(tmp_path / "s", [])
    same = np.arange(DIM, dtype=np.float32)
    records = [record(name, pooled=same, segments=()) for name in ("first", "other")]
    store.append(SPACE, records)
    proof = prove(store, ["first"], forget(store, ["first"]))
    assert proof.found == [] and proof.shared == 1 and column(store) == ["other"]


def test_forgetting_takes_a_call_out_of_the_index(store, capsys):
    pytest.importorskip("faiss")
    from embstore.index import main as index

    assert index([str(store.path), "--space", SPACE.name, "--quiet"]) == 0
    (ids,) = store.path.glob("index/*/*/ids.parquet")
    assert "call-001" in pq.read_table(ids, partitioning=None).column("call_id").to_pylist()
    status, summary = run(capsys, store.path, "--call", "call-001", "--prove")
    assert status == 0 and summary["proof"]["proved"] and len(summary["indexes"]) == 1
    assert verify(EmbeddingStore.open(store.path)) == []


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "Nothing to forget"),
        (["--file", "nowhere.txt"], 1, "Cannot read nowhere.txt"),
        (["--file", "/dev/null"], 2, "names no call"),
    ],
)
def test_what_cannot_be_asked_is_answered_in_a_sentence(store, capsys, words, status, message):
    assert forget_command([str(store.path), *words]) == status
    assert message in capsys.readouterr().err
