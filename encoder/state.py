"""The state of streams: a NamedTuple of batch-first tensors, with shapes that do not depend on how old a stream is.

A step is given a state and returns a new one; what it was given stays as it was. A batch may hold streams of any
ages: they are joined, split, reset, and left idle as they come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, Context
from encoder.schedule import all_progress, longest_lead, settled
from encoder.streaming import LayerState, Strand, kept_frames
from encoder.subsampling import num_frames
from trunkline.errors import UsageError

WAITING_FEATURES = RECEPTIVE_FIELD - 1

__all__ = ["LayerState", "StreamState", "join_states", "reset_states", "split_states"]


class StreamState(NamedTuple):
    """What a batch of streams is at: each tensor's first dimension is the stream.

    Tensors over time hold the newest entry last, and zeros before what a stream has kept.
    """

    received: Tensor
    """(batch,) features so far, int64."""
    finished: Tensor
    """(batch,) whether the stream has ended, bool."""
    context: Tensor
    """(batch, 3) chunk, left and right of the context, int64."""
    model: Tensor
    """(batch,) a number that tells the backbone and its adapters, int64."""
    numbers: Tensor
    """(batch, layers) which layers are returned beside the frames, one way after the other, int64."""
    features: Tensor
    """(batch, 14, mels) those that the next frame is made of, normalised."""
    layers: tuple[LayerState, ...]
    """What each layer of the plan keeps: at most (batch, left + chunk + right - 1, dim) a tensor."""
    ahead: tuple[Tensor, ...]
    """Of each layer that is returned, (batch, frames, dim) that are ahead of the last layer."""


_Tree = TypeVar("_Tree")


def _map(function: Callable[..., Tensor], tree: _Tree, *more: _Tree) -> _Tree:
    """Apply a function to every tensor of a state (and to the tensors at its place in more of them)."""
    if isinstance(tree, Tensor):
        return function(tree, *more)
    assert isinstance(tree, tuple)
    parts = [_map(function, *items) for items in zip(tree, *more, strict=True)]
    return type(tree)._make(parts) if hasattr(tree, "_make") else tuple(parts)  # type: ignore[return-value, attr-defined]


def join_states(states: Iterable[StreamState]) -> StreamState:
    """Return the streams of several states as one batch, in order.

    Raises:
        UsageError: no states, or states of different backbones, contexts or layers.
    """
    states = list(states)
    if not states:
        raise UsageError("There are no states to join.")
    places = [place for place, state in enumerate(states) if len(state.received)]
    for place in places[1:]:
        for name, what in (
            ("model", "backbone"),
            ("context", "context"),
            ("numbers", "choice of layers"),
        ):
            first, other = (getattr(states[n], name)[0].tolist() for n in (places[0], place))
            if first != other:
                raise UsageError(
                    f"State {place} has another {what} than state {places[0]} ({other} against {first}): streams of "
                    "one batch share it. Keep a batch for each."
                )
    return _map(lambda *tensors: torch.cat(tensors), *states)


def split_states(state: StreamState, sizes: Sequence[int] | None = None) -> list[StreamState]:
    """Return the streams of a state one by one, or in batches of these sizes; what `join_states` undoes.

    Raises:
        UsageError: the sizes do not add up to the number of streams.
    """
    batch = len(state.received)
    sizes = [1] * batch if sizes is None else list(sizes)
    if sum(sizes) != batch or min(sizes, default=0) < 0:
        raise UsageError(f"The sizes {sizes} do not add up to the {batch} streams of the state.")
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return [
        _map(lambda tensor, a=end - size, b=end: tensor[a:b].clone(), state)
        for size, end in zip(sizes, ends, strict=True)
    ]


def reset_states(state: StreamState, streams: Iterable[int] | None = None) -> StreamState:
    """Return a state in which these streams (all by default) have not begun, as when a call ends and another comes.

    Raises:
        UsageError: there is no such stream.
    """
    places = stream_numbers(state, streams)

    def cleared(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[places] = 0
        return tensor

    return _map(cleared, state)._replace(
        context=state.context, model=state.model, numbers=state.numbers
    )


def stream_numbers(state: StreamState, streams: Iterable[int] | None) -> list[int]:
    """Return the places of some streams, or of all; raises a UsageError if there is no such stream."""
    batch = len(state.received)
    found = list(range(batch) if streams is None else streams)
    if any(not isinstance(place, int) or not 0 <= place < batch for place in found):
        raise UsageError(f"The state has {batch} streams, 0 to {batch - 1}; asked for {found}.")
    return found


class Sizes(NamedTuple):
    """What shapes and phases of a state follow from."""

    context: Context
    kernel: int
    numbers: tuple[int, ...]
    """Number of each layer of the plan: 1, 2, ... where there is one way."""

    @property
    def depth(self) -> int:
        """Number of layers of every way."""
        return max(self.numbers)

    def progress(self, received: int) -> list:
        """Return the progress of every layer after so many features."""
        return all_progress(num_frames(received), self.context, self.kernel, self.depth)

    def phase(self, received: int) -> int:
        """Return the lowest number of features after which a stream keeps the same frames as after `received`."""
        start = settled(self.context, self.kernel, self.depth) * SUBSAMPLING
        period = self.context.chunk * SUBSAMPLING
        return received if received < start else start + (received - start) % period

    def capacities(self) -> tuple[int, ...]:
        """Return the number of frames of each tensor of a `LayerState`."""
        chunk, left, right = self.context
        half = self.kernel // 2
        late = half if right else 0
        return (chunk + right - 1, left + chunk + right - 1, left + chunk + right - 1, late, half + late)  # fmt: skip

    def lead(self, number: int) -> int:
        """Return how many frames a layer may be ahead of the last one."""
        return longest_lead(self.context, self.kernel, self.depth, number)


def new_state(
    sizes: Sizes, batch: int, mels: int, numbers: Sequence[int], model: int, like: Tensor
) -> StreamState:
    """Return the state of streams that have not begun; `like` (dim,) tells width, type and device of frames."""

    def zeros(*shape: int) -> Tensor:
        return like.new_zeros(batch, *shape)

    def rows(values: Sequence[int]) -> Tensor:
        return torch.tensor([list(values)] * batch, device=like.device, dtype=torch.int64).reshape(
            batch, len(values)
        )

    dim = len(like)
    return StreamState(
        received=rows([0])[:, 0],
        finished=torch.zeros(batch, dtype=torch.bool, device=like.device),
        context=rows(sizes.context),
        model=rows([model])[:, 0],
        numbers=rows(numbers),
        features=zeros(WAITING_FEATURES, mels),
        layers=tuple(
            LayerState(*(zeros(size, dim) for size in sizes.capacities())) for _ in sizes.numbers
        ),
        ahead=tuple(zeros(sizes.lead(number), dim) for number in numbers),
    )


class Batch(NamedTuple):
    """Streams of a state that are in the same phase: their places, and what they keep."""

    places: list[int]
    strand: Strand
    ahead: list[Tensor]


def take(state: StreamState, places: list[int], sizes: Sizes) -> Batch:
    """Return streams in the same phase as a strand, without the zeros."""
    received = sizes.phase(int(state.received[places[0]]))
    everyone = len(places) == len(state.received)

    def newest(tensor: Tensor, size: int) -> Tensor:
        chosen = tensor if everyone else tensor[places]
        return chosen[:, chosen.shape[1] - size :]

    found = sizes.progress(received)
    layers = tuple(
        LayerState(*map(newest, layer, kept_frames(found[n - 1], sizes.context, sizes.kernel)))
        for layer, n in zip(state.layers, sizes.numbers, strict=True)
    )
    features = newest(state.features, received - SUBSAMPLING * found[0].taken)
    ahead = [
        newest(tensor, _frames_of(number, found) - found[-1].given)
        for tensor, number in zip(state.ahead, state.numbers[0].tolist(), strict=True)
    ]
    return Batch(places, Strand(received, features, layers), ahead)


def _frames_of(number: int, found: Sequence) -> int:
    return found[0].taken if number == 0 else found[number - 1].given


def put(
    state: StreamState, batches: Sequence[Batch], new: Tensor, ended: Sequence[int]
) -> StreamState:
    """Return a state with `new` (batch,) features more and what the batches keep now; the rest is as it was.

    Of the streams at `ended` nothing is kept: they are finished.
    """

    def written(old: Tensor, parts: Sequence[tuple[list[int], Tensor]]) -> Tensor:
        if len(parts) == 1 and len(parts[0][0]) == len(old):
            return _filled(old, parts[0][1])
        result = old.clone()
        for places, part in parts:
            result[places] = _filled(old[places], part)
        return result

    features = [(batch.places, batch.strand.features) for batch in batches]
    layers = tuple(
        LayerState(
            *(
                written(old, [(batch.places, batch.strand.layers[n][k]) for batch in batches])
                for k, old in enumerate(layer)
            )
        )
        for n, layer in enumerate(state.layers)
    )
    ahead = tuple(
        written(old, [(batch.places, batch.ahead[n]) for batch in batches])
        for n, old in enumerate(state.ahead)
    )
    finished = state.finished.clone()
    finished[list(ended)] = True
    return state._replace(
        received=state.received + new,
        finished=finished,
        features=written(state.features, features),
        layers=layers,
        ahead=ahead,
    )


def _filled(old: Tensor, kept: Tensor) -> Tensor:
    """Return `kept` with zeros before it, in the shape and type of `old`."""
    result = torch.zeros_like(old)
    if kept.shape[1]:
        result[:, old.shape[1] - kept.shape[1] :] = kept
    return result
