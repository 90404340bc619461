"""BEST-RQ: labels from a random codebook that its seed decides, whatever the loudness."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pretraining import arguments, write_calls

from encoder import load_backbone
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from ssl.best_rq import BestRqConfig, CodewordPrediction, RandomQuantiser
from ssl.pretrain import main
from trunkline.errors import ConfigError

CONFIG = BestRqConfig(codewords=64, width=8)


def features(number: int, mels: int = 20) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((number, mels)).astype(np.float32)


def test_labels_are_a_function_of_the_seed():
    one, same, other = (
        RandomQuantiser(20, CONFIG, seed).assign(features(300)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.8


def test_labels_do_not_depend_on_loudness():
    quantiser, given = RandomQuantiser(20, CONFIG, 0), features(300)
    shifted = quantiser.assign(given + 3.0)  # a gain adds to every log-mel energy
    np.testing.assert_array_equal(shifted, quantiser.assign(given))
    np.testing.assert_array_equal(quantiser.assign(2.5 * given), quantiser.assign(given))


@pytest.mark.parametrize(
    ("number", "frames"), [(0, 0), (14, 0), (15, 1), (22, 1), (23, 2), (200, 24)]
)
def test_every_frame_has_one_label(number, frames):
    labels = RandomQuantiser(20, CONFIG, 0).assign(features(number))
    assert labels.shape == (frames, 1)
    assert labels.dtype == np.uint16


def test_a_label_is_the_entry_nearest_in_direction_to_the_frame():
    quantiser, given = RandomQuantiser(20, CONFIG, 0), features(40)
    for frame, label in enumerate(quantiser.assign(given)[:, 0]):
        stacked = given[SUBSAMPLING * frame : SUBSAMPLING * frame + RECEPTIVE_FIELD].reshape(-1)
        projected = (stacked - stacked.mean()) / (stacked.std() + 1e-5) @ quantiser.projection
        projected /= np.linalg.norm(projected)
        assert label == np.linalg.norm(quantiser.codebook - projected, axis=1).argmin()


def test_many_entries_are_used():
    assert len(np.unique(RandomQuantiser(20, CONFIG, 0).assign(features(3000)))) > 50


def test_logits_have_one_slot():
    import torch

    logits = CodewordPrediction(16, 64)(torch.zeros(2, 5, 16))
    assert logits.shape == (2, 5, 1, 64)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("changes", [{"codewords": 1}, {"codewords": 70_000}, {"width": 0}])
def test_a_codebook_that_cannot_be_is_refused(changes):
    with pytest.raises(ConfigError, match="best_rq"):
        BestRqConfig(**changes)


@pytest.mark.slow
def test_the_command_pretrains_with_random_targets(tmp_path, capsys):
    manifest, out = write_calls(tmp_path / "calls"), tmp_path / "run"
    chosen = ("objective_kind=best_rq", "best_rq.codewords=64", "iterations=[{steps: 4}]")
    assert main([*arguments(manifest, out, *chosen), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    about = json.loads((out / "iteration-0/targets/targets.json").read_text())
    assert about["source"] == {"kind": "best_rq", "codewords": 64, "width": 16, "seed": 0}
    assert load_backbone(summary["backbone"]).fingerprint == summary["fingerprint"]
    assert "best_rq" in (out / "backbone/README.md").read_text()
