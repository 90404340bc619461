"""Probes on made vectors and made audio, where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from encoder import Backbone, BackboneConfig, Context
from ssl.classifiers import MLP_GRID, AdamW, Classifiers, Examples, fit
from ssl.pooled import BackboneFeatures, MfccFeatures, extract, pool
from ssl.probing import best, labelled_cuts, probe, quick_probe
from tests.probing import RATE, command, made_corpus, made_features
from trunkline.errors import DataError, UsageError
from trunkline.manifest import Cut, load_manifest
from trunkline.metrics import majority_accuracy


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return made_corpus(tmp_path_factory.mktemp("notes"))


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig.preset("tiny", layers=1, dim=16, feed_forward=32)).eval()


def test_the_layer_that_holds_the_label_is_chosen_and_the_others_are_at_chance():
    rows = probe(made_features(1), "tone", ("0", "1", "2"))
    by = {(row.head, row.layer): row for row in rows}
    assert set(by) == {(head, layer) for head in ("linear", "mlp") for layer in "012"} | {
        ("weighted", "all")
    }
    for head in ("linear", "mlp"):
        assert best(row for row in rows if row.head == head).layer == "1"
        assert by[head, "1"].accuracy > 0.9
        assert by[head, "0"].interval.low < 1 / 3 < by[head, "0"].interval.high
    assert by["weighted", "all"].accuracy > 0.85


def test_shuffled_labels_give_an_interval_that_covers_chance():
    row = best(probe(made_features(0, shuffled=True), "tone", ("0", "1", "2"), heads=("linear",)))
    assert row.interval.low < 1 / 3 < row.interval.high


def test_the_same_seed_gives_the_same_rows_whatever_was_drawn_before():
    first = probe(made_features(2), "tone", ("0", "1", "2"), heads=("mlp",))
    torch.rand(7)
    again = probe(made_features(2), "tone", ("0", "1", "2"), heads=("mlp",))
    assert [row.dev_loss for row in first] == [row.dev_loss for row in again]


def test_probing_leaves_the_random_numbers_of_a_training_run_alone(corpus, tiny):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    quick_probe(tiny.train(), load_manifest(corpus), "pitch")
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny.training
    tiny.eval()


def test_test_labels_do_not_change_what_is_chosen():
    features = made_features(1)
    spoiled = [
        Cut(c.id, c.audio_filepath, c.call_id, extra={"tone": "0"}) for c in features["test"].cuts
    ]
    honest = probe(features, "tone", ("0", "1", "2"), heads=("linear",))
    features["test"] = features["test"]._replace(cuts=spoiled)
    blind = probe(features, "tone", ("0", "1", "2"), heads=("linear",))
    choice = [(row.layer, row.learning_rate, row.dev_loss) for row in honest]
    assert choice == [(row.layer, row.learning_rate, row.dev_loss) for row in blind]


def test_the_search_finds_a_rate_for_vectors_that_only_a_hidden_layer_can_read():
    torch.manual_seed(0)
    points = torch.randn(1, 600, 2)
    targets = (points[0, :, 0] * points[0, :, 1] > 0).long()
    train = Examples(points[:, :300], targets[:300])
    dev = Examples(points[:, 300:400], targets[300:400])
    linear, mlp = (fit(head, train, dev, points[:, 400:], 2, 0)[0] for head in ("linear", "mlp"))
    accuracy = [
        (result.probabilities.argmax(-1) == targets[400:]).float().mean()
        for result in (linear, mlp)
    ]
    assert accuracy[0] < 0.7 < 0.9 < accuracy[1]
    assert mlp.setting in MLP_GRID and mlp.setting.learning_rate > 1e-4


def test_each_setting_is_updated_as_torch_would_with_its_rate_and_decay():
    model = Classifiers("mlp", 1, 4, 3, seed=0)
    vectors, targets = torch.randn(1, 30, 4), torch.randint(3, (30,))
    starts = [value.detach().clone() for value in model.parameters()]
    optimiser = AdamW(model)
    for _ in range(5):
        logits = model(vectors)[0]
        losses = [functional.cross_entropy(each, targets) for each in logits]
        optimiser.step(torch.stack(losses).sum())
    for number, (rate, decay) in enumerate(MLP_GRID):
        weights = [value[0, number].clone().requires_grad_() for value in starts]
        reference = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
        hidden, hidden_bias, classes, classes_bias = weights
        for _ in range(5):
            logits = (vectors[0] @ hidden + hidden_bias).relu() @ classes + classes_bias
            reference.zero_grad()
            functional.cross_entropy(logits, targets).backward()
            reference.step()
        for ours, theirs in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(ours[0, number], theirs, atol=1e-5, rtol=1e-4)


def test_a_class_that_train_lacks_counts_as_wrong_and_is_named(corpus, tmp_path):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(corpus.parent / row["audio_filepath"])
    rows[-1] |= {"split": "test", "pitch": "whistle"}
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cuts = labelled_cuts(load_manifest(tmp_path / "m.jsonl"), "pitch")
    assert cuts.notes == ["Not in train, so never answered: whistle."]
    features = {
        name: extract(MfccFeatures(RATE), getattr(cuts, name)) for name in cuts._fields[1:4]
    }
    row = probe(features, "pitch", ("mfcc",), heads=("linear",))[0]
    assert not row.correct[[cut.label("pitch") for cut in cuts.test].index("whistle")]


def test_pooling_ignores_padding_and_one_frame_has_no_deviation():
    frames = torch.randn(2, 3, 5, 4)
    lengths = torch.tensor([5, 1, 3])
    pooled = pool(frames, lengths)
    assert pooled.shape == (2, 3, 8)
    torch.testing.assert_close(pooled[0, 2, :4], frames[0, 2, :3].mean(0))
    torch.testing.assert_close(pooled[1, 2, 4:], frames[1, 2, :3].std(0, unbiased=False))
    assert pooled[:, 1, 4:].abs().max() == 0
    torch.testing.assert_close(pool(frames, lengths, "mean"), pooled[..., :4])


@pytest.mark.parametrize("context", [Context.full(), Context(2, 1, 0)])
def test_cuts_pooled_in_batches_equal_each_cut_encoded_alone(corpus, tiny, context):
    cuts = list(load_manifest(corpus))[:12]
    result = extract(BackboneFeatures(tiny, context=context), cuts)
    assert (result.vectors.shape, result.short, result.faults) == ((12, 2, 32), 1, ())
    for vectors, cut in zip(result.vectors, cuts, strict=True):
        encoded = tiny.encode(cut.load(RATE), context=context, layers="all")
        alone = pool(encoded.layers, encoded.lengths)[:, 0]
        torch.testing.assert_close(vectors, alone, atol=1e-4, rtol=1e-4)


def test_one_unreadable_cut_is_listed_and_many_stop_the_probe(tmp_path):
    cuts = list(load_manifest(made_corpus(tmp_path)))
    (tmp_path / "5.wav").write_bytes(b"")
    result = extract(MfccFeatures(RATE), cuts)
    assert len(result.cuts) == len(result.vectors) == 47
    assert len(result.faults) == 1 and "5.wav" in result.faults[0] and "line 6" in result.faults[0]
    for index in range(10):
        (tmp_path / f"{index}.wav").unlink()
    with pytest.raises(DataError, match="10 of 48 cuts cannot be read"):
        extract(MfccFeatures(RATE), cuts)


def test_without_a_dev_split_whole_speakers_of_train_serve(tmp_path):
    manifest = made_corpus(tmp_path, speakers=8)
    manifest.write_text(manifest.read_text().replace('"dev"', '"train"'))
    cuts = labelled_cuts(load_manifest(manifest), "pitch")
    of = {name: {cut.speaker for cut in getattr(cuts, name)} for name in ("train", "dev")}
    assert of["dev"] and not of["dev"] & of["train"]
    assert "drawn speaker by speaker" in cuts.notes[0]


def test_a_manifest_without_splits_is_divided_and_the_same_way_each_time(tmp_path):
    manifest = load_manifest(made_corpus(tmp_path, split=False))
    cuts, again = labelled_cuts(manifest, "pitch"), labelled_cuts(manifest, "pitch")
    ids = [{cut.id for cut in part} for part in (cuts.train, cuts.dev, cuts.test)]
    assert [len(part) for part in ids] == [34, 6, 8] and len(set.union(*ids)) == 48
    assert cuts == again and len(cuts.notes) == 2


def test_cuts_without_the_label_are_left_out_and_counted(tmp_path):
    path = made_corpus(tmp_path)
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace('"pitch"', '"other"')
    path.write_text("\n".join(lines))
    cuts = labelled_cuts(load_manifest(path), "pitch")
    assert len(cuts.train) + len(cuts.dev) + len(cuts.test) == 47
    assert cuts.notes == ["1 of 48 cuts have no 'pitch' and are left out."]


def test_a_label_with_one_class_or_one_cut_a_class_cannot_be_probed(corpus):
    manifest = load_manifest(corpus)
    with pytest.raises(DataError, match="'always' has 1 classes in 18 cuts"):
        labelled_cuts(manifest, "always")
    with pytest.raises(DataError, match="'audio_filepath' has 18 classes in 18 cuts"):
        labelled_cuts(manifest, "audio_filepath")


def test_a_wrong_label_or_split_is_answered_with_the_nearest(corpus):
    with pytest.raises(UsageError, match=r"no label 'pitc'\. Did you mean 'pitch'\?"):
        labelled_cuts(load_manifest(corpus), "pitc")
    with pytest.raises(UsageError, match=r"in split 'tests'\. Did you mean 'test'\?"):
        labelled_cuts(load_manifest(corpus), "pitch", test="tests")


def test_the_command_compares_backbones_on_the_same_cuts(corpus, tiny, tmp_path):
    tiny.save(tmp_path / "tiny")
    names = [str(tmp_path / "tiny"), f"random:{tmp_path / 'tiny'}@5", "mfcc"]
    options = [word for name in names for word in ("--backbone", name)]
    options += ["--manifest", str(corpus), "--label", "pitch", "--head", "linear"]
    done = command(*options, "--context", "4,8,0", "--json", "--out", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (report["train_cuts"], report["dev_cuts"], report["test_cuts"]) == (18, 15, 15)
    assert report["majority_accuracy"] == majority_accuracy(["a", "b", "c"], ["a", "b", "c"])
    assert report["classes"] == 3 and report["context"] == "4,8,0"
    chosen = report["tables"]["Layer chosen on dev"]
    assert {(row["backbone"], row["head"]) for row in chosen} == {
        (name, head) for name in names for head in ("linear", "weighted")
    } - {("mfcc", "weighted")}
    mfcc = next(row for row in chosen if row["backbone"] == "mfcc")
    assert mfcc["accuracy"] > 0.8 and mfcc["low"] <= mfcc["accuracy"] <= mfcc["high"]
    assert mfcc["over"] == "15 cuts"
    assert [row["layer"] for row in report["tables"][f"All layers of {names[0]}"]] == [
        "0",
        "1",
        "all",
    ]
    compared = next(
        value for title, value in report["tables"].items() if title.startswith("Paired")
    )
    assert {row["against"] for row in compared} == set(names[1:])
    assert {row["verdict"] for row in compared} <= {"better", "worse", "not distinguishable"}


def test_several_untrained_draws_are_one_row_their_mean_with_lowest_and_highest(
    corpus, tiny, tmp_path
):
    tiny.save(tmp_path / "tiny")
    shape = f"random:{tmp_path / 'tiny'}"

    def tables(*names: str) -> dict:
        options = [word for name in names for word in ("--backbone", name)]
        options += ["--manifest", str(corpus), "--label", "pitch", "--head", "linear"]
        done = command(*options, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["tables"]

    single = tables(*(f"{shape}@{seed}" for seed in (3, 4, 5)))
    joint = tables("mfcc", f"{shape}@3-5")

    def accuracies(head: str) -> list[float]:
        return [row["accuracy"] for row in single["Layer chosen on dev"] if row["among"] == head]

    (row,) = (
        row
        for row in joint["Layer chosen on dev"]
        if row["backbone"] != "mfcc" and row["among"] == "linear"
    )
    alone = accuracies("linear")
    assert row["accuracy"] == pytest.approx(np.mean(alone))
    assert (row["draws"], row["lowest"], row["highest"]) == (3, min(alone), max(alone))
    assert min(alone) < max(alone)  # else this shows nothing
    assert row["low"] <= row["accuracy"] <= row["high"]
    compared = joint["Paired comparison (difference of accuracies, 95 % interval)"]
    mfcc = next(row for row in joint["Layer chosen on dev"] if row["backbone"] == "mfcc")
    (linear,) = (row for row in compared if row["head"] == "linear")
    assert linear["difference"] == pytest.approx(mfcc["accuracy"] - np.mean(alone))
    layers = joint[f"All layers of {shape}@3-5"]
    assert [row["layer"] for row in layers] == ["0", "1", "all"] and layers[0]["draws"] == 3


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--backbone", "mfcc", "--label", "pitch", "--folds", "2"], 2, "must be 3 to 48"),
        (["--backbone", "random:tiny@5-3", "--label", "pitch"], 2, "two as FIRST-LAST"),
        (["--backbone", "random:tiny@-3", "--label", "pitch"], 2, "two as FIRST-LAST"),
        (["--backbone", "random:tiny@0-99", "--label", "pitch"], 2, "20 draws at most"),
        (["--backbone", "mfcc", "--label", "pitcch"], 2, "Did you mean 'pitch'?"),
        (["--backbone", "random:smal", "--label", "pitch"], 2, "Did you mean 'small'?"),
        (["--backbone", "mfcc@high", "--label", "pitch"], 2, "must be a whole number"),
        (["--backbone", "no/such", "--label", "pitch"], 1, "no/such is not a directory"),
        (["--backbone", "mfcc", "--backbone", "mfcc", "--label", "pitch"], 2, "given twice"),
        (["--backbone", "mfcc", "--label", "always"], 1, "at least two classes"),
        (["--backbone", "mfcc", "--label", "pitch", "--context", "8,40"], 2, "not understood"),
    ],
)
def test_what_cannot_be_probed_is_one_sentence(corpus, capsys, arguments, status, sentence):
    from ssl.probe import main

    assert main([*arguments, "--manifest", str(corpus)]) == status
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1
