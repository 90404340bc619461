"""The benchmark of five heads measures what it says: the layer passes, and the same outputs in every way."""

from __future__ import annotations

import json

import torch
from encoder_backbones import noise, strong_backbone

from benchmarks.five_heads import main, make_heads
from encoder import Context
from heads import MultiHeadModel


def test_a_short_call_is_measured_in_every_way(tmp_path):
    strong_backbone(layers=3, dim=16).save(tmp_path / "trunk")
    out = tmp_path / "five.json"
    options = ["--minutes", "0.05", "--rounds", "1", "--context", "8,16,4", "--out", str(out)]
    assert main(["--backbone", str(tmp_path / "trunk"), "--adapted-layers", "1", *options]) == 0
    report = json.loads(out.read_text())
    rows = report["tables"]["One call"]
    assert [row["layer passes"] for row in rows] == [3, 3, 3, 15, 6]
    assert rows[0]["wall beside the encoder"] == 1
    assert all(row["processor s"] >= 0 for row in rows)


def test_the_models_that_are_timed_give_the_same_outputs():
    backbone = strong_backbone()
    heads = make_heads(backbone)
    waveform, context = 0.1 * noise(9000), Context(8, 16, 4)
    together = MultiHeadModel(backbone, heads).outputs(waveform, context=context)
    for name, head in heads.items():
        alone = MultiHeadModel(backbone, {name: head}).outputs(waveform, context=context)[name]
        torch.testing.assert_close(together[name][0], alone[0])
