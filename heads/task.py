"""The task of training heads: several heads on one trunk, each on the items that have its label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from encoder import Backbone, Encoded
from encoder.masks import length_mask
from encoder.shared import Branch, SharedTrunk
from heads.adapter import Adapter
from heads.config import HeadsConfig
from heads.data import Batch
from heads.frames import OUTPUT
from heads.head import Head
from heads.trunk_groups import match_parameters, set_trainable
from trunkline.errors import ConfigError, TrainingError
from trunkline.log import get_logger

logger = get_logger(__name__)


class JointTask(nn.Module):
    """A trunk and its heads as one task of `trunkline.training.train`.

    A frozen trunk is no submodule: its weights are in no checkpoint and it is never in training mode.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        config: HeadsConfig,
        rows: Sequence[int] = (),
    ) -> None:
        """Freeze what the settings do not name.

        Args:
            backbone: the trunk.
            heads: by name.
            config: settings of the run.
            rows: what `Batch.frames` holds, where frames are kept.

        Raises:
            ConfigError: a group of `trunk.train` or `trunk.freeze` means nothing, or a head's name cannot be used.
        """
        super().__init__()
        self.config, self.rows = config, tuple(rows)
        names = match_parameters(backbone, config.trunk.train, "trunk.train")
        names -= match_parameters(backbone, config.trunk.freeze, "trunk.freeze")
        if config.trunk.train and not names:
            raise ConfigError("trunk.freeze freezes all that trunk.train names; leave both out.")
        self.trunk_learns = set_trainable(backbone, names) > 0
        self._frozen = None if self.trunk_learns else [backbone]
        if self.trunk_learns:
            self.backbone = backbone
        try:
            self.heads = nn.ModuleDict(dict(heads))
        except KeyError as error:
            raise ConfigError(f"heads: {error.args[0]}; give that head another name.") from error
        self.updates = 0
        """Updates made, the running one included."""

    @property
    def trunk(self) -> Backbone:
        """The backbone."""
        return self.backbone if self._frozen is None else self._frozen[0]

    def head(self, name: str) -> Head:
        """Return a head by name."""
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def begin_step(self, step: int, total: int) -> None:
        """Tell the heads that want to know that an update begins."""
        self.updates = step + 1
        for head in self.heads.values():
            if begin := getattr(head, "begin_step", None):
                begin(step, total)

    def train(self, mode: bool = True) -> JointTask:
        """Set the mode; batch normalisation learns its statistics only if `trunk.batch_norm` says so."""
        super().train(mode)
        if self.config.trunk.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  (torch has no public base)
                    module.training = False
        return self

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the groups of AdamW: every head, adapter and the trunk with its own learning rate."""
        groups: list[dict[str, Any]] = []
        base = self.config.train.lr
        for name, head in self.heads.items():
            assert isinstance(head, Head)
            wanted = self.config.heads[name]
            rate = wanted.lr or base
            deep = head.options.adapter.kind in ("last", "full")
            adapted = wanted.adapter_lr or (self.config.trunk.lr if deep else rate)
            bent = set() if head.adapter is None else {id(p) for p in head.adapter.parameters()}
            own = [p for p in head.parameters() if p.requires_grad]
            groups += _groups([p for p in own if id(p) not in bent], rate / base, weight_decay)
            groups += _groups([p for p in own if id(p) in bent], adapted / base, weight_decay)
        if self.trunk_learns:
            learns = [p for p in self.trunk.parameters() if p.requires_grad]
            groups += _groups(learns, self.config.trunk.lr / base, weight_decay)
        return groups

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the weighted sum of the heads' losses, each the mean over its labelled items.

        A head without a labelled item in the batch adds nothing.

        Raises:
            TrainingError: no item has a label.
        """
        total: Tensor | None = None
        metrics: dict[str, float | Tensor] = {}
        for name, output, labels in self.outputs(batch):
            loss, told = self.head(name).loss(output, labels)
            metrics |= {f"{name}/{key}": value for key, value in told.items()}
            metrics |= {f"{name}/loss": loss.detach(), f"{name}/items": float(len(labels))}
            weighted = self.config.heads[name].weight * loss
            total = weighted if total is None else total + weighted
        if total is None:
            raise TrainingError(
                f"No item of the batch with {', '.join(batch['ids'][:3])} has a label."
            )
        return total, metrics

    def outputs(self, batch: Batch) -> Iterator[tuple[str, Any, list[Any]]]:
        """Yield (name, output, labels) of each head, for the items that have its label."""
        chosen = {
            name: found
            for name in self.heads
            if (found := [i for i, label in enumerate(batch["labels"][name]) if label is not None])
        }
        encoded = {} if batch["frames"] is not None else self._encoded(batch, chosen)
        for name, places in chosen.items():
            head = self.head(name)
            frames = encoded[name] if encoded else self._kept(batch, head, places)
            output = self._output(head, self._cropped(frames, name), batch, name, places)
            yield name, output, [batch["labels"][name][i] for i in places]

    def _encoded(self, batch: Batch, chosen: Mapping[str, Sequence[int]]) -> dict[str, Encoded]:
        """Return the frames of each head's items; heads of the same items share what no adapter of theirs bends."""
        passes: dict[tuple[int, ...], list[str]] = {}
        for name, places in chosen.items():
            # Without an adapter a head takes its items from one pass over all of them.
            rows = places if self.head(name).adapter is not None else range(len(batch["ids"]))
            passes.setdefault(tuple(rows), []).append(name)
        found = {}
        for rows, names in passes.items():
            bent = [name for name in names if self.head(name).adapter is not None]
            branches = [Branch(self.head(name).adapter, self.head(name).layers) for name in bent]  # type: ignore[arg-type]
            if len(bent) < len(names):
                branches.append(Branch(None, "all"))
            ways = self._encode(batch, branches, rows)
            found |= dict(zip(bent, ways[: len(bent)], strict=True))
            for name in set(names) - set(bent):
                found[name] = _at(ways[-1], chosen[name], self.head(name))
        return found

    def _output(
        self, head: Head, encoded: Encoded, batch: Batch, name: str, chosen: Sequence[int]
    ) -> Any:
        if name not in batch["vectors"]:
            return head(encoded)
        values = [batch["vectors"][name][i] for i in chosen]
        return head(encoded, head.vectors(values).to(encoded.frames.device))  # type: ignore[operator]

    def _encode(
        self, batch: Batch, branches: Sequence[Branch], rows: Sequence[int]
    ) -> list[Encoded]:
        """Run the trunk over some items, with gradients only where something in it learns."""
        assert batch["features"] is not None
        places = torch.as_tensor(rows, device=batch["lengths"].device)
        lengths = batch["lengths"][places]
        features = batch["features"][places, : int(lengths.max())]
        if self.trunk.feature_mean.device != features.device:
            self.trunk.to(features.device)
        learns = self.trunk_learns or any(branch.adapters is not None for branch in branches)
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            trunk = SharedTrunk(self.trunk, branches)
            return trunk.forward(features, lengths, context=batch["context"])

    def _kept(self, batch: Batch, head: Head, chosen: Sequence[int]) -> Encoded:
        kept = batch["frames"]
        assert kept is not None
        layers = None
        if head.layers is not None:
            numbers = range(head.trunk.num_layers + 1) if head.layers == "all" else head.layers
            layers = kept[[self.rows.index(number) for number in numbers]]
        times = self.trunk.times(kept.shape[2]).to(kept.device)
        frames = kept[self.rows.index(OUTPUT)]
        return _rows(Encoded(frames, batch["lengths"], layers, times), chosen)

    def _cropped(self, encoded: Encoded, name: str) -> Encoded:
        """Return a random stretch of each item, in training, if the head is shown stretches."""
        seconds = self.config.heads[name].crop_seconds
        if not (seconds and self.training):
            return encoded
        return crop(encoded, max(1, round(seconds / self.trunk.frame_shift)))


def crop(encoded: Encoded, frames: int) -> Encoded:
    """Return `frames` frames of each item from a random place (torch's generator), shorter items as they are."""
    spare = (encoded.lengths - frames).clamp_min(0)
    first = (torch.rand(len(spare)).to(spare.device) * (spare + 1)).long().clamp_max(spare)
    lengths = encoded.lengths.clamp_max(frames)
    places = first[:, None] + torch.arange(int(lengths.max()), device=spare.device)
    places = places.clamp_max(encoded.frames.shape[1] - 1)
    valid = length_mask(lengths, places.shape[1])[..., None]

    def taken(tensor: Tensor) -> Tensor:
        index = places[..., None].expand(-1, -1, tensor.shape[-1])
        return tensor.gather(1, index).masked_fill(~valid, 0.0)

    layers = None if encoded.layers is None else torch.stack([taken(x) for x in encoded.layers])
    return Encoded(taken(encoded.frames), lengths, layers, encoded.times[: places.shape[1]])


def check_gradients(task: JointTask, batches: Iterator[Batch | None], most: int = 50) -> list[str]:
    """Make sure, before training, that every part that is to learn gets a gradient.

    What of an adapter or the trunk lies beyond the layers that the heads ask for cannot learn: it is frozen.

    Returns:
        The names of what was frozen.

    Raises:
        TrainingError: a head has no labelled item in the first `most` batches, a parameter of a head has no gradient,
            or an adapter was never called or has no gradient at all.
    """
    left = set(task.heads)
    buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
    task.train()
    for _ in range(most):
        if not left:
            break
        batch = next(batches)
        here = {n for n in left if batch and any(x is not None for x in batch["labels"][n])}
        if batch is not None and here:
            task.loss(batch)[0].backward()
            left -= here
    learning = {name: p for name, p in task.named_parameters() if p.requires_grad}
    silent = [name for name, parameter in learning.items() if parameter.grad is None]
    task.zero_grad(set_to_none=True)
    for name, buffer in task.named_buffers():  # a head may count its steps
        buffer.copy_(buffers[name])
    if left:
        raise TrainingError(
            f"Head {sorted(left)[0]!r} has no labelled item in the first {most} batches; raise its source's weight."
        )
    for head in task.heads.values():
        if isinstance(head.adapter, Adapter):
            head.adapter.check_called()
    deaf = [name for name in silent if ".adapter." not in name and not name.startswith("backbone.")]
    for part in {_part(name) for name in silent if name not in deaf}:
        own = [name for name in learning if _part(name) == part]
        deaf += own if set(own) <= set(silent) else []
    if deaf:
        raise TrainingError(
            f"{len(deaf)} parameters got no gradient, such as {', '.join(deaf[:3])}: no loss depends on them, so they "
            "cannot learn."
        )
    for name in silent:
        learning[name].requires_grad_(False)
    if silent:
        logger.info(
            "%d parameters lie beyond the layers that the heads ask for and stay as they are: %s",
            len(silent),
            ", ".join(silent[:3]),
        )
    return silent


def _part(name: str) -> str:
    """Return what a parameter of the trunk or of an adapter belongs to."""
    return name.partition(".adapter.")[0] if ".adapter." in name else "backbone"


def _at(shared: Encoded, chosen: Sequence[int], head: Head) -> Encoded:
    """Return some items of a shared pass, with the layers that a head asks for."""
    layers = shared.layers
    if head.layers is None:
        layers = None
    elif head.layers != "all":
        assert layers is not None
        layers = layers[list(head.layers)]
    return _rows(shared._replace(layers=layers), chosen)


def _rows(encoded: Encoded, chosen: Sequence[int]) -> Encoded:
    """Return some items of a batch, without padding that none of them needs."""
    rows = torch.as_tensor(chosen, device=encoded.lengths.device)
    lengths = encoded.lengths[rows]
    longest = int(lengths.max())
    layers = None if encoded.layers is None else encoded.layers[:, rows, :longest]
    return Encoded(encoded.frames[rows, :longest], lengths, layers, encoded.times[:longest])


def _groups(parameters: list[nn.Parameter], scale: float, decay: float) -> list[dict[str, Any]]:
    """Return AdamW groups of matrices, which decay, and of the rest."""
    matrices = [p for p in parameters if p.ndim >= 2]
    rest = [p for p in parameters if p.ndim < 2]
    assert math.isfinite(scale)
    return [
        {"params": params, "weight_decay": weight, "lr_scale": scale}
        for params, weight in ((matrices, decay), (rest, 0.0))
        if params
    ]
