"""What a backbone is made of: features, sizes, and the context that its frames may see."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trunkline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from encoder.backbone import Backbone

SUBSAMPLING = 8
RECEPTIVE_FIELD = 15
"""One frame is computed from this many features; the next one starts `SUBSAMPLING` features later."""


class Context(NamedTuple):
    """How far a frame sees, in frames of 80 ms: its chunk, and `left`/`right` frames around the chunk.

    Frame i belongs to chunk k = i // chunk. Attention sees frames j with
    ``k * chunk - left <= j < (k + 1) * chunk + right``; the convolution reaches ``kernel // 2`` frames to the
    left always and ``min(kernel // 2, right)`` past the end of its chunk. `Context.full()` sees everything.
    """

    chunk: int
    left: int
    right: int

    @classmethod
    def full(cls) -> Context:
        """Unlimited context in both directions."""
        return cls(-1, -1, -1)

    @property
    def is_full(self) -> bool:
        """Whether every frame sees every other."""
        return self.chunk == -1

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read ``full`` or ``chunk,left,right`` as typed on a command line."""
        if text == "full":
            return cls.full()
        try:
            chunk, left, right = (int(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"Context {text!r} is not understood; write 'full' or chunk,left,right in frames, e.g. 8,40,0."
            ) from None
        return cls(chunk, left, right).checked()

    def checked(self) -> Context:
        """Return self, or raise ConfigError if no frame could have this context."""
        if not self.is_full and (self.chunk < 1 or self.left < 0 or self.right < 0):
            raise ConfigError(
                f"Context(chunk={self.chunk}, left={self.left}, right={self.right}) cannot be: chunk must be at "
                "least 1, left and right at least 0 frames; Context.full() is unlimited."
            )
        if self.is_full and (self.left, self.right) != (-1, -1):
            raise ConfigError("A chunk of -1 means full context; write Context.full().")
        return self

    def look_ahead(self, layers: int, kernel: int) -> int:
        """Return how many frames past the end of a chunk its outputs depend on, after so many layers.

        The contexts of the layers add up: a layer that has to know frames up to `ahead` past a chunk needs attention
        as far as the convolution reaches from there, and the input of the whole chunk that this lies in, and `right`
        frames more.
        """
        return self._needed(self.chunk, layers, kernel) - self.chunk

    def _needed(self, frames: int, layers: int, kernel: int) -> int:
        """Return how many frames from the beginning of a chunk on its first `frames` outputs depend on."""
        half = kernel // 2
        for _ in range(layers):
            reach = min(frames + half, self._chunk_end(frames) + min(half, self.right))
            frames = self._chunk_end(reach) + self.right
        return frames

    def _chunk_end(self, frames: int) -> int:
        return -(-frames // self.chunk) * self.chunk

    def latency(self, backbone: Backbone) -> float:
        """Return the longest time in seconds from the first sample of a frame to the one that completes it.

        A frame waits for the rest of its chunk, for the look-ahead of all layers, and for the features that the last
        of those frames is made of. Full context waits for the end: infinity.
        """
        if self.is_full:
            return math.inf
        depth, kernel = backbone.num_layers, backbone.config.kernel
        wait = max(self._needed(n + 1, depth, kernel) - n for n in range(self.chunk)) - 1
        hop = SUBSAMPLING * backbone.config.features.hop
        return (wait * hop + backbone.receptive_field) / backbone.sample_rate


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel features as Kaldi computes them; the defaults are those of the reference at 8 kHz."""

    sample_rate: int = 8000
    """Hz; audio of another rate is resampled to it."""
    num_mels: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 0.0
    """Upper edge of the mel range in Hz; 0 is half the sample rate."""
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        if self.sample_rate < 4000:
            raise ConfigError(
                f"features.sample_rate={self.sample_rate} Hz is not supported; use 8000 or 16000."
            )
        if self.window < 2 or self.hop < 1:
            raise ConfigError(
                f"features.frame_length_ms={self.frame_length_ms} and frame_shift_ms={self.frame_shift_ms} give no "
                f"whole samples at {self.sample_rate} Hz; 25 and 10 are usual."
            )
        if not 0 <= self.low_hz < self.upper_hz <= self.sample_rate / 2:
            raise ConfigError(
                f"The mel range {self.low_hz}-{self.upper_hz} Hz must lie within 0-{self.sample_rate / 2} Hz."
            )
        if self.num_mels < 15:
            raise ConfigError(
                f"features.num_mels={self.num_mels}: the subsampling needs at least 15 mel bins."
            )

    @property
    def window(self) -> int:
        """Samples in one analysis window."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between two features."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def fft_size(self) -> int:
        """The window rounded up to a power of two."""
        return 1 << (self.window - 1).bit_length()

    @property
    def upper_hz(self) -> float:
        """Upper edge of the mel range in Hz."""
        return self.high_hz if self.high_hz > 0 else self.sample_rate / 2


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a Conformer backbone; see `BackboneConfig.preset`."""

    dim: int = 256
    layers: int = 6
    heads: int = 4
    feed_forward: int = 768
    kernel: int = 15
    conv_channels: int = 64
    """Channels of the subsampling's convolutions; the reference has as many as `dim`."""
    dropout: float = 0.1
    features: FeatureConfig = field(default_factory=FeatureConfig)

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.heads, self.feed_forward, self.conv_channels) < 1:
            raise ConfigError(
                "dim, layers, heads, feed_forward and conv_channels must be positive."
            )
        if self.dim % self.heads or self.dim % 2:
            raise ConfigError(f"dim={self.dim} must be even and divisible by heads={self.heads}.")
        if self.kernel % 2 == 0 or self.kernel < 1:
            raise ConfigError(
                f"kernel={self.kernel} must be odd, so that it is centred on its frame."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must be in [0, 1).")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> BackboneConfig:
        """Return a named size with changes; keys of `FeatureConfig` go to the features.

        `tiny` (about 1 M parameters), `small` (8 M) and `base` (48 M) work at 8 kHz, `large` (110 M, the shape of
        chunkformer-large-vie) at 16 kHz.

        Raises:
            ConfigError: unknown preset or key.
        """
        if name not in PRESETS:
            raise ConfigError(f"Unknown backbone preset {name!r}.{nearest(name, PRESETS)}")
        return PRESETS[name].changed(**changes)

    def changed(self, **changes: Any) -> BackboneConfig:
        """Return a copy with changed sizes or feature settings."""
        feature_names = {item.name for item in dataclasses.fields(FeatureConfig)}
        own_names = {item.name for item in dataclasses.fields(BackboneConfig)}
        for key in changes:
            if key not in feature_names | own_names:
                raise ConfigError(
                    f"Unknown backbone setting {key!r}.{nearest(key, feature_names | own_names)}"
                )
        own = {key: value for key, value in changes.items() if key in own_names}
        of_features = {key: value for key, value in changes.items() if key in feature_names}
        features = dataclasses.replace(own.pop("features", self.features), **of_features)
        return dataclasses.replace(self, features=features, **own)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneConfig:
        """Read what `to_dict` wrote; unknown and missing keys are a ConfigError."""
        values = dict(values)
        features = values.pop("features", None)
        if not isinstance(features, dict):
            raise ConfigError("The backbone configuration has no 'features' section.")
        return cls(
            features=_strict(FeatureConfig, features),
            **_strict_dict(cls, values, skip={"features"}),
        )


def _strict_dict(cls: type, values: dict[str, Any], skip: set[str]) -> dict[str, Any]:
    defaults = {item.name: item.default for item in dataclasses.fields(cls)}
    names = defaults.keys() - skip
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"Unknown key {key!r} in {cls.__name__}.{nearest(key, names)}")
        number = int if isinstance(defaults[key], int) else int | float
        if not isinstance(value, number) or isinstance(value, bool):
            raise ConfigError(f"{cls.__name__}.{key} cannot be {value!r}.")
    if missing := sorted(names - values.keys()):
        raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}.")
    return values


def _strict(cls: type, values: dict[str, Any]) -> Any:
    return cls(**_strict_dict(cls, values, skip=set()))


PRESETS: dict[str, BackboneConfig] = {
    "tiny": BackboneConfig(dim=96, layers=4, heads=4, feed_forward=384),
    "small": BackboneConfig(dim=256, layers=6, heads=4, feed_forward=768),
    "base": BackboneConfig(dim=384, layers=12, heads=6, feed_forward=1792, conv_channels=384),
    "large": BackboneConfig(
        dim=512,
        layers=17,
        heads=8,
        feed_forward=2048,
        conv_channels=512,
        features=FeatureConfig(sample_rate=16000),
    ),
}
