"""What bends the trunk for one head: the settings of an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from trunkline.errors import ConfigError


@dataclass(frozen=True)
class AdapterOptions:
    """Which adapter, and its size; a setting that the kind does not have is refused when the adapter is made."""

    kind: str = "none"
    """none, houlsby, lora, bitfit, last (the last `layers` layers are trained), full (the whole encoder is)."""
    dim: int = 64
    """houlsby: width of the bottleneck."""
    rank: int = 8
    """lora: rank of each update."""
    alpha: float = 16.0
    """lora: the update is scaled by alpha / rank."""
    layers: int = 0
    """How many layers, counted from the last; 0 is every layer."""

    def __post_init__(self) -> None:
        if min(self.dim, self.rank) < 1 or self.layers < 0:
            raise ConfigError(
                f"dim={self.dim}, rank={self.rank}, layers={self.layers} cannot be: dim and rank are at least 1, "
                "layers at least 0 (0 means every layer)."
            )
        if self.kind == "last" and self.layers == 0:
            raise ConfigError(
                "layers=0 is no number of last layers; say how many, e.g. layers=4, or take kind=full."
            )
