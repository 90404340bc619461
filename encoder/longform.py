"""Recordings of any length, one or many, without padding and in bounded memory.

The features of all recordings form one tape, which is cut into blocks; a block may hold the end of one recording,
some whole ones and the beginning of the next. Each block is one step of `encoder.streaming`, so a frame is what it is
alone, whatever the block holds beside it and wherever it was cut. One hour and one second cost one hour and one second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from encoder.config import SUBSAMPLING, Context
from encoder.conformer import stacked
from encoder.encoded import Encoded
from encoder.features import init_features, step_features
from encoder.streaming import Step, Strand, advance, align, new_strand
from encoder.subsampling import num_frames
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from encoder.backbone import Backbone
    from encoder.shared import SharedTrunk

BLOCK_FRAMES = 768
"""Frames of one step, a minute: enough for fast matrix products, few enough for the cache."""
BLOCK_SECONDS = 2.0
"""Audio that is decoded and made features at once; what is computed on the way stays in the cache."""
LONGEST_FULL = 45_000
"""Frames (one hour) up to which full context is served: its memory grows with the length, its time with the square."""


def waveform_features(backbone: Backbone, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the features (features, mels) of a recording given in blocks of samples (samples,).

    Audio shorter than one receptive field is followed by silence up to it, so that a short word has one frame.
    """
    state, samples = init_features(1, backbone.feature_mean.device), 0
    for block in blocks:
        samples += len(block)
        features, state = step_features(backbone.log_mel, block[None], state)
        yield features[0]
    if missing := _missing(backbone, samples):
        silence = torch.zeros(1, missing, device=backbone.feature_mean.device)
        yield step_features(backbone.log_mel, silence, state)[0][0]


def _missing(backbone: Backbone, samples: int) -> int:
    return max(0, backbone.receptive_field - samples) if samples else 0


class Piece(NamedTuple):
    """Frames of one recording, which follow those of its piece before."""

    recording: int
    encoded: list[Encoded]
    """For each branch."""


def encode_tape(
    trunk: SharedTrunk,
    recordings: Iterable[Iterable[Tensor]],
    context: Context,
    block: int = BLOCK_FRAMES,
) -> Iterator[Piece]:
    """Yield the frames of recordings, each given as blocks of features (features, mels), in their order.

    Args:
        trunk: the backbone, with the branches to compute.
        recordings: read one after the other, as far as a block needs.
        context: what each frame may see.
        block: frames of one step.

    Raises:
        UsageError: full context for a recording of more than an hour.
    """
    parts: list[_Part] = []
    room = full = SUBSAMPLING * block
    for number, features, last in _cut(recordings):
        if not parts or parts[-1].number != number:
            parts.append(_Part(number, _Place.of(trunk)))
        start = 0
        while features.shape[0] - start >= room:
            parts[-1].features.append(features[start : start + room])
            start += room
            parts[-1].ended = last and start == features.shape[0]
            yield from _advance(trunk, parts, context)
            parts = [part for part in parts[-1:] if not part.ended]
            room = full
        if parts and parts[-1].number == number:
            parts[-1].features.append(features[start:])
            parts[-1].ended = last
            room -= features.shape[0] - start
    if parts:
        yield from _advance(trunk, parts, context)


class _Place(NamedTuple):
    """Where a recording is: how many frames were given, what the layers keep, which of their frames are ahead."""

    given: int
    strand: Strand
    ahead: list[list[Tensor]]

    @classmethod
    def of(cls, trunk: SharedTrunk) -> _Place:
        strand = new_strand(trunk.plan(), 1, trunk.backbone.config.features.num_mels)
        return cls(
            0, strand, [[strand.layers[0].waiting] * len(numbers) for numbers in trunk.numbers]
        )


@dataclass
class _Part:
    """What a block holds of a recording."""

    number: int
    place: _Place
    features: list[Tensor] = field(default_factory=list)
    ended: bool = False


def _advance(trunk: SharedTrunk, parts: Sequence[_Part], context: Context) -> list[Piece]:
    """Take a step with the parts of a block; they are left without features, at where they are then."""
    steps = []
    for part in parts:
        new = trunk.backbone.normalise(torch.cat(part.features))[None]
        steps.append(Step(part.place.strand, new, part.ended))
        _check_full(part.place.strand.received + new.shape[1], context)
    with trunk.evaluating():
        results = advance(trunk.plan(), steps, context)
    pieces = []
    for part, given in zip(parts, results, strict=True):
        done, count = part.place.given, given.ways[0].frames.shape[1]
        trunk.passed(count)
        encoded, ahead = [], []
        for waiting, way in zip(part.place.ahead, given.ways, strict=True):
            layers, rest = align(waiting, way)
            ahead.append(rest)
            lengths = torch.tensor([count], device=way.frames.device)
            times = trunk.backbone.times(count, done)
            encoded.append(Encoded(way.frames, lengths, stacked(layers), times))
        pieces.append(Piece(part.number, encoded))
        part.place = _Place(done + count, given.strand, ahead)
        part.features = []
    return pieces


def _check_full(features: int, context: Context) -> None:
    if context.is_full and num_frames(features) > LONGEST_FULL:
        raise UsageError(
            f"Full context sees a whole recording at once, and this one is longer than {LONGEST_FULL} frames (one "
            "hour). Give a limited context, such as Context(64, 128, 128), which has no limit."
        )


def _cut(recordings: Iterable[Iterable[Tensor]]) -> Iterator[tuple[int, Tensor, bool]]:
    """Yield (number of the recording, features, whether they are its last); each recording has a last block."""
    for number, blocks in enumerate(recordings):
        before = None
        for features in blocks:
            if before is not None:
                yield number, before, False
            before = features
        if before is not None:
            yield number, before, True


def joined(backbone: Backbone, pieces: Sequence[Encoded], numbers: Sequence[int]) -> Encoded:
    """Return one recording's pieces as a whole; no pieces are a recording without frames."""
    if len(pieces) == 1:
        return pieces[0]
    nothing = backbone.feature_mean.new_zeros(1, 0, backbone.d_model)
    frames = torch.cat([piece.frames for piece in pieces], dim=1) if pieces else nothing
    layers = [piece.layers for piece in pieces if piece.layers is not None]
    whole = torch.cat(layers, dim=2) if layers else stacked([nothing] * len(numbers))
    lengths = torch.tensor([frames.shape[1]], device=frames.device)
    return Encoded(frames, lengths, whole, backbone.times(frames.shape[1]))
