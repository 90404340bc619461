"""What goes wrong in training stops it with a sentence, or does not stop it and is told."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from training_task import Child, Items, Task, lines, run, wait_for

from trunkline.batching import BatchPlan
from trunkline.errors import CheckpointError, StorageError, TrainingError
from trunkline.training import list_checkpoints, newest_checkpoint


def test_one_unreadable_item_is_quarantined_and_named(tmp_path: Path) -> None:
    result = run(tmp_path, items=Items(bad=(7,)), max_bad_fraction=0.01)
    fault = {
        "id": "cut-7",
        "file": "call-7.wav",
        "line": 8,
        "reason": "call-7.wav holds no samples.",
    }
    assert (result.stopped, result.quarantined) == ("finished", [fault])
    assert json.loads((tmp_path / "quarantine.jsonl").read_text()) == fault
    assert json.loads((tmp_path / "run.json").read_text())["quarantined"] == 1


def test_too_many_unreadable_items_stop_the_run_and_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"max_bad_fraction=0\.1 allows.*cut-\d.*quarantine\.jsonl"
    ):
        run(tmp_path, items=Items(bad=tuple(range(1, 37, 4))))
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) >= 4
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def test_one_unreadable_item_stops_a_run_that_allows_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 of .* items could not be read"):
        run(tmp_path, items=Items(bad=(7,)), max_bad_fraction=0.0)


def test_a_run_over_unreadable_items_alone_stops(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="could not be read"):
        run(tmp_path, items=Items(4, bad=(0, 1, 2, 3)), accumulate=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loss_that_is_not_finite_stops_before_the_update_with_step_and_items(
    tmp_path: Path, workers: int
) -> None:
    task, seen = (
        Task(),
        BatchPlan(Items().durations, 12.0, 4.0, seed=1).epoch(0)[5],
    )  # 2 microbatches a step: the 3rd
    with pytest.raises(TrainingError, match="loss is not finite in step 3,") as caught:
        run(
            tmp_path,
            task=task,
            items=Items(nan=(int(seen[0]),)),
            workers=workers,
            checkpoint_every=1,
        )
    assert f"({', '.join(f'cut-{index}' for index in seen)})" in str(caught.value)
    assert newest_checkpoint(tmp_path / "checkpoints").name == "step-2"
    assert all(p.isfinite().all() for p in task.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    task = Task()
    loss = task.loss
    task.loss = lambda batch: (loss(batch)[0] + (0.0 * task.rare.weight.sum()).sqrt(), {})
    with pytest.raises(TrainingError, match="gradient is not finite in step 1"):
        run(tmp_path, task=task)
    assert all(p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_ends_well(tmp_path: Path, number: int) -> None:
    child = Child(tmp_path / "run", {"wait": 0.05}, steps=500, log_every=1, workers=1)
    wait_for(tmp_path / "run/checkpoints/step-4")
    os.kill(child.process.pid, number)
    assert child.join() == (0, "signal")
    saved = newest_checkpoint(tmp_path / "run/checkpoints")
    assert lines(tmp_path / "run")[-1]["step"] == int(saved.name[5:])
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "signal"


def test_a_full_disk_leaves_the_checkpoint_before_loadable(tmp_path: Path) -> None:
    status, outcome = Child(tmp_path, {"full_at": 5}, log_every=100).join()
    assert status == 0
    assert outcome.startswith("StorageError: Cannot write")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-4"]
    result = run(tmp_path, log_every=100)
    run(tmp_path / "unbroken", log_every=100)
    assert result.stopped == "finished"
    assert lines(tmp_path) == lines(tmp_path / "unbroken")


def test_two_runs_do_not_share_a_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    child = Child(tmp_path, {"wait": 0.02}, steps=5000, workers=2)
    wait_for(tmp_path / "checkpoints/step-4")
    with pytest.raises(StorageError, match=f"in use by process {child.process.pid}"):
        run(tmp_path, steps=5000)
    child.process.kill()
    child.process.join()
    step = int(newest_checkpoint(tmp_path / "checkpoints").name[5:])
    with pytest.raises(
        TrainingError
    ):  # at once, although its workers may still live: it gets to reading data
        run(tmp_path, steps=5000, items=Items(bad=tuple(range(37))))
    assert step >= 4


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints/.step-4.abc.tmp"
    half.mkdir(parents=True)
    run(tmp_path)
    assert not half.exists()


def cut_short(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty_the_state(folder: Path) -> None:
    (folder / "state.json").write_text("{}")


def remove_the_average(folder: Path) -> None:
    (folder / "ema.safetensors").unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty_the_state, remove_the_average])
def test_a_damaged_checkpoint_is_refused_and_the_whole_one_before_it_named(
    tmp_path: Path, damage
) -> None:
    run(tmp_path, steps=8)
    damage(tmp_path / "checkpoints/step-8")
    with pytest.raises(
        CheckpointError, match=r"step-8 is damaged: .*step-4 is whole: remove .*step-8"
    ):
        run(tmp_path, steps=8)
    for path in (tmp_path / "checkpoints/step-8").iterdir():
        path.unlink()
    (tmp_path / "checkpoints/step-8").rmdir()
    assert run(tmp_path, steps=8).step == 8


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write to the run folder .*file/run"):
        run(tmp_path / "file/run")


def test_a_dead_data_worker_stops_the_run_with_advice(tmp_path: Path) -> None:
    class Deadly(Items):
        def __getitem__(self, key: tuple[int, int]):
            os.kill(os.getpid(), signal.SIGKILL) if key[1] == 20 else None
            return super().__getitem__(key)

    with pytest.raises(TrainingError, match="DataLoader worker.*Set workers=0"):
        run(tmp_path, items=Deadly(), workers=1)


def test_a_newer_checkpoint_format_asks_for_an_update(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    path = list_checkpoints(tmp_path / "checkpoints")[0] / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(CheckpointError, match="newer trunkline"):
        run(tmp_path, steps=2)
