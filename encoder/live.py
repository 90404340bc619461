"""Batches of live streams: features in, the frames they complete out, with the state as an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from encoder.config import Context
from encoder.encoded import Encoded
from encoder.plan import Plan
from encoder.schedule import given_frames
from encoder.state import Batch, Sizes, StreamState, new_state, put, stream_numbers, take
from encoder.streaming import Given, Step, advance, align
from encoder.subsampling import num_frames
from trunkline.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from encoder.shared import SharedTrunk


def begin(trunk: SharedTrunk, batch: int, context: Context) -> StreamState:
    """Return the state of `batch` streams that have not begun; see `Backbone.init_state`."""
    context.checked()
    if context.is_full:
        raise ConfigError(
            "A stream cannot have full context: no frame would come before its end. Choose one such as "
            "Context(8, 40, 0), or encode the whole recording."
        )
    if batch < 0:
        raise UsageError(f"A batch of {batch} streams cannot be.")
    mels = trunk.backbone.config.features.num_mels
    like = trunk.backbone.conformer.after_norm.weight.detach()
    sizes = _sizes(context, trunk.plan())
    return new_state(sizes, batch, mels, _numbers(trunk), trunk.stream_key, like)


def step(
    trunk: SharedTrunk,
    features: Tensor,
    lengths: Tensor | None,
    state: StreamState,
    ended: Iterable[int] = (),
) -> tuple[list[Encoded], StreamState]:
    """Feed streams, and end some of them; see `Backbone.step`."""
    ended = set(ended)
    news = _checked(trunk, features, lengths, state, ended)
    if not any(news) and not ended:
        return _encoded(trunk, state, []), state
    with trunk.evaluating():
        plan = trunk.plan()
        sizes = _sizes(Context(*state.context[0].tolist()), plan)
        received = state.received.tolist()
        phases: dict[tuple[int, int, bool], list[int]] = {}
        for place, new in enumerate(news):
            if new or place in ended:
                phase = (sizes.phase(received[place]), new, place in ended)
                phases.setdefault(phase, []).append(place)
        batches = [take(state, places, sizes) for places in phases.values()]
        normalised = trunk.backbone.normalise(features)
        steps = [
            Step(batch.strand, normalised[batch.places, :new], last)
            for batch, (_, new, last) in zip(batches, phases, strict=True)
        ]
        given = advance(plan, steps, sizes.context)
    trunk.passed(sum(one.ways[0].frames.shape[1] for one in given))
    results = []
    for batch, one in zip(batches, given, strict=True):
        ahead = iter(batch.ahead)
        aligned = [
            align(list(islice(ahead, len(numbers))), way)
            for numbers, way in zip(trunk.numbers, one.ways, strict=True)
        ]
        results.append(_Result(batch.places, one, *map(list, zip(*aligned, strict=True))))
    encoded = _encoded(trunk, state, results)
    kept = [Batch(item.places, item.given.strand, sum(item.ahead, [])) for item in results]
    added = torch.tensor(news, device=state.received.device)
    return encoded, put(state, kept, added, sorted(ended))


class _Result(NamedTuple):
    places: list[int]
    given: Given
    layers: list[list[Tensor]]
    """For each branch."""
    ahead: list[list[Tensor]]


def _encoded(trunk: SharedTrunk, state: StreamState, results: list[_Result]) -> list[Encoded]:
    """Return the frames of all streams of the batch as one padded batch, for each branch."""
    context, kernel = state.context.tolist(), trunk.backbone.config.kernel
    firsts = [
        given_frames(num_frames(received), Context(*limits), kernel, trunk.backbone.num_layers)
        for received, limits in zip(state.received.tolist(), context, strict=True)
    ]
    longest = max((result.given.ways[0].frames.shape[1] for result in results), default=0)
    times = [trunk.backbone.times(longest, first) for first in firsts]
    clocks = torch.stack(times) if times else trunk.backbone.times(0)[None][:0]
    lengths = torch.zeros(len(state.received), dtype=torch.int64, device=state.received.device)
    for result in results:
        lengths[result.places] = result.given.ways[0].frames.shape[1]
    encoded = []
    for branch in range(len(trunk.branches)):
        frames, layers = _padded(trunk, branch, len(lengths), longest, results)
        encoded.append(Encoded(frames, lengths, layers, clocks))
    return encoded


def _padded(
    trunk: SharedTrunk, branch: int, batch: int, longest: int, results: list[_Result]
) -> tuple[Tensor, Tensor | None]:
    """Return the frames (batch, longest, dim) of one branch, and its layers (number, batch, longest, dim) or None."""
    like = trunk.backbone.conformer.after_norm.weight.detach()
    if results:
        like = results[0].given.ways[branch].frames
    frames = like.new_zeros(batch, longest, trunk.backbone.d_model)
    layers = like.new_zeros(len(trunk.numbers[branch]), *frames.shape)
    for result in results:
        given = result.given.ways[branch].frames
        frames[result.places, : given.shape[1]] = given
        for target, layer in zip(layers, result.layers[branch], strict=True):
            target[result.places, : given.shape[1]] = layer
    return frames, layers if len(layers) else None


def _checked(
    trunk: SharedTrunk,
    features: Tensor,
    lengths: Tensor | None,
    state: StreamState,
    ended: Collection[int],
) -> list[int]:
    """Return how many features each stream gets, or raise what is wrong with them."""
    batch, mels = len(state.received), trunk.backbone.config.features.num_mels
    if features.ndim != 3 or features.shape[0] != batch or features.shape[2] != mels:
        raise ConfigError(
            f"features has shape {tuple(features.shape)}; this state needs ({batch} streams, features, {mels})."
        )
    if lengths is None:
        lengths = torch.full((batch,), features.shape[1])
    if lengths.shape != (batch,) or not all(0 <= n <= features.shape[1] for n in lengths.tolist()):
        raise ConfigError(
            f"lengths {lengths.tolist()} do not fit features of shape {tuple(features.shape)}; "
            "give one length per stream, 0 for one that is idle."
        )
    if any(key != trunk.stream_key for key in state.model.tolist()):
        raise UsageError(
            "The state belongs to another backbone or other adapters; begin with this one's init_state, and give the "
            "same adapters to every step."
        )
    if any(numbers != _numbers(trunk) for numbers in state.numbers.tolist()):
        raise UsageError("The state was begun with other layers; give the same to every step.")
    news = lengths.tolist()
    over = [n for n, done in enumerate(state.finished.tolist()) if done and (news[n] or n in ended)]
    if over:
        raise UsageError(
            f"Stream {over[0]} has been finished; begin a new one with reset_states or init_state."
        )
    for place, new in enumerate(news):
        if not bool(torch.isfinite(features[place, :new]).all()):
            raise DataError(f"The features of stream {place} hold NaN or infinite values.")
    return news


def finish(
    trunk: SharedTrunk, state: StreamState, streams: Iterable[int] | None
) -> tuple[list[Encoded], StreamState]:
    """End streams; see `Backbone.finish`."""
    if streams is None:
        ended = [place for place, done in enumerate(state.finished.tolist()) if not done]
    else:
        ended = stream_numbers(state, streams)
    mels = trunk.backbone.config.features.num_mels
    nothing = torch.zeros(len(state.received), 0, mels, device=state.received.device)
    return step(trunk, nothing, None, state, ended)


def _numbers(trunk: SharedTrunk) -> list[int]:
    return [number for numbers in trunk.numbers for number in numbers]


def _sizes(context: Context, plan: Plan) -> Sizes:
    return Sizes(context, plan.kernel, tuple(node.number for node in plan.layers))
