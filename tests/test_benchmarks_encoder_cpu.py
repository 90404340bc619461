"""The tables of the encoder's benchmark say what was measured, and count the work that is done."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoder_cpu import LONG, SHAPES, gflops, tables, tasks_of
from encoder import Backbone, BackboneConfig, Context

FILES = {"long 1 min": ["a.wav"], "batch 2": ["b.wav", "c.wav"]}


def test_ratios_are_of_what_was_measured_in_the_same_place():
    measured = {
        "small/1/reference float32/long 1 min": {"wall_s": 4.0, "cpu_s": 4.0, "peak_rss_gb": 2.0},
        "small/1/optimised float32/long 1 min": {"wall_s": 1.0, "cpu_s": 1.0, "peak_rss_gb": 0.5},
        "small/2/optimised float32/long 1 min": {"wall_s": 0.5, "cpu_s": 1.0, "peak_rss_gb": 0.5},
        "small/1/plain float32/mm": {"gflops": 90.0},
    }
    found = tables({"measured": measured})
    (ratio,) = found["Wall time against the reference's"]
    assert ratio["optimised float32 / reference float32"] == 0.25
    assert ratio["optimised int8 / reference float32"] == ""
    assert [row["threads"] for row in found["Wall seconds"]] == ["1", "2"]
    speeds = found["GFLOP/s of a whole call, reading and features included"]
    assert speeds[0]["torch.mm float32"] == 90.0 and speeds[1]["torch.mm float32"] == ""
    assert speeds[0]["optimised float32"] == round(gflops("small", 1.0, 60.0))


def test_every_system_is_timed_at_what_it_can_do():
    reference, half = (tasks_of(f"reference {kind}", FILES) for kind in ("float32", "bfloat16"))
    assert reference.keys() == {"step", *FILES, "loop 2", "features 1 min", "frames"}
    assert half.keys() == {*FILES, "frames"}
    assert tasks_of("optimised int8", FILES).keys() == {"step", *FILES, "frames"}


def test_the_work_that_speeds_are_told_from_is_what_torch_counts():
    sizes = {name: size for name, size in SHAPES["small"].items() if name != "symbols"}
    config = BackboneConfig.preset("large", conv_channels=sizes["dim"], **(sizes | {"layers": 1}))
    backbone, frames = Backbone(config).eval(), 1280
    features = torch.zeros(8 * frames + 7, 80)
    with FlopCounterMode(display=False) as counter:
        backbone.encode_batch([features], context=Context(*LONG))
    expected = gflops("small", 1.0, frames * 0.08, layers=1) * 1e9
    ctc = 2 * frames * sizes["dim"] * SHAPES["small"]["symbols"]
    assert counter.get_total_flops() == pytest.approx(expected - ctc, rel=0.1)
