"""All that a run must remember to go on as if it had never stopped, and its checkpoints on disk.

A checkpoint is a folder `step-N` of safetensors and JSON that appears whole or not at all. Randomness needs no
state: each microbatch seeds torch from its number, each item from (seed, epoch, id), the learning rate from the step.
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

    seen: np.ndarray  # (items,) bool: the items that were drawn at least once
    step: int = 0  # updates made
    epoch: int = 0  # of the next microbatch
    position: int = 0  # of the next microbatch in its epoch
    audio_seconds: float = 0.0
    quarantined: dict[str, dict[str, Any]] = field(default_factory=dict)  # by item id
    sums: dict[str, list[float]] = field(default_factory=dict)  # metric -> [sum, count] since the last line
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
        self.parameters = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    def update(self, step: int) -> None:
        """Move towards the weights after update `step`; early steps move faster, to forget the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name].detach().float(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the weights within the block."""
        weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.load(self.values)
        try:
            yield
        finally:
            self.load(weights)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy `values` into the weights."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


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
) -> Path:
    """Write `folder`/step-N and remove all but the newest `keep`.

    Raises:
        StorageError: the disk refuses; the checkpoints before it are untouched.
    """
    target = folder / f"step-{progress.step}"
    tensors = {"model": task.state_dict(), "optimizer": _optimizer_tensors(task, optimizer)}
    if average is not None:
        tensors["ema"] = average.values
    with write_folder(target, overwrite=True) as temporary:
        hashes = {f"{name}.safetensors": _write(temporary / f"{name}.safetensors", values) for name, values in tensors.items()}
        state = {"schema": SCHEMA, "progress": progress.to_json(), "settings": settings, "scaler": scaler, "sha256": hashes}
        write_json(temporary / "state.json", state)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:
        raise StorageError(f"Cannot write {path.name} of a checkpoint: {error}") from error
    return sha256_file(path)


def _optimizer_tensors(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}/{name}": value
        for name, parameter in task.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the step-N folders in `folder`, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, None if there is none.

    Raises:
        CheckpointError: the newest is damaged; the message says which older one is whole.
    """
    found = list_checkpoints(folder)
    if not found:
        return None
    try:
        _verify(found[-1])
    except (CheckpointError, StorageError) as error:
        whole = next((path for path in reversed(found[:-1]) if _is_whole(path)), None)
        advice = f"{whole.name} is whole: remove {found[-1]} to go on from there." if whole else "There is no older whole one."
        raise CheckpointError(f"The newest checkpoint {found[-1]} is damaged: {error} {advice}") from error
    return found[-1]


def _verify(folder: Path) -> dict[str, Any]:
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or not {"schema", "progress", "settings", "sha256"} <= state.keys():
        raise CheckpointError(f"{folder / 'state.json'} does not describe a checkpoint.")
    if state["schema"] > SCHEMA:
        raise CheckpointError(f"{folder} was written by a newer version (schema {state['schema']}); update trunkline.")
    for name, digest in state["sha256"].items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{name} is missing.")
        if sha256_file(folder / name) != digest:
            raise CheckpointError(f"{name} is not what was written (its SHA-256 differs).")
    return state


def _is_whole(folder: Path) -> bool:
    try:
        _verify(folder)
    except (CheckpointError, StorageError):
        return False
    return True


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
    state = _verify(folder)
    check_unchanged(state["settings"], settings, folder)
    load_exactly(task, _read(folder / "model.safetensors"), folder / "model.safetensors")
    parameters = dict(task.named_parameters())
    for name, value in _read(folder / "optimizer.safetensors").items():
        key, _, parameter = name.partition("/")
        if parameter not in parameters:
            raise CheckpointError(f"{folder / 'optimizer.safetensors'} holds {name!r}, which the task does not have.")
        optimizer.state[parameters[parameter]][key] = value.to(parameters[parameter].device)
    if average is not None:
        for name, value in _read(folder / "ema.safetensors").items():
            average.values[name].copy_(value)
    return Progress.from_json(state["progress"], items), state["scaler"]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error


def load_exactly(task: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load a state dict; a tensor missing, left over or of another shape is a `CheckpointError` that names it."""
    own = task.state_dict()
    faults = [f"{name} is missing" for name in sorted(own.keys() - tensors.keys())]
    faults += [f"{name} is left over" for name in sorted(tensors.keys() - own.keys())]
    for name in sorted(own.keys() & tensors.keys()):
        if own[name].shape != tensors[name].shape:
            faults.append(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}")
    if faults:
        raise CheckpointError(f"{source} does not fit the task: {'; '.join(faults[:5])}.")
    task.load_state_dict(dict(tensors))


def load_weights(folder: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the weights of a checkpoint as a state dict, with the running average in place if `ema`."""
    folder = Path(folder)
    averaged = _read(folder / "ema.safetensors") if ema else {}
    return _read(folder / "model.safetensors") | averaged


def average_checkpoints(folders: Sequence[str | Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of several checkpoints; whole numbers are those of the last."""
    if not folders:
        raise CheckpointError("There are no checkpoints to average.")
    states = [load_weights(folder) for folder in folders]
    for folder, state in zip(folders, states, strict=True):
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in states[0].items()}:
            raise CheckpointError(f"{folder} holds other tensors than {folders[0]}; they cannot be averaged.")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Raise a ConfigError that names every setting in which a resumed run differs from the one it continues."""
    before, after = _flat(old), _flat(json.loads(json.dumps(new)))
    changed = [
        f"{key} ({before.get(key)} -> {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.rpartition(".")[2] not in FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(
            f"Cannot resume from {folder}: it was made with other settings: {', '.join(changed)}. "
            "Put them back, or train in another folder."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
