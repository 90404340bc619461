"""Heads on one recording or one live line: pieces of frames in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from encoder import Context, Encoded
from encoder.evaluation import evaluating
from encoder.session import SharedSession
from heads.head import Head, join_encoded

if TYPE_CHECKING:
    from heads.model import MultiHeadModel


class Line:
    """One recording on its way through the heads: pieces in, outputs at the end."""

    def __init__(self, model: MultiHeadModel, names: Sequence[str]) -> None:
        self.model = model
        self.names = list(names)
        self.states = {name: model.head(name).init_state(1) for name in self.names}
        self.given: dict[str, list[Any]] = {name: [] for name in self.names}
        self.frames = 0

    def take(self, encoded: Sequence[Encoded]) -> dict[str, Any]:
        """Hand a piece to every head; return the outputs that are known now."""
        known: dict[str, Any] = {}
        count = int(encoded[0].lengths[0])
        if not count:
            return known
        self.frames += count
        for name in self.names:
            share = self.model.share(name, encoded)
            output, self.states[name] = self.model.head(name).step(share, self.states[name])
            if output is not None:
                known[name] = output
                self.given[name].append(output)
        return known

    def end(self) -> dict[str, Any]:
        """Return the output of every head for the whole recording."""
        outputs = {}
        for name in self.names:
            head, given = self.model.head(name), self.given[name]
            last = head.finish(self.states[name])
            given = given if last is None else [*given, last]
            outputs[name] = head.join(given) if given else head(empty(head))
        return outputs


class HeadSession:
    """All heads on one live voice, from one pass of the encoder.

        session = model.stream(Context(8, 40, 0))
        for block in line:
            show(session.feed(block))
        print(session.finish())

    The results at the end are those of ``model.run`` over everything that was fed, in the same context.
    """

    def __init__(
        self, model: MultiHeadModel, context: Context, *, sample_rate: int | None = None
    ) -> None:
        """Begin; arguments and errors are those of `encoder.StreamingSession`."""
        self.model = model
        self._session = SharedSession(model.trunk, context, sample_rate=sample_rate)
        self._line = Line(model, list(model.heads))

    def feed(
        self, pcm: np.ndarray | Tensor | bytes, *, sample_rate: int | None = None
    ) -> dict[str, Any]:
        """Feed samples as to `StreamingSession.feed`; return the results of heads that answer for the new frames.

        A result is about these frames alone; heads that need the whole turn answer at `finish`, or when asked by
        `so_far`.
        """
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            known = self._line.take(self._session.feed(pcm, sample_rate=sample_rate))
            return self.model.decode(known)

    def so_far(self) -> dict[str, Any]:
        """Return every head's result for what has been encoded until now; the session goes on."""
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            return self.model.decode(self._line.end())

    def finish(self) -> dict[str, Any]:
        """End the call; return every head's result for the whole of it."""
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            self._line.take(self._session.finish())
            return self.model.decode(self._line.end())


def empty(head: Head) -> Encoded:
    """Return a recording of no frames as this head gets it."""
    count = 0 if head.mix is None else len(head.mix.logits)
    none = join_encoded([], head.trunk.dim, count)
    device = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))
    return Encoded(
        none.frames.to(device),
        none.lengths.to(device),
        None if none.layers is None else none.layers.to(device),
        none.times.to(device),
    )
