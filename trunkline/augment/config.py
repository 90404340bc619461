"""What is done to how many items, and how strongly: `configs/augment/telephone.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from trunkline.errors import ConfigError, nearest

NOISES = ("hiss", "hum", "street", "babble", "crackle")
CODECS = ("mulaw", "alaw", "gsm")
CONCEALMENTS = ("repeat", "silence")

Range = tuple[float, float]  # uniform between the two


@dataclass(frozen=True)
class Speed:
    """Faster or slower with the pitch, by one resampling: other speaking rates, other tracts."""

    probability: float = 0.0
    factors: tuple[float, ...] = (0.9, 1.1)
    """1.1 is 10 % faster; 1 is what items get that are not drawn."""

    def __post_init__(self) -> None:
        _check_probability(self)
        if not self.factors or not all(0.5 <= factor <= 2 for factor in self.factors):
            raise ConfigError(f"factors={self.factors} must be some of 0.5 to 2, e.g. [0.9, 1.1].")


@dataclass(frozen=True)
class Reverb:
    """A room: responses of energy 1, from recordings or made, direct sound first."""

    probability: float = 0.0
    manifest: str | None = None
    """Recorded responses; null makes them."""
    kind: str | None = "rir"
    """Which rows of the manifest (their `kind`); null takes all."""
    decay: Range = (0.15, 0.6)
    """Seconds until a made response has fallen by 60 dB."""
    direct_db: Range = (-3.0, 12.0)
    """Direct sound over all reflections, dB, of made responses."""

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "decay", 0.02, 5.0)
        _check_range(self, "direct_db", -20.0, 40.0)


@dataclass(frozen=True)
class Noise:
    """Noise at a stated ratio of speech (where it is spoken) to noise."""

    probability: float = 0.0
    snr_db: Range = (5.0, 30.0)
    kinds: tuple[str, ...] = NOISES
    """Which noises are made when there is no manifest."""
    manifest: str | None = None
    kind: str | None = "noise"

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "snr_db", -20.0, 60.0)
        _check_names(self, "kinds", NOISES)


@dataclass(frozen=True)
class Talker:
    """A second talker over part of the item; what is to be learnt stays the first one's."""

    probability: float = 0.0
    manifest: str | None = None
    """The other talkers' cuts; needed, since none can be made."""
    ratio_db: Range = (0.0, 15.0)
    """First talker over second, dB."""
    share: Range = (0.1, 0.5)
    """How much of the item the second one covers."""

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "ratio_db", -20.0, 60.0)
        _check_range(self, "share", 0.0, 1.0)
        if self.probability and self.manifest is None:
            raise ConfigError("manifest is needed: it lists the cuts that other talkers come from.")


@dataclass(frozen=True)
class Band:
    """A telephone's band: 8 kHz, nothing below `low` and above `high` Hz, a handset's colour."""

    probability: float = 0.0
    low: float = 300.0
    high: float = 3400.0
    tilt: Range = (-0.5, 0.5)
    """Exponent of frequency / 1 kHz: negative is dull, positive thin."""

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "tilt", -3.0, 3.0)
        if not 0 < self.low < self.high <= 4000:
            raise ConfigError(f"low={self.low} and high={self.high} must rise within 0 to 4000 Hz.")


@dataclass(frozen=True)
class Volume:
    """A change of level; what would pass full scale is scaled down to it, not clipped."""

    probability: float = 0.0
    gain_db: Range = (-12.0, 6.0)

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "gain_db", -60.0, 40.0)


@dataclass(frozen=True)
class Clipping:
    """Overdriven input: the loudest samples become flat tops."""

    probability: float = 0.0
    share: Range = (0.001, 0.02)
    """Share of the samples that are cut off."""

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "share", 0.0, 0.5)


@dataclass(frozen=True)
class Codec:
    """Speech as a network codes it, at 8 kHz."""

    probability: float = 0.0
    names: tuple[str, ...] = CODECS

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_names(self, "names", CODECS)


@dataclass(frozen=True)
class Packets:
    """Lost packets of 20 ms, in bursts."""

    probability: float = 0.0
    loss: Range = (0.005, 0.05)
    """Share of the packets that are lost."""
    burst: float = 1.5
    """Mean number of packets lost in a row."""
    concealment: tuple[str, ...] = CONCEALMENTS

    def __post_init__(self) -> None:
        _check_probability(self)
        _check_range(self, "loss", 0.0, 0.5)
        _check_names(self, "concealment", CONCEALMENTS)
        if not 1 <= self.burst <= 50:
            raise ConfigError(f"burst={self.burst} must be 1 to 50 packets.")


@dataclass(frozen=True)
class Masking:
    """SpecAugment on features (Park et al. 2019): never in padding, never more than a share."""

    time_masks: int = 2
    time_width: int = 40
    """Widest mask, in features of 10 ms."""
    time_share: float = 0.2
    """All time masks together cover at most this share of an item."""
    band_masks: int = 2
    band_width: int = 20
    """Widest mask, in mel bands."""

    def __post_init__(self) -> None:
        for name in ("time_masks", "time_width", "band_masks", "band_width"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more.")
        if not 0 <= self.time_share <= 1:
            raise ConfigError(f"time_share={self.time_share} must be 0 to 1.")


@dataclass(frozen=True)
class AugmentConfig:
    """All operations, in the order in which they are done; probability 0 leaves one out."""

    speed: Speed = field(default_factory=Speed)
    reverb: Reverb = field(default_factory=Reverb)
    noise: Noise = field(default_factory=Noise)
    talker: Talker = field(default_factory=Talker)
    band: Band = field(default_factory=Band)
    volume: Volume = field(default_factory=Volume)
    clipping: Clipping = field(default_factory=Clipping)
    codec: Codec = field(default_factory=Codec)
    packets: Packets = field(default_factory=Packets)
    masking: Masking = field(default_factory=Masking)


OPERATIONS = tuple(item.name for item in fields(AugmentConfig) if item.name != "masking")


def _check_probability(operation: object) -> None:
    probability = getattr(operation, "probability")  # noqa: B009  (every operation has one)
    if not 0 <= probability <= 1:
        raise ConfigError(f"probability={probability} must be 0 to 1.")


def _check_range(operation: object, name: str, least: float, most: float) -> None:
    low, high = getattr(operation, name)
    if not least <= low <= high <= most:
        raise ConfigError(f"{name}={(low, high)} must rise within {least:g} to {most:g}.")


def _check_names(operation: object, name: str, allowed: tuple[str, ...]) -> None:
    given = getattr(operation, name)
    wrong = [item for item in given if item not in allowed]
    if wrong:
        raise ConfigError(f"{name}: unknown {wrong[0]!r}.{nearest(wrong[0], allowed)}")
    if not given:
        raise ConfigError(f"{name} must name at least one of {', '.join(allowed)}.")
