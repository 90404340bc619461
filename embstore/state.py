"""What the log says: which files there are, which cuts they hold, which are forgotten."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from trunkline.errors import DataError

KEY = 16
"""Bytes of a key of a call, cut or speaker."""
PAIR = 2 * KEY


class Keys:
    """Keyed hashes of ids: who has not the store's key cannot tell whether a call was in it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _key(self, kind: bytes, *parts: str) -> bytes:
        key = _begun(self._secret, kind).copy()
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            key.update(len(data).to_bytes(8, "little") + data)  # no two lists of parts are the same
        return key.digest()

    def call(self, call_id: str) -> bytes:
        """Return the key of a call; its first bit is 0."""
        return _marked(self._key(b"call", call_id), 0x00)

    def cut(self, call_id: str, cut_id: str, channel: int) -> bytes:
        """Return the key of a cut, which is what is exported once in a space."""
        return self._key(b"cut", call_id, cut_id, str(channel))

    def pair(self, call_id: str, cut_id: str, channel: int) -> bytes:
        """Return the key of the call and that of the cut, as the log holds them."""
        return self.call(call_id) + self.cut(call_id, cut_id, channel)

    def speaker(self, speaker: str) -> bytes:
        """Return the key of a speaker; its first bit is 1."""
        return _marked(self._key(b"speaker", speaker), 0x80)

    def sign(self, entry: Mapping[str, Any]) -> str:
        """Return the signature (HMAC-SHA-256) of an entry without its `signature`."""
        content = {key: value for key, value in entry.items() if key != "signature"}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hmac.new(self._secret, text.encode(), "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store: what it should be, and under which staged name it came.

    `version` is the log entry that first added it; a rewritten file keeps it.
    """

    path: str
    table: str
    space: str
    rows: int
    size: int
    sha256: str
    staged: str
    version: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what the log holds of it."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "version"}


class Commit(NamedTuple):
    """What one log entry says, before it has a number."""

    kind: str
    """add, erase (a tombstone), rewrite (rows left out), or swept (a tombstone is carried out)."""
    files: tuple[StoredFile, ...] = ()
    cuts: Mapping[str, bytes] = {}
    """Space -> pairs of keys that an add brings."""
    erased: tuple[bytes, ...] = ()
    """Keys of calls and speakers that no export may bring again."""
    gone: Mapping[str, Mapping[int, bytes]] = {}
    """Space -> version -> pairs that a rewrite leaves out."""
    removed: tuple[str, ...] = ()
    closes: int = 0
    """The tombstone that is carried out."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry's content, without version and time."""
        encoded = {
            "kind": self.kind,
            "files": [file.to_json() for file in self.files],
            "cuts": {space: _text(pairs) for space, pairs in self.cuts.items()},
            "erased": [_text(key) for key in self.erased],
            "gone": {
                space: {str(version): _text(pairs) for version, pairs in versions.items()}
                for space, versions in self.gone.items()
            },
            "removed": list(self.removed),
            "closes": self.closes,
        }
        return {name: value for name, value in encoded.items() if value}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], origin: str) -> Commit:
        """Read an entry; raises DataError where it is none."""
        try:
            version = int(entry["version"])
            return cls(
                entry["kind"],
                tuple(StoredFile(**file, version=version) for file in entry.get("files", ())),
                {space: _bytes(text) for space, text in entry.get("cuts", {}).items()},
                tuple(map(_bytes, entry.get("erased", ()))),
                {
                    space: {int(number): _bytes(text) for number, text in versions.items()}
                    for space, versions in entry.get("gone", {}).items()
                },
                tuple(entry.get("removed", ())),
                entry.get("closes", 0),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{origin} is no entry of a store's log: {error}.") from error


@dataclass
class State:
    """The store as of a log version."""

    version: int = 0
    files: dict[str, StoredFile] = field(default_factory=dict)
    cuts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Space -> version of the add -> pairs of keys."""
    erased: set[bytes] = field(default_factory=set)
    unswept: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Tombstones that are not carried out yet: version -> keys."""
    _live: dict[str, set[bytes]] = field(default_factory=dict)

    def live(self, space: str) -> set[bytes]:
        """Return the keys of the cuts in a space."""
        if space not in self._live:
            live = self._live[space] = set()
            for pairs in self.cuts.get(space, {}).values():
                live.update(_cuts(pairs))
        return self._live[space]

    def versions_of(self, call: bytes) -> dict[str, dict[int, bytes]]:
        """Return the pairs of a call: space -> version -> pairs."""
        found: dict[str, dict[int, bytes]] = {}
        for space, versions in self.cuts.items():
            for version, pairs in versions.items():
                if call in pairs:
                    own = b"".join(pair for pair in split(pairs) if pair[:KEY] == call)
                    if own:
                        found.setdefault(space, {})[version] = own
        return found

    def files_of(
        self, table: str, space: str, versions: Iterable[int] | None = None, after: int = 0
    ) -> list[StoredFile]:
        """Return the files of a table in a space, in the order in which they were added."""
        wanted = None if versions is None else set(versions)
        files = (
            file
            for file in self.files.values()
            if file.table == table and file.space == space and file.version > after
        )
        kept = (file for file in files if wanted is None or file.version in wanted)
        return sorted(kept, key=lambda file: (file.version, file.path))

    def apply(self, version: int, commit: Commit) -> None:
        """Take in the next entry of the log."""
        assert version == self.version + 1
        self.version = version
        for file in commit.files:
            before = self.files.get(file.path)
            if before is not None and commit.kind == "rewrite":
                file = replace(file, version=before.version)
            self.files[file.path] = file
        for path in commit.removed:
            self.files.pop(path, None)
        for space, pairs in commit.cuts.items():
            self.cuts.setdefault(space, {})[version] = pairs
            if space in self._live:
                self._live[space].update(_cuts(pairs))
        for space, versions in commit.gone.items():
            self._leave_out(space, versions)
        if commit.kind == "erase":
            self.erased.update(commit.erased)
            self.unswept[version] = commit.erased
        self.unswept.pop(commit.closes, None)

    def _leave_out(self, space: str, versions: Mapping[int, bytes]) -> None:
        for number, pairs in versions.items():
            gone = set(split(pairs))
            held = self.cuts.get(space, {}).get(number, b"")
            kept = b"".join(pair for pair in split(held) if pair not in gone)
            if kept:
                self.cuts[space][number] = kept
            else:
                self.cuts.get(space, {}).pop(number, None)
            if space in self._live:
                self._live[space].difference_update(pair[KEY:] for pair in gone)


def split(pairs: bytes) -> Iterator[bytes]:
    """Yield the pairs of a run of them."""
    return (pairs[start : start + PAIR] for start in range(0, len(pairs), PAIR))


def _cuts(pairs: bytes) -> list[bytes]:
    """Return the keys of the cuts in a run of pairs."""
    return np.frombuffer(pairs, f"V{KEY}")[1::2].tolist()


def is_speaker(key: bytes) -> bool:
    """Return whether a key in a tombstone is that of a speaker."""
    return key[0] >= 0x80


def npy_name(space: str, pair: bytes) -> str:
    """Return where the `.npy` file of a cut lies; its name tells nothing to who has not the store's key."""
    name = pair[KEY:].hex()
    return f"npy/{space}/{name[:2]}/{name}.npy"


def _marked(key: bytes, bit: int) -> bytes:
    return bytes([key[0] & 0x7F | bit]) + key[1:]


@functools.lru_cache(16)
def _begun(secret: bytes, kind: bytes) -> hashlib.blake2b:
    """Return a hash that is to be copied: taking in the secret is half of the work."""
    return hashlib.blake2b(digest_size=KEY, key=secret, person=kind)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
