"""The spaces of a store: found by name, added once, never mixed."""

from __future__ import annotations

import json
from pathlib import Path

from embstore.schema import Space
from embstore.storage import Storage
from trunkline.errors import DataError, UsageError, nearest

FOLDER = "spaces"


class Spaces:
    """`spaces/<name>.json` of one store."""

    def __init__(self, storage: Storage, path: Path) -> None:
        self._storage, self._path = storage, path
        self._known: dict[str, Space] = {}

    def all(self) -> dict[str, Space]:
        """Return the spaces by name."""
        for name in self._storage.list(FOLDER):
            key = Path(name).stem
            if name.endswith(".json") and key not in self._known:
                self._known[key] = self._read(name)
        return dict(self._known)

    def find(self, name: str | None, pooling: str | None) -> Space:
        """Return the space of a name or its beginning, or the only one; raises UsageError."""
        spaces = self.all()
        if name in spaces:
            return spaces[name]
        found = [
            space
            for key, space in sorted(spaces.items())
            if (name is None or key.startswith(name))
            and (pooling is None or space.pooling == pooling)
        ]
        if len(found) == 1:
            return found[0]
        if not spaces:
            raise UsageError(f"{self._path} holds no vectors yet.")
        if not found:
            wanted = name if name is not None else pooling
            raise UsageError(f"{self._path} has no space {wanted!r}.{nearest(str(wanted), spaces)}")
        listed = "; ".join(f"{each.name} ({describe(each)})" for each in found)
        raise UsageError(
            f"{self._path} holds several spaces, which never mix. Choose one by name: {listed}."
        )

    def add(self, space: Space) -> Space:
        """Create the file of a space, or compare with the one that is there; raises UsageError."""
        if space.name not in self._known:
            name = f"{FOLDER}/{space.name}.json"
            data = json.dumps(space.to_json(), indent=2, ensure_ascii=False) + "\n"
            if not self._storage.create(name, data.encode()):
                self._known[space.name] = self._read(name)
        known = self._known.setdefault(space.name, space)
        for what in ("columns", "settings"):
            there, asked = dict(getattr(known, what)), dict(getattr(space, what))
            if there != asked:
                raise UsageError(
                    f"{self._path}: the space {known.name} was begun with the {what} {_listed(there)}, not "
                    f"{_listed(asked)}. Ask for the same, or write another store."
                )
        return known

    def _read(self, name: str) -> Space:
        try:
            value = json.loads(self._storage.read(name))
        except ValueError as error:
            raise DataError(f"{self._path / name} is damaged: {error}.") from error
        return Space.from_json(value, str(self._path / name))


def describe(space: Space) -> str:
    """Return a space in a few words."""
    return (
        f"{space.pooling} of layer {space.layer}, context {space.context}, {space.precision}, "
        f"{space.dim} numbers, backbone {space.backbone[:12]}"
    )


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "none"
