"""The streaming Conformer backbone: log-mel features in, frames of 80 ms out."""

from encoder.backbone import Backbone, Encoded
from encoder.config import BackboneConfig, Context, FeatureConfig
from encoder.load import load_backbone, save_backbone

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Context",
    "Encoded",
    "FeatureConfig",
    "load_backbone",
    "save_backbone",
]
