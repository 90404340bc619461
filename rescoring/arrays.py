"""Folders of arrays: ``.npy`` files that are mapped, not read, and a JSON file with all that is no number.

Nothing in them can run code: arrays are opened with ``allow_pickle=False``, and each file's SHA-256 stands in the JSON.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json
from trunkline.errors import CheckpointError, StorageError

INDEX = "index.json"


def write_arrays(
    folder: str | os.PathLike[str],
    schema: str,
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    overwrite: bool = False,
) -> None:
    """Write `arrays` and the JSON value `about` to a folder that appears whole or not at all.

    Raises:
        StorageError: the folder exists and `overwrite` is false, or it holds something else than `write_arrays` wrote.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise StorageError(f"{folder} holds other files than a model's; choose another name.")
    with write_folder(folder, overwrite=overwrite) as target:
        files = {}
        for name, array in arrays.items():
            path = target / f"{name}.npy"
            np.save(path, array, allow_pickle=False)
            files[name] = {
                "sha256": sha256_file(path),
                "shape": list(array.shape),
                "dtype": str(array.dtype),
            }
        write_json(target / INDEX, {"schema": schema, **about, "arrays": files})


def read_arrays(
    folder: str | os.PathLike[str], schema: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `write_arrays` wrote, the arrays mapped into memory and read-only.

    Raises:
        StorageError: there is no such folder.
        CheckpointError: a file is missing or altered, or holds something else than `schema`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StorageError(f"{folder} is no folder with {schema} in it.")
    about = read_json(folder / INDEX)
    found = about.get("schema") if isinstance(about, dict) else None
    if found != schema:
        raise CheckpointError(f"{folder / INDEX} holds {found!r}; {schema!r} is needed.")
    arrays = {}
    for name, facts in about.pop("arrays", {}).items():
        path = folder / f"{name}.npy"
        if not path.is_file() or path.parent != folder:
            raise CheckpointError(f"{path} is missing; the folder is incomplete.")
        if sha256_file(path) != facts.get("sha256"):
            raise CheckpointError(
                f"{path} was altered after it was written; write the folder anew."
            )
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise CheckpointError(f"{path} is no .npy file of numbers: {error}") from error
    return about, arrays
