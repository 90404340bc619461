"""The trunk that heads are trained on: pretrained, imported, or untrained for a floor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from encoder import Backbone, BackboneConfig, load_backbone
from encoder.features import FeatureStatistics
from trunkline.errors import UsageError

UNTRAINED = "random:"
"""Before a preset or a backbone directory, of which the shape and the normalisation are taken."""
CUTS_TO_NORMALISE_BY = 300


def open_trunk(source: str, *, dropout: float | None = None, seed: int = 0) -> Backbone:
    """Open a backbone directory, ``chunkformer:DIR``, or ``random:PRESET|DIR`` with weights drawn by `seed`.

    The whole configuration is the pretrained one, dropout excepted where it is given.

    Raises:
        CheckpointError: no backbone there, or an incomplete one. ConfigError: no such preset.
    """
    if source.startswith(UNTRAINED):
        shape = source.removeprefix(UNTRAINED)
        trained = load_backbone(shape) if Path(shape).is_dir() else None
        config = BackboneConfig.preset(shape) if trained is None else trained.config
        weights = {} if trained is None else trained.state_dict()
        weights = {name: weights[name] for name in weights if name.startswith("feature_")}
    else:
        trained = load_backbone(source)
        config, weights = trained.config, trained.state_dict()
        if dropout is None:
            return trained
    if dropout is not None:
        config = config.changed(dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(config)
    backbone.load_state_dict({**backbone.state_dict(), **weights})
    if trained is not None and not source.startswith(UNTRAINED):
        backbone.fingerprint = trained.fingerprint  # dropout is not what frames depend on
    return backbone.eval()


def needs_normalisation(source: str) -> bool:
    """Tell whether a trunk has no feature statistics of its own."""
    return source.startswith(UNTRAINED) and not Path(source.removeprefix(UNTRAINED)).is_dir()


def normalise_by(backbone: Backbone, features: Iterable[Tensor]) -> None:
    """Give a trunk the mean and variance of features (features, mels)."""
    statistics = FeatureStatistics(backbone.config.features.num_mels)
    for number, item in enumerate(features):
        if number >= CUTS_TO_NORMALISE_BY:
            break
        statistics.update(item)
    backbone.set_normalisation(statistics)


def check_device(device: str | torch.device) -> None:
    """Raise a UsageError for a device that there is none of."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"The device {str(device)!r} cannot be used here: {reason}") from error
