"""One trunk under several heads: what their ways through the encoder have in common is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from encoder import live, longform
from encoder.adapters import Adapters
from encoder.config import Context
from encoder.conformer import encode_plan, stacked
from encoder.encoded import Encoded
from encoder.evaluation import evaluating
from encoder.masks import length_mask
from encoder.plan import Plan, make_plan
from encoder.state import StreamState
from trunkline.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from encoder.backbone import Audio, Backbone, Layers


class Branch(NamedTuple):
    """The encoder as one head sees it: bent by its adapters, with the layers it asks for."""

    adapters: Adapters | None = None
    layers: Layers = None


class SharedTrunk:
    """A backbone and the branches that heads ask of it; every method gives one `Encoded` for each branch.

    Each branch gives what the backbone gives with its adapters and layers alone: layers below the lowest adapted one
    are computed once for all, and branches of the same adapters are one. `Backbone.forward`, `encode`, `step` and the
    like are the case of a single branch.
    """

    def __init__(self, backbone: Backbone, branches: Sequence[Branch]) -> None:
        """Plan; raises a ConfigError for layers there are none of, a UsageError for no branches."""
        if not branches:
            raise UsageError("There are no branches to encode; give at least one.")
        self.backbone = backbone
        self.branches = tuple(branches)
        self.numbers = tuple(
            tuple(sorted(backbone.layer_numbers(branch.layers))) for branch in branches
        )
        """For each branch the layers that it returns, in rising order."""

    def plan(self) -> Plan:
        """Return what is computed, with modules and modes as they are now."""
        conformer = self.backbone.conformer
        views = {
            branch.adapters.key: branch.adapters.adapted(conformer)
            for branch in self.branches
            if branch.adapters is not None
        }
        ways = [
            conformer if branch.adapters is None else views[branch.adapters.key]
            for branch in self.branches
        ]
        return make_plan(ways, self.numbers)

    def passed(self, frames: int) -> None:
        """Tell the adapters that so many frames went through them."""
        for branch in self.branches:
            if frames and branch.adapters is not None:
                branch.adapters.passed()

    @property
    def layer_passes(self) -> int:
        """How many layers run for a recording."""
        return len(self.plan().layers)

    @property
    def layer_passes_alone(self) -> int:
        """How many would run if each branch were encoded alone."""
        return len(self.branches) * self.backbone.num_layers

    @property
    def stream_key(self) -> int:
        """A number by which states of these streams are told: of the backbone, and of the adapters if there are any."""
        keys = [branch.adapters.key for branch in self.branches if branch.adapters is not None]
        if not keys:
            return self.backbone.stream_key
        text = "\n".join([str(self.backbone.stream_key), *keys])
        return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)

    def evaluating(self) -> AbstractContextManager[None]:
        """Switch dropout off for a while, in the backbone and in the adapters."""
        return evaluating(self.backbone, *(branch.adapters for branch in self.branches))

    def forward(
        self, features: Tensor, lengths: Tensor, *, context: Context = Context.full()
    ) -> list[Encoded]:
        """Encode a padded batch of features (batch, features, mels); see `Backbone.forward`."""
        context.checked()
        mels = self.backbone.config.features.num_mels
        if features.ndim != 3 or features.shape[2] != mels:
            raise ConfigError(
                f"features has shape {tuple(features.shape)}; expected (batch, features, {mels})."
            )
        if lengths.shape != features.shape[:1] or (
            len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= features.shape[1]
        ):
            raise ConfigError(
                f"lengths {lengths.tolist()} do not fit features of shape {tuple(features.shape)}; "
                "give one length per item, from 0 to the batch's."
            )
        padding = ~length_mask(lengths, features.shape[1])[..., None]
        normalised = self.backbone.normalise(features).masked_fill(padding, 0.0)
        frame_lengths, given = encode_plan(self.plan(), normalised, lengths, context)
        times = self.backbone.times(given[0].frames.shape[1])
        self.passed(len(times))
        return [Encoded(way.frames, frame_lengths, stacked(way.layers), times) for way in given]

    def encode_blocks(
        self,
        audio: Audio,
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        block: int = longform.BLOCK_FRAMES,
    ) -> Iterator[list[Encoded]]:
        """Yield the frames of a recording piece by piece; see `Backbone.encode_blocks`."""
        context.checked()
        if block < 1:
            raise UsageError(f"A block of {block} frames cannot be; give at least 1.")
        blocks = self.backbone.audio_blocks(audio, channel)
        features = longform.waveform_features(self.backbone, blocks)
        return (piece.encoded for piece in longform.encode_tape(self, [features], context, block))

    def encode(
        self, audio: Audio, *, channel: int | str | None = None, context: Context = Context.full()
    ) -> list[Encoded]:
        """Encode a recording; see `Backbone.encode`."""
        return self._joined(list(self.encode_blocks(audio, channel=channel, context=context)))

    def encode_batch(
        self,
        items: Iterable[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        block: int = longform.BLOCK_FRAMES,
    ) -> list[list[Encoded]]:
        """Encode recordings of any lengths together; what `encode` returns for each. See `Backbone.encode_batch`."""
        items = list(items)
        pieces: list[list[list[Encoded]]] = [[] for _ in items]
        found = self.batch_blocks(items, channel=channel, context=context, block=block)
        for number, piece in found:
            pieces[number].append(piece)
        return [self._joined(found) for found in pieces]

    def batch_blocks(
        self,
        items: Iterable[Audio],
        *,
        channel: int | str | None = None,
        context: Context = Context.full(),
        block: int = longform.BLOCK_FRAMES,
    ) -> Iterator[tuple[int, list[Encoded]]]:
        """Yield (number of the recording, its next frames) of what `encode_batch` gives, in bounded memory."""
        context.checked()
        recordings = (self.backbone.feature_blocks(item, channel) for item in items)
        return iter(longform.encode_tape(self, recordings, context, block))

    def _joined(self, pieces: list[list[Encoded]]) -> list[Encoded]:
        return [
            longform.joined(self.backbone, [piece[n] for piece in pieces], numbers)
            for n, numbers in enumerate(self.numbers)
        ]

    def init_state(self, batch: int, context: Context) -> StreamState:
        """Return the state of streams that have not begun; see `Backbone.init_state`."""
        return live.begin(self, batch, context)

    def step(
        self, features: Tensor, state: StreamState, lengths: Tensor | None = None
    ) -> tuple[list[Encoded], StreamState]:
        """Feed streams; see `Backbone.step`."""
        return live.step(self, features, lengths, state)

    def finish(
        self, state: StreamState, streams: Iterable[int] | None = None
    ) -> tuple[list[Encoded], StreamState]:
        """End some streams; see `Backbone.finish`."""
        return live.finish(self, state, streams)
