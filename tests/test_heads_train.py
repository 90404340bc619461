"""Training heads: several on one trunk, each on the cuts with its label, resumed exactly, chosen by dev."""

from __future__ import annotations

import json

import pytest
import torch
from training_heads import read_rows, save_backbone, settings, write_rows, write_turns

from encoder import load_backbone
from encoder.shared import SharedTrunk
from heads.data import Items, read_corpora
from heads.dev import Choice
from heads.folder import load_head
from heads.run import HeadsRun
from heads.search import search_rates
from heads.task import JointTask, check_gradients
from trunkline.batching import Batches, BatchPlan
from trunkline.errors import ConfigError, DataError, TrainingError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with turns and a backbone."""
    folder = tmp_path_factory.mktemp("heads")
    write_turns(folder / "data")
    save_backbone(folder / "backbone")
    return folder


@pytest.fixture
def run(home, tmp_path):
    """Run with changed settings; returns the summary."""

    def start(*changes, out="run"):
        return HeadsRun(config(*changes, out=out)).run()

    def config(*changes, out="run"):
        return settings(home / "data/turns.jsonl", home / "backbone", tmp_path / out, *changes)

    def head(out):
        return load_head(tmp_path / out / "heads/intent", load_backbone(home / "backbone"))

    start.config, start.out, start.home, start.head = config, tmp_path, home, head
    return start


def head_rows(summary):
    return {row["head"]: row for row in summary["tables"]["Heads on dev"]}


def losses(folder):
    return [
        row["loss"] for row in read_rows(folder / "metrics.jsonl") if row.get("loss") is not None
    ]


def test_a_head_learns_on_kept_frames_and_is_exported(run):
    changes = ("train.steps=40", "train.evaluate_every=10", "train.lr=0.05")
    summary = run(*changes)
    assert head_rows(summary)["intent"]["labelled"] == 30
    told = losses(run.out / "run")
    assert sum(told[-5:]) < 0.9 * sum(told[:5])
    head = run.head("run")
    assert head.labels.names == ("high", "low", "middle")
    assert "temperature" in head.calibration
    card = (run.out / "run/heads/intent/README.md").read_text(encoding="utf-8")
    assert "- licence: not stated" in card
    assert (run.out / "run/report.html").exists()
    assert not list((run.out / "run/heads").rglob("model.safetensors"))
    again = run(*changes)
    assert again["steps"] == summary["steps"]
    assert again["seconds"] == 0


@pytest.mark.parametrize("more", [(), ("augment.speed.probability=0.7", "copies=2")])
def test_kept_frames_give_what_online_training_gives(run, more):
    limited = ("contexts.full=0.5", "contexts.limited=[[4, 8, 0]]", *more)
    kept = run(*limited, "data.keep_frames=true", out="kept")
    online = run(*limited, "data.keep_frames=false", out="online")
    assert losses(run.out / "kept") == pytest.approx(losses(run.out / "online"), abs=1e-4)
    assert kept["steps"] == online["steps"]
    first, second = (run.head(x).state_dict() for x in ("kept", "online"))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-3), name


def test_heads_are_trained_jointly_each_on_the_cuts_with_its_label(run):
    more = ("heads.mood.kind=sentiment", "heads.mood.options.label=mood", "heads.mood.weight=0.5")
    summary = run(*more)
    assert {name: row["labelled"] for name, row in head_rows(summary).items()} == {
        "intent": 30,
        "mood": 15,
    }
    about = json.loads((run.out / "run/run.json").read_text())
    assert about["run_info"]["labelled"] == {"intent": 30, "mood": 15}
    line = read_rows(run.out / "run/metrics.jsonl")[0]
    assert line["mood/items"] < line["intent/items"]


def test_the_loss_is_averaged_over_labelled_items_and_company_changes_no_head(run):
    more = ("heads.mood.kind=sentiment", "heads.mood.options.label=mood", "heads.mood.weight=0.5")
    both, alone = HeadsRun(run.config(*more)), HeadsRun(run.config())
    task, single = (JointTask(x.backbone, x.heads, x.config).eval() for x in (both, alone))
    batch = first_batch(both)
    by_name = {name: (output, labels) for name, output, labels in task.outputs(batch)}
    total, metrics = task.loss(batch)
    expected = 0.0
    for name, (output, labels) in by_name.items():
        assert None not in labels
        expected += task.config.heads[name].weight * task.head(name).loss(output, labels)[0].item()
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert len(by_name["mood"][1]) < len(by_name["intent"][1]) == len(batch["ids"])
    assert float(metrics["intent/loss"]) == pytest.approx(single.loss(batch)[0].item(), rel=1e-6)


def test_heads_of_the_same_turns_share_the_layers_that_none_of_them_bends(run, monkeypatch):
    passes = []

    class Counted(SharedTrunk):
        def forward(self, *given, **named):
            passes.append(self.layer_passes)
            return super().forward(*given, **named)

    monkeypatch.setattr("heads.task.SharedTrunk", Counted)
    adapter = "options.adapter={kind: houlsby, dim: 4, layers: 1}"
    two = (f"heads.intent.{adapter}", "heads.again.kind=intent", "heads.again.options.label=intent")
    two += (f"heads.again.{adapter}", "heads.mood.kind=sentiment", "heads.mood.options.label=mood")
    prepared = HeadsRun(run.config(*two))
    task = JointTask(prepared.backbone, prepared.heads, prepared.config).eval()
    batch = first_batch(prepared)
    together = list(task.outputs(batch))
    depth = prepared.backbone.num_layers
    assert depth > 1 and passes == [depth + 2], "the last layer thrice, those below once"
    for name, output, labels in together:
        alone = {key: values if key == name else [None] * len(values)
                 for key, values in batch["labels"].items()}  # fmt: skip
        [(_, expected, own)] = task.outputs({**batch, "labels": alone})
        assert own == labels
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=1e-5)
        task.zero_grad()
        task.head(name).loss(output, labels)[0].backward()
        got = [p.grad for p in task.parameters()]
        task.zero_grad()
        task.head(name).loss(expected, labels)[0].backward()
        for one, other in zip(got, (p.grad for p in task.parameters()), strict=True):
            assert (one is None) == (other is None)
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def first_batch(prepared):
    items = Items(prepared.train, prepared.reader, None, prepared.config.contexts)
    plan = BatchPlan(items.durations, 8.0)
    return next(Batches(items, plan, items.collate).stream()).batch


def test_a_killed_run_goes_on_to_the_same_heads(run, monkeypatch):
    whole = run(out="whole")
    judge = Choice.__call__

    def killed(self, task):
        if task.updates == 8:
            raise KeyboardInterrupt
        return judge(self, task)

    monkeypatch.setattr(Choice, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run(out="broken")
    monkeypatch.undo()
    resumed = run(out="broken")
    assert resumed["steps"] == whole["steps"]
    for name in ("whole", "broken"):
        assert (run.out / name / "checkpoints/step-12").is_dir()
    first, second = (run.out / x / "heads/intent/head.safetensors" for x in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()
    assert (run.out / "whole/choice.json").read_bytes() == (
        run.out / "broken/choice.json"
    ).read_bytes()


def test_a_resumed_run_with_other_settings_is_refused(run, monkeypatch):
    monkeypatch.setattr(Choice, "take", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"train\.lr"):
        run("train.lr=0.02")


def test_training_stops_when_dev_gets_no_better_and_the_best_weights_are_taken(run):
    summary = run("train.lr=0.5", "train.steps=400", "choose.patience=2", "choose.average=1")
    history = json.loads((run.out / "run/choice.json").read_text())
    best = min(history, key=lambda row: row["score"])
    assert len(history) < 100
    assert history[-1]["step"] == best["step"] + 2 * 4
    assert summary["steps"] == [best["step"]]
    assert summary["loss"] == pytest.approx(best["metrics"]["loss"])


def test_weights_of_the_best_evaluations_are_averaged_if_dev_prefers_it(run):
    summary = run("choose.average=3", "train.steps=24")
    history = json.loads((run.out / "run/choice.json").read_text())
    assert len(list((run.out / "run/candidates").iterdir())) == 3
    best = min(row["score"] for row in history)
    assert summary["loss"] <= best + 1e-9
    averaged = run("choose.average=6", "train.steps=24", "train.lr=0.1", out="rough")
    assert averaged["loss"] <= min(
        row["score"] for row in json.loads((run.out / "rough/choice.json").read_text())
    )


def test_a_trunk_that_learns_has_its_own_rate_and_is_exported(run):
    changes = ("trunk.train=['last 1 layers']", "trunk.freeze=[convolution]", "trunk.lr=0.001")
    summary = run(*changes)
    trained, start = load_backbone(summary["backbone"]), load_backbone(run.home / "backbone")
    assert trained.fingerprint != start.fingerprint
    changed = {
        name
        for name, tensor in trained.state_dict().items()
        if not torch.equal(tensor, start.state_dict()[name])
    }
    assert changed
    assert all(name.startswith("conformer.layers.1.") for name in changed)
    assert not any("conv" in name for name in changed)
    prepared = HeadsRun(run.config(*changes, out="second"))
    groups = JointTask(prepared.backbone, prepared.heads, prepared.config).parameter_groups(0.01)
    assert {group["lr_scale"] for group in groups} == {1.0, 0.1}


def test_an_untrained_trunk_is_exported_so_that_its_heads_open(run):
    summary = run(f"backbone=random:{run.home / 'backbone'}", "train.steps=4")
    assert summary["backbone"] == str(run.out / "run/backbone")
    assert load_head(run.out / "run/heads/intent", load_backbone(summary["backbone"]))


def test_a_frozen_trunk_is_in_no_checkpoint_and_stays_in_evaluation_mode(run):
    prepared = HeadsRun(run.config("trunk.dropout=0.5"))
    task = JointTask(prepared.backbone, prepared.heads, prepared.config)
    task.train()
    assert not prepared.backbone.training
    assert not [name for name in task.state_dict() if "conformer" in name]


@pytest.mark.parametrize("kind", ["houlsby", "lora", "bitfit", "full"])
def test_heads_learn_with_adapters_of_their_own(run, kind):
    summary = run(f"heads.intent.options.adapter.kind={kind}", "train.steps=4")
    head = run.head("run")
    assert head.options.adapter.kind == kind
    assert head_rows(summary)["intent"]["loss"] > 0
    assert (run.out / "run/heads/intent/head.safetensors").stat().st_size > 0


def test_groups_that_mean_nothing_are_an_error(run):
    with pytest.raises(
        ConfigError, match=r"trunk.train: 'decoder' means no parameter.*last 4 layers"
    ):
        run("trunk.train=[decoder]")
    with pytest.raises(ConfigError, match="freezes all that"):
        run("trunk.train=[attention]", "trunk.freeze=[layers]")


def test_frames_that_change_cannot_be_kept(run):
    with pytest.raises(ConfigError, match="keep_frames: frames change while training, since trunk"):
        run("data.keep_frames=true", "trunk.train=[all]")
    with pytest.raises(ConfigError, match="has an adapter"):
        run("data.keep_frames=true", "heads.intent.options.adapter.kind=lora")
    with pytest.raises(ConfigError, match="set copies"):
        run("data.keep_frames=true", "augment.speed.probability=1")


def test_a_learning_rate_is_searched_for_each_head_and_kept(run):
    config = run.config("search.rates=[0.03, 0.00001]", "search.steps=10")
    rates, trials = search_rates(config)
    assert rates == {"intent": 0.03}
    assert [row["rate"] for row in trials] == [0.03, 0.00001]
    assert trials[0]["intent"] < trials[1]["intent"]
    path = run.out / "run/lr-search/result.json"
    before = path.stat().st_mtime_ns
    assert search_rates(config)[0] == rates
    assert path.stat().st_mtime_ns == before


def test_a_head_goes_on_from_another_and_refuses_labels_it_does_not_know(run):
    first = run(out="first")
    start = f"heads.intent.start={run.out / 'first/heads/intent'}"
    second = run(start, "train.steps=4", "train.lr=0.00001", out="second")
    assert second["loss"] == pytest.approx(first["loss"], abs=0.05)
    rows = read_rows(run.home / "data/turns.jsonl")
    rows[0]["labels"]["intent"] = "lwo"
    path = write_rows(run.home / "data/wrong.jsonl", rows)
    with pytest.raises(DataError, match=r"heads\.intent: .*'lwo'.*Did you mean 'low'"):
        run(start, f"data.train={path}", out="third")


def test_an_adapter_is_added_to_a_head_of_the_frozen_trunk_or_left_out_again(run):
    first = run(out="first")
    start = f"heads.intent.start={run.out / 'first/heads/intent'}"
    small = ("train.steps=4", "train.lr=0.00001")
    adapter = "heads.intent.options.adapter.kind=houlsby"
    adapted = run(start, adapter, *small, out="adapted")
    assert adapted["loss"] == pytest.approx(first["loss"], abs=0.05)  # it began by changing nothing
    start = f"heads.intent.start={run.out / 'adapted/heads/intent'}"
    plain = run(start, "heads.intent.options.adapter.kind=none", *small, out="plain")
    assert plain["loss"] == pytest.approx(first["loss"], abs=0.05)
    with pytest.raises(ConfigError, match="weights of another shape"):
        run(start, "heads.intent.options.adapter.kind=lora", *small, out="other")


def test_running_statistics_of_batch_normalisation_are_kept_unless_asked_for(run):
    for policy, learns in (("frozen", False), ("trained", True)):
        prepared = HeadsRun(run.config(f"trunk.batch_norm={policy}"))
        norm = torch.nn.BatchNorm1d(4)
        prepared.heads["intent"].extra = norm
        JointTask(prepared.backbone, prepared.heads, prepared.config).train()
        assert norm.training is learns


def test_what_no_loss_depends_on_is_found_before_training(run):
    prepared = HeadsRun(run.config())
    prepared.heads["intent"].forgotten = torch.nn.Linear(2, 2)
    task = JointTask(prepared.backbone, prepared.heads, prepared.config)
    with pytest.raises(TrainingError, match=r"heads\.intent\.forgotten"):
        check_gradients(task, iter([first_batch(prepared)]))


def test_sources_are_drawn_by_weight_and_hold_cuts_of_one_name(run):
    turns = run.home / "data/turns.jsonl"
    sources = f"[{{manifest: {turns}, split: train, weight: 3}}, {{manifest: {turns}, split: dev, weight: 1}}]"
    config = run.config("data.split=null", f"data.train={sources}", f"data.dev={turns}")
    train, _ = read_corpora(config.data, HeadsRun(config).keys)
    assert len(set(train.ids)) == len(train) == 39
    share = train.weights[train.source == 0].sum() / train.weights.sum()
    assert share == pytest.approx(0.75)
    with pytest.raises(ConfigError, match="every source a weight, or none"):
        HeadsRun(run.config("data.split=null", f"data.train={sources.replace(', weight: 1', '')}"))


def test_dev_is_set_aside_call_by_call_where_there_is_none(run):
    rows = [row | {"split": None} for row in read_rows(run.home / "data/turns.jsonl")]
    path = write_rows(run.home / "data/unsplit.jsonl", rows)
    prepared = HeadsRun(run.config("data.split=null", f"data.train={path}", "data.dev_share=0.2"))

    def calls(corpus):
        column = corpus.manifests[0].column("call_id")
        return {column[place] for place in corpus.place}

    assert calls(prepared.dev)
    assert not calls(prepared.train) & calls(prepared.dev)
    assert 6 <= len(prepared.dev) <= 12


def test_a_share_of_the_labels_is_part_of_a_larger_share(run):
    some, more = (HeadsRun(run.config(f"data.fraction={x}")).train for x in (0.3, 0.6))
    assert (len(some), len(more)) == (9, 18)
    assert set(some.ids) < set(more.ids)
