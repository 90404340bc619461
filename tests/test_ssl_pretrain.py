"""`python -m ssl.pretrain`: the whole recipe on a few made calls, stopped and resumed in every way."""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from pretraining import ROOT, arguments, command, fingerprint, finished, write_calls

from encoder import load_backbone
from ssl.cluster import main as cluster
from ssl.config import PretrainConfig
from ssl.pretrain import main as pretrain
from trunkline.training import load_weights, newest_checkpoint

SEVERAL_CHECKPOINTS = "train.checkpoint_every=2"


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> Path:
    return write_calls(tmp_path_factory.mktemp("pretrain") / "calls")


@pytest.fixture(scope="module")
def unbroken(calls, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert pretrain([*arguments(calls, out), "--quiet"]) == 0
    return out


def wait_for(path: Path, process) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def contents(folder: Path) -> dict[Path, int]:
    found = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    return {path: changed for path, changed in found.items() if path.name != ".lock"}


def summary_of(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_recipe_ends_with_a_backbone_that_opens(unbroken):
    backbone = load_backbone(unbroken / "backbone")
    assert backbone.fingerprint == fingerprint(unbroken)
    training = json.loads((unbroken / "backbone/training.json").read_text())
    assert (training["iteration"], training["steps"]) == (1, 4)
    assert training["targets"]["source"]["kind"] == "layer"
    first = json.loads((unbroken / "iteration-0/backbone/config.json").read_text())["fingerprint"]
    assert training["targets"]["source"]["backbone"] == first
    card = (unbroken / "backbone/README.md").read_text()
    assert "Licence of the data" in card
    assert "8000 Hz" in card


@pytest.mark.slow
def test_the_run_leaves_health_metrics_and_a_report(unbroken):
    (row, *_) = map(
        json.loads, (unbroken / "iteration-0/run/metrics.jsonl").read_text().splitlines()
    )
    wanted = {"masked_accuracy", "unmasked_accuracy", "codebook_coverage", "codebook_entropy"}
    wanted |= {"masked_features_fraction", "counted_frames_fraction", "partly_masked_fraction"}
    wanted |= {"grad_norm", "audio_hours", "audio_seconds_per_second", "rss_gb"}
    wanted |= {f"masked_accuracy_slot{slot}" for slot in range(4)}
    assert wanted <= row.keys()
    report = (unbroken / "report.html").read_text()
    assert "iteration-0/run" in report
    assert "iteration-1/run" in report
    assert "perplexity" in report
    assert "<svg" in report


@pytest.mark.slow
def test_a_running_average_is_what_is_exported(calls, tmp_path):
    out = tmp_path / "run"
    more = ("train.ema=0.5", "iterations=[{steps: 3}]", "--quiet")
    assert pretrain([*arguments(calls, out), *more]) == 0
    last = newest_checkpoint(out / "iteration-0/run/checkpoints")
    averaged, raw = (load_weights(last, ema=ema) for ema in (True, False))
    weights = load_backbone(out / "backbone").state_dict()
    for name, value in weights.items():
        assert torch.equal(value, averaged[f"backbone.{name}"]), name
    assert any(not torch.equal(value, raw[f"backbone.{name}"]) for name, value in weights.items())


@pytest.mark.slow
def test_the_same_command_again_does_nothing(calls, unbroken, capsys):
    before = contents(unbroken)
    assert pretrain([*arguments(calls, unbroken), "--json"]) == 0
    assert summary_of(capsys)["fingerprint"] == fingerprint(unbroken)
    assert contents(unbroken) == before


@pytest.mark.slow
def test_stages_one_by_one_give_the_same_backbone(calls, unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    words = [*arguments(calls, out), "--quiet"]
    assert pretrain([*words, "--stage", "features"]) == 0
    assert [path.name for path in out.glob("[!.]*")] != []
    assert not (out / "iteration-0").exists()
    assert cluster(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^dead +\d", shown, flags=re.MULTILINE)
    assert re.search(r"^perplexity +[\d.]+", shown, flags=re.MULTILINE)
    before = contents(out)
    assert pretrain([*words, "--stage", "targets"]) == 0
    assert contents(out) == before
    assert pretrain([*words, "--stage", "train"]) == 0
    assert not (out / "iteration-1").exists()
    assert cluster([*words, "--round", "1"]) == 0
    assert pretrain(words) == 0
    assert fingerprint(out) == fingerprint(unbroken)


@pytest.mark.slow
def test_a_layer_of_a_finished_backbone_is_clustered_without_a_recipe(
    calls, unbroken, tmp_path, capsys
):
    out = tmp_path / "clusters"
    words = [
        "--backbone",
        str(unbroken / "backbone"),
        "--manifest",
        str(calls),
        "--out",
        str(out),
        "--json",
    ]
    assert cluster([*words, "--layer", "3", "--clusters", "16"]) == 0
    summary = summary_of(capsys)
    about = json.loads((out / "targets/targets.json").read_text())
    assert about["source"]["layer"] == 3
    assert about["source"]["backbone"] == fingerprint(unbroken)
    assert summary["clusters"] == 16
    assert sum(about["health"]["counts"]) > 100
    assert cluster([*words, "--layer", "3", "--clusters", "16"]) == 1
    assert "targets exists already" in capsys.readouterr().err
    assert cluster([*words, "--layer", "9"]) == 2
    assert "layers 0 to 4" in capsys.readouterr().err


def test_cluster_asks_for_a_recipe_or_a_backbone(capsys):
    assert cluster([]) == 2
    assert "either a CONFIG.yaml or a --backbone" in capsys.readouterr().err
    assert cluster(["--backbone", "somewhere"]) == 2
    assert "--backbone needs --manifest and --out" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_the_second_round_it_goes_on_to_the_same_backbone(calls, unbroken, tmp_path):
    out = tmp_path / "run"
    words = arguments(calls, out, SEVERAL_CHECKPOINTS)
    process = command("ssl.pretrain", *words)
    wait_for(out / "iteration-1/run/checkpoints", process)
    process.kill()
    assert finished(process)[0] == -signal.SIGKILL
    (out / "iteration-1/.targets.half.tmp").mkdir()
    assert pretrain([*words, "--quiet"]) == 0
    assert fingerprint(out) == fingerprint(unbroken)
    assert not list(out.glob("*/.*.tmp"))


@pytest.mark.slow
def test_killed_in_the_first_round_it_goes_on_to_the_same_backbone(calls, unbroken, tmp_path):
    out = tmp_path / "run"
    words = arguments(calls, out, "train.checkpoint_every=1")
    process = command("ssl.pretrain", *words)
    wait_for(out / "iteration-0/run/checkpoints/step-2", process)
    process.kill()
    assert finished(process)[0] == -signal.SIGKILL
    assert not (out / "backbone").exists()
    assert pretrain([*words, "--quiet"]) == 0
    assert fingerprint(out) == fingerprint(unbroken)


@pytest.mark.slow
def test_sigterm_saves_and_ends_well(calls, tmp_path, capsys):
    out = tmp_path / "run"
    words = arguments(calls, out, "iterations=[{steps: 2000}]", "train.checkpoint_every=2000")
    process = command("ssl.pretrain", *words, "--json")
    wait_for(out / "iteration-0/run/metrics.jsonl", process)
    while not (out / "iteration-0/run/metrics.jsonl").read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, stdout, stderr = finished(process)
    assert status == 0, stderr
    summary = json.loads(stdout)
    assert "run the same command again" in summary["stopped"]
    assert newest_checkpoint(out / "iteration-0/run/checkpoints").name == f"step-{summary['step']}"
    assert (out / "report.html").exists()
    assert pretrain([*words, "--stage", "features"]) == 0


@pytest.mark.slow
def test_two_processes_complete_the_recipe_from_a_folder(calls, tmp_path):
    out = tmp_path / "run"
    words = arguments(calls.parent, out, "iterations=[{steps: 3}, {steps: 2, clusters: 8}]")
    torchrun = "torch.distributed.run --standalone --nproc-per-node 2 -m ssl.pretrain"
    status, stdout, stderr = finished(command(torchrun, *words, "--json"))
    assert status == 0, stderr
    assert json.loads(stdout)["fingerprint"] == load_backbone(out / "backbone").fingerprint
    assert json.loads(stdout)["cuts"] == 12
    assert json.loads((out / "iteration-0/run/run.json").read_text())["processes"] == 2


def keys(cls: type, prefix: str = "") -> set[str]:
    """Every settings key with dots; those of a round as `iterations.key`."""
    found = set()
    for name, hint in get_type_hints(cls).items():
        inner = next((t for t in getattr(hint, "__args__", ()) if is_dataclass(t)), hint)
        found |= keys(inner, f"{prefix}{name}.") if is_dataclass(inner) else {f"{prefix}{name}"}
    assert {f.name for f in fields(cls)} == set(get_type_hints(cls))
    return found


def test_the_page_for_users_names_every_setting_and_no_other():
    page = (ROOT / "docs/pretraining.md").read_text(encoding="utf-8")
    table = page.partition("## Settings")[2].partition("## ")[0]
    named = re.findall(r"^\| `([\w.\[\]]+)` \|", table, flags=re.MULTILINE)
    ours = {key for key in keys(PretrainConfig) if not key.startswith("train.")}
    assert sorted(name.replace("[n]", "") for name in named) == sorted(ours)


def test_every_setting_that_the_page_for_users_mentions_exists():
    page = (ROOT / "docs/pretraining.md").read_text(encoding="utf-8")
    groups = "data|model|mask|objective|targets|best_rq|probe|train"
    mentioned = set(re.findall(rf"`((?:{groups})\.\w+)[`=]", page))
    assert len(mentioned) > 30
    assert mentioned - keys(PretrainConfig) == set()
