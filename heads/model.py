"""Many heads on one trunk: a recording or a live line in, every head's answer out, from one pass of the encoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from encoder import Backbone, Context, Encoded, load_backbone
from encoder.backbone import Audio
from encoder.evaluation import evaluating
from encoder.shared import Branch, SharedTrunk
from heads.adapter import Adapter, describe_parameters
from heads.folder import load_head
from heads.head import Head, TrunkSpec
from heads.session import HeadSession, Line
from heads.trunk import check_device
from trunkline.errors import ConfigError, UsageError, nearest
from trunkline.log import get_logger

LIVE = Context(8, 40, 0)
"""Context of a live line by default: chunks of 0.64 s that see 3.2 s of the past."""

Vectors: TypeAlias = "Mapping[str, Any] | None"
"""A vector (vector_dim,) for each head that fuses one with the sound, by the head's name; None is a missing one."""

logger = get_logger(__name__)


class _Seat(NamedTuple):
    """Where a head sits: its branch of the trunk, and which of the branch's layers it asked for (None: none)."""

    branch: int
    rows: tuple[int, ...] | None


class MultiHeadModel(nn.Module):
    """A trunk and heads by name; each head gets exactly the frames that it gets alone.

    Heads without an adapter, or with equal ones, share everything; others share the layers below the lowest one that
    their adapter bends.
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Plan the pass.

        Raises:
            UsageError: no heads. ConfigError: a head for another kind of trunk, or a name that cannot be used.
        """
        super().__init__()
        if not heads:
            raise UsageError("A model needs at least one head.")
        spec = TrunkSpec.of(backbone)
        for name, head in heads.items():
            if head.trunk != spec:
                raise ConfigError(f"Head {name!r} needs a trunk of {head.trunk}, this is {spec}.")
        self.backbone = backbone
        try:
            self.heads = nn.ModuleDict(dict(heads))
        except KeyError as error:
            raise ConfigError(f"{error.args[0]}; give that head another name.") from error
        self._seats, branches = _seated(dict(heads), backbone)
        self.trunk = SharedTrunk(backbone, branches)

    def head(self, name: str) -> Head:
        """Return a head by its name."""
        if name not in self.heads:
            raise UsageError(f"This model has no head {name!r}.{nearest(name, self.heads)}")
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    @property
    def saved_layer_passes(self) -> int:
        """How many layer passes are saved for each recording, against heads that each run the encoder alone."""
        return len(self.heads) * self.backbone.num_layers - self.trunk.layer_passes

    def describe(self) -> str:
        """Return a text: each head's parameters, and what sharing saves."""
        lines = [
            f"{name}: {describe_parameters(self.head(name), self.backbone)}" for name in self.heads
        ]
        alone = len(self.heads) * self.backbone.num_layers
        lines.append(
            f"{self.trunk.layer_passes} layer passes instead of {alone}: {self.saved_layer_passes} saved by sharing"
        )
        return "\n".join(lines)

    def forward(
        self, features: Tensor, lengths: Tensor, *, context: Context = Context.full()
    ) -> dict[str, Any]:
        """Return every head's output for a padded batch of features; see `Backbone.forward`."""
        encoded = self.trunk.forward(features, lengths, context=context)
        self._check_adapters()
        return {name: self.head(name)(self.share(name, encoded)) for name in self.heads}

    def share(self, name: str, encoded: Sequence[Encoded]) -> Encoded:
        """Return what a head gets of what the trunk gave for its branches."""
        seat = self._seats[name]
        own = encoded[seat.branch]
        if seat.rows is None:
            return own._replace(layers=None)
        assert own.layers is not None
        whole = seat.rows == tuple(range(len(own.layers)))
        return own if whole else own._replace(layers=own.layers[list(seat.rows)])

    def outputs(
        self,
        audio: Audio,
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        heads: Iterable[str] | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the output (batch 1) of every head, or of some, for a recording of any length.

        Memory grows by what the heads keep: nothing for heads that pool, an output per frame for heads that answer
        for each. Arguments and errors are those of `Backbone.encode`; of `vectors` see `Line`.
        """
        names = list(self.heads) if heads is None else [*heads]
        line = Line(self, names, vectors=vectors)
        with torch.no_grad(), evaluating(*self.heads.values()):
            samples = line.hear(self.backbone.audio_blocks(audio, channel))
            for encoded in self._trunk_of(names).encode_blocks(samples, context=context):
                line.take(encoded)
            if line.frames:
                self._check_adapters(names)
            return line.end()

    def run(
        self,
        audio: Audio | list[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        heads: Iterable[str] | None = None,
        vectors: Vectors | Sequence[Vectors] = None,
    ) -> Any:
        """Return the result of every head, or of some, for a recording: {name: result}; for a list, a list of those.

        Of `vectors` see `classify`.
        """
        if not isinstance(audio, list | tuple):
            if vectors is not None and not isinstance(vectors, Mapping):
                raise UsageError("vectors: give {head: vector} for one recording.")
            outputs = self.outputs(
                audio, channel=channel, context=context, heads=heads, vectors=vectors
            )
            return self.decode(outputs)
        each = [None] * len(audio) if vectors is None else vectors
        if isinstance(each, Mapping) or len(each) != len(audio):
            raise UsageError(
                "vectors: for a list of recordings give a list as long of {head: vector} or None."
            )
        return self._batch(audio, channel, context, heads, each)

    def decode(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the results of outputs of batch 1, by head."""
        return {name: self.head(name).decode(output)[0] for name, output in outputs.items()}

    def transcribe(
        self,
        audio: Audio | list[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        head: str | None = None,
    ) -> Any:
        """Return what was said: a `Transcription` with `text` and `words`; for a list, a list of them.

        Args:
            audio: a file, or a waveform (samples,) in [-1, 1] at the trunk's rate; or a list of them.
            channel: of a file with several: 0, 1, "agent" or "customer".
            context: what each frame may see.
            head: which head, if several write text.

        Raises:
            UsageError: no head, or several, that write text. DataError: as `Backbone.encode`.
        """
        return self._one("transcribe", audio, channel, context, head)

    def classify(
        self,
        audio: Audio | list[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        vectors: Vectors | Sequence[Vectors] = None,
    ) -> Any:
        """Return the answers of all heads that classify or measure, {name: result}; see `transcribe`.

        Where nothing was heard (no frame at all, or digital silence only) the answer is None.

        Args:
            audio: as `transcribe` takes it, like `channel` and `context`.
            channel: of a file.
            context: what each frame may see.
            vectors: {head: vector} for heads that fuse one (text, context) with the sound, for a list of recordings a
                list of those. A head whose vector is not given, or None, answers from the sound alone.

        Raises:
            UsageError: a vector for a head that takes none. DataError: a vector that does not fit; as `transcribe`.
        """
        names = self._used_for("classify")
        return self.run(audio, channel=channel, context=context, heads=names, vectors=vectors)

    def track(
        self,
        audio: Audio | list[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
    ) -> Any:
        """Return the answers of all heads that answer for each frame, {name: result}; see `transcribe`."""
        names = self._used_for("track")
        return self.run(audio, channel=channel, context=context, heads=names)

    def embed_speaker(
        self,
        audio: Audio | list[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        head: str | None = None,
    ) -> Any:
        """Return the speaker's vector (dim,) as an array, empty if nothing was heard; see `transcribe`."""
        found = self._one("embed_speaker", audio, channel, context, head)
        many = isinstance(audio, list | tuple)
        return (
            [np.asarray(one, np.float32) for one in found]
            if many
            else np.asarray(found, np.float32)
        )

    def stream(
        self,
        context: Context = LIVE,
        *,
        sample_rate: int | None = None,
        vectors: Vectors = None,
    ) -> HeadSession:
        """Return a session for one live voice; see `HeadSession`, and of `vectors` `classify`."""
        return HeadSession(self, context, sample_rate=sample_rate, vectors=vectors)

    def _one(self, use: str, audio: Any, channel: Any, context: Context, head: str | None) -> Any:
        names = self._used_for(use)
        if head is None and len(names) > 1:
            raise UsageError(f"Several heads {use}: {', '.join(names)}; choose one by head=.")
        name = names[0] if head is None else head
        if name not in names:
            raise UsageError(f"Head {name!r} does not {use}.{nearest(name, names)}")
        found = self.run(audio, channel=channel, context=context, heads=[name])
        return [one[name] for one in found] if isinstance(found, list) else found[name]

    def _used_for(self, use: str) -> list[str]:
        names = [name for name in self.heads if self.head(name).use == use]
        if not names:
            there = ", ".join(f"{name} ({self.head(name).use})" for name in self.heads)
            raise UsageError(f"No head of this model can {use}; it has {there}.")
        return names

    def _trunk_of(self, names: Sequence[str]) -> SharedTrunk:
        """Return the trunk; branches that nobody listens to stay, so that branch numbers do too, if any is needed."""
        if set(names) == set(self.heads):
            return self.trunk
        asked = {self._seats[name].branch for name in names}
        first = min(asked)
        # A branch without listeners repeats the first one, which costs nothing.
        branches = [
            branch if place in asked else self.trunk.branches[first]
            for place, branch in enumerate(self.trunk.branches)
        ]
        return SharedTrunk(self.backbone, branches)

    def _batch(
        self,
        items: Sequence[Audio],
        channel: Any,
        context: Context,
        heads: Iterable[str] | None,
        vectors: Sequence[Vectors],
    ) -> list[dict[str, Any]]:
        names = list(self.heads) if heads is None else [*heads]
        lines = [Line(self, names, vectors=own) for own in vectors]
        with torch.no_grad(), evaluating(*self.heads.values()):
            samples = (
                line.hear(self.backbone.audio_blocks(item, channel))
                for line, item in zip(lines, items, strict=True)
            )
            trunk = self._trunk_of(names)
            for number, encoded in trunk.batch_blocks(samples, context=context):
                lines[number].take(encoded)
            if any(line.frames for line in lines):
                self._check_adapters(names)
            return [self.decode(line.end()) for line in lines]

    def _check_adapters(self, names: Iterable[str] | None = None) -> None:
        for name in self.heads if names is None else names:
            adapter = self.head(name).adapter
            if isinstance(adapter, Adapter) and adapter is self._adapter_of(name):
                adapter.check_called()

    def _adapter_of(self, name: str) -> object:
        return self.trunk.branches[self._seats[name].branch].adapters


def _seated(heads: Mapping[str, Head], backbone: Backbone) -> tuple[dict[str, _Seat], list[Branch]]:
    """Return where each head sits, and a branch for each adapter; equal adapters are one."""
    adapters: list[nn.Module | None] = []
    places: dict[str, int] = {}
    for name, head in heads.items():
        found = next((i for i, one in enumerate(adapters) if _equal(one, head.adapter)), None)
        if found is None:
            found = len(adapters)
            adapters.append(head.adapter)
        places[name] = found
    wanted: list[set[int]] = [set() for _ in adapters]
    for name, head in heads.items():
        wanted[places[name]] |= set(backbone.layer_numbers(head.layers))
    seats = {}
    for name, head in heads.items():
        numbers = sorted(wanted[places[name]])
        own = sorted(backbone.layer_numbers(head.layers))
        rows = tuple(numbers.index(number) for number in own) if own else None
        seats[name] = _Seat(places[name], rows)
    branches = [
        Branch(adapter, sorted(numbers) or None)  # type: ignore[arg-type]
        for adapter, numbers in zip(adapters, wanted, strict=True)
    ]
    return seats, branches


def _equal(one: nn.Module | None, other: nn.Module | None) -> bool:
    """Return whether two adapters bend the trunk in the same way."""
    if one is None or other is None or one is other:
        return one is other
    if type(one) is not type(other) or not isinstance(one, Adapter):
        return False
    ours, theirs = one.state_dict(), other.state_dict()
    return (
        one.options == other.options  # type: ignore[union-attr]
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def load_model(
    trunk: str | os.PathLike[str] | Backbone,
    heads: Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]],
    *,
    kinds: Mapping[str, str] | None = None,
    any_trunk: bool = False,
    device: str | torch.device | None = None,
) -> MultiHeadModel:
    """Open a trunk and head directories, ready to use.

        model = load_model("runs/backbone", ["runs/ctc", "runs/intent"])
        print(model.transcribe("call.wav", channel="customer").text)

    Args:
        trunk: a backbone, or what `load_backbone` takes.
        heads: head directories, called by their folders' names; or {name: directory}.
        kinds: where heads of your own come from: ``{"promise": "examples.custom_head:PromiseHead"}``.
        any_trunk: take heads that were trained on another trunk.
        device: where to; the CPU by default.

    Raises:
        CheckpointError: a directory that is incomplete, altered, or of another trunk.
        UsageError: no heads, two of one name, or a device that there is none of.
    """
    if device is not None:
        check_device(device)
    backbone = trunk if isinstance(trunk, Backbone) else load_backbone(trunk, device=device)
    if isinstance(heads, str | os.PathLike):
        heads = [heads]
    if isinstance(heads, Mapping):
        folders = {name: Path(folder) for name, folder in heads.items()}
    else:
        folders = {Path(folder).resolve().name: Path(folder) for folder in heads}
        if len(folders) < len(heads):
            raise UsageError(
                "Two of the head directories have the same name; give {name: directory} instead of a list."
            )
    opened = {
        name: load_head(folder, backbone, kinds=kinds, any_trunk=any_trunk)
        for name, folder in folders.items()
    }
    model = MultiHeadModel(backbone, opened).eval()
    logger.info("%s", model.describe())
    return model
