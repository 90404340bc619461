"""The commit protocol: kills at any point, a full disk, flipped bits, and a bucket in place of a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from embedding_stores import SPACE, column, record

from benchmarks import store_torture
from embstore import EmbeddingStore
from embstore.erasure import forget
from embstore.storage import LEASE, ObjectStorage
from trunkline.errors import StorageError

ROOT = Path(__file__).parent.parent
NOTHING_WRONG = dict.fromkeys(
    ("lost", "doubled", "resurrected", "wrong_vectors", "erased_ids_in_raw_files"), 0
) | {"faults": []}


class FakeBucket:
    """An object store in memory: whole objects, conditional PUT, a clock of its own."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.now = 0.0

    def get(self, name: str) -> bytes:
        if name not in self.objects:
            raise FileNotFoundError(2, "No such object", name)
        return self.objects[name][0]

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> bool:
        if if_absent and name in self.objects:
            return False
        self.objects[name] = (data, self.now)
        return True

    def copy(self, source: str, target: str) -> bool:
        if source not in self.objects:
            return False
        self.objects[target] = (self.objects[source][0], self.now)
        return True

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    def list(self, prefix: str) -> list[tuple[str, float]]:
        return [(n, self.now - at) for n, (_, at) in self.objects.items() if n.startswith(prefix)]


def test_a_bucket_takes_each_entry_once_and_publishes_what_was_committed(tmp_path):
    bucket = FakeBucket()
    where = tmp_path / "no folder"
    stores = [EmbeddingStore.create(where, storage=ObjectStorage(bucket)) for _ in range(2)]
    for store in stores:
        store.add_space(SPACE)
    one, other = (store.shard() for store in stores)
    with one, other:
        for number in range(6):
            one.add(SPACE, record(f"c{number}"))
            other.add(SPACE, record(f"c{number + 3}"))
        assert one.commit()[:3] == (1, 6, 0)
        assert other.commit()[:3] == (2, 3, 3), "the number was taken: it looked again"
    parts = [name for name in bucket.objects if name.startswith("pooled/")]
    assert len(parts) == 2 and not [name for name in bucket.objects if "_staging" in name]
    assert not where.exists()
    assert stores[0].refresh() == 2 and len(stores[0].state.live(SPACE.name)) == 9


def test_a_bucket_whose_writer_died_is_rolled_forward_or_cleaned_up(tmp_path, monkeypatch):
    bucket = FakeBucket()
    store = EmbeddingStore.create(tmp_path, storage=ObjectStorage(bucket))
    store.add_space(SPACE)

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    for step in ("move", "create"):
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStorage, step, die)
            patch.setattr("embstore.log.CommitLog.drop", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                store.append(SPACE, [record(step)])
    found = EmbeddingStore.open(tmp_path, storage=ObjectStorage(bucket))
    assert found.state.version == 1 and len(found.state.live(SPACE.name)) == 1
    assert sum(name.startswith("pooled/") for name in bucket.objects) == 1, "published when opened"
    staged = [name for name in bucket.objects if name.startswith("_staging/")]
    assert len(staged) == 3 and found.log.collect() == 0, "its writer may be at work"
    bucket.now += LEASE + 1
    assert found.log.collect() == 3


@pytest.mark.parametrize("name", ["staged", "committed", "published_one"])
def test_a_writer_that_dies_at_a_fail_point_loses_and_doubles_nothing(tmp_path, name):
    code = f"from benchmarks.store_torture import exporter; exporter({str(tmp_path / 's')!r}, 0, 1)"
    store = EmbeddingStore.create(tmp_path / "s")
    store.add_space(store_torture.SPACE)
    environment = os.environ | {"EMBSTORE_FAIL_AT": name, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], env=environment)
    assert process.returncode == -signal.SIGKILL
    seen = store_torture.look(str(tmp_path / "s"))
    assert seen == seen | dict.fromkeys(
        ("doubled", "uncommitted", "wrong", "unreadable", "missed"), 0
    )
    store_torture.exporter(str(tmp_path / "s"), 1, 1)
    for rank in (0, 1):
        store_torture.deleter(str(tmp_path / "s"), rank, 1)
    counted = store_torture._count(tmp_path / "s", 1)
    assert counted == counted | NOTHING_WRONG


def test_a_deleter_that_dies_is_finished_by_the_next(tmp_path):
    path = tmp_path / "s"
    EmbeddingStore.create(path).add_space(store_torture.SPACE)
    store_torture.exporter(str(path), 0, 1)
    code = f"from benchmarks.store_torture import deleter; deleter({str(path)!r}, 0, 1)"
    environment = os.environ | {"EMBSTORE_FAIL_AT": "erased", "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    )
    for rank in (0, 1):
        store_torture.deleter(str(path), rank, 1)
    counted = store_torture._count(path, 1)
    assert counted == counted | NOTHING_WRONG


@pytest.mark.slow
def test_random_kills_of_exporters_and_deleters_lose_and_double_nothing(tmp_path):
    found = store_torture.torture(tmp_path, kills=15)
    assert found["kills"] == 15 and found["expected"] > 0 and found["looks"] > 0
    assert found == found | NOTHING_WRONG
    assert set(found["while_killing"].values()) == {0}


def test_every_flipped_bit_is_found(tmp_path):
    found = store_torture.flipped_bits(tmp_path, per_file=1)
    assert found["flips"] > 30 and found["not_found"] == [] and found["faults_when_mended"] == 0


def test_a_full_disk_is_told_and_what_is_committed_stays(tmp_path):
    found = store_torture.full_disk(tmp_path)
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert "no space left on the disk" in found["message"]
    assert found["visible"] == found["committed_when_full"] == found["already_after"] > 0
    assert found["faults_when_full"] == found["faults_after"] == found["staged_left"] == 0
    assert set(found["seen"].values()) == {0} and found["added_after"] > 0


def test_garbage_of_the_dead_is_collected_and_of_the_living_kept(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from embedding_stores import SPACE, record; "
        "from embstore import EmbeddingStore; store = EmbeddingStore.open(sys.argv[1]); store.add_space(SPACE); "
        "shard = store.shard(); shard.add(SPACE, record('dead')); os._exit(0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, str(tmp_path / "s"), str(Path(__file__).parent)]
    subprocess.run(words, env=environment, check=True)
    with store.shard() as shard:
        store.add_space(SPACE)
        shard.add(SPACE, record("alive"))
        assert EmbeddingStore.open(tmp_path / "s").log.collect() == 3
        assert shard.commit().added == 1
    assert column(store) == ["alive"]


def test_a_file_system_without_hard_links_is_refused_by_name(tmp_path, monkeypatch):
    store = EmbeddingStore.create(tmp_path / "s")

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    with pytest.raises(StorageError, match="has no hard links"):
        store.append(SPACE, [record("a")])
    with pytest.raises(StorageError, match="has no hard links"):
        forget(store, ["a"])
