"""The contract of a head: frames of the trunk in, the answer to one task out.

A head is an `nn.Module`. It never sees files, loaders or the encoder: `heads.model` runs the trunk and hands over what
`Head.layers` asks for, `heads.train` hands over labels. In the shortest case a head says what its options are, how
labels become an inventory (`prepare`), and defines `forward`, `loss` and `decode`:

    @register_head("promise")
    class PromiseHead(PooledHead): ...

Three bases differ in what a live stream does. `FrameHead`: every step gives the answer for its frames. `PooledHead`:
running sums are kept, the answer comes at the end. `Head` itself: the frames are kept and `forward` runs at the end,
which is right for any head and needs memory that grows with the turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from encoder import Backbone, Encoded
from heads.adapter_options import AdapterOptions
from heads.layer_mix import LayerMix
from heads.pieces import join_encoded
from heads.pooling import Pooling, PoolingName, PoolState, with_recent
from trunkline.errors import CheckpointError, ConfigError, DataError
from trunkline.settings import read_settings, settings_to_dict


class TrunkSpec(NamedTuple):
    """What a head may know about its trunk."""

    dim: int
    """Width of a frame."""
    num_layers: int
    frame_shift: float
    """Seconds between two frames."""
    sample_rate: int
    """Hz."""

    @classmethod
    def of(cls, backbone: Backbone) -> TrunkSpec:
        """Return what a head may know about this backbone."""
        return cls(
            backbone.d_model, backbone.num_layers, backbone.frame_shift, backbone.sample_rate
        )


@dataclass(frozen=True)
class HeadLabels:
    """What a head learnt about its labels before training; plain JSON, saved with the head."""

    names: tuple[str, ...] = ()
    """Classes in the order of the outputs."""
    counts: tuple[int, ...] = ()
    """How many training items each class has; empty where it is not known."""
    tokenizer: dict[str, Any] | None = None
    """`Tokenizer.to_dict()`, for heads that write text."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else a head needs, such as the values of each slot or the mean of a target."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HeadLabels:
        """Read what `to_json` wrote."""
        return cls(
            tuple(values["names"]), tuple(values["counts"]), values["tokenizer"], values["extra"]
        )


@dataclass(frozen=True)
class HeadOptions:
    """The settings that every head has; `Options` of a head derives from it."""

    label: str = ""
    """Key of the label in the manifest; the head's own name for it where empty."""
    layers: Literal["all", "last"] | tuple[int, ...] = "all"
    """Encoder layers to mix by a learned softmax (0 is the subsampled input), or only the encoder's output."""
    adapter: AdapterOptions = field(default_factory=AdapterOptions)


class KeptFrames(NamedTuple):
    """State of a stream whose head needs everything at once: pieces so far."""

    pieces: tuple[Encoded, ...] = ()


class Head(nn.Module):
    """Base of every head; see the module's text.

    Tensors of an output are batch-first. An output with a time axis has `lengths` (batch,), and nothing at padding or
    of batch mates may reach an item's output. An item of no frames has an output too: finite, and decoded to nothing
    or to "not known".
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    kind: ClassVar[str] = ""
    """The registered name; `register_head` sets it."""
    default_label: ClassVar[str] = ""
    """Key of the label where the options give none; the kind if empty."""
    use: ClassVar[Literal["classify", "transcribe", "embed_speaker", "track"]] = "classify"
    """Which method of a loaded model asks this head; `track` gives an answer for every frame."""

    def __init__(
        self, options: HeadOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        """Build the layers that every head has; a subclass adds its own.

        Raises:
            ConfigError: layers that the trunk does not have.
        """
        super().__init__()
        self.options = options
        self.trunk = trunk
        self.labels = labels
        self.adapter: nn.Module | None = None
        """What bends the trunk for this head, from `heads.adapter.attach_adapter`; None bends nothing."""
        self.calibration: dict[str, Any] = {}
        """Plain JSON that dev data decided after training (temperature, threshold); saved with the head."""
        self.mix = None if options.layers == "last" else LayerMix(len(self._numbers()))

    @property
    def layers(self) -> Literal["all"] | tuple[int, ...] | None:
        """Which encoder layers `forward` wants in `Encoded.layers`, as `Backbone.forward` takes them."""
        if self.options.layers == "last":
            return None
        return "all" if self.options.layers == "all" else self._numbers()

    @property
    def label_key(self) -> str:
        """Key of the label in a cut: `cut.label(head.label_key)`, None where the cut has none."""
        return self.options.label or self.default_label or self.kind

    def _numbers(self) -> tuple[int, ...]:
        numbers = tuple(range(self.trunk.num_layers + 1))
        if isinstance(self.options.layers, str):
            return numbers
        chosen = tuple(sorted(set(self.options.layers)))
        if not chosen or not set(chosen) <= set(numbers):
            raise ConfigError(
                f"layers={list(self.options.layers)}: this trunk has layers 0 to {self.trunk.num_layers}."
            )
        return chosen

    def inputs(self, encoded: Encoded) -> Tensor:
        """Return the frames (batch, frames, dim) that this head works on: its layers mixed, zero at padding."""
        if self.mix is None:
            return encoded.frames
        assert encoded.layers is not None
        return self.mix(encoded.layers, encoded.lengths)

    @classmethod
    def prepare(cls, options: Any, labels: Iterable[Any]) -> HeadLabels | None:
        """Return the inventory that a head of these options needs, from the labels of the training cuts.

        Raises:
            DataError: labels that no head can learn from (none at all, one class only, of another type).
        """
        return None

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError that names the labels this head has no output for (not seen in training, ill-typed)."""

    def forward(self, encoded: Encoded) -> Any:
        """Return the output, a NamedTuple; `encoded` has the layers that `layers` asks for, in rising order."""
        raise NotImplementedError

    def loss(self, output: Any, labels: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of the batch's items and metrics of it.

        Args:
            output: of `forward`.
            labels: one raw label per item, as it stands in the manifest; never None.
        """
        raise NotImplementedError

    def decode(self, output: Any) -> list[Any]:
        """Return one result per item: a str, number, dict or NamedTuple of such, that `json` can write."""
        raise NotImplementedError

    def hush(self, output: Any, silent: Tensor) -> Any:
        """Return the output of one recording (batch 1) of which `silent` (frames,) bool tells what heard no sound.

        A head that would make an answer of digital silence says here what it answers instead.
        """
        return output

    def begin_step(self, step: int, total: int) -> None:
        """Learn that update `step` (from 0) of `total` begins; heads with a schedule of their own use it."""

    def init_state(self, batch: int) -> Any:
        """Return the state of streams that have not begun: a NamedTuple, changed by nobody."""
        return KeptFrames()

    def step(self, encoded: Encoded, state: Any) -> tuple[Any | None, Any]:
        """Take new frames of the streams; return what is known now (or None), and the new state."""
        return None, KeptFrames((*state.pieces, encoded))

    def finish(self, state: Any) -> Any | None:
        """End the streams; return the output that is known only now, or None if the steps gave everything."""
        return self.forward(join_encoded(state.pieces, self.trunk.dim, self._layer_count()))

    def init_live(self) -> Any:
        """Return what `live` has to remember of a live line on which nothing has been said."""

    def live(self, output: Any, state: Any) -> tuple[Any, Any]:
        """Return what a live line shows of the output of its newest step, and what to remember.

        By default that is the result for the new frames alone, without a memory.
        """
        return self.decode(output)[0], state

    def join(self, outputs: Sequence[Any]) -> Any:
        """Return what `forward` gives for the whole, from what the steps and the end of a stream gave."""
        return outputs[-1]

    def _layer_count(self) -> int:
        return 0 if self.options.layers == "last" else len(self._numbers())

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON from which `from_config` makes a head of the same shape, labels included."""
        return {
            "kind": self.kind,
            "class": f"{type(self).__module__}:{type(self).__qualname__}",
            "options": settings_to_dict(self.options),
            "trunk": self.trunk._asdict(),
            "labels": None if self.labels is None else self.labels.to_json(),
            "calibration": self.calibration,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Head:
        """Return a head as `to_config` described it, with new weights.

        Raises:
            CheckpointError: a key is missing or unknown, or of another type.
        """
        try:
            labels = config["labels"]
            head = cls(
                read_settings(cls.Options, config["options"]),
                TrunkSpec(**config["trunk"]),
                None if labels is None else HeadLabels.from_json(labels),
            )
            head.calibration = dict(config["calibration"])
        except (KeyError, TypeError, ConfigError, DataError) as error:
            raise CheckpointError(
                f"The configuration of the head {cls.kind!r} is incomplete or altered: {error}"
            ) from error
        return head


class FrameHead(Head):
    """A head whose output at a frame depends on that frame alone, so that a stream's steps give everything."""

    def init_state(self, batch: int) -> Any:
        """Return the empty state."""
        return ()

    def step(self, encoded: Encoded, state: Any) -> tuple[Any | None, Any]:
        """Return the output for the new frames."""
        return self.forward(encoded), state

    def finish(self, state: Any) -> Any | None:
        """Return None: the steps have given everything."""
        return None

    def join(self, outputs: Sequence[Any]) -> Any:
        """Return the outputs of the steps one after the other, for one stream."""
        first = outputs[0]
        joined = {
            name: sum(getattr(output, name) for output in outputs)
            if name == "lengths"
            else torch.cat(
                [getattr(output, name)[:, : output.lengths.max()] for output in outputs], 1
            )
            for name in first._fields
        }
        return first._replace(**joined)


@dataclass(frozen=True)
class PooledOptions(HeadOptions):
    """The settings of heads that make one vector of a turn."""

    pooling: PoolingName = "attention"
    """mean, max, or attention (attentive statistics: weighted mean and deviation)."""
    hidden: int = 128
    """Width of the frames' projection before pooling; 0 is none."""
    context: int = 1
    """So many neighbouring frames are projected together: 5 (0.4 s) let a head hear words and not only sounds."""
    dropout: float = 0.1
    """Of the frames, before and after the projection."""

    def __post_init__(self) -> None:
        if self.hidden < 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"hidden={self.hidden} must be 0 or more, dropout={self.dropout} in [0, 1)."
            )
        if self.context < 1 or (self.context > 1 and not self.hidden):
            raise ConfigError(
                f"context={self.context} must be 1 or more, and more than 1 needs a projection (hidden above 0)."
            )


class PooledHead(Head):
    """A head that answers once for a turn: frames are projected and pooled, `classify` makes the output.

    A subclass defines `classify`, `loss` and `decode`; `self.pooled_dim` is the width of what it gets.
    """

    Options: ClassVar[type[HeadOptions]] = PooledOptions

    def __init__(
        self, options: PooledOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        dim = options.hidden or trunk.dim
        width = options.context * trunk.dim
        self.project: nn.Module = (
            nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Dropout(options.dropout))
            if options.hidden
            else nn.Identity()
        )
        self.drop = nn.Dropout(options.dropout)
        self.pool = Pooling(options.pooling, dim, views=self.count_views(options, labels))
        self.pooled_dim = self.pool.output_dim

    @classmethod
    def count_views(cls, options: Any, labels: HeadLabels | None) -> int:
        """Return how many attentions there are; `pooled_dim` is the width of all that they see together."""
        return 1

    def classify(self, pooled: Tensor, lengths: Tensor) -> Any:
        """Return the output from pooled vectors (batch, pooled_dim) of turns of `lengths` (batch,) frames."""
        raise NotImplementedError

    def forward(self, encoded: Encoded) -> Any:
        """Pool all frames and classify."""
        return self.finish(self.step(encoded, self.init_state(len(encoded.lengths)))[1])

    def init_state(self, batch: int) -> PoolState:
        """Return sums over no frames, and no frames before the first."""
        recent = torch.zeros(batch, self.options.context - 1, self.trunk.dim)  # type: ignore[attr-defined]
        return self.pool.init_state(batch)._replace(recent=recent)

    def step(self, encoded: Encoded, state: Any) -> tuple[None, PoolState]:
        """Take new frames into the running sums."""
        frames = self.drop(self.inputs(encoded))
        frames, recent = with_recent(frames, encoded.lengths, state.recent)
        return None, self.pool.step(
            self.project(frames), encoded.lengths, state._replace(recent=recent)
        )

    def finish(self, state: Any) -> Any:
        """Return the output for everything the streams have said."""
        return self.classify(self.pool.finish(state), state.lengths)

    def hush(self, output: Any, silent: Tensor) -> Any:
        """Return the output of a recording without any sound as one that rests on no frames, others as they are."""
        if not len(silent) or not bool(silent.all()) or "lengths" not in output._fields:
            return output
        return output._replace(lengths=torch.zeros_like(output.lengths))
