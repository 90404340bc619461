"""The head outside the package: short, trained and used by the commands that serve our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_heads import read_rows, save_backbone, write_rows, write_turns

from heads import load_model

ROOT = Path(__file__).parent.parent
KIND = "examples.custom_head:PromiseHead"


def train(folder: Path, turns: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "heads.train", str(ROOT / "configs/heads/promise.yaml")]
    settings = [
        f"backbone={folder / 'backbone'}",
        f"out={folder / 'run'}",
        f"data.train={turns}",
        "heads.promise.options.hidden=16",
        "train.steps=8",
        "train.evaluate_every=4",
        "train.checkpoint_every=4",
        "train.threads=1",
        "train.trackers=[]",
        "--json",
    ]
    return subprocess.run(
        [*command, *settings, *changes],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Turns with the label `promise`, and a backbone."""
    folder = tmp_path_factory.mktemp("promise")
    rows = read_rows(write_turns(folder / "data", 12, dev=6))
    for number, row in enumerate(rows):
        row["labels"] = {"promise": number % 3 == 0}
    write_rows(folder / "data/turns.jsonl", rows)
    save_backbone(folder / "backbone")
    return folder


def test_the_example_is_shorter_than_fifty_lines():
    assert len((ROOT / "examples/custom_head.py").read_text().splitlines()) < 50


def test_a_head_of_ones_own_is_trained_and_used_like_ours(folder):
    done = train(folder, folder / "data/turns.jsonl")
    assert done.returncode == 0, done.stderr
    directory = folder / "run/heads/promise"
    model = load_model(folder / "backbone", [directory], kinds={"promise": KIND})
    answers = model.classify([np.full(8000, 0.1, np.float32), np.zeros(8000, np.float32)])
    assert answers[0]["promise"].label in (True, False)
    assert answers[1]["promise"].label is None and answers[1]["promise"].abstained
    config = json.loads((directory / "head.json").read_text())
    assert config["head"]["class"] == KIND and config["head"]["options"]["cost_of_missed"] == 3.0


def test_what_a_missed_promise_costs_moves_the_decision():
    import torch

    from examples.custom_head import PromiseHead, PromiseOptions
    from heads import TrunkSpec
    from heads.classification import Classification

    scores = Classification(torch.tensor([-1.0, 1.0]), torch.tensor([3, 3]))
    trunk = TrunkSpec(8, 2, 0.08, 8000)
    said = {
        cost: [
            x.label for x in PromiseHead(PromiseOptions(cost_of_missed=cost), trunk).decode(scores)
        ]
        for cost in (0.1, 1.0, 9.0)
    }
    assert said == {0.1: [False, False], 1.0: [False, True], 9.0: [True, True]}


def test_labels_of_another_type_are_refused_with_the_head_named(folder):
    rows = read_rows(folder / "data/turns.jsonl")
    rows[0]["labels"]["promise"] = "yes"
    turns = write_rows(folder / "data/wrong.jsonl", rows)
    done = train(folder, turns, f"out={folder / 'wrong'}")
    assert done.returncode == 1
    assert "heads.promise" in done.stderr and "true or false, not 'yes'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_head_directory_names_the_class_it_needs(folder):
    head = folder / "run/heads/promise"
    code = "import sys; from heads import load_model; load_model(sys.argv[1], [sys.argv[2]])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "backbone"), str(head)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CheckpointError" in done.stderr and KIND in done.stderr
