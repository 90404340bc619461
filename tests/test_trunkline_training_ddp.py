"""Two processes train in step, as one would, and stop together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from training_task import Child, Items, lines, run, two_processes, wait_for

from trunkline.training import load_weights

#: Small batches of few items: some microbatches have nothing to read, and an epoch is no whole number of steps.
UNEVEN = {"items": Items(13, bad=(0, 5)), "batch_seconds": 5.0, "max_bad_fraction": 0.5}


def outcomes(children: list[Child]) -> list[str]:
    found = [child.join() for child in children]
    assert [status for status, _ in found] == [0, 0]
    return [outcome for _, outcome in found]


def assert_close(folder: Path, other: Path) -> None:
    ours, theirs = lines(folder), lines(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    weights, expected = (load_weights(f / "checkpoints/step-12", ema=True) for f in (folder, other))
    for name in weights.keys() - {"calls"}:  # each process counts its own calls
        torch.testing.assert_close(weights[name], expected[name], atol=1e-5, rtol=0)


def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    run(tmp_path / "one", accumulate=4, **UNEVEN)
    assert outcomes(two_processes(tmp_path / "two", accumulate=2, **UNEVEN)) == [
        "finished",
        "finished",
    ]
    assert_close(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two/quarantine.jsonl").read_text() == (
        tmp_path / "one/quarantine.jsonl"
    ).read_text()


def test_a_signal_to_one_stops_both_and_one_process_can_go_on(tmp_path: Path) -> None:
    children = two_processes(tmp_path / "two", ({"wait": 0.1}, {"wait": 0.1}), **UNEVEN)
    wait_for(tmp_path / "two/checkpoints/step-4")
    os.kill(children[1].process.pid, signal.SIGTERM)
    assert outcomes(children) == ["signal", "signal"]
    run(tmp_path / "two", accumulate=4, **UNEVEN)
    run(tmp_path / "one", accumulate=4, **UNEVEN)
    assert_close(tmp_path / "two", tmp_path / "one")


def test_an_error_of_one_reaches_both(tmp_path: Path) -> None:
    found = outcomes(two_processes(tmp_path / "nan", items=Items(nan=(21,))))
    assert found[0] == found[1]
    assert "loss is not finite" in found[0]
    assert "cut-21" in found[0]
    (tmp_path / "file").write_text("")
    assert all(
        "Cannot write to the run folder" in found
        for found in outcomes(two_processes(tmp_path / "file/run"))
    )
