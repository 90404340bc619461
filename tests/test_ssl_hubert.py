"""Masked prediction: what the loss counts, what the encoder is not shown, and that it learns."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from encoder import Backbone, BackboneConfig, Context
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from ssl.crops import collate
from ssl.hubert import ClusterPrediction, MaskedPrediction, ObjectiveConfig
from ssl.masking import mask_features
from trunkline.errors import ConfigError, TrainingError

MELS, CLUSTERS, SLOTS = 20, 12, 4
CONFIG = BackboneConfig(
    dim=16, layers=2, heads=2, feed_forward=32, kernel=5, conv_channels=4, dropout=0.0
).changed(num_mels=MELS)


def make_task(**objective) -> MaskedPrediction:
    torch.manual_seed(0)
    config = replace(ObjectiveConfig(projection=8, gain_db=0.0), **objective)
    return MaskedPrediction(
        Backbone(CONFIG), ClusterPrediction(16, CLUSTERS, SLOTS, config), config
    )


def make_item(seed: int, frames: int, masked: slice = slice(2, 5)) -> dict:
    rng = np.random.default_rng(seed)
    mask = np.zeros(frames, dtype=bool)
    mask[masked] = True
    features = rng.standard_normal((SUBSAMPLING * (frames - 1) + RECEPTIVE_FIELD, MELS))
    targets = rng.integers(CLUSTERS, size=(frames, SLOTS))
    seconds = 0.08 * frames
    return {
        "id": f"cut-{seed}",
        "features": features.astype(np.float32),
        "masked": mask,
        "targets": targets,
        "seconds": seconds,
    }


def loss(task: MaskedPrediction, *items: dict) -> float:
    with torch.no_grad():
        return task.eval().loss(collate(list(items)))[0].item()


def test_the_targets_of_seen_frames_change_nothing_when_they_have_no_weight():
    item, task = make_item(0, 12), make_task(unmasked_weight=0.0)
    other = item | {"targets": np.where(item["masked"][:, None], item["targets"], 0)}
    assert loss(task, other) == loss(task, item)
    assert loss(make_task(unmasked_weight=0.5), other) != loss(make_task(unmasked_weight=0.5), item)
    changed = item | {"targets": (item["targets"] + 1) % CLUSTERS}
    assert loss(task, changed) != loss(task, item)


def test_nothing_under_the_mask_reaches_the_encoder():
    item, task = make_item(0, 12), make_task()
    hidden = mask_features(item["masked"], len(item["features"]))
    noise = np.random.default_rng(1).standard_normal(item["features"].shape).astype(np.float32)
    other = item | {"features": np.where(hidden[:, None], 50 * noise, item["features"])}
    assert loss(task, other) == loss(task, item)
    seen = item | {"features": np.where(hidden[:, None], item["features"], noise)}
    assert loss(task, seen) != loss(task, item)


def test_what_pads_a_batch_changes_nothing():
    long, short = make_item(0, 15), make_item(1, 9)
    batch = collate([long, short])
    other = dict(batch)
    other["features"] = batch["features"].clone()
    other["features"][1, len(short["features"]) :] = 99.0
    other["targets"] = batch["targets"].clone()
    other["targets"][1, 9:] = 3
    task = make_task().eval()
    torch.testing.assert_close(task.loss(other)[0], task.loss(batch)[0], atol=1e-6, rtol=0)


def test_the_loss_of_a_batch_is_the_mean_over_the_masked_frames_of_its_items():
    items, task = [make_item(0, 15, slice(1, 7)), make_item(1, 9)], make_task(unmasked_weight=0.0)
    masked = [int(item["masked"].sum()) for item in items]
    expected = np.average([loss(task, item) for item in items], weights=masked)
    assert loss(task, *items) == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_the_mean_over_the_label_slots():
    item, task = make_item(0, 12), make_task(unmasked_weight=0.0)
    batch = collate([item])
    logits = task.eval().prediction(task._encode(batch, Context.full()))
    assert logits.shape == (1, 12, SLOTS, CLUSTERS)
    chosen = logits.log_softmax(dim=-1).gather(-1, batch["targets"][..., None])[..., 0]
    slots = [-chosen[0, item["masked"], slot].mean().item() for slot in range(SLOTS)]
    assert loss(task, item) == pytest.approx(np.mean(slots), abs=1e-5)


def test_logits_are_cosines_over_the_temperature():
    prediction = make_task(temperature=0.1).prediction
    frames = 100 * torch.randn(50, 16)
    assert prediction(frames).abs().max() <= 10 + 1e-4
    torch.testing.assert_close(prediction(frames).shape, torch.Size([50, SLOTS, CLUSTERS]))


def test_a_batch_with_nothing_masked_is_refused_by_the_names_of_its_items():
    items = [make_item(seed, 1, slice(0, 0)) for seed in range(2)]
    with pytest.raises(TrainingError, match=r"No frame is masked.*cut-0, cut-1"):
        make_task().loss(collate(items))


def test_a_mask_on_padding_alone_does_not_count():
    batch = collate([make_item(0, 9), make_item(1, 4, slice(0, 0))])
    batch["masked"][0] = False
    batch["masked"][1, 6] = True
    with pytest.raises(TrainingError, match="No frame is masked"):
        make_task().loss(batch)


@pytest.mark.parametrize("context", [Context.full(), Context(4, 8, 0)])
def test_every_parameter_gets_a_gradient(context):
    task = make_task()
    task.loss(collate([make_item(0, 24, slice(3, 12)), make_item(1, 20)]), context)[0].backward()
    without = [
        name
        for name, parameter in task.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # A shift of all keys does not change attention; the gradient of that bias is 0 by construction.
    assert [name for name in without if not name.endswith(("key.bias", "linear_k.bias"))] == []


def test_contexts_are_drawn_from_the_settings_with_their_share():
    contexts = ((8, 40, 0), (4, 8, 2))
    task = make_task(full_context=0.5, contexts=contexts).train()
    torch.manual_seed(0)
    drawn = [task._context() for _ in range(400)]
    assert set(drawn) == {Context.full(), *(Context(*context) for context in contexts)}
    assert sum(context.is_full for context in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    assert {task.eval()._context() for _ in range(20)} == {Context.full()}
    assert {make_task(full_context=1.0, contexts=())._context() for _ in range(20)} == {
        Context.full()
    }


@pytest.mark.parametrize(
    "change", [{"gain_db": 6.0}, {"warp": 0.2}, {"gate": 1.0}, {"channel_db": 6.0}, {"noise": 1.0}]
)
def test_features_are_perturbed_in_training_only(change):
    task = make_task(**change)
    batch = collate([make_item(number, 12) for number in range(4)])
    features, lengths = batch["features"], batch["lengths"]
    assert task.eval()._perturbed(features, lengths) is features
    changed = task.train()._perturbed(features, lengths)
    assert all(not torch.equal(new, old) for new, old in zip(changed, features, strict=True))
    assert make_task().train()._perturbed(features, lengths) is features


@pytest.mark.parametrize(
    "wrong",
    [
        {"warp": 0.7},
        {"gate": 1.5},
        {"noise": 1.5},
        {"noise": -0.1},
        {"snr_db": (10.0, 0.0)},
        {"gain_db": -1.0},
        {"channel_db": -1.0},
    ],
)
def test_perturbations_that_cannot_be_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=f"objective.*{next(iter(wrong))}"):
        ObjectiveConfig(**wrong)


def test_the_record_tells_what_was_masked_and_how_well_it_was_predicted():
    _, metrics = make_task().loss(collate([make_item(0, 12)]))
    assert metrics["counted_frames_fraction"] == pytest.approx(3 / 12)
    assert metrics["partly_masked_fraction"] == pytest.approx(2 / 12)
    assert metrics["masked_features_fraction"] == pytest.approx((2 * 8 + 15) / (11 * 8 + 15))
    slots = [float(metrics[f"masked_accuracy_slot{slot}"]) for slot in range(SLOTS)]
    assert float(metrics["masked_accuracy"]) == pytest.approx(np.mean(slots))
    assert 0 < float(metrics["codebook_coverage"]) <= 1
    assert 0 <= float(metrics["codebook_entropy"]) <= np.log(CLUSTERS)
    assert {"masked_loss", "unmasked_loss", "unmasked_accuracy"} <= metrics.keys()


def test_it_learns_two_crops_by_heart():
    task = make_task(full_context=1.0).train()
    batch = collate([make_item(0, 12), make_item(1, 12, slice(6, 9))])
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        value = task.loss(batch)[0]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(np.isfinite(losses))


def test_settings_without_anything_to_learn_are_refused():
    for changes in (
        {"masked_weight": 0.0, "unmasked_weight": 0.0},
        {"full_context": 1.5},
        {"contexts": ()},
        {"contexts": ((0, 1, 1),)},
    ):
        with pytest.raises(ConfigError):
            ObjectiveConfig(**changes)


def test_the_same_batch_gives_the_same_loss_for_any_order_of_its_items():
    items, task = [make_item(seed, 8 + seed) for seed in range(3)], make_task()
    values = [loss(task, *order) for order in itertools.permutations(items)]
    assert max(values) - min(values) < 1e-5
