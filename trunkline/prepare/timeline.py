"""Who speaks when: turns that lie over each other, and parties on each other's channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trunkline import audio
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

_CALLS = 3  # a speaker of fewer calls has no usual channel
_USUAL = 0.8  # share of a speaker's calls on one channel that makes it the usual one


def overlaps(manifest: Manifest) -> np.ndarray:
    """Return (cuts,) the largest share of each turn that another turn of its channel covers.

    Only cuts that state start and end are turns; of two, the share is that of the shorter one.
    """
    shares = np.zeros(len(manifest))
    start, end = (manifest.column(name).astype(np.float64) for name in ("start", "end"))
    turns = np.flatnonzero(np.isfinite(start) & np.isfinite(end))
    if not len(turns):
        return shares
    path = manifest.codes("audio_filepath")[0]
    channel = np.nan_to_num(manifest.column("channel").astype(np.float64), nan=-1)
    order = turns[np.lexsort((end[turns], start[turns], channel[turns], path[turns]))]
    # In order of start, a turn that reaches a later one reaches all between them as well: only those
    # that reached the last are asked about the next.
    first, step = np.arange(len(order) - 1), 1
    while len(first):
        a, b = order[first], order[first + step]
        together = (path[a] == path[b]) & (channel[a] == channel[b])
        shared = np.where(together, np.minimum(end[a], end[b]) - start[b], 0.0)
        share = np.clip(shared / np.minimum(end[a] - start[a], end[b] - start[b]), 0, 1)
        np.maximum.at(shares, a, share)
        np.maximum.at(shares, b, share)
        step += 1
        first = first[(shared > 0) & (first + step < len(order))]
    return shares


def on_other_side(row: Row) -> bool:
    """Return whether a row states a `role` ("agent", "customer") and the channel of the other one."""
    role = row.get("role")
    if not isinstance(role, str) or role not in audio.ROLES or row["channel"] is None:
        return False
    return row["channel"] != audio.ROLES[role]


def channel_swaps(manifest: Manifest) -> np.ndarray:
    """Return (cuts,) whether a cut's channel is that of the other party, told by its speaker.

    A speaker who has another channel in nearly all of at least three calls is on the wrong one in
    this; then both sides of the call are swapped.
    """
    swapped = np.zeros(len(manifest), dtype=bool)
    channel = np.nan_to_num(manifest.column("channel").astype(np.float64), nan=-1).astype(np.int64)
    call = manifest.codes("call_id")[0]
    speaker, speakers = manifest.codes("speaker")
    known = (speaker >= 0) & ((channel == 0) | (channel == 1))
    if not known.any():
        return swapped
    # One entry for each speaker, call and channel, however many turns there are.
    heard = np.unique(np.stack([speaker[known], call[known], channel[known]]), axis=1)
    on_second = np.bincount(heard[0], weights=heard[2], minlength=len(speakers))
    calls = np.bincount(heard[0], minlength=len(speakers))
    share = on_second / np.maximum(1, calls)
    usual = np.where(share >= _USUAL, 1, np.where(share <= 1 - _USUAL, 0, -1))
    usual[calls < _CALLS] = -1
    unusual = (usual[heard[0]] >= 0) & (heard[2] != usual[heard[0]])
    return np.isin(call, heard[1][unusual]) & (channel >= 0)
