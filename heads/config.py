"""Settings of training heads, checked when they are built; `configs/heads/*.yaml` are examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from encoder import Context
from trunkline.augment import AugmentConfig
from trunkline.augment.config import OPERATIONS, Masking
from trunkline.errors import ConfigError
from trunkline.training import TrainConfig

NOTHING = AugmentConfig(masking=Masking(time_masks=0, band_masks=0))


@dataclass(frozen=True)
class HeadConfig:
    """One head to train; its name, which is the key above, is that of its directory."""

    kind: str = ""
    """A registered head, or `module:Class`; the head's name where empty."""
    options: dict[str, Any] = field(default_factory=dict)
    """The head's own settings (its `Options`): label, layers, adapter, and what else it has."""
    start: str | None = None
    """A head directory to go on from: its options, labels and weights are taken over, `options` changes some of them.
    `chunkformer:DIR` takes the CTC layer or the decoder of an imported checkpoint."""
    weight: float = 1.0
    """Of this head's loss beside those of the others."""
    lr: float | None = None
    """Learning rate of this head; null takes `train.lr`."""
    adapter_lr: float | None = None
    """Of its adapter; null takes the head's, or `trunk.lr` for the kinds `last` and `full`."""
    crop_seconds: float = 0.0
    """Show this head a stretch of the frames of this length, drawn anew each time; 0 shows all of them."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"weight={self.weight} must be more than 0; leave the head out instead."
            )
        for name in ("lr", "adapter_lr"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ConfigError(f"{name}={rate} must be more than 0.")
        if self.crop_seconds < 0:
            raise ConfigError(f"crop_seconds={self.crop_seconds} must not be negative.")


@dataclass(frozen=True)
class SourceConfig:
    """One manifest to train on: calls of the task, or data of pretraining replayed beside them."""

    manifest: str
    split: str | None = None
    """Use only cuts of this split."""
    weight: float | None = None
    """Share of the items drawn from here, relative to the other sources; null: as many as it has cuts."""
    fraction: float = 1.0
    """Use this share of the cuts, chosen by a hash of their ids, to see what fewer labels give."""

    def __post_init__(self) -> None:
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(
                f"weight={self.weight} must be more than 0; leave the source out instead."
            )
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction={self.fraction} must be above 0 and at most 1.")


@dataclass(frozen=True)
class DataConfig:
    """What heads are trained and chosen on."""

    train: str | tuple[SourceConfig, ...]
    """A manifest, or several with weights."""
    split: str | None = None
    """Of a single manifest in `train`: use only cuts of this split."""
    fraction: float = 1.0
    """Of a single manifest in `train`: use this share of the cuts."""
    dev: str | tuple[SourceConfig, ...] | None = None
    """Manifest(s) to choose on; null: what `train` holds of split `dev_split`, else calls set aside from it."""
    dev_split: str = "dev"
    dev_share: float = 0.1
    """Share of the calls (or speakers, or cuts where nothing names them) set aside where there is no dev."""
    batch_seconds: float = 64.0
    """Audio per batch."""
    bucket_ratio: float = 4.0
    """Items of a batch differ in length by at most this factor. Labels often go with lengths: narrow buckets waste
    less padding, but make batches of few classes, from which heads learn worse."""
    max_seconds: float = 60.0
    """A longer cut is an error of the data: cut it into turns first (`trunkline data segment`)."""
    workers: int = 0
    """Reading processes; with a frozen trunk the frames are read by the training process."""
    cache: str | None = None
    """Folder of frames computed once, which runs may share; `frames` in the run folder by default."""
    keep_frames: bool | None = None
    """Compute frames once and keep them; null: whenever the trunk is frozen and no head has an adapter."""
    frame_type: Literal["float32", "float16"] = "float32"
    """Of kept frames; float16 halves the disk space."""
    store: str | None = None
    """An embedding store to read frames from instead of computing them."""
    store_reader: str = "embstore.frames:open_frames"
    """`module:function` that opens it: called with the store and the backbone, see `heads.frames.StoredFrames`."""

    def __post_init__(self) -> None:
        sources = (self.train,) if isinstance(self.train, str) else self.train
        if not sources or not all(sources):
            raise ConfigError("train is empty; give a manifest.")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction={self.fraction} must be above 0 and at most 1.")
        if not isinstance(self.train, str) and (self.split or self.fraction != 1):
            raise ConfigError("split and fraction belong to each source where train lists several.")
        if not 0 < self.dev_share < 1:
            raise ConfigError(f"dev_share={self.dev_share} must lie between 0 and 1.")
        if not self.batch_seconds > 0 or not self.max_seconds > 0:
            raise ConfigError("batch_seconds and max_seconds must be more than 0.")
        if not self.bucket_ratio > 1:
            raise ConfigError(f"bucket_ratio={self.bucket_ratio} must be more than 1.")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} must not be negative.")

    def sources(self) -> tuple[SourceConfig, ...]:
        """Return what to train on."""
        if isinstance(self.train, str):
            return (SourceConfig(self.train, self.split, None, self.fraction),)
        return self.train

    def dev_sources(self) -> tuple[SourceConfig, ...] | None:
        """Return what to choose on, None where train has to give it."""
        if isinstance(self.dev, str):
            return (SourceConfig(self.dev),)
        return self.dev


@dataclass(frozen=True)
class ContextsConfig:
    """In which contexts frames are made while heads learn, as in pretraining."""

    full: float = 0.5
    """Share of the batches in full context; the others draw from `limited`."""
    limited: tuple[tuple[int, int, int], ...] = ((8, 40, 0), (16, 40, 8))
    """Limited contexts (chunk, left, right) in frames; with kept frames each costs one more pass over the data."""
    dev: tuple[int, int, int] | None = None
    """The context that dev is encoded in; null is full."""

    def __post_init__(self) -> None:
        if not 0 <= self.full <= 1:
            raise ConfigError("full is a share between 0 and 1.")
        if self.full < 1 and not self.limited:
            raise ConfigError("limited is empty but full is below 1.")
        for context in (*self.limited, *((self.dev,) if self.dev else ())):
            Context(*context).checked()

    def choose(self, draw: float) -> Context:
        """Return the context that a number in [0, 1) stands for."""
        if draw < self.full or not self.limited:
            return Context.full()
        place = (draw - self.full) / (1 - self.full) * len(self.limited)
        return Context(*self.limited[min(int(place), len(self.limited) - 1)])

    def all(self) -> list[Context]:
        """Return every context that can be drawn."""
        full = [Context.full()] if self.full else []
        return full + ([Context(*x) for x in self.limited] if self.full < 1 else [])

    def of_dev(self) -> Context:
        """Return the context of dev."""
        return Context.full() if self.dev is None else Context(*self.dev)


@dataclass(frozen=True)
class TrunkConfig:
    """What of the backbone itself learns, for all heads; a head's own `adapter` bends it for that head only."""

    train: tuple[str, ...] = ()
    """Groups of parameters: all, subsampling, layers, `last 4 layers`, attention, convolution, feed_forward, norms,
    biases, or a pattern of names such as `conformer.layers.3.*`. Empty: the trunk is frozen."""
    freeze: tuple[str, ...] = ()
    """Groups of those that stay as they are after all."""
    lr: float = 1e-4
    dropout: float | None = None
    """Instead of the backbone's own; used only while the trunk learns."""
    batch_norm: Literal["frozen", "trained"] = "frozen"
    """Running statistics of batch normalisation, in trunk and heads: kept, or updated by training batches.
    The feature normalisation (mean and scale of the mel bins) is the backbone's own and never changes."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"lr={self.lr} must be more than 0.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must be in [0, 1).")
        if self.freeze and not self.train:
            raise ConfigError(
                "freeze names groups of what `train` names, which is empty: all is frozen."
            )


@dataclass(frozen=True)
class ChooseConfig:
    """Which weights a run ends with, judged on dev."""

    metric: str = "loss"
    """`loss`, or a head's metric such as `intent/accuracy`."""
    patience: int = 0
    """Stop after this many evaluations without a better one; 0 never stops early."""
    average: int = 3
    """Average the weights of this many best evaluations, and take the average if dev prefers it; 1: no average."""

    def __post_init__(self) -> None:
        if self.patience < 0 or self.average < 1:
            raise ConfigError("patience must be 0 or more, average 1 or more.")


@dataclass(frozen=True)
class SearchConfig:
    """`--lr-search`: short trials on kept frames of the frozen trunk, before the training itself."""

    rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3, 3e-4)
    steps: int = 200

    def __post_init__(self) -> None:
        if len(set(self.rates)) < 2 or min(self.rates) <= 0 or self.steps < 1:
            raise ConfigError("rates must be at least two numbers above 0, steps at least 1.")


@dataclass(frozen=True)
class HeadsConfig:
    """Everything that `python -m heads.train` needs."""

    backbone: str
    """Backbone directory, `chunkformer:DIR`, or `random:PRESET` for a floor without pretraining."""
    heads: dict[str, HeadConfig]
    """The heads by name; several are trained jointly, each on the cuts that have its label."""
    data: DataConfig
    out: str
    """Run folder; run the same command again to resume."""
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    augment: AugmentConfig = NOTHING
    """Speed, telephone line, noise and SpecAugment of training cuts; nothing by default."""
    copies: int = 0
    """With kept frames: how many augmented copies of each cut; an epoch takes one of them or the original.
    0: no copies, so `augment` must do nothing. Without kept frames every epoch is augmented anew."""
    choose: ChooseConfig = field(default_factory=ChooseConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.heads:
            raise ConfigError(
                "heads is empty; name at least one head, such as heads.intent.kind=intent."
            )
        for name in self.heads:
            if not name.replace("-", "_").isidentifier():
                raise ConfigError(
                    f"heads: {name!r} is no name for a head; use letters, digits, - and _."
                )
        if self.copies < 0:
            raise ConfigError(f"copies={self.copies} must not be negative.")
        head, _, metric = self.choose.metric.partition("/")
        if self.choose.metric != "loss" and (head not in self.heads or not metric):
            raise ConfigError(
                f"choose.metric is {self.choose.metric!r}; write loss, or a head's metric such as "
                f"{next(iter(self.heads))}/loss."
            )

    def kind_of(self, name: str) -> str:
        """Return the kind of a head."""
        return self.heads[name].kind or name


def augments(config: AugmentConfig) -> bool:
    """Tell whether anything is done to items at all."""
    masking = config.masking
    masks = masking.time_masks * masking.time_width + masking.band_masks * masking.band_width
    return masks > 0 or any(getattr(config, name).probability for name in OPERATIONS)
