"""Batches of live streams: features in, the frames they complete out, with the state as an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from encoder.config import Context
from encoder.encoded import Encoded
from encoder.schedule import given_frames
from encoder.state import Batch, Sizes, StreamState, new_state, put, stream_numbers, take
from encoder.streaming import Given, Step, advance, align
from encoder.subsampling import num_frames
from trunkline.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from encoder.backbone import Backbone


def begin(
    backbone: Backbone, batch: int, context: Context, numbers: Collection[int]
) -> StreamState:
    """Return the state of `batch` streams that have not begun; see `Backbone.init_state`."""
    context.checked()
    if context.is_full:
        raise ConfigError(
            "A stream cannot have full context: no frame would come before its end. Choose one such as "
            "Context(8, 40, 0), or encode the whole recording."
        )
    if batch < 0:
        raise UsageError(f"A batch of {batch} streams cannot be.")
    mels = backbone.config.features.num_mels
    like = backbone.conformer.after_norm.weight.detach()
    return new_state(
        _sizes(backbone, context), batch, mels, sorted(numbers), backbone.stream_key, like
    )


def step(
    backbone: Backbone,
    features: Tensor,
    lengths: Tensor | None,
    state: StreamState,
    ended: Iterable[int] = (),
) -> tuple[Encoded, StreamState]:
    """Feed streams, and end some of them; see `Backbone.step`."""
    ended = set(ended)
    news = _checked(backbone, features, lengths, state, ended)
    if not any(news) and not ended:
        return _encoded(backbone, state, []), state
    sizes = _sizes(backbone, Context(*state.context[0].tolist()))
    received = state.received.tolist()
    phases: dict[tuple[int, int, bool], list[int]] = {}
    for place, new in enumerate(news):
        if new or place in ended:
            phases.setdefault((sizes.phase(received[place]), new, place in ended), []).append(place)
    batches = [take(state, places, sizes) for places in phases.values()]
    normalised = backbone.normalise(features)
    steps = [
        Step(batch.strand, normalised[batch.places, :new], last)
        for batch, (_, new, last) in zip(batches, phases, strict=True)
    ]
    with backbone.evaluating():
        given = advance(backbone.conformer, steps, sizes.context, state.numbers[0].tolist())
    results = [
        _Result(batch.places, one, *align(batch.ahead, one))
        for batch, one in zip(batches, given, strict=True)
    ]
    encoded = _encoded(backbone, state, results)
    kept = [Batch(item.places, item.given.strand, item.ahead) for item in results]
    added = torch.tensor(news, device=state.received.device)
    return encoded, put(state, kept, added, sorted(ended))


class _Result(NamedTuple):
    places: list[int]
    given: Given
    layers: list[Tensor]
    ahead: list[Tensor]


def _encoded(backbone: Backbone, state: StreamState, results: list[_Result]) -> Encoded:
    """Return the frames of all streams of the batch as one padded batch."""
    batch = len(state.received)
    device = state.received.device
    like = backbone.conformer.after_norm.weight.detach()
    longest = max((result.given.frames.shape[1] for result in results), default=0)
    dtype = results[0].given.frames.dtype if results else like.dtype
    frames = torch.zeros(batch, longest, len(like), device=device, dtype=dtype)
    layers = frames.new_zeros(state.numbers.shape[1], *frames.shape)
    lengths = torch.zeros(batch, dtype=torch.int64, device=device)
    for result in results:
        count = result.given.frames.shape[1]
        frames[result.places, :count] = result.given.frames
        lengths[result.places] = count
        for target, layer in zip(layers, result.layers, strict=True):
            target[result.places, :count] = layer
    context, kernel = state.context.tolist(), backbone.config.kernel
    firsts = [
        given_frames(num_frames(received), Context(*limits), kernel, backbone.num_layers)
        for received, limits in zip(state.received.tolist(), context, strict=True)
    ]
    times = [backbone.times(longest, first) for first in firsts]
    return Encoded(
        frames,
        lengths,
        layers if len(layers) else None,
        torch.stack(times) if times else backbone.times(0)[None][:0],
    )


def _checked(
    backbone: Backbone,
    features: Tensor,
    lengths: Tensor | None,
    state: StreamState,
    ended: Collection[int],
) -> list[int]:
    """Return how many features each stream gets, or raise what is wrong with them."""
    batch, mels = len(state.received), backbone.config.features.num_mels
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
    if any(key != backbone.stream_key for key in state.model.tolist()):
        raise UsageError("The state belongs to another backbone; begin with this one's init_state.")
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
    backbone: Backbone, state: StreamState, streams: Iterable[int] | None
) -> tuple[Encoded, StreamState]:
    """End streams; see `Backbone.finish`."""
    if streams is None:
        ended = [place for place, done in enumerate(state.finished.tolist()) if not done]
    else:
        ended = stream_numbers(state, streams)
    mels = backbone.config.features.num_mels
    nothing = torch.zeros(len(state.received), 0, mels, device=state.received.device)
    return step(backbone, nothing, None, state, ended)


def _sizes(backbone: Backbone, context: Context) -> Sizes:
    return Sizes(context, backbone.config.kernel, backbone.num_layers)
