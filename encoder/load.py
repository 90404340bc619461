"""Backbone directories: written whole, read strictly, known by a fingerprint.

A directory holds `config.json` (schema version, sizes, features, hash of the weights), `model.safetensors`,
`README.md` (model card) and `training.json` (lineage). The fingerprint is a SHA-256 over configuration and weights;
it names the backbone in heads, stores and records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from encoder.backbone import Backbone
from encoder.config import BackboneConfig
from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json, write_text
from trunkline.errors import CheckpointError, ConfigError

SCHEMA = 1
KIND = "trunkline.backbone"
CHUNKFORMER = "chunkformer:"
"""Before the directory of a checkpoint of that package, in `load_backbone`."""
CARD = "# Trunkline backbone\n\nNo model card was written for this backbone.\n"


def save_backbone(
    backbone: Backbone,
    folder: str | os.PathLike[str],
    *,
    card: str = CARD,
    training: dict[str, Any] | None = None,
    extras: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> str:
    """Write a backbone directory and return its fingerprint.

    Args:
        backbone: the model; its `fingerprint` is set.
        folder: appears whole, or not at all.
        card: text of the model card (Markdown): data, licence, how trained, metrics.
        training: lineage, written as `training.json`.
        extras: further files by their path in the folder; they do not change the fingerprint.
        overwrite: replace an existing directory.

    Raises:
        StorageError: the folder exists, or cannot be written.
    """
    with write_folder(folder, overwrite=overwrite) as temporary:
        weights = _serialised(backbone)
        (temporary / "model.safetensors").write_bytes(weights)
        config = _described(backbone, weights)
        fingerprint = config["fingerprint"]
        write_json(temporary / "config.json", config)
        write_json(temporary / "training.json", training or {})
        write_text(temporary / "README.md", card)
        for name, content in (extras or {}).items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
    backbone.fingerprint = fingerprint
    return fingerprint


def fingerprint_of(backbone: Backbone) -> str:
    """Return the fingerprint that `save_backbone` would give."""
    return _described(backbone, _serialised(backbone))["fingerprint"]


def _serialised(backbone: Backbone) -> bytes:
    return safetensors.torch.save(
        {
            name: tensor.detach().to("cpu").contiguous()
            for name, tensor in backbone.state_dict().items()
        }
    )


def _described(backbone: Backbone, weights: bytes) -> dict[str, Any]:
    """Return the content of `config.json`."""
    config: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "backbone": backbone.config.to_dict(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {**config, "fingerprint": _fingerprint(config)}


def load_backbone(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Open a backbone directory, in evaluation mode.

    Args:
        source: the directory; or ``chunkformer:DIR``, a checkpoint directory of the package chunkformer.
        device: where to; the CPU by default.
        dtype: type of the weights and frames; features and their normalisation stay in float32.

    Raises:
        CheckpointError: not a backbone directory, a newer schema, or a file that is missing, truncated or altered.
    """
    if str(source).startswith(CHUNKFORMER):
        from encoder.chunkformer import load_chunkformer

        backbone = load_chunkformer(str(source).removeprefix(CHUNKFORMER))
    else:
        backbone = _load_folder(Path(source))
    backbone.to(device=device)
    backbone.conformer.to(dtype=dtype)
    return backbone.eval()


def _load_folder(folder: Path) -> Backbone:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a directory; give the directory that pretraining exported."
        )
    config = _read_config(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing; the directory is incomplete.")
    if sha256_file(weights) != config["weights_sha256"]:
        raise CheckpointError(
            f"{weights} is truncated or altered: its SHA-256 is not the one in config.json."
        )
    try:
        backbone = Backbone(BackboneConfig.from_dict(config["backbone"]))
        tensors = safetensors.torch.load_file(weights)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not a safetensors file: {error}") from error
    check_tensors(tensors, backbone.state_dict(), str(weights))
    backbone.load_state_dict(tensors)
    backbone.fingerprint = config["fingerprint"]
    return backbone


def check_tensors(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, what: str = "backbone"
) -> None:
    """Raise a CheckpointError that names every tensor that is missing, left over, or of another shape."""
    faults = [f"missing {name}" for name in expected.keys() - given.keys()]
    faults += [f"unknown {name}" for name in given.keys() - expected.keys()]
    faults += [
        f"{name} has shape {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in given.keys() & expected.keys()
        if given[name].shape != expected[name].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:5]) + (
            f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        )
        raise CheckpointError(f"{origin} does not fit this {what}: {shown}.")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise CheckpointError(f"{path} does not describe a Trunkline backbone.")
    if not isinstance(config.get("schema"), int) or config["schema"] > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {config.get('schema')}, this version reads up to {SCHEMA}; upgrade trunkline."
        )
    for key in ("backbone", "weights_sha256", "fingerprint"):
        if key not in config:
            raise CheckpointError(f"{path} lacks {key!r}; the directory is incomplete.")
    if _fingerprint(config) != config["fingerprint"]:
        raise CheckpointError(f"{path} was altered: its fingerprint does not match its content.")
    return config


def _fingerprint(config: dict[str, Any]) -> str:
    content = {key: config[key] for key in ("kind", "schema", "backbone", "weights_sha256")}
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()
