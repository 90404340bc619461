"""All that a run must remember to go on as if it had never stopped, and its checkpoints on disk.

A checkpoint is a folder `step-N` of safetensors and JSON that appears whole or not at all. Randomness needs no
state: a microbatch seeds torch from its number, an item from (seed, epoch, id), and the step gives the learning rate.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trunkline.checkpoint import read_json, sha256_file, write_folder, write_json
from trunkline.errors import CheckpointError, ConfigError, StorageError
from trunkline.training.config import FREE_ON_RESUME

SCHEMA = 1


@dataclass
class Progress:
    """Where a run is: what the next step needs to know about all steps before it."""

    seen: np.ndarray  # (items,) bool: drawn at least once
    step: int = 0  # updates made
    epoch: int = 0  # of the next microbatch
    position: int = 0  # of the next microbatch in its epoch
    audio_seconds: float = 0.0
    quarantined: dict[str, dict[str, Any]] = field(default_factory=dict)  # by item id
    # metric: [sum, count] since its last line
    sums: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # newest line and evaluation

    def to_json(self) -> dict[str, Any]:
        """Return the progress as JSON values; floats survive the round trip exactly."""
        return vars(self) | {"seen": np.packbits(self.seen).tobytes().hex()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], items: int) -> Progress:
        """Read what `to_json` wrote."""
        bits = np.frombuffer(bytes.fromhex(values["seen"]), dtype=np.uint8)
        return cls(**{**values, "seen": np.unpackbits(bits, count=items).astype(bool)})


class Average:
    """Exponential moving average of the trainable weights, in float32."""

    def __init__(self, task: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().float().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after update `step`, faster at first, to forget the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.weights[name].float(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the weights within the block."""
        before = {name: p.detach().clone() for name, p in self.weights.items()}
        _copy(self.values, self.weights)
        try:
            yield
        finally:
            _copy(before, self.weights)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)


def save_checkpoint(
    folder: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Mapping[str, Any],
    *,
    average: Average | None = None,
    scaler: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> None:
    """Write `folder`/step-N and remove all but the newest `keep`.

    Raises:
        StorageError: the disk refuses; the checkpoints before it are untouched.
    """
    parts = {"model": task.state_dict(), "ema": average.values if average else {}}
    parts["optimizer"] = {
        f"{key}/{name}": value
        for name, parameter in task.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    with write_folder(folder / f"step-{progress.step}", overwrite=True) as temporary:
        digests = {
            name: _write(temporary / f"{name}.safetensors", part) for name, part in parts.items()
        }
        state = {"schema": SCHEMA, "sha256": digests, "settings": settings, "scaler": scaler}
        write_json(temporary / "state.json", state | {"progress": progress.to_json()})
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    # Copies, because safetensors refuses tied weights that share memory.
    copies = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    try:
        save_file(copies, path)
    except SafetensorError as error:
        raise StorageError(f"Cannot write {path.name} of a checkpoint: {error}") from error
    return sha256_file(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the step-N folders in `folder`, oldest first."""
    found = [path for path in Path(folder).glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in `folder`, None if there is none.

    Raises:
        CheckpointError: the newest is damaged; the message says which older one is whole.
    """
    path, whole, fault = None, None, None
    for path in list_checkpoints(folder):
        try:
            _verify(path)
            whole, fault = path, None
        except (CheckpointError, StorageError) as error:
            fault = error
    if fault is not None:
        older = (
            f"{whole.name} is whole: remove {path} to go on from there."
            if whole
            else "No older one is whole."
        )
        raise CheckpointError(
            f"The newest checkpoint {path} is damaged: {fault} {older}"
        ) from fault
    return path


def _verify(folder: Path) -> None:
    state = read_json(folder / "state.json")
    if (
        not isinstance(state, dict)
        or not {"schema", "sha256", "settings", "progress"} <= state.keys()
    ):
        raise CheckpointError("state.json does not describe a checkpoint.")
    if state["schema"] > SCHEMA:
        raise CheckpointError(
            f"it was written by a newer trunkline (schema {state['schema']}); update."
        )
    for name, digest in state["sha256"].items():
        path = folder / f"{name}.safetensors"
        if not path.is_file() or sha256_file(path) != digest:
            raise CheckpointError(f"{path.name} is not what was written.")


def load_checkpoint(
    folder: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    *,
    items: int,
    average: Average | None = None,
) -> tuple[Progress, dict[str, Any] | None]:
    """Put a checkpoint into `task`, `optimizer` and `average`; return the progress and the loss scaler's state.

    Raises:
        ConfigError: the run was started with other `settings`; names the keys.
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    state = read_json(folder / "state.json")
    _check_unchanged(state["settings"], settings, folder)
    weights, own = _read(folder / "model.safetensors"), task.state_dict()
    for name in own.keys() | weights.keys():
        here, there = own.get(name), weights.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = " and ".join(
                "nothing" if t is None else str(tuple(t.shape)) for t in (there, here)
            )
            raise CheckpointError(
                f"{folder} does not fit the task: {name!r} is {shapes}, in this order."
            )
    task.load_state_dict(weights)
    parameters = dict(task.named_parameters())
    for name, value in _read(folder / "optimizer.safetensors").items():
        key, _, owner = name.partition("/")
        optimizer.state[parameters[owner]][key] = value.to(parameters[owner].device)
    if average is not None:
        _copy(_read(folder / "ema.safetensors"), average.values)
    return Progress.from_json(state["progress"], items), state["scaler"]


def _check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    before, after = _flat(old), _flat(json.loads(json.dumps(new)))
    changed = [
        f"{key} ({before.get(key)} -> {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.rpartition(".")[2] not in FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(
            f"{folder} was trained with other settings: {', '.join(changed)}. "
            "Put them back, or train in another folder."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def load_weights(folder: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the weights of a checkpoint as a state dict, with the running average in place if `ema`."""
    folder = Path(folder)
    return _read(folder / "model.safetensors") | (_read(folder / "ema.safetensors") if ema else {})


def average_checkpoints(folders: Sequence[str | Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of several checkpoints; whole numbers are those of the last.

    Raises:
        CheckpointError: one holds other tensors than the first, or none was given.
    """
    states = [load_weights(folder) for folder in folders]
    for folder, state in zip(folders, states, strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[0].items()}:
            raise CheckpointError(
                f"{folder} holds other tensors than {folders[0]}; they cannot be averaged."
            )
    if not states:
        raise CheckpointError("There are no checkpoints to average.")
    return average_weights(states)


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts of one shape; whole numbers are those of the last."""
    mean = dict(states[-1])
    for name, last in mean.items():
        if last.is_floating_point():
            zero = torch.zeros_like(last, dtype=torch.float64)
            total = sum((state[name].double() for state in states), zero)
            mean[name] = (total / len(states)).to(last.dtype)
    return mean
