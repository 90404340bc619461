"""A sweep tries settings, survives being cut off, and says which are best and how sure that is."""

from __future__ import annotations

import csv
import json

import pytest
import yaml
from training_heads import save_backbone, settings, write_turns

from trunkline.errors import ConfigError
from trunkline.settings import settings_to_yaml

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")

from heads.run import HeadsRun
from heads.study import Sweep, read_space


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    turns = write_turns(folder / "data", 12, dev=6)
    save_backbone(folder / "backbone")
    short = ("train.steps=4", "train.evaluate_every=2")
    config = settings(turns, folder / "backbone", folder / "run", *short)
    (folder / "intent.yaml").write_text(settings_to_yaml(config))
    space = {
        "train.lr": {"low": 0.001, "high": 0.1, "log": True},
        "heads.intent.options.hidden": {"choices": [8, 16]},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return folder


def sweep(home, out, **options):
    space = options.pop("space", home / "space.yaml")
    return Sweep(home / "intent.yaml", [], space=space, metric="intent/loss", out=out, **options)


def test_a_sweep_that_is_cut_off_goes_on_and_names_the_best(home, tmp_path, monkeypatch):
    made = HeadsRun.run
    calls = []

    def run(self):
        calls.append(self.out.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(self)

    monkeypatch.setattr(HeadsRun, "run", run)
    with pytest.raises(KeyboardInterrupt):
        sweep(home, tmp_path).run(3)
    summary = sweep(home, tmp_path).run(3)
    assert calls[2] == calls[1], "the trial that was cut off is taken up first"
    assert len(calls) == 4
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    done = [row for row in rows if row["state"] == "complete"]
    assert len(done) == summary["trials"] == 3
    assert summary["value"] == pytest.approx(min(float(row["intent/loss"]) for row in done))
    best = json.loads((tmp_path / "best.json").read_text())
    score = best["scores"][0]
    assert score["low"] <= score["accuracy"] <= score["high"]
    assert (tmp_path / "trials" / calls[0] / "heads/intent/head.json").exists()
    assert len({path.name for path in (tmp_path / "frames").iterdir()}) == 1
    assert sweep(home, tmp_path).run(3)["value"] == summary["value"]
    assert len(calls) == 4


def test_a_space_of_unknown_settings_or_without_a_range_is_refused(home, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("train.lrr: {low: 0.1, high: 0.2}\n")
    with pytest.raises(ConfigError, match=r"train\.lrr.*Did you mean 'lr'"):
        sweep(home, tmp_path, space=path)
    path.write_text("train.lr: {low: 0.1}\n")
    with pytest.raises(ConfigError, match=r"train\.lr: .*low and high, or choices"):
        read_space(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="names no settings"):
        read_space(path)
