"""The whole pretraining recipe: features, targets, training, and again with targets from what was learnt.

The run folder holds `features/`, `iteration-N/{targets,run,backbone}/` and at the end `backbone/`, the exported
directory. Every step appears whole, so the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from encoder import Backbone, Context, load_backbone
from ssl.best_rq import CodewordPrediction
from ssl.card import licence_of, model_card
from ssl.clustering import Stretches, cluster_layer, cluster_mfcc, describe, quantise_randomly
from ssl.config import IterationConfig, PretrainConfig
from ssl.corpus import Features, Labels
from ssl.crops import Crops, collate, hold_out
from ssl.hubert import ClusterPrediction, MaskedPrediction
from ssl.validation import validate
from trunkline import __version__
from trunkline.batching import Batches, BatchPlan
from trunkline.checkpoint import read_json, write_folder, write_json
from trunkline.errors import CheckpointError, ConfigError, DataError, UsageError
from trunkline.log import get_logger
from trunkline.manifest import Manifest, load_manifest
from trunkline.report import write_report
from trunkline.settings import changed_settings, settings_to_dict
from trunkline.training import TrainResult, load_weights, newest_checkpoint, train
from trunkline.training.config import FREE_ON_RESUME
from trunkline.training.tracking import locked

logger = get_logger(__name__)

FRAME_SECONDS = 0.08

#: Settings that say where and how to run, not what is learnt: a resumed run may change them.
FREE = ("out", "data.features", "data.workers", "probe", "licence")


class Recipe:
    """One run folder and its settings; `run` does what is still to do."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.features_folder = Path(config.data.features or self.out / "features")
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
            raise DataError(
                f"{self.config.data.manifest} has no cut with split {split!r}; see data.split."
            )
        return chosen

    def run(self, stage: str = "all") -> dict[str, Any]:
        """Do one stage of the next round, or everything; return a summary.

        Raises:
            ConfigError: the folder belongs to a run with other settings.
            StorageError: another run uses the folder, or it cannot be written.
        """
        began = time.monotonic()
        with self._claimed():
            summary = self._run(stage)
        summary["seconds"] = round(time.monotonic() - began, 1)
        return summary

    def cluster(self, number: int) -> dict[str, Any]:
        """Make the features and the targets of a round, unless they are there; return a summary. Raises as `run`."""
        if not 0 <= number < len(self.config.iterations):
            last = len(self.config.iterations) - 1
            raise UsageError(f"There is no round {number}; the settings have rounds 0 to {last}.")
        with self._claimed():
            features = self._features()
            labels = self._targets(number, features)
        return self._summary(features) | describe(labels, self._folder(number) / "targets")

    def _run(self, stage: str) -> dict[str, Any]:
        features = self._features()
        summary = self._summary(features)
        if stage == "features":
            return summary
        for number, iteration in enumerate(self.config.iterations):
            if (self._folder(number) / "backbone").exists():
                continue
            labels = self._targets(number, features)
            if stage == "targets":
                return summary | describe(labels, self._folder(number) / "targets")
            result = self._train(number, iteration, features, labels)
            faults = [*labels.about.get("quarantined", []), *result.quarantined]
            summary["quarantined"] += len(faults)
            self._report([*features.quarantined, *faults])
            if result.stopped == "signal":
                return {
                    **summary,
                    "stopped": "on a signal; run the same command again to go on",
                    "step": result.step,
                }
            if stage == "train":
                break
        rounds = range(len(self.config.iterations))
        if all((self._folder(number) / "backbone").exists() for number in rounds):
            summary |= {
                "backbone": str(self.out / "backbone"),
                "fingerprint": self._publish(rounds[-1]),
            }
        return summary

    def _summary(self, features: Features) -> dict[str, Any]:
        seconds = float(features.lengths.sum()) * self.features_config.frame_shift_ms / 1000
        return {
            "out": str(self.out),
            "cuts": len(self.manifest),
            "quarantined": len(features.quarantined),
            "audio_hours": seconds / 3600,
        }

    def _folder(self, number: int) -> Path:
        return self.out / f"iteration-{number}"

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """Hold the run folder, and see that it belongs to these settings; the first process does it for all."""
        if self.rank:
            yield
            return
        with locked(self.out):
            for pattern in (".*.tmp", "*/.*.tmp"):  # an earlier run was killed while it wrote
                for half in self.out.glob(pattern):
                    shutil.rmtree(half, ignore_errors=True)
            self._check_settings()
            yield

    def _check_settings(self) -> None:
        path = self.out / "recipe.json"
        wanted = settings_to_dict(self.config)
        if not path.exists():
            write_json(path, wanted)
            return
        free = {*FREE, *(f"train.{name}" for name in FREE_ON_RESUME)}
        changed = [
            name
            for name in changed_settings(read_json(path), wanted)
            if name not in free and name.partition(".")[0] not in free
        ]
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
        arguments = (self.manifest, self.features_config, self.features_folder)
        options = {
            "keep": self.config.data.cache_features,
            "max_bad_fraction": self.config.train.max_bad_fraction,
        }
        marker = self.features_folder / "complete.json"

        def make() -> None:
            with locked(self.features_folder):  # which runs may share
                prepare(*arguments, **options)
                write_json(marker, {"complete": True})

        self._once(marker, make)
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
                stretches = self._stretches(features, self._new_backbone(number, features))
                if config.objective_kind == "best_rq":
                    quantise_randomly(stretches, config.best_rq, folder, seed)
                else:
                    cluster_mfcc(stretches, config.targets, folder, seed)
                return
            source = self._folder(number - 1) / "backbone"
            if not source.exists():
                raise CheckpointError(
                    f"Round {number} clusters the backbone of round {number - 1}, but there is no {source} yet; "
                    "train that round first with `python -m ssl.pretrain`."
                )
            teacher = load_backbone(source)
            iteration = config.iterations[number]
            layer = iteration.layer or (teacher.num_layers + 1) // 2
            stretches = self._stretches(features, teacher)
            pitch = config.targets.pitch_labels
            cluster_layer(
                stretches,
                layer,
                iteration.clusters,
                config.targets.sample_rows,
                folder,
                seed,
                pitch=(Labels(self._folder(0) / "targets"), pitch) if pitch else None,
            )

        self._once(folder, make)
        labels = Labels(folder)
        if labels.about["manifest"] != self.manifest.fingerprint:
            raise CheckpointError(
                f"{folder} was made from another manifest; remove it to make the targets again."
            )
        return labels

    def _stretches(self, features: Features, backbone: Backbone) -> Stretches:
        limit = self.config.train.max_bad_fraction
        return Stretches(self.manifest, features, backbone, max_bad_fraction=limit)

    def _task(
        self, number: int, iteration: IterationConfig, features: Features, labels: Labels
    ) -> MaskedPrediction:
        backbone = self._new_backbone(number, features)
        if number and iteration.start == "previous":
            backbone.load_state_dict(
                load_backbone(self._folder(number - 1) / "backbone").state_dict()
            )
        prediction: nn.Module
        if self.config.objective_kind == "best_rq":
            prediction = CodewordPrediction(backbone.d_model, labels.clusters)
        else:
            prediction = ClusterPrediction(
                backbone.d_model, labels.clusters, labels.slots, self.config.objective
            )
        return MaskedPrediction(backbone, prediction, self.config.objective)

    def _crops(self, features: Features, labels: Labels, cuts: np.ndarray) -> Crops:
        crop = max(2, round(self.config.data.crop_seconds / FRAME_SECONDS))
        mask, seed = self.config.mask, self.config.train.seed
        return Crops(
            self.manifest,
            features,
            labels,
            mask,
            self.features_config,
            cuts=cuts,
            crop=crop,
            seed=seed,
        )

    def _train(
        self, number: int, iteration: IterationConfig, features: Features, labels: Labels
    ) -> TrainResult:
        config, data = self.config, self.config.data
        training, validation = hold_out(self.manifest, features.cuts, data.validation_cuts)
        crops = self._crops(features, labels, training)
        if not crops.ids:
            raise DataError(
                "No cut is long enough to pretrain on: all are shorter than two frames (245 ms)."
            )
        if crops.left_out:
            logger.warning(
                "%d cuts are shorter than two frames (245 ms) and are left out.", crops.left_out
            )
        batch_seconds = iteration.batch_seconds or data.batch_seconds
        plan = BatchPlan(
            crops.durations, batch_seconds, max_seconds=data.crop_seconds, seed=config.train.seed
        )
        settings = replace(
            config.train,
            steps=iteration.steps or config.train.steps,
            lr=iteration.lr or config.train.lr,
        )
        task = self._task(number, iteration, features, labels)
        result = train(
            task,
            Batches(crops, plan, collate, workers=data.workers),
            settings,
            self._folder(number) / "run",
            evaluate=self._evaluation(self._crops(features, labels, validation)),
            run_info={
                "task": "pretraining",
                "iteration": number,
                "targets": labels.about["source"],
            },
        )
        if result.stopped == "finished" and self.rank == 0:
            if settings.ema:  # what was validated is what is exported
                last = newest_checkpoint(self._folder(number) / "run" / "checkpoints")
                assert last is not None
                task.load_state_dict(load_weights(last, ema=True))
            self._export(number, task.backbone, result, labels)
        return result

    def _evaluation(self, validation: Crops) -> Callable[[nn.Module], dict[str, float]] | None:
        """Return what follows the training: masked prediction of held-out crops per context, and a frozen probe."""
        probe = self.config.probe
        if not validation.ids and not probe.manifest:
            return None
        contexts = [
            Context.full(),
            *(Context(*context) for context in self.config.objective.contexts[:1]),
        ]
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
        metrics = {
            name: value for name, value in result.metrics.items() if isinstance(value, int | float)
        }
        training = {
            "made_by": f"trunkline {__version__}",
            "recipe": settings_to_dict(self.config),
            "iteration": number,
            "steps": result.step,
            "manifest": self.manifest.fingerprint,
            "licence": licence_of(self.config, self.manifest),
            "targets": {key: value for key, value in labels.about.items() if key != "health"},
            "metrics": metrics,
            "quarantined": result.quarantined,
        }
        backbone.to("cpu").save(
            self._folder(number) / "backbone",
            card=model_card(self.config, backbone, training),
            training=training,
        )

    def _report(self, quarantined: list[dict[str, Any]]) -> None:
        """Write `report.html`: the curves of all rounds, how their targets use the clusters, what was left out."""
        if self.rank:
            return
        targets = []
        for number in range(len(self.config.iterations)):
            folder = self._folder(number) / "targets"
            if folder.exists():
                about = describe(Labels(folder), folder)
                del about["tables"], about["targets"]
                targets.append({"round": number} | about)
        title = f"Pretraining {self.out.name}"
        write_report(self.out, title=title, tables={"Targets": targets, "Left out": quarantined})

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
