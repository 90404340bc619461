"""The whole pretraining recipe: features, targets, training, and again with targets from what was learnt.

The run folder holds `features/`, `iteration-N/{targets,run,backbone}/` and at the end `backbone/`, the exported
directory. Every step appears whole, so the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from encoder import Backbone, Context, load_backbone
from encoder.conformer import count_parameters
from ssl.best_rq import CodewordPrediction
from ssl.clustering import Stretches, cluster_layer, cluster_mfcc, quantise_randomly
from ssl.config import IterationConfig, PretrainConfig
from ssl.corpus import Crops, Features, Labels, collate, hold_out
from ssl.hubert import ClusterPrediction, MaskedPrediction
from trunkline import __version__
from trunkline.batching import Batches, BatchPlan
from trunkline.checkpoint import read_json, write_folder, write_json
from trunkline.errors import CheckpointError, ConfigError, DataError
from trunkline.log import get_logger
from trunkline.manifest import Manifest, load_manifest

from trunkline.settings import settings_to_dict
from trunkline.training import TrainConfig, TrainResult, train

logger = get_logger(__name__)

VALIDATION_BATCH_SECONDS = 60.0
FRAME_SECONDS = 0.08

#: Settings that say where and how to run, not what is learnt: a resumed run may change them.
FREE = ("out", "data.workers", "probe", "licence")


class Recipe:
    """One run folder and its settings; `run` does what is still to do."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.rank = int(os.environ.get("RANK", "0"))
        self.manifest = self._read_manifest()
        self.features_config = config.model.backbone().features

    def _read_manifest(self) -> Manifest:
        manifest = load_manifest(self.config.data.manifest)
        split = self.config.data.split
        if split is None:
            return manifest
        chosen = manifest.filter(split=split)
        if not len(chosen):
            raise DataError(f"{self.config.data.manifest} has no cut with split {split!r}; see data.split.")
        return chosen

    def run(self, stage: str = "all") -> dict[str, Any]:
        """Do one stage of the next round, or everything; return a summary.

        Raises:
            ConfigError: the folder belongs to a run with other settings.
        """
        began = time.monotonic()
        self._claim()
        features = self._features()
        summary: dict[str, Any] = {"out": str(self.out), "cuts": len(self.manifest), "quarantined": len(features.quarantined)}
        summary["audio_hours"] = float(features.lengths.sum()) * self.features_config.frame_shift_ms / 3.6e6
        if stage == "features":
            return summary
        for number, iteration in enumerate(self.config.iterations):
            if (self.out / f"iteration-{number}" / "backbone").exists():
                continue
            labels = self._targets(number, features)
            if stage == "targets":
                return {**summary, "targets": str(self._folder(number) / "targets"), **_flat(labels.about["health"])}
            result = self._train(number, iteration, features, labels)
            summary["quarantined"] += len(result.quarantined)
            if result.stopped == "signal":
                return {**summary, "stopped": "on a signal; run the same command again to go on", "step": result.step}
            if stage == "train":
                break
        done = [n for n in range(len(self.config.iterations)) if (self._folder(n) / "backbone").exists()]
        if len(done) == len(self.config.iterations):
            summary["backbone"] = self._publish(done[-1])
        summary["seconds"] = round(time.monotonic() - began, 1)
        return summary

    def _folder(self, number: int) -> Path:
        return self.out / f"iteration-{number}"

    def _claim(self) -> None:
        """Write the settings into a new folder, or see that an old one has the same."""
        path = self.out / "recipe.json"
        wanted = settings_to_dict(self.config)
        if self.rank:
            return
        if not path.exists():
            write_json(path, wanted)
            return
        changed = [name for name in _differences(read_json(path), wanted) if not name.startswith(FREE)]
        free_in_training = {f"train.{name}" for name in ("log_every", "checkpoint_every", "keep_checkpoints")}
        free_in_training |= {f"train.{name}" for name in ("evaluate_every", "max_bad_fraction", "trackers", "threads")}
        changed = [name for name in changed if name not in free_in_training]
        if changed:
            raise ConfigError(
                f"{self.out} was begun with other settings ({', '.join(changed)}); "
                "go back to them, or choose another 'out'."
            )

    def _once(self, path: Path, make: Callable[[], Any]) -> None:
        """Let the first process make a folder, and the others wait for it."""
        if self.rank == 0:
            if not path.exists():
                make()
            return
        while not path.exists():
            time.sleep(0.5)

    def _features(self) -> Features:
        prepare = Features.prepare
        arguments = (self.manifest, self.features_config, self.out / "features")
        options = {"keep": self.config.data.cache_features, "max_bad_fraction": self.config.train.max_bad_fraction}
        marker = self.out / "features" / "complete.json"
        self._once(marker, lambda: (prepare(*arguments, **options), write_json(marker, {"complete": True})))
        return prepare(*arguments, **options)

    def _new_backbone(self, number: int, features: Features) -> Backbone:
        torch.manual_seed(self.config.train.seed + number)
        backbone = Backbone(self.config.model.backbone())
        backbone.feature_mean.copy_(torch.from_numpy(features.mean))
        backbone.feature_scale.copy_(torch.from_numpy(features.variance).rsqrt())
        return backbone

    def _targets(self, number: int, features: Features) -> Labels:
        folder, config = self._folder(number) / "targets", self.config
        seed = config.train.seed

        def make() -> None:
            if number == 0 or config.objective_kind == "best_rq":
                stretches = Stretches(self.manifest, features, self._new_backbone(number, features))
                if config.objective_kind == "best_rq":
                    quantise_randomly(stretches, config.best_rq, folder, seed)
                else:
                    cluster_mfcc(stretches, config.targets, folder, seed)
                return
            teacher = load_backbone(self._folder(number - 1) / "backbone")
            iteration = config.iterations[number]
            layer = iteration.layer or (teacher.num_layers + 1) // 2
            stretches = Stretches(self.manifest, features, teacher)
            cluster_layer(stretches, layer, iteration.clusters, config.targets.sample_rows, folder, seed)

        self._once(folder, make)
        labels = Labels(folder)
        if labels.about["manifest"] != self.manifest.fingerprint:
            raise CheckpointError(f"{folder} was made from another manifest; remove it to make the targets again.")
        return labels

    def _task(self, number: int, iteration: IterationConfig, features: Features, labels: Labels) -> MaskedPrediction:
        backbone = self._new_backbone(number, features)
        if number and iteration.start == "previous":
            backbone.load_state_dict(load_backbone(self._folder(number - 1) / "backbone").state_dict())
        prediction: nn.Module
        if self.config.objective_kind == "best_rq":
            prediction = CodewordPrediction(backbone.d_model, labels.clusters)
        else:
            prediction = ClusterPrediction(backbone.d_model, labels.clusters, labels.slots, self.config.objective)
        return MaskedPrediction(backbone, prediction, self.config.objective)

    def _crops(self, features: Features, labels: Labels, cuts: np.ndarray) -> Crops:
        crop = max(2, round(self.config.data.crop_seconds / FRAME_SECONDS))
        mask, seed = self.config.mask, self.config.train.seed
        return Crops(self.manifest, features, labels, mask, self.features_config, cuts=cuts, crop=crop, seed=seed)

    def _train(self, number: int, iteration: IterationConfig, features: Features, labels: Labels) -> TrainResult:
        config, data = self.config, self.config.data
        training, validation = hold_out(self.manifest, features.cuts, data.validation_cuts)
        crops = self._crops(features, labels, training)
        if not crops.ids:
            raise DataError("No cut is long enough to pretrain on: all are shorter than two frames (245 ms).")
        if crops.left_out:
            logger.info("%d cuts are shorter than two frames (245 ms) and are left out.", crops.left_out)
        batch_seconds = iteration.batch_seconds or data.batch_seconds
        plan = BatchPlan(crops.durations, batch_seconds, max_seconds=data.crop_seconds, seed=config.train.seed)
        settings = replace(config.train, steps=iteration.steps or config.train.steps, lr=iteration.lr or config.train.lr)
        task = self._task(number, iteration, features, labels)
        result = train(
            task,
            Batches(crops, plan, collate, workers=data.workers),
            settings,
            self._folder(number) / "run",
            evaluate=self._evaluation(self._crops(features, labels, validation)),
            run_info={"task": "pretraining", "iteration": number, "targets": labels.about["source"]},
        )
        if result.stopped == "finished" and self.rank == 0:
            self._export(number, task.backbone, result, labels)
        return result

    def _evaluation(self, validation: Crops) -> Callable[[nn.Module], dict[str, float]] | None:
        """Return what follows the training: masked prediction of held-out crops per context, and a frozen probe."""
        probe = self.config.probe
        if not validation.ids and not probe.manifest:
            return None
        contexts = [Context.full(), *(Context(*context) for context in self.config.objective.contexts[:1])]
        labelled = load_manifest(probe.manifest) if probe.manifest else None

        def evaluate(task: nn.Module) -> dict[str, float]:
            assert isinstance(task, MaskedPrediction)
            metrics = validate(task, validation, contexts) if validation.ids else {}
            if labelled is not None:
                from ssl.probing import quick_probe

                metrics["probe_accuracy"] = quick_probe(task.backbone, labelled, probe.label)
            return metrics

        return evaluate

    def _export(self, number: int, backbone: Backbone, result: TrainResult, labels: Labels) -> None:
        metrics = {name: value for name, value in result.metrics.items() if isinstance(value, int | float)}
        training = {
            "made_by": f"trunkline {__version__}",
            "recipe": settings_to_dict(self.config),
            "iteration": number,
            "steps": result.step,
            "manifest": self.manifest.fingerprint,
            "targets": {key: value for key, value in labels.about.items() if key != "health"},
            "metrics": metrics,
            "quarantined": result.quarantined,
        }
        backbone.to("cpu").save(
            self._folder(number) / "backbone", card=model_card(self.config, backbone, training), training=training
        )

    def _publish(self, number: int) -> str:
        """Copy the last round's backbone to `backbone/` and return its fingerprint."""
        source, target = self._folder(number) / "backbone", self.out / "backbone"
        if self.rank == 0 and not target.exists():
            with write_folder(target) as temporary:
                for path in source.iterdir():
                    (temporary / path.name).write_bytes(path.read_bytes())
        fingerprint = load_backbone(source).fingerprint
        assert fingerprint is not None
        return fingerprint


@torch.no_grad()
def validate(task: MaskedPrediction, crops: Crops, contexts: list[Context]) -> dict[str, float]:
    """Return loss and accuracy on held-out crops, always masked alike, for each context."""
    plan = BatchPlan(crops.durations, VALIDATION_BATCH_SECONDS, shuffle=False)
    device = task.backbone.feature_mean.device
    totals: dict[str, float] = {}
    frames = 0.0
    for indices in plan.epoch(0):
        batch = collate([crops[0, index] for index in indices.tolist()])
        count = float(batch["masked"].sum())
        if not count:
            continue
        frames += count
        batch = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        for context in contexts:
            name = "full" if context.is_full else "-".join(map(str, context))
            _, metrics = task.loss(batch, context)  # type: ignore[arg-type]
            for key in ("masked_loss", "masked_accuracy"):
                totals[f"{key}_{name}"] = totals.get(f"{key}_{name}", 0.0) + count * float(metrics[key])
    return {key: value / frames for key, value in totals.items()} if frames else {}


def model_card(config: PretrainConfig, backbone: Backbone, training: dict[str, Any]) -> str:
    """Return the model card of an exported backbone, in Markdown."""
    metrics = training["metrics"]
    shown = [name for name in ("masked_loss", "masked_accuracy", "unmasked_accuracy", "audio_hours") if name in metrics]
    contexts = ", ".join(str(tuple(Context(*context))) for context in config.objective.contexts)
    lines = [
        "# Trunkline backbone",
        "",
        f"A {config.model.preset} Conformer encoder ({count_parameters(backbone) / 1e6:.1f} M parameters, "
        f"{backbone.num_layers} layers, width {backbone.d_model}, one frame each {backbone.frame_shift * 1000:.0f} ms) "
        f"for {backbone.sample_rate} Hz speech.",
        "",
        f"- Data: `{Path(config.data.manifest).name}`, split {config.data.split or 'all'}, unlabelled",
        f"- Licence of the data: {config.licence}",
        f"- Trained by: {config.objective_kind}, round {training['iteration']}, {training['steps']} updates, "
        f"targets {json.dumps(training['targets']['source'])}",
        f"- Contexts (chunk, left, right in frames): full in {config.objective.full_context:.0%} of the batches, else {contexts}",
        *(f"- {name} at the end: {metrics[name]:.4g}" for name in shown),
        f"- Made by: {training['made_by']}",
        "",
        "```python",
        "from encoder import load_backbone",
        "",
        'frames = load_backbone("THIS_FOLDER").encode("call.wav", channel="customer").frames',
        "```",
        "",
    ]
    return "\n".join(lines)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Name the settings that differ, with dots."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            name
            for key in keys
            for name in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if json.loads(json.dumps(old)) == json.loads(json.dumps(new)) else [path]


def _flat(health: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in health.items() if key != "counts"}
