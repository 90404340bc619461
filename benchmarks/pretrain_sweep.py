"""Short pretraining runs that differ in one setting each, at the same amount of audio, around `small.yaml`.

Every run is the real recipe's first round on the train splits of the speech sets; held-out cuts tell the masked
prediction loss. Runs with another number of clusters or labels have another scale of loss: look at their frozen
probe (accuracy on digits of the dev split's unseen speaker) instead, which is given for every run.

Example: python -m benchmarks.pretrain_sweep --audio-seconds 6000 --work runs/sweep
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pretrain_real import write_train_manifest
from trunkline.checkpoint import read_json, write_json
from trunkline.command import run

RESULTS = Path(__file__).parent / "results" / "pretrain_sweep.json"
CONFIG = "configs/pretrain/small.yaml"
BATCH = 20.0
PROBE_SET, PROBE_LABEL = "en_fsdd_digits", "digit"

VARIANTS: dict[str, dict[str, Any]] = {
    "small.yaml": {},
    "size tiny": {"model.preset": "tiny"},
    "batch 10 s": {"data.batch_seconds": 10.0},
    "batch 40 s": {"data.batch_seconds": 40.0},
    "crop 8 s": {"data.crop_seconds": 8},
    "lr 0.0005": {"train.lr": 0.0005},
    "lr 0.002": {"train.lr": 0.002},
    "warm-up twice as long": {"train.warmup_steps": 2.0},
    "masked frames alone": {"objective.unmasked_weight": 0.0},
    "spans of 8": {"mask.span": 8},
    "50 clusters": {"targets.clusters": 50},
    "200 clusters": {"targets.clusters": 200},
    "one label a frame": {"targets.labels_per_frame": 1},
    "full context alone": {"objective.full_context": 1.0},
}
WARMUP_SHARE = 0.3
"""Of a short run: about as many updates as `small.yaml` warms up for."""


def overrides(variant: dict[str, Any], audio_seconds: float) -> dict[str, Any]:
    """Return the settings of one run, with as many updates as the audio allows."""
    settings = {"data.batch_seconds": BATCH, **variant}
    steps = max(10, round(audio_seconds / settings["data.batch_seconds"]))
    warmup = settings.pop("train.warmup_steps", 1.0) * WARMUP_SHARE
    return {
        **settings,
        "train.warmup_steps": max(1, round(warmup * steps)),
        "train.log_every": steps,
        "train.evaluate_every": steps,
        "train.checkpoint_every": steps,
        "iterations": f"[{{steps: {steps}}}]",
    }


def one(name: str, arguments: argparse.Namespace, manifest: Path) -> dict[str, Any]:
    """Run one variant, or read what an earlier call left, and return its row."""
    folder = arguments.work / name.replace(" ", "-").replace("/", "-")
    settings = overrides(VARIANTS[name], arguments.audio_seconds)
    marker = folder / "minutes.json"
    if not marker.exists():
        began = time.monotonic()
        given = [f"{key}={value}" for key, value in settings.items()]
        command = [
            "ssl.pretrain",
            CONFIG,
            f"data.manifest={manifest}",
            f"out={folder}",
            f"data.features={arguments.work / 'features'}",
            *given,
            "--quiet",
        ]
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=sys.stderr)
        write_json(marker, {"minutes": (time.monotonic() - began) / 60})
    lines = (
        (folder / "iteration-0" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    metrics: dict[str, Any] = {}
    for line in lines:
        metrics |= json.loads(line)
    return {
        "run": name,
        "masked_loss": round(metrics["evaluate/masked_loss_full"], 3),
        "masked_accuracy": round(metrics["evaluate/masked_accuracy_full"], 4),
        "dev_accuracy": round(_dev_accuracy(folder / "backbone", arguments.data), 4),
        "updates": metrics["step"],
        "minutes": round(read_json(marker)["minutes"], 1),
    }


def _dev_accuracy(backbone: Path, data: Path) -> float:
    from encoder import load_backbone
    from ssl.pooled import BackboneFeatures, extract
    from ssl.probing import best, labelled_cuts, probe
    from trunkline.manifest import load_manifest

    cuts = labelled_cuts(load_manifest(data / PROBE_SET / "manifest.jsonl"), PROBE_LABEL)
    extractor = BackboneFeatures(load_backbone(backbone))
    features = {name: extract(extractor, getattr(cuts, name)) for name in ("train", "dev", "test")}
    return best(probe(features, PROBE_LABEL, extractor.layers, heads=("linear",))).dev_accuracy


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the variants one after the other, and write the table after each."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    manifest = arguments.work / "train.jsonl"
    write_train_manifest(arguments.data, manifest)
    rows: list[dict[str, Any]] = []
    about = {"audio_seconds": arguments.audio_seconds, "config": CONFIG, "batch_seconds": BATCH}
    for name in arguments.variants or VARIANTS:
        rows.append(one(name, arguments, manifest))
        write_json(arguments.out, {**about, "runs": rows})
    return {
        **about,
        "results": str(arguments.out),
        "tables": {"One setting changed at a time": rows},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_sweep",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Example: python -m benchmarks.pretrain_sweep --audio-seconds 6000 --work runs/sweep",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of the speech sets"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/sweep"),
        help="where the runs lie; those there are kept",
    )
    parser.add_argument(
        "--audio-seconds", type=float, default=6000.0, help="audio that each run trains on"
    )
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS), help="only these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
