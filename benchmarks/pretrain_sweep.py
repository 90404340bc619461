"""Short pretraining runs that differ in one setting each, at the same amount of audio, around `small.yaml`.

Every run is the real recipe's first round on every third cut of the train splits of the speech sets; held-out cuts
tell the masked prediction loss. Runs with another number of clusters or labels have another scale of loss: look at
their frozen linear probes (accuracy on the dev splits) instead, which are given for every run.

Example: python -m benchmarks.pretrain_sweep --audio-seconds 10000 --work runs/sweep
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pretrain_real import write_train_manifest
from trunkline.checkpoint import read_json, write_json
from trunkline.command import run

RESULTS = Path(__file__).parent / "results" / "pretrain_sweep.json"
CONFIG = "configs/pretrain/small.yaml"
BATCH = 20.0
STRIDE = 3
"""Every third cut, so that a short run has epochs and a batch can grow with them."""
PROBES = {"intent": "vi_diadiem", "digit": "en_fsdd_digits", "tone": "vi_syllables"}

VARIANTS: dict[str, dict[str, Any]] = {
    "small.yaml": {},
    "size tiny": {"model.preset": "tiny"},
    "batch 10 s": {"data.batch_seconds": 10.0},
    "batch 40 s": {"data.batch_seconds": 40.0},
    "batch 10 s, then 40 s": {"data.batch_seconds": [[0, 10.0], [1, 40.0]]},
    "crop 8 s": {"data.crop_seconds": 8},
    "lr 0.0005": {"train.lr": 0.0005},
    "lr 0.002": {"train.lr": 0.002},
    "warm-up twice as long": {"train.warmup_steps": 2.0},
    "masked frames alone": {"objective.unmasked_weight": 0.0},
    "spans of 8": {"mask.span": 8},
    "no pitch labels": {"targets.pitch_labels": 0},
    "no warping": {"objective.warp": 0},
    "backgrounds as they are": {"objective.gate": 0},
    "levels as they are": {"objective.gain_db": 0},
    "other lines": {"objective.channel_db": 6},
    "noise": {"objective.noise": 0.3},
    "dropout 0.1": {"model.dropout": 0.1},
    "50 clusters": {"targets.clusters": 50},
    "200 clusters": {"targets.clusters": 200},
    "one label a frame": {"targets.labels_per_frame": 1},
    "full context alone": {"objective.full_context": 1.0},
}
WARMUP_SHARE = 0.3
"""Of a short run: about as many updates as `small.yaml` warms up for."""


def updates(batch_seconds: float | list[list[float]], audio: float, epoch: float) -> int:
    """Return the updates that so many seconds of audio are enough for, in batches that may grow with the epochs."""
    if not isinstance(batch_seconds, list):
        return max(10, round(audio / batch_seconds))
    ends = [first * epoch for first, _ in batch_seconds[1:]] + [math.inf]
    steps, at = 0, 0.0
    for (_, seconds), end in zip(batch_seconds, ends, strict=True):
        stop = min(end, audio)
        steps, at = steps + round(max(stop - at, 0) / seconds), stop
    return max(10, steps)


def overrides(variant: dict[str, Any], audio_seconds: float, epoch: float) -> dict[str, Any]:
    """Return the settings of one run, with as many updates as the audio allows."""
    settings = {"data.batch_seconds": BATCH, **variant}
    steps = updates(settings["data.batch_seconds"], audio_seconds, epoch)
    warmup = settings.pop("train.warmup_steps", 1.0) * WARMUP_SHARE
    return {
        **settings,
        "train.warmup_steps": max(1, round(warmup * steps)),
        "train.log_every": steps,
        "train.evaluate_every": steps,
        "train.checkpoint_every": steps,
        "iterations": f"[{{steps: {steps}}}]",
    }


def one(name: str, arguments: argparse.Namespace, manifest: Path, epoch: float) -> dict[str, Any]:
    """Run one variant and return its row, or the one that an earlier call left."""
    folder = arguments.work / name.replace(",", "").replace(" ", "-").replace("/", "-")
    if (folder / "row.json").exists():
        return read_json(folder / "row.json")
    settings = overrides(VARIANTS[name], arguments.audio_seconds, epoch)
    marker = folder / "minutes.json"
    if not marker.exists():
        before = _children_seconds()
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
        write_json(marker, {"cpu_minutes": (_children_seconds() - before) / 60})
    lines = (
        (folder / "iteration-0" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    metrics: dict[str, Any] = {}
    for line in lines:
        metrics |= json.loads(line)
    row = {
        "run": name,
        "masked_loss": round(metrics["evaluate/masked_loss_full"], 3),
        "masked_accuracy": round(metrics["evaluate/masked_accuracy_full"], 4),
        **{
            f"dev_{label}": round(_dev_accuracy(folder / "backbone", arguments.data, label), 4)
            for label in PROBES
        },
        "updates": metrics["step"],
        "cpu_minutes": round(read_json(marker)["cpu_minutes"], 1),
    }
    write_json(folder / "row.json", row)
    return row


def _children_seconds() -> float:
    """Processor time of the commands so far: a shared machine makes a run longer, but hardly dearer."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _dev_accuracy(backbone: Path, data: Path, label: str) -> float:
    from encoder import load_backbone
    from ssl.pooled import BackboneFeatures, extract
    from ssl.probing import best, labelled_cuts, probe
    from trunkline.manifest import load_manifest

    cuts = labelled_cuts(load_manifest(data / PROBES[label] / "manifest.jsonl"), label)
    extractor = BackboneFeatures(load_backbone(backbone))
    features = {name: extract(extractor, getattr(cuts, name)) for name in ("train", "dev", "test")}
    return best(probe(features, label, extractor.layers, heads=("linear",))).dev_accuracy


def _thin(manifest: Path) -> tuple[Path, float]:
    """Write every third cut of a manifest beside it; return the new one and its seconds."""
    lines = manifest.read_text(encoding="utf-8").splitlines()[::STRIDE]
    target = manifest.with_name("thinned.jsonl")
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return target, sum(json.loads(line)["duration"] for line in lines)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the variants one after the other, and write the table after each."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    manifest = arguments.work / "train.jsonl"
    write_train_manifest(arguments.data, manifest)
    manifest, epoch = _thin(manifest)
    rows: list[dict[str, Any]] = []
    about = {
        "audio_seconds": arguments.audio_seconds,
        "epoch_seconds": round(epoch),
        "config": CONFIG,
        "batch_seconds": BATCH,
    }
    for name in arguments.variants or VARIANTS:
        rows.append(one(name, arguments, manifest, epoch))
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
        epilog="Example: python -m benchmarks.pretrain_sweep --audio-seconds 10000 --work runs/sweep",
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
        "--audio-seconds", type=float, default=10_000.0, help="audio that each run trains on"
    )
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS), help="only these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
