"""Answers of heads on labelled cuts, from one pass of the trunk for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from encoder import Backbone, Context, Encoded
from encoder.evaluation import evaluating
from encoder.shared import Branch, SharedTrunk
from heads.head import Head, PooledHead
from heads.label_space import LabelSpace
from heads.levels import silent_frames
from heads.predictions import Prediction, as_json, kind_of, prediction
from trunkline.errors import DataError, StorageError, UsageError, nearest
from trunkline.log import progress
from trunkline.rows import Cut

BATCH_SECONDS = 120.0


class Item(NamedTuple):
    """What gets one answer: a turn, or the turns of one channel of a call in their order."""

    id: str
    """Of the cut; of a call ``call/channel``."""
    turns: tuple[Cut, ...]


class Predicted(NamedTuple):
    """Answers, speakers' vectors by head and id, and what could not be read."""

    predictions: list[Prediction]
    voices: dict[str, dict[str, list[float]]]
    left_out: list[dict[str, str]]


def over_call(head: PooledHead, turns: Iterable[Encoded]) -> Any:
    """Return the output for a call from its turns' frames, in order, as if they were one recording."""
    state: Any = None
    for turn in turns:
        state = head.step(turn, state or head.init_state(len(turn.lengths)))[1]
    return head.finish(state or head.init_state(1))


def items_of(cuts: Sequence[Cut], per: str, heads: Mapping[str, Head]) -> list[Item]:
    """Return what to answer: every cut, or with `per` "call" every channel of every call.

    Raises:
        UsageError: per call for a head that does not pool.
    """
    if per == "turn":
        return [Item(cut.id, (cut,)) for cut in cuts]
    for name, head in heads.items():
        if not isinstance(head, PooledHead):
            raise UsageError(
                f"per=call is for heads that pool (intent, sentiment, speaker), which {name!r} does not."
            )
    calls: dict[tuple[str, int | None], list[Cut]] = {}
    for cut in cuts:
        calls.setdefault((cut.call_id, cut.channel), []).append(cut)
    return [
        Item(
            call if channel is None else f"{call}/{channel}",
            tuple(sorted(turns, key=lambda cut: cut.start or 0.0)),
        )
        for (call, channel), turns in calls.items()
    ]


def label_of(head: Head, item: Item, where: str) -> Any:
    """Return the raw label of an item, None where it has none.

    Raises:
        DataError: the turns of a call have different labels, or the label has a type that the head cannot have.
    """
    labels = [label for cut in item.turns if (label := cut.label(head.label_key)) is not None]
    if not labels:
        return None
    cut = item.turns[0]
    if any(label != labels[0] for label in labels):
        raise DataError(
            f"{where}: the turns of call {cut.call_id!r} have different {head.label_key!r}; label the call, or "
            "evaluate per turn."
        )
    space = getattr(head, "space", None)
    if isinstance(space, LabelSpace):
        try:
            space.unknown(labels[0])
        except DataError as error:
            raise DataError(f"{where}:{cut.line}: {head.label_key}: {error}") from error
    return labels[0]


def predict(
    backbone: Backbone,
    heads: Mapping[str, Head],
    items: Sequence[Item],
    context: Context,
    *,
    context_name: str = "full",
    where: str = "the manifest",
    unlabelled: Collection[str] = (),
) -> Predicted:
    """Answer every item that has a head's label; what cannot be read is left out and named.

    Args:
        backbone: the trunk of all heads.
        heads: by name.
        items: see `items_of`.
        context: what frames may see.
        context_name: for the predictions.
        where: the manifest, for messages.
        unlabelled: heads that answer items without labels too (voices, of which trials know the truth).

    Raises:
        DataError: no item has the label of any head, or nothing could be read at all.
    """
    truth = {name: [label_of(head, item, where) for item in items] for name, head in heads.items()}
    judged = {name: head for name, head in heads.items() if name not in unlabelled}
    if judged:
        _check_labelled(judged, truth, items, where)
    found = Predicted([], {name: {} for name in heads}, [])
    branches = [Branch(head.adapter, head.layers) for head in heads.values()]  # type: ignore[arg-type]
    trunk = SharedTrunk(backbone, branches)
    wanted = [
        place
        for place in range(len(items))
        if unlabelled or any(labels[place] is not None for labels in truth.values())
    ]
    with torch.inference_mode(), evaluating(*heads.values()):
        for place, ways, silent in _encoded(trunk, items, wanted, context, found.left_out):
            for (name, head), turns in zip(heads.items(), ways, strict=True):
                label = truth[name][place]
                if label is None and name not in unlabelled:
                    continue
                result = _result(head, turns, items[place], silent)
                _keep(found, name, head, items[place], label, result, context_name, where)
    if wanted and len(found.left_out) == len(wanted):
        raise DataError(f"{where}: no cut could be read. The first: {found.left_out[0]['reason']}")
    return found


def unseen_labels(head: Head, labels: Iterable[Any]) -> dict[str, int]:
    """Return how often labels occur that a classification head never saw in training, which it cannot answer."""
    space = getattr(head, "space", None)
    counts: dict[str, int] = {}
    if isinstance(space, LabelSpace):
        for label in labels:
            for name in space.unknown(label):
                counts[name] = counts.get(name, 0) + 1
    return counts


def baseline_of(head: Head) -> Any:
    """Return the answer of `head` that needs no sound, as `Prediction.answer`; None where it knows none."""
    space = getattr(head, "space", None)
    if isinstance(space, LabelSpace):
        return as_json(space.commonest(), "classes" if space.task == "classes" else "sets")
    if head.labels is None:
        return None
    if head.labels.names and len(head.labels.counts) == len(head.labels.names):
        places = range(len(head.labels.names))
        return head.labels.names[max(places, key=lambda place: head.labels.counts[place])]  # type: ignore[union-attr]
    return head.labels.extra.get("mean")


def _keep(
    found: Predicted,
    name: str,
    head: Head,
    item: Item,
    label: Any,
    result: Any,
    context: str,
    where: str,
) -> None:
    kind = kind_of(head, result)
    if kind == "voices":
        found.voices[name][item.id] = result
        return
    cut = item.turns[0]
    try:
        found.predictions.append(
            prediction(
                name,
                kind,
                context,
                item.id,
                item.turns,
                label,
                result,
                getattr(head.options, "background", ""),
            )
        )
    except (DataError, TypeError) as error:
        raise DataError(f"{where}:{cut.line}: the label of {name!r}: {error}") from error


def _result(head: Head, turns: Sequence[Encoded], item: Item, silent: Tensor) -> Any:
    vectors = getattr(head, "vectors", None)
    key = getattr(head.options, "vector", "")
    if vectors is not None and key:
        found = [cut.label(key) for cut in item.turns]
        if len(turns) == 1:
            output = head(turns[0], vectors(found))  # type: ignore[operator]
            return head.decode(head.hush(output, silent))[0]
    output = head(turns[0]) if len(turns) == 1 else over_call(head, turns)  # type: ignore[arg-type]
    return head.decode(head.hush(output, silent))[0]


def _encoded(
    trunk: SharedTrunk,
    items: Sequence[Item],
    wanted: Sequence[int],
    context: Context,
    left_out: list[dict[str, str]],
) -> Iterator[tuple[int, list[list[Encoded]], Tensor]]:
    """Yield each item's number, for every branch the frames of its turns, and which of all its frames are silent.

    Faults go to `left_out`.
    """
    batch: list[tuple[int, list[Any]]] = []
    seconds = 0.0
    rate = trunk.backbone.sample_rate
    for count, place in enumerate(progress(wanted, description="answering", unit="items"), 1):
        try:
            waveforms = [cut.load(rate) for cut in items[place].turns]
            batch.append((place, waveforms))
            seconds += sum(len(waveform) for waveform in waveforms) / rate
        except (DataError, StorageError) as error:
            left_out.append({"id": items[place].id, "reason": str(error)})
        if batch and (seconds >= BATCH_SECONDS or count == len(wanted)):
            yield from _batch(trunk, batch, context)
            batch, seconds = [], 0.0


def _batch(
    trunk: SharedTrunk, batch: Sequence[tuple[int, list[Any]]], context: Context
) -> Iterator[tuple[int, list[list[Encoded]], Tensor]]:
    flat = [waveform for _, waveforms in batch for waveform in waveforms]
    encoded = trunk.encode_batch(flat, context=context)
    first = 0
    for place, waveforms in batch:
        turns = encoded[first : first + len(waveforms)]
        first += len(waveforms)
        silent = [
            silent_frames(trunk.backbone, waveform, int(ways[0].lengths[0]))
            for waveform, ways in zip(waveforms, turns, strict=True)
        ]
        yield place, [list(branch) for branch in zip(*turns, strict=True)], torch.cat(silent)


def _check_labelled(
    heads: Mapping[str, Head],
    truth: Mapping[str, Sequence[Any]],
    items: Sequence[Item],
    where: str,
) -> None:
    missing = [name for name in heads if all(label is None for label in truth[name])]
    if len(missing) < len(heads):
        return
    keys = {heads[name].label_key for name in missing}
    cuts = [cut for item in items for cut in item.turns]
    known = {name for cut in cuts for name in (*cut.labels, *cut.extra)}
    known |= {name for name in ("text", "speaker", "language") if any(c.label(name) for c in cuts)}
    key = min(keys)
    raise DataError(
        f"{where}: none of {len(cuts)} cuts has the label {', '.join(map(repr, sorted(keys)))}."
        f"{nearest(key, known)}"
    )
