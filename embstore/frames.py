"""Frames of a store for training heads: what `heads.train data.store=DIR` reads instead of computing them."""

from __future__ import annotations

import numpy as np

from embstore.schema import FRAMES, VECTORS, Space, vectors_of
from embstore.store import EmbeddingStore
from encoder import Backbone, Context
from encoder.load import fingerprint_of
from heads.frames import OUTPUT
from trunkline.errors import DataError
from trunkline.rows import Cut


class FramesOfCuts:
    """The spaces of frames of one backbone in one context, a space a layer (`heads.frames.StoredFrames`).

    A cut is found by its call, channel and id, as it was exported; another stretch of the same call is not taken, since
    the encoder would not have seen what it saw.
    """

    def __init__(self, store: EmbeddingStore, spaces: dict[int, Space]) -> None:
        self.store = store
        self.rows = tuple(sorted(spaces))
        self.context = Context.parse(next(iter(spaces.values())).context)
        self._spaces = [spaces[row] for row in self.rows]

    def read(self, cut: Cut) -> np.ndarray | None:
        """Return (frames, rows, dim) float32 of a cut, None where the store has not all of it."""
        found = []
        for space in self._spaces:
            table = self.store.fetch(
                cut.call_id,
                table="frames",
                space=space,
                columns=["cut_id", VECTORS],
                channel=cut.channel or 0,
            )
            own = [i for i, name in enumerate(table.column("cut_id").to_pylist()) if name == cut.id]
            if not own:
                return None
            found.append(vectors_of(table.column(VECTORS))[own])
        if len({len(rows) for rows in found}) > 1:
            return None
        return np.stack(found, axis=1)


def open_frames(store: str, backbone: Backbone) -> FramesOfCuts:
    """Open a store for `heads.train`; of several contexts full context is taken, else the first.

    Raises:
        DataError: it has no frames of this backbone. StorageError: it is no store.
    """
    opened = EmbeddingStore.open(store)
    own = backbone.fingerprint or fingerprint_of(backbone)
    spaces = [x for x in opened.spaces().values() if x.pooling == FRAMES and x.backbone == own]
    layers = [x for x in spaces if x.layer == "last" or x.layer.isdecimal()]
    if not layers:
        raise DataError(
            f"{store} holds no frames of the backbone {own[:12]}; export them with it, or leave data.store out."
        )
    contexts = sorted({x.context for x in layers}, key=lambda name: (name != "full", name))
    chosen = [x for x in layers if x.context == contexts[0]]
    # Of two precisions the finer one.
    chosen.sort(key=lambda x: x.precision == "f32")
    return FramesOfCuts(opened, {OUTPUT if x.layer == "last" else int(x.layer): x for x in chosen})
