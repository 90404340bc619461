"""Settings of pretraining, checked when they are built; `configs/pretrain/*.yaml` are examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from encoder import BackboneConfig
from ssl.best_rq import BestRqConfig
from ssl.hubert import ObjectiveConfig
from ssl.masking import MaskConfig
from ssl.targets import TargetConfig
from trunkline.errors import ConfigError
from trunkline.training import TrainConfig


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is cut into batches."""

    manifest: str
    """Manifest, or a folder of recordings."""
    split: str | None = None
    """Use only cuts of this split."""
    crop_seconds: float = 8.0
    """Cuts are divided into stretches of about this length; where a stretch begins changes with every epoch."""
    batch_seconds: float | tuple[tuple[int, float], ...] = 32.0
    """Audio per batch, or ((first epoch, seconds), ...) to let batches grow."""
    validation_cuts: int = 64
    """Cuts kept out of training (at most 2 %, chosen by a hash of their id) to follow the loss on; 0: none."""
    workers: int = 0
    features: str | None = None
    """Folder for the features, which runs on one manifest may share; by default `features` in the run folder."""
    cache_features: bool = True
    """Keep log-mel features on disk (16 kB per second of audio) instead of reading the audio in every epoch."""

    def __post_init__(self) -> None:
        if not self.crop_seconds >= 0.5:
            raise ConfigError(
                f"data.crop_seconds={self.crop_seconds}: at least 0.5 s are needed to mask and predict."
            )
        if self.workers < 0:
            raise ConfigError(f"data.workers={self.workers} must not be negative.")


@dataclass(frozen=True)
class ModelConfig:
    """The backbone to train: a preset, and what differs from it."""

    preset: str = "small"
    sample_rate: int = 8000
    num_mels: int = 80
    dropout: float = 0.0
    """0 suits short runs: a backbone that sees its audio a few dozen times does not overfit."""

    def backbone(self) -> BackboneConfig:
        """Return the configuration of the backbone."""
        return BackboneConfig.preset(
            self.preset, sample_rate=self.sample_rate, num_mels=self.num_mels, dropout=self.dropout
        )


@dataclass(frozen=True)
class IterationConfig:
    """One round of pretraining; from the second on, targets are clusters of the round before."""

    steps: int = 0
    """Updates; 0 takes `train.steps`."""
    clusters: int = 200
    """Clusters of the previous round's layer (not used in the first round)."""
    layer: int = 0
    """Layer of the previous round to cluster; 0 is the middle one."""
    start: Literal["scratch", "previous"] = "previous"
    """Begin with random weights, or go on from the previous round's backbone."""
    lr: float = 0.0
    """Peak learning rate; 0 takes `train.lr`."""
    batch_seconds: float = 0.0
    """Audio per batch; 0 takes `data.batch_seconds`."""


@dataclass(frozen=True)
class ProbeConfig:
    """A frozen probe during training, on a small labelled manifest."""

    manifest: str | None = None
    label: str = "intent"


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that `python -m ssl.pretrain` needs."""

    data: DataConfig
    out: str
    """Run folder; run the same command again to resume."""
    objective_kind: Literal["hubert", "best_rq"] = "hubert"
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    best_rq: BestRqConfig = field(default_factory=BestRqConfig)
    iterations: tuple[IterationConfig, ...] = (IterationConfig(), IterationConfig())
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    licence: str = "not stated"
    """Licence of the recordings, for the model card; by default those that the manifest's cuts state."""

    def __post_init__(self) -> None:
        if not self.iterations:
            raise ConfigError("iterations is empty; give at least one round.")
        layers = self.model.backbone().layers
        for number, iteration in enumerate(self.iterations):
            if not 0 <= iteration.layer <= layers or iteration.clusters < 2 or iteration.steps < 0:
                raise ConfigError(
                    f"iterations[{number}]: layer must be 0 to {layers}, clusters at least 2, steps not negative."
                )
