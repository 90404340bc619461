"""What the store holds: spaces, the columns of its tables, and how numbers are rounded and encoded.

A *space* is the set of vectors that may be compared with each other: one backbone, one layer, one pooling, one
precision, one context. Everything in a file belongs to one space, and its name says which.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from trunkline import __version__
from trunkline.errors import DataError, UsageError, nearest

FORMAT = "trunkline-embstore"
VERSION = 1
"""Of the layout and the schemas; a store of a newer one is refused."""
TABLES = ("calls", "pooled", "segments", "frames")
VECTORS = "v"
FRAMES = "frames"
"""The pooling of a space of frames: none."""
POOLINGS = ("mean", "std", "mean+std", "max")
LEARNT = ("attentive", "speaker")
"""Poolings of a head, written `attentive:FINGERPRINT`."""
PRECISIONS = {"f32": 23, "m10": 10}
"""Bits of the mantissa that are kept."""
ROW_GROUP = 8192
_IN_CACHE = 1 << 16
"""Numbers that are rounded at a time, in several steps: a quarter of a megabyte."""

_TIME = pa.timestamp("us", tz="UTC")
_KEYS = [("call_id", pa.string()), ("cut_id", pa.string()), ("channel", pa.int8())]
_CUT = [*_KEYS, ("space", pa.string()), ("start_ms", pa.int64()), ("duration_ms", pa.int64())]
_COLUMNS: dict[str, list[tuple[str, pa.DataType]]] = {
    "calls": [
        *_CUT,
        ("n_frames", pa.int32()),
        ("sample_rate", pa.int32()),
        ("speaker", pa.string()),
        ("file", pa.string()),
        ("audio_sha256", pa.string()),
        ("audio_bytes", pa.int64()),
        ("audio_mtime", _TIME),
        ("started_at", _TIME),
        ("exported_at", _TIME),
    ],
    "pooled": [*_CUT, ("n_frames", pa.int32()), ("pool", pa.string())],
    "segments": [
        *_KEYS,
        ("space", pa.string()),
        ("seg", pa.int32()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("speech_ratio", pa.float32()),
    ],
    "frames": [*_KEYS, ("space", pa.string()), ("frame", pa.int32()), ("t_ms", pa.int64())],
    "errors": [
        *_KEYS,
        ("speaker", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("at", _TIME),
    ],
}
# What a row may leave out; all other columns, vectors above all, are never null.
_OPTIONAL = {"speaker", "file", "audio_sha256", "audio_bytes", "audio_mtime", "started_at"}
_OPTIONAL |= {"speech_ratio", "line"}
_DICTIONARY = {"call_id", "cut_id", "space", "pool", "speaker", "file"}
_ADDED = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
_ADDED["float32"] = pa.float32()


@dataclass(frozen=True)
class Space:
    """Which vectors these are; two spaces are the same when all but `columns`, `settings` and `about` are.

    `context` is written "64,128,128" or "full"; `layer` is "last" (normalised), a number, or "mix".
    """

    backbone: str
    """Fingerprint of the backbone."""
    dim: int
    """Width of a vector, after pooling."""
    layer: str = "last"
    pooling: str = "mean"
    precision: str = "f32"
    context: str = "full"
    sample_rate: int = 8000
    frame_shift: float = 0.08
    """Seconds between two frames."""
    first_time: float = 0.0825
    """Seconds from the start of a cut to the centre of its first frame."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further columns of calls, pooled and segments (`meta_*` and those of heads): name to type."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else all of its cuts have in common, such as how segments are cut."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """For people: name of the backbone, version of the toolkit, licence of the weights."""

    def __post_init__(self) -> None:
        kind = self.pooling.partition(":")[0]
        if kind not in (*POOLINGS, *LEARNT, FRAMES):
            raise UsageError(
                f"Unknown pooling {self.pooling!r}.{nearest(kind, [*POOLINGS, *LEARNT])}"
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"Unknown precision {self.precision!r}.{nearest(self.precision, PRECISIONS)}"
            )
        if self.dim < 1:
            raise UsageError(f"Vectors of {self.dim} numbers cannot be.")
        for name, kind in self.columns.items():
            if kind not in _ADDED or any(
                name in {column for column, _ in _COLUMNS[table]} for table in TABLES
            ):
                raise UsageError(
                    f"A column {name!r} of type {kind!r} cannot be added: choose another name, "
                    f"and one of the types {', '.join(_ADDED)}."
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the vectors comparable."""
        content = {key: value for key, value in asdict(self).items() if key not in _NO_IDENTITY}
        return content | {"schema": VERSION}

    @functools.cached_property
    def config(self) -> str:
        """`identity` as JSON, which every file of the space says."""
        return json.dumps(self.identity, sort_keys=True)

    @functools.cached_property
    def name(self) -> str:
        """The name of its folders: the pooling, and 16 digits of a BLAKE2b over `identity`."""
        return f"{self.pooling.partition(':')[0].replace('+', '_')}-{_digest(self.identity)}"

    def to_json(self) -> dict[str, Any]:
        """Return the content of `spaces/<name>.json`."""
        content = {"name": self.name, **asdict(self), "schema": VERSION, "toolkit": __version__}
        return content | {"digest": _digest(content)}

    @classmethod
    def from_json(cls, value: Any, origin: str) -> Space:
        """Return the space that `to_json` wrote; raises DataError where it was altered or is newer."""
        try:
            if value["schema"] > VERSION:
                raise DataError(
                    f"{origin} has schema {value['schema']}, this version reads up to {VERSION}; upgrade trunkline."
                )
            space = cls(**{key: value[key] for key in cls.__dataclass_fields__})
        except (KeyError, TypeError, UsageError) as error:
            raise DataError(f"{origin} does not describe a space: {error}.") from error
        content = {key: item for key, item in value.items() if key != "digest"}
        if space.name != value.get("name") or value.get("digest") != _digest(content):
            raise DataError(f"{origin} was altered: its digest does not match its content.")
        return space


_NO_IDENTITY = ("columns", "settings", "about")


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def schema_of(table: str, space: Space | None = None) -> pa.Schema:
    """Return the Arrow schema of a table ("calls", "pooled", "segments", "frames", "errors") in a space.

    Vectors are `fixed_size_list<float32>[dim]`, never null; ids are plain strings, as a dictionary type would keep
    readers from skipping row groups; times are microseconds in UTC, which Spark reads too.
    """
    columns = list(_COLUMNS[table])
    if space is not None and table in ("calls", "pooled", "segments"):
        columns += [(name, _ADDED[kind]) for name, kind in space.columns.items()]
    extra = set() if space is None else set(space.columns)
    fields = [pa.field(name, kind, name in _OPTIONAL | extra) for name, kind in columns]
    metadata = {"trunkline.version": str(VERSION), "trunkline.table": table}
    if space is not None:
        metadata |= {
            "trunkline.space": space.name,
            "trunkline.fingerprint": space.backbone,
            "trunkline.config": space.config,
        }
        if table in ("pooled", "segments", "frames"):
            fields.append(pa.field(VECTORS, vector_type(space.dim), False))
    return pa.schema(fields, metadata)


def vector_type(dim: int) -> pa.DataType:
    """Return the type of a column of vectors."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), dim)


def vector_column(vectors: np.ndarray) -> pa.Array:
    """Return (rows, dim) float32 as a column, without a copy where rows are contiguous."""
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=vector_type(vectors.shape[1]))


def vectors_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of vectors as (rows, dim) float32, without a copy where it is one chunk."""
    dim = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, dim)
        for chunk in chunks
        if len(chunk)
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)


def round_mantissa(vectors: np.ndarray, precision: str = "m10") -> np.ndarray:
    """Return float32 rounded to the mantissa bits of a precision, to nearest, ties to even.

    The exponent stays as it is, so nothing overflows but what rounds past the largest number; infinities, NaN and
    the sign of zero are kept. Rounding twice changes nothing.
    """
    values = np.ascontiguousarray(vectors, dtype=np.float32)
    drop = 23 - PRECISIONS[precision]
    if not drop:
        return values
    rounded = np.empty_like(values)
    given, made = values.reshape(-1), rounded.reshape(-1)
    for first in range(0, len(given), _IN_CACHE):
        block, result = given[first : first + _IN_CACHE], made[first : first + _IN_CACHE]
        _round_bits(block.view(np.uint32), drop, result.view(np.uint32))
        if not all_finite(block):
            odd = ~np.isfinite(block)
            result[odd] = block[odd]
    return rounded


def _round_bits(bits: np.ndarray, drop: int, out: np.ndarray) -> None:
    """Write float32 bits, rounded to nearest even without their last `drop`, to `out`; not for NaN and infinities."""
    np.right_shift(bits, np.uint32(drop), out=out)
    out &= np.uint32(1)
    out += np.uint32((1 << (drop - 1)) - 1)
    out += bits
    out &= np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)


def all_finite(values: np.ndarray) -> bool:
    """Return whether no number is NaN or infinite; either would show in the sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how Parquet is written: byte-stream split and zstd for vectors, checksums, an index of pages.

    The smallest and largest number of a vector column help nobody to skip it, and cost a quarter of the writing.
    """
    names = set(schema.names)
    added = {field.name for field in schema if pa.types.is_string(field.type)}
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": sorted((_DICTIONARY & names) | added),
        "write_statistics": sorted(names - {VECTORS}),
        "write_page_checksum": True,
        "write_page_index": True,
    }
    if VECTORS in names:
        options["column_encoding"] = {f"{VECTORS}.list.element": "BYTE_STREAM_SPLIT"}
    if int(pa.__version__.split(".")[0]) >= 26:
        options["bloom_filter_options"] = {"call_id": {"ndv": ROW_GROUP, "fpp": 0.01}}
    return options
