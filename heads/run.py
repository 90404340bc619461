"""One training run of heads: data, frames, training, choice by dev, calibration, export.

The run folder holds what `trunkline.training` writes, `frames/` (or a shared cache), `choice.json`, at the end
`heads/NAME/` for each head, `backbone/` where the trunk learnt, `result.json` and `report.html`. Every step appears
whole, so the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.load import CHUNKFORMER
from heads.adapter import attach_adapter, describe_parameters, weights_to_start
from heads.chunkformer import chunkformer_heads
from heads.config import HeadsConfig, augments
from heads.data import Batch, Corpus, HeadKeys, Items, read_corpora
from heads.dev import Choice, DevSet
from heads.folder import load_head, save_head
from heads.frame import FrameClassifier
from heads.frames import KeptFrames, Reader, Variant, open_stored
from heads.head import Head, HeadOptions, TrunkSpec
from heads.recognition import RecognitionHead
from heads.registry import find_head
from heads.task import JointTask, check_gradients
from heads.trunk import needs_normalisation, normalise_by, open_trunk
from trunkline import __version__
from trunkline.batching import Batches, BatchPlan
from trunkline.checkpoint import read_json, write_json
from trunkline.errors import ConfigError, DataError, StorageError, TrainingError
from trunkline.log import get_logger
from trunkline.prepare.licence import NOT_STATED, describe
from trunkline.quarantine import SETTING, check_share
from trunkline.report import write_report
from trunkline.settings import read_settings, settings_to_dict
from trunkline.training import TrainResult, train
from trunkline.training.config import FREE_ON_RESUME

logger = get_logger(__name__)

#: Settings that say where and how to run, not what is learnt: a resumed run may change them.
FREE = ("out", "data.cache", "data.workers", "search")


class HeadsRun:
    """One run folder and its settings; `run` does what is still to do."""

    def __init__(self, config: HeadsConfig) -> None:
        """Open the trunk, read the labels and make the heads.

        Raises:
            ConfigError: settings that contradict each other or name nothing.
            CheckpointError: the backbone, or a head to start from, is damaged or does not fit.
            DataError: a head has no labels, one class only, or labels it has no output for.
        """
        self.config, self.out = config, Path(config.out)
        self.rank = int(os.environ.get("RANK", "0"))
        self.backbone = open_trunk(
            config.backbone, dropout=config.trunk.dropout, seed=config.train.seed
        )
        self.options = {name: self._options(name) for name in config.heads}
        self.keys = {name: self._keys(name) for name in config.heads}
        self.train, self.dev = read_corpora(config.data, self.keys)
        for name in config.heads:
            logger.info(
                "Head %s (%s): %d labelled cuts of train, %d of dev",
                name,
                config.kind_of(name),
                len(self.train.labelled(name)),
                len(self.dev.labelled(name)),
            )
        self.reader = Reader(
            self.backbone, config.augment, config.train.seed, config.data.max_seconds
        )
        if needs_normalisation(config.backbone):
            normalise_by(self.backbone, self._features())
        self.heads = {name: self._make(name) for name in config.heads}
        self.keeps_frames = self._keeps_frames()

    def run(self) -> dict[str, Any]:
        """Train, choose, calibrate, export; return a summary.

        Raises:
            TrainingError: a head cannot learn, too many cuts cannot be read, or the loss is not finite.
            StorageError: another run uses the folder, or it cannot be written.
        """
        began = time.monotonic()
        settings = fixed(self.config)
        done = self.out / "result.json"
        if done.exists() and read_json(done)["settings"] == settings:
            logger.info("%s is done already.", self.out)
            return {**read_json(done)["summary"], "seconds": 0.0}
        for name, head in self.heads.items():
            logger.info("Head %s: %s", name, describe_parameters(head, self.backbone))
        train_items, dev = self._items()
        task = JointTask(self.backbone, self.heads, self.config, self._rows())
        unknown = dev.check(task)
        choice = Choice(self.out, dev, self.config.choose)
        result = self._train(task, train_items, choice, settings)
        if self.rank or (result is not None and result.stopped == "signal"):
            return self._stopped(result)
        chosen = choice.take(task)
        summary = self._export(task, chosen, dev.calibrate(task), result)
        summary["without_dev_loss"] = {name: n for name, n in unknown.items() if n}
        summary["seconds"] = round(time.monotonic() - began, 1)
        write_json(done, {"settings": settings, "summary": summary})
        return summary

    def _options(self, name: str) -> HeadOptions:
        wanted = self.config.heads[name]
        given: Mapping[str, Any] = wanted.options
        if (start := self._start(name)) is not None:
            given = merged(settings_to_dict(start.options), given)
        options = find_head(self.config.kind_of(name)).Options
        return read_settings(options, given, f"heads.{name}.options")

    def _start(self, name: str) -> Head | None:
        """Return the head to go on from; one of another trunk is taken too, since it is about to learn this one."""
        source, kind = self.config.heads[name].start, self.config.kind_of(name)
        if source is None:
            return None
        if source.startswith(CHUNKFORMER):
            found = chunkformer_heads(source.removeprefix(CHUNKFORMER), self.backbone)
            if kind not in found:
                raise ConfigError(
                    f"heads.{name}.start: {source} has {', '.join(found)}, no {kind!r}."
                )
            return found[kind]
        cls = find_head(kind)
        head = load_head(source, self.backbone, kinds={cls.kind: kind}, any_trunk=True)
        if not isinstance(head, cls):
            raise ConfigError(
                f"heads.{name}.start: {source} holds a head of kind {head.kind!r}, not {kind!r}."
            )
        return head

    def _keys(self, name: str) -> HeadKeys:
        options, cls = self.options[name], find_head(self.config.kind_of(name))
        label = options.label or cls.default_label or cls.kind
        return HeadKeys(label, getattr(options, "vector", ""))

    def _make(self, name: str) -> Head:
        """Return a head with weights drawn by its name, so that company does not change them."""
        wanted, options = self.config.heads[name], self.options[name]
        cls, trunk = find_head(self.config.kind_of(name)), TrunkSpec.of(self.backbone)
        labels = self.train.known(name)
        start = self._start(name)
        try:
            inventory = cls.prepare(options, labels) if start is None else start.labels
            seed = hashlib.blake2b(f"{self.config.train.seed}\0{name}".encode(), digest_size=6)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int.from_bytes(seed.digest(), "little"))
                head = attach_adapter(cls(options, trunk, inventory), self.backbone)
            head.check_labels(labels)
        except DataError as error:
            raise DataError(f"heads.{name}: {error}") from error
        self._check_times(name, head)
        if start is not None:
            try:
                head.load_state_dict(weights_to_start(head, start))
            except RuntimeError as error:
                raise ConfigError(
                    f"heads.{name}.start: {wanted.start} has weights of another shape than its options now ask for: "
                    f"{error}"
                ) from error
        return head

    def _check_times(self, name: str, head: Head) -> None:
        """Refuse what would part labels from the frames that they belong to."""
        timed = isinstance(head, FrameClassifier)
        if self.config.heads[name].crop_seconds and (timed or isinstance(head, RecognitionHead)):
            raise ConfigError(
                f"heads.{name}.crop_seconds: the label of a {head.kind!r} head is of all frames."
            )
        if timed and self.config.augment.speed.probability:
            raise ConfigError(
                f"augment.speed: the label of head {name!r} has times, which another speed would not fit; set its "
                "probability to 0."
            )

    def _features(self) -> Iterator[torch.Tensor]:
        for source, place in zip(self.train.source, self.train.place, strict=True):
            cut = self.train.manifests[int(source)][int(place)]
            with contextlib.suppress(DataError, StorageError):  # training counts and names them
                yield self.reader.features(cut, cut.id, 0)

    def _keeps_frames(self) -> bool:
        config = self.config
        bent = [name for name, x in self.options.items() if x.adapter.kind != "none"]
        learns = f"heads.{bent[0]} has an adapter" if bent else "trunk.train is not empty"
        frozen = not bent and not config.trunk.train
        augmented = augments(config.augment)
        wanted = config.data.keep_frames
        if wanted is None:
            return frozen and (not augmented or config.copies > 0)
        if wanted and not frozen:
            raise ConfigError(f"data.keep_frames: frames change while training, since {learns}.")
        if wanted and augmented and not config.copies:
            raise ConfigError(
                "data.keep_frames: augment makes new frames every epoch; set copies to keep some of them."
            )
        return wanted

    def _rows(self) -> tuple[int, ...]:
        return self._kept_of(self.train)[0].rows if self.keeps_frames else ()

    def _kept_of(self, corpus: Corpus) -> list[KeptFrames]:
        data = self.config.data
        numbers = range(self.backbone.num_layers + 1)
        layers: set[int] = set()
        for head in self.heads.values():
            if head.layers is not None:
                layers |= set(numbers if head.layers == "all" else head.layers)
        stored = (
            None
            if data.store is None
            else open_stored(data.store, data.store_reader, self.backbone)
        )
        return [
            KeptFrames(
                Path(data.cache or self.out / "frames"),
                manifest,
                self.backbone,
                self.reader,
                layers=sorted(layers),
                kind=data.frame_type,
                stored=stored,
            )
            for manifest in corpus.manifests
        ]

    def _items(self) -> tuple[Items, DevSet]:
        """Return the items of train and of dev, frames computed where they are kept."""
        config = self.config
        augmented = augments(config.augment)
        kept = kept_dev = None
        if self.keeps_frames:
            copies = range(config.copies + 1 if augmented else 1)
            kept, kept_dev = self._kept_of(self.train), self._kept_of(self.dev)
            variants = [Variant(x, copy) for x in config.contexts.all() for copy in copies]
            self.train = self._keep(self.train, kept, variants)
            self.dev = self._keep(self.dev, kept_dev, [Variant(config.contexts.of_dev(), 0)])
        options = {"augmented": augmented, "copies": config.copies, "seed": config.train.seed}
        items = Items(self.train, self.reader, kept, config.contexts, **options)
        dev = Items(self.dev, self.reader, kept_dev, config.contexts, clean=True)
        return items, DevSet(dev, config.data.batch_seconds)

    def _keep(self, corpus: Corpus, kept: list[KeptFrames], variants: list[Variant]) -> Corpus:
        """Compute frames, and leave out the cuts that cannot be read, up to `train.max_bad_fraction`."""
        readable: list[int] = []
        faults: list[dict[str, Any]] = []
        for number, frames in enumerate(kept):
            rows = np.flatnonzero(corpus.source == number)
            for variant in variants:
                frames.keep(corpus.place[rows], variant)
            for row in rows.tolist():  # kept frames may know of bad cuts that this corpus has not
                fault = frames.quarantined.get(int(corpus.place[row]))
                if fault is None:
                    readable.append(row)
                else:
                    faults.append(fault)
        limit = self.config.train.max_bad_fraction
        check_share(faults, len(corpus), limit, setting=SETTING, error=TrainingError)
        return corpus if not faults else corpus.select(sorted(readable))

    def _train(
        self, task: JointTask, items: Items, choice: Choice, settings: dict[str, Any]
    ) -> TrainResult | None:
        """Train to the end, to an early stop or to a signal; None if an earlier call had come to its end."""
        config = self.config
        if choice.enough:
            return None
        plan = BatchPlan(
            items.durations,
            config.data.batch_seconds,
            seed=config.train.seed,
            weights=self.train.weights,
            bucket_ratio=config.data.bucket_ratio,
        )
        batches = Batches(items, plan, items.collate, workers=config.data.workers)
        check_gradients(task, _stream(Batches(items, plan, items.collate)))
        about = {
            "task": "heads",
            "config": settings,
            "labelled": {name: len(self.train.labelled(name)) for name in task.heads},
            "labelled_dev": {name: len(self.dev.labelled(name)) for name in task.heads},
            "frames": "kept" if self.keeps_frames else "computed while training",
        }
        result = train(task, batches, config.train, self.out, evaluate=choice, run_info=about)
        task.to("cpu")
        self.backbone.to("cpu")
        return result

    def _licence(self) -> str:
        """Return the licences of the labelled recordings, for the cards of the heads."""
        stated = (describe(manifest) for manifest in self.train.manifests)
        return "; ".join(dict.fromkeys(filter(None, stated))) or NOT_STATED

    def _stopped(self, result: TrainResult | None) -> dict[str, Any]:
        step = None if result is None else result.step
        return {"stopped": "on a signal; run the same command again to go on", "step": step}

    def _export(
        self,
        task: JointTask,
        chosen: dict[str, Any],
        calibrated: dict[str, dict[str, Any]],
        result: TrainResult | None,
    ) -> dict[str, Any]:
        """Write the trunk if it learnt, and a directory per head; return the summary."""
        training = {
            "made_by": f"trunkline {__version__}",
            "settings": settings_to_dict(self.config),
            "steps": chosen["steps"],
            "dev": chosen["metrics"],
            "licence": self._licence(),
        }
        source = self._published(training)
        rows = []
        for name in task.heads:
            head = task.head(name)
            told = {
                k.partition("/")[2]: v
                for k, v in chosen["metrics"].items()
                if k.startswith(f"{name}/")
            }
            folder = self.out / "heads" / name
            save_head(head, folder, self.backbone, training=training, overwrite=True)
            labelled = {"labelled": len(self.train.labelled(name)), "parameters": _learning(head)}
            rows.append({"head": name, **labelled, **told, "directory": str(folder)})
        quarantined = [] if result is None else result.quarantined
        tables = {"Heads on dev": rows, "Left out": quarantined}
        if (self.out / "metrics.jsonl").exists():
            write_report(self.out, title=f"Heads {self.out.name}", tables=tables)
        return {
            "out": str(self.out),
            "backbone": source,
            "steps": chosen["steps"],
            "loss": chosen["metrics"].get("loss"),
            "calibrated": {
                name: {k: v for k, v in found.items() if isinstance(v, float)}
                for name, found in calibrated.items()
            },
            "tables": {"Heads on dev": rows},
        }

    def _published(self, training: dict[str, Any]) -> str:
        """Return where the trunk is: in `backbone/` if it learnt or was never saved, else where it came from."""
        if not self.config.trunk.train and self.backbone.fingerprint is not None:
            return self.config.backbone
        self.backbone.save(self.out / "backbone", training=training, overwrite=True)
        return str(self.out / "backbone")


def fixed(config: HeadsConfig) -> dict[str, Any]:
    """Return the settings that a resumed run must share, as plain data."""
    values = settings_to_dict(config)
    for key in (*FREE, *(f"train.{name}" for name in FREE_ON_RESUME)):
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place.pop(last, None)
    return values


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with some of them changed."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result


def with_rates(config: HeadsConfig, rates: Mapping[str, float]) -> HeadsConfig:
    """Return the settings with a learning rate for each head."""
    heads = {name: replace(head, lr=rates[name]) for name, head in config.heads.items()}
    return replace(config, heads=heads)


def _stream(batches: Batches) -> Iterator[Batch | None]:
    return (microbatch.batch for microbatch in batches.stream())


def _learning(head: Head) -> int:
    return sum(p.numel() for p in head.parameters() if p.requires_grad)
