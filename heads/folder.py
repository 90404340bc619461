"""Head directories: what one team trained, without the trunk that all share.

A directory holds `head.json` (kind, options, labels, fingerprint of the trunk, hash of the weights),
`head.safetensors` (the head's and its adapter's tensors) and `README.md` (its card). It opens on the trunk it was
trained on, and only as it was written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from encoder import Backbone
from encoder.load import check_tensors, fingerprint_of
from heads.adapter import Adapter, attach_adapter, describe_parameters
from heads.head import Head, TrunkSpec
from heads.registry import find_head
from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json, write_text
from trunkline.errors import CheckpointError, ConfigError

SCHEMA = 1
KIND = "trunkline.head"
KEYS = ("kind", "schema", "head", "trunk_fingerprint", "weights_sha256", "training")


def save_head(
    head: Head,
    folder: str | os.PathLike[str],
    backbone: Backbone,
    *,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> str:
    """Write a head directory and return its fingerprint.

    Args:
        head: with its adapter, trained on `backbone`.
        folder: appears whole, or not at all.
        backbone: the trunk, of which only the fingerprint is written.
        training: how it was trained, with its `metrics` or those on `dev`; plain JSON, of which the card shows numbers
            and texts.
        overwrite: replace an existing directory.

    Raises:
        TrainingError: an adapter that was configured but never called.
        StorageError: the folder exists, or cannot be written.
    """
    if isinstance(head.adapter, Adapter):
        head.adapter.check_called()
    tensors = {name: x.detach().cpu().contiguous() for name, x in head.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    config: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "head": head.to_config(),
        "trunk_fingerprint": backbone.fingerprint or fingerprint_of(backbone),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": dict(training or {}),
    }
    config["fingerprint"] = _fingerprint(config)
    with write_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "head.safetensors").write_bytes(weights)
        write_json(temporary / "head.json", config)
        write_text(temporary / "README.md", _card(head, backbone, config))
    return config["fingerprint"]


def load_head(
    folder: str | os.PathLike[str],
    backbone: Backbone,
    *,
    kinds: Mapping[str, str] | None = None,
    any_trunk: bool = False,
) -> Head:
    """Open a head directory on a trunk, in evaluation mode, on the trunk's device.

    Nothing in a directory is imported or run: a kind that is not known here has to be named by the caller.

    Args:
        folder: what `save_head` wrote.
        backbone: the trunk it was trained on.
        kinds: where heads of your own come from: ``{"promise": "examples.custom_head:PromiseHead"}``.
        any_trunk: take a trunk of another fingerprint, as long as the shapes fit.

    Raises:
        CheckpointError: no head directory, one of another trunk, or files that are missing, altered or do not fit.
    """
    folder = Path(folder)
    config = read_head_config(folder)
    fingerprint = backbone.fingerprint or fingerprint_of(backbone)
    if config["trunk_fingerprint"] != fingerprint and not any_trunk:
        raise CheckpointError(
            f"{folder} was trained on the trunk {config['trunk_fingerprint'][:12]}, this one is {fingerprint[:12]}: "
            "its answers would mean nothing. Give the backbone directory that it was trained on (any_trunk=True takes "
            "this one all the same)."
        )
    head = _made(folder, config["head"], kinds or {})
    spec = TrunkSpec.of(backbone)
    if head.trunk != spec:
        raise CheckpointError(f"{folder} needs a trunk of {head.trunk}, this one is {spec}.")
    attach_adapter(head, backbone)
    weights = folder / "head.safetensors"
    try:
        tensors = safetensors.torch.load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} cannot be read: {error}") from error
    check_tensors(tensors, head.state_dict(), str(weights), "head")
    if sha256_file(weights) != config["weights_sha256"]:
        raise CheckpointError(
            f"{weights} was altered: its SHA-256 is not the one in head.json. Export the head again."
        )
    head.load_state_dict(tensors)
    if isinstance(head.adapter, Adapter):
        head.adapter.mark_called()
    return head.to(backbone.feature_mean.device).eval()


def read_head_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of `head.json`, checked against its own fingerprint.

    Raises:
        CheckpointError: no head directory, a newer schema, or an altered file.
    """
    path = Path(folder) / "head.json"
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder} is not a directory; give one that heads.train exported.")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise CheckpointError(f"{path} does not describe a Trunkline head.")
    if not isinstance(config.get("schema"), int) or config["schema"] > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {config.get('schema')}, this version reads up to {SCHEMA}; upgrade trunkline."
        )
    for key in (*KEYS, "fingerprint"):
        if key not in config:
            raise CheckpointError(f"{path} lacks {key!r}; the directory is incomplete.")
    if _fingerprint(config) != config["fingerprint"]:
        raise CheckpointError(f"{path} was altered: its fingerprint does not match its content.")
    return config


def _made(folder: Path, config: Mapping[str, Any], kinds: Mapping[str, str]) -> Head:
    kind = str(config.get("kind"))
    try:
        cls = find_head(kinds.get(kind, kind))
    except ConfigError as error:
        raise CheckpointError(
            f"{folder} holds a head of kind {kind!r}, which is not known here. If you trust {config.get('class')!r}, "
            f'import it first, or pass kinds={{"{kind}": "{config.get("class")}"}}.'
        ) from error
    if cls.kind != kind:
        raise CheckpointError(f"{folder} holds a head of kind {kind!r}, not {cls.kind!r}.")
    try:
        return cls.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'head.json'}: {error}") from error


def _fingerprint(config: Mapping[str, Any]) -> str:
    content = json.dumps({key: config[key] for key in KEYS}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _card(head: Head, backbone: Backbone, config: Mapping[str, Any]) -> str:
    training = config["training"]
    names = () if head.labels is None else head.labels.names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    metrics = {**training.get("dev", {}), **training.get("metrics", {})}
    return "\n".join(
        [
            f"# Trunkline head: {head.kind}",
            "",
            f"- Label: `{head.label_key}`" + (f"; classes: {shown}" if names else ""),
            f"- Size: {describe_parameters(head, backbone)}",
            f"- Trunk: {backbone.num_layers} layers of width {backbone.d_model} at {backbone.sample_rate} Hz, "
            f"fingerprint `{config['trunk_fingerprint']}`",
            *(f"- {name}: {value:.4g}" for name, value in metrics.items() if _is_number(value)),
            *(
                f"- {name}: {training[name]}"
                for name in training
                if isinstance(training[name], str)
            ),
            "",
            "```python",
            "from heads import load_model",
            "",
            'model = load_model("TRUNK_FOLDER", ["THIS_FOLDER"])',
            f'print(model.{head.use}("call.wav", channel="customer"))',
            "```",
            "",
        ]
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
