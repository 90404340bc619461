"""Training resumes exactly where it was killed, and keeps honest records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_task import Child, Items, Task, lines, run

from trunkline.errors import CheckpointError, ConfigError, UsageError
from trunkline.training import (
    TrainConfig,
    average_checkpoints,
    learning_rate,
    list_checkpoints,
    load_weights,
)

FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder, items=Items(bad=(3,)))
    return folder


def assert_same_run(folder: Path, other: Path) -> None:
    assert lines(folder) == lines(other)
    assert (folder / "quarantine.jsonl").read_text() == (other / "quarantine.jsonl").read_text()
    for name in FILES:
        assert (folder / "checkpoints/step-12" / name).read_bytes() == (
            other / "checkpoints/step-12" / name
        ).read_bytes(), name


@pytest.mark.parametrize(
    ("kill_at", "workers"),
    [
        (1, 0),
        (7, 2),
        (9, 0),
        (10, 0),
        (16, 2),
        (23, 0),
    ],  # microbatches; odd ones are amid an accumulation
)
def test_a_run_killed_anywhere_goes_on_as_if_it_had_not(
    tmp_path: Path, unbroken: Path, kill_at: int, workers: int
) -> None:
    status, _ = Child(tmp_path, {"kill_at": kill_at}, items=Items(bad=(3,)), workers=workers).join()
    assert status == -9
    result = run(tmp_path, items=Items(bad=(3,)), workers=workers)
    assert (result.step, result.stopped) == (12, "finished")
    assert_same_run(tmp_path, unbroken)


def test_a_run_killed_twice_goes_on_as_if_it_had_not(tmp_path: Path, unbroken: Path) -> None:
    for kill_at, reached in (
        (9, 4),
        (11, 8),
    ):  # the second counts its microbatches from the resume on
        assert Child(tmp_path, {"kill_at": kill_at}, items=Items(bad=(3,))).join()[0] == -9
        assert list_checkpoints(tmp_path / "checkpoints")[-1].name == f"step-{reached}"
    run(tmp_path, items=Items(bad=(3,)))
    assert_same_run(tmp_path, unbroken)


def test_data_workers_do_not_change_a_run(tmp_path: Path, unbroken: Path) -> None:
    run(tmp_path, items=Items(bad=(3,)), workers=2)
    assert_same_run(tmp_path, unbroken)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path, evaluate=lambda task: {"probe": 0.5})
    before = (tmp_path / "checkpoints/step-12/state.json").read_bytes()
    task = Task()
    again = run(tmp_path, task=task)
    assert task.made == 0
    assert again.metrics == first.metrics
    assert again.metrics["evaluate/probe"] == 0.5
    assert (tmp_path / "checkpoints/step-12/state.json").read_bytes() == before
    weights = load_weights(tmp_path / "checkpoints/step-12")
    assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.02}, "train.lr (0.01 -> 0.02)"),
        ({"steps": 20}, "train.steps (12 -> 20)"),
        ({"accumulate": 4}, "train.microbatches_per_step (2 -> 4)"),
        ({"batch_seconds": 9.0}, "data.batch_seconds (12.0 -> 9.0)"),
        ({"items": Items(30)}, "data.items (37 -> 30)"),
        ({"run_info": {"config": {"model": {"width": 8}}}}, "config.model.width (None -> 8)"),
    ],
)
def test_resuming_with_another_setting_names_it(
    tmp_path_factory: pytest.TempPathFactory, finished: Path, change: dict, named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(finished, **change)
    assert named in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, keep_checkpoints=3)
    return folder


def test_what_does_not_change_the_learning_may_change_on_resume(finished: Path) -> None:
    result = run(
        finished, log_every=1, checkpoint_every=1, keep_checkpoints=9, workers=1, threads=1
    )
    assert result.step == 12


def test_resume_must_and_never_mean_what_they_say(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume"):
        run(tmp_path, resume="must")
    with pytest.raises(UsageError, match="holds checkpoints"):
        run(finished, resume="never")
    with pytest.raises(UsageError, match="auto, must or never"):
        run(tmp_path, resume="yes")


def test_the_run_folder_tells_what_ran(finished: Path) -> None:
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["step"] == 12
    assert about["train"]["lr"] == 0.01
    assert about["device"] == "cpu"
    assert about["parameters"]["frozen"] == {"trained": 0, "frozen": 6}
    assert about["versions"]["torch"] == torch.__version__
    assert [path.name for path in list_checkpoints(finished / "checkpoints")] == [
        "step-4",
        "step-8",
        "step-12",
    ]


def test_metrics_are_means_over_the_steps_since_the_last_line(tmp_path: Path) -> None:
    run(tmp_path / "each", log_every=1)
    run(tmp_path / "five", log_every=5)
    each, five = lines(tmp_path / "each"), lines(tmp_path / "five")
    assert [row["step"] for row in five] == [5, 10, 12]
    for key in ("loss", "spread", "grad_norm"):
        assert five[1][key] == pytest.approx(np.mean([row[key] for row in each[5:10]]))
    assert five[2]["audio_hours"] == pytest.approx(each[-1]["audio_hours"])
    assert five[1]["lr"] == each[9]["lr"]


def test_evaluation_sees_the_running_average_and_changes_nothing(tmp_path: Path) -> None:
    seen = []

    def evaluate(task: Task) -> dict[str, float]:
        assert not task.training
        seen.append(task.net[0].weight.detach().clone())
        return {"accuracy": torch.rand(()).item()}

    run(tmp_path / "with", evaluate=evaluate, evaluate_every=6)
    run(tmp_path / "without")
    ema = load_weights(tmp_path / "with/checkpoints/step-12", ema=True)
    assert len(seen) == 2
    assert torch.equal(seen[1], ema["net.0.weight"])
    assert not torch.equal(
        seen[1], load_weights(tmp_path / "with/checkpoints/step-12")["net.0.weight"]
    )
    for name in FILES:
        assert (tmp_path / "with/checkpoints/step-12" / name).read_bytes() == (
            tmp_path / "without/checkpoints/step-12" / name
        ).read_bytes()


def test_averaging_checkpoints_gives_the_mean_of_their_weights(
    finished: Path, tmp_path: Path
) -> None:
    folders = list_checkpoints(finished / "checkpoints")
    mean, states = average_checkpoints(folders), [load_weights(folder) for folder in folders]
    expected = sum(state["net.0.weight"] for state in states) / 3
    torch.testing.assert_close(mean["net.0.weight"], expected)
    assert mean["calls"] == states[-1]["calls"]
    Task().load_state_dict(mean)
    with pytest.raises(CheckpointError, match="no checkpoints"):
        average_checkpoints([])


def test_weights_that_share_memory_survive_a_checkpoint(tmp_path: Path) -> None:
    def tied() -> Task:
        task = Task()
        task.tied = task.net[0]
        return task

    run(tmp_path, task=tied(), steps=2)
    state = load_weights(tmp_path / "checkpoints/step-2")
    assert torch.equal(state["tied.weight"], state["net.0.weight"])
    assert run(tmp_path, task=tied(), steps=2).step == 2


def test_a_checkpoint_of_another_model_is_refused_by_tensor(finished: Path) -> None:
    task = Task()
    task.rare = torch.nn.Linear(4, 5)
    with pytest.raises(CheckpointError, match=r"'rare\.(weight|bias)' is \(4.*\) and \(5"):
        run(finished, task=task)


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    result = run(tmp_path, precision="bf16", steps=4)
    assert np.isfinite(result.metrics["loss"])
    assert load_weights(tmp_path / "checkpoints/step-4")["net.0.weight"].dtype == torch.float32


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, trackers=("tensorboard",), steps=5)
    assert list((tmp_path / "trackers").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "inverse_sqrt", "tri_stage"])
def test_every_schedule_warms_up_to_the_peak_and_never_rises_after(schedule: str) -> None:
    config = TrainConfig(steps=100, lr=2.0, warmup_steps=10, schedule=schedule, final_lr_ratio=0.05)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
    last = {"constant": 2.0, "inverse_sqrt": 2.0 * 0.1**0.5}
    assert rates[-1] == pytest.approx(last.get(schedule, 0.1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"precision": "fp32"}, "precision 'fp32' is not known"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be 0 or more"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"schedule": "tri_stage"}, "final_lr_ratio is 0.0; it must be more than 0 for tri_stage"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**setting)
    assert message in str(caught.value)


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
        run(tmp_path, trackers=("tensorbord",))


def test_an_evaluation_may_end_the_run_and_a_checkpoint_is_left(tmp_path):
    result = run(tmp_path, evaluate=lambda task: {"probe": 0.5, "stop": 1.0}, evaluate_every=3)
    assert (result.stopped, result.step) == ("enough", 3)
    assert "evaluate/stop" not in result.metrics
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-3"]
