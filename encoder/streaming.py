"""The step that streams, long recordings and masked batches share: new features in, every frame computed once.

Work is packed: what belongs to each frame alone (feed-forwards, projections, norms) runs over the new frames of all
streams at once, without padding, and only attention and the depthwise convolution run stream by stream. A layer keeps
the inputs that still wait for look-ahead, keys and values as far as the context reaches to the left, attended frames
that wait for the convolution, and its inputs back to half a kernel; nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from encoder.attention import Positions
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING, Context
from encoder.conformer import ConformerLayer
from encoder.plan import Plan, Way
from encoder.schedule import Progress, all_progress
from encoder.subsampling import Subsampling, num_frames

ROWS = 1024
"""Frames that go through a feed-forward at once, so that its hidden layer stays in the cache."""


class LayerState(NamedTuple):
    """What one layer keeps of a batch of streams: (batch, frames, dim) each, the newest frame last."""

    waiting: Tensor
    """Inputs of attention that are no queries yet, as their look-ahead is not there."""
    keys: Tensor
    values: Tensor
    attended: Tensor
    """Outputs of attention for which the convolution still misses frames."""
    gated: Tensor
    """Inputs of the depthwise convolution, after the GLU."""


class Strand(NamedTuple):
    """Streams of the same age and phase, which advance together; frames and features are those that are kept."""

    received: int
    """Features so far."""
    features: Tensor
    """(batch, features, mels), normalised: those that the next frame is made of."""
    layers: tuple[LayerState, ...]
    """One for each layer of the plan."""


class Step(NamedTuple):
    """What a strand gets in one step."""

    strand: Strand
    features: Tensor
    """(batch, features, mels), normalised."""
    ended: bool = False
    """Whether nothing will follow, so that nothing is waited for."""


class WayGiven(NamedTuple):
    """What one way through the encoder gives."""

    frames: Tensor
    """(batch, frames, dim), of the last layer."""
    layers: list[Tensor]
    """The same of each layer asked for, in rising order, which may be ahead of the last one."""


class Given(NamedTuple):
    """What a strand gives back."""

    strand: Strand
    ways: list[WayGiven]


def new_strand(plan: Plan, batch: int, mels: int) -> Strand:
    """Return streams that have not begun."""
    like = plan.ways[0].norm.weight
    nothing = like.new_zeros(batch, 0, like.shape[0])
    layers = tuple(LayerState(*[nothing] * 5) for _ in plan.layers)
    return Strand(0, like.new_zeros(batch, 0, mels), layers)


@torch.no_grad()
def advance(plan: Plan, steps: Sequence[Step], context: Context) -> list[Given]:
    """Take a step with strands of any ages, in every way of a plan; each gets the frames it would get alone.

    Args:
        plan: the encoder, or views of it, in evaluation mode.
        steps: a strand and its new features each.
        context: what each frame may see.
    """
    before = [
        all_progress(num_frames(step.strand.received), context, plan.kernel, plan.depth)
        for step in steps
    ]
    received = [step.strand.received + step.features.shape[1] for step in steps]
    after = [
        all_progress(num_frames(total), context, plan.kernel, plan.depth, step.ended)
        for total, step in zip(received, steps, strict=True)
    ]
    features = [_join(step.strand.features, step.features) for step in steps]
    new = [now[0].taken - then[0].taken for now, then in zip(after, before, strict=True)]
    rest = [item[:, count * SUBSAMPLING :] for item, count in zip(features, new, strict=True)]
    outputs: dict[int, list[Tensor]] = {}
    kept: list[list[LayerState]] = [[] for _ in steps]
    for place, (node, done) in enumerate(zip(plan.nodes, plan.last_uses(), strict=True)):
        if node.number == 0:
            assert isinstance(node.module, Subsampling)
            outputs[place] = _subsample(node.module, features, new)
        else:
            assert isinstance(node.module, ConformerLayer)
            parts = [
                _Part(
                    frames,
                    step.strand.layers[len(states)],
                    then[node.number - 1],
                    now[node.number - 1],
                )
                for frames, step, states, then, now in zip(
                    outputs[node.parent], steps, kept, before, after, strict=True
                )
            ]
            outputs[place], states_now = _advance_layer(node.module, parts, context)
            for states, state in zip(kept, states_now, strict=True):
                states.append(state)
        for unneeded in done:
            del outputs[unneeded]
    ways = [_given(way, outputs) for way in plan.ways]
    return [
        Given(Strand(received[n], rest[n], tuple(kept[n])), [way[n] for way in ways])
        for n in range(len(steps))
    ]


def _given(way: Way, outputs: Mapping[int, list[Tensor]]) -> list[WayGiven]:
    """Return what one way gives each strand."""
    rows, unpack = _packed(outputs[way.path[-1]])
    layers = [outputs[way.path[number]] for number in way.wanted]
    return [
        WayGiven(frames, [layer[n] for layer in layers])
        for n, frames in enumerate(unpack(_in_blocks(way.norm, rows)))
    ]


def align(ahead: Sequence[Tensor], given: WayGiven) -> tuple[list[Tensor], list[Tensor]]:
    """Return the asked-for layers of the frames that are given back, in rising order, and what is ahead of them.

    Args:
        ahead: what this returned for the step before, or an empty tensor for each layer.
        given: what the step gave.
    """
    count = given.frames.shape[1]
    layers = [_join(waiting, new) for waiting, new in zip(ahead, given.layers, strict=True)]
    return [layer[:, :count] for layer in layers], [layer[:, count:] for layer in layers]


class _Part(NamedTuple):
    """The new frames of one strand at one layer."""

    frames: Tensor
    state: LayerState
    before: Progress
    after: Progress

    def attended_at_once(self) -> bool:
        """Return whether these frames are the ones that can be queries now: none waited, none has to wait."""
        asked = self.after.attended - self.before.attended
        return not self.state.waiting.shape[1] and asked == self.frames.shape[1]


def _advance_layer(
    layer: ConformerLayer, parts: Sequence[_Part], context: Context
) -> tuple[list[Tensor], list[LayerState]]:
    """Return the frames that each part's layer can give out now, (batch, frames, dim), and what it keeps."""
    attention, convolution = layer.self_attn, layer.conv_module
    rows, unpack = _packed([part.frames for part in parts])
    rows = _in_blocks(layer.enter, rows)
    normed = layer.norm_mha(rows)
    taken = [
        part.state._replace(
            waiting=_join(part.state.waiting, frames),
            keys=_join(part.state.keys, keys),
            values=_join(part.state.values, values),
        )
        for part, frames, keys, values in zip(
            parts,
            unpack(rows),
            unpack(_in_blocks(attention.linear_k, normed)),
            unpack(_in_blocks(attention.linear_v, normed)),
            strict=True,
        )
    ]
    at_once = all(part.attended_at_once() for part in parts)
    residual, attended = _attend(layer, taken, parts, context, normed if at_once else None)
    rows, unpack = _packed(residual)
    rows = rows + _in_blocks(attention.linear_out, attended)
    gated = unpack(_in_blocks(lambda frames: convolution.gate(layer.norm_conv(frames)), rows))
    taken = [
        state._replace(attended=_join(state.attended, frames), gated=_join(state.gated, hidden))
        for state, frames, hidden in zip(taken, unpack(rows), gated, strict=True)
    ]
    given = [part.after.given - part.before.given for part in parts]
    convolved = [
        convolution.depthwise(
            state.gated,
            part.before.first_gated(convolution.kernel),
            part.before.given,
            part.after.given,
            context,
        )
        for state, part in zip(taken, parts, strict=True)
    ]
    rows, unpack = _packed(
        [state.attended[:, :count] for state, count in zip(taken, given, strict=True)]
    )
    hidden, _ = _packed(convolved)
    rows = rows + _in_blocks(convolution.project, hidden)
    outputs = unpack(_in_blocks(layer.leave, rows))
    states = [
        _trimmed(state, part.after, context, convolution.kernel)
        for state, part in zip(taken, parts, strict=True)
    ]
    return outputs, states


def _attend(
    layer: ConformerLayer,
    states: Sequence[LayerState],
    parts: Sequence[_Part],
    context: Context,
    normed: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Return the frames that can be queries now, and what attention makes of all of them, packed.

    `normed` is what the norm made of them, packed, where that is known.
    """
    attention = layer.self_attn
    ready = [
        state.waiting[:, : part.after.attended - part.before.attended]
        for state, part in zip(states, parts, strict=True)
    ]
    rows, unpack = _packed(ready)
    if not len(rows):
        return ready, rows
    normed = layer.norm_mha(rows) if normed is None else normed
    queries = unpack(attention.linear_q(normed))
    positions: Positions = attention.positions(max(part.after.taken for part in parts), context)
    attended = [
        attention.attend_known(
            query,
            state.keys,
            state.values,
            part.before.attended,
            part.before.first_key(context),
            context,
            positions,
        )
        if query.shape[1]
        else query
        for query, state, part in zip(queries, states, parts, strict=True)
    ]
    return ready, _packed(attended)[0]


def _trimmed(state: LayerState, now: Progress, context: Context, kernel: int) -> LayerState:
    """Return the frames that later steps need; copies, so that the rest is freed."""
    sizes = kept_frames(now, context, kernel)
    return LayerState(*(_newest(kept, size) for kept, size in zip(state, sizes, strict=True)))


def kept_frames(now: Progress, context: Context, kernel: int) -> tuple[int, ...]:
    """Return how many frames each tensor of a `LayerState` holds at this progress."""
    keys = now.taken - now.first_key(context)
    return (
        now.taken - now.attended,
        keys,
        keys,
        now.attended - now.given,
        now.attended - now.first_gated(kernel),
    )


def _newest(frames: Tensor, size: int) -> Tensor:
    surplus = frames.shape[1] - size
    return frames[:, surplus:].clone() if surplus else frames


def _join(kept: Tensor, new: Tensor) -> Tensor:
    if not (kept.shape[1] and new.shape[1]):
        return kept if kept.shape[1] else new
    # A layer may compute in another type than its weights have.
    return torch.cat([kept.to(new.dtype), new], dim=1)


def _packed(parts: Sequence[Tensor]) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """Return the frames of all parts (batch, frames, dim) as rows (frames, dim), and what undoes that."""
    shapes = [part.shape[:2] for part in parts]
    rows = [part.reshape(-1, part.shape[2]) for part in parts]

    def unpack(rows: Tensor) -> list[Tensor]:
        split = rows.split([batch * frames for batch, frames in shapes])
        return [part.unflatten(0, shape) for part, shape in zip(split, shapes, strict=True)]

    return rows[0] if len(rows) == 1 else torch.cat(rows), unpack


def _in_blocks(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return function(rows), both (rows, dim), of at most `ROWS` rows at once and never of none."""
    if len(rows) <= ROWS:
        return function(rows) if len(rows) else rows
    return torch.cat([function(block) for block in rows.split(ROWS)])


def _subsample(
    embed: Subsampling, features: Sequence[Tensor], counts: Sequence[int]
) -> list[Tensor]:
    """Return the first `count` frames (batch, count, dim) that each part's features make."""
    used = [
        part[:, : (count - 1) * SUBSAMPLING + RECEPTIVE_FIELD] if count else part[:, :0]
        for part, count in zip(features, counts, strict=True)
    ]
    if len(used) == 1:
        return [embed(used[0])]
    # End to end on one tape, each part from a whole frame on; the frames across two parts are dropped.
    sizes = [part.shape[0] * (count + 1) for part, count in zip(used, counts, strict=True)]
    overlap = RECEPTIVE_FIELD - SUBSAMPLING
    spaces = [
        functional.pad(part, (0, 0, 0, (count + 1) * SUBSAMPLING - part.shape[1])).flatten(0, 1)
        for part, count in zip(used, counts, strict=True)
    ]
    tape = functional.pad(torch.cat(spaces), (0, 0, 0, overlap))
    frames = embed(tape[None])[0].split(sizes)
    return [
        part.unflatten(0, (-1, count + 1))[:, :count]
        for part, count in zip(frames, counts, strict=True)
    ]
