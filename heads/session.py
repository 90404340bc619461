"""Heads on one recording or one live line: pieces of frames in, answers out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from encoder import Context, Encoded
from encoder.evaluation import evaluating
from encoder.session import SharedSession
from heads.fusion import vectors_by_head
from heads.head import Head
from heads.levels import Levels, Samples
from heads.pieces import join_encoded

if TYPE_CHECKING:
    from heads.model import MultiHeadModel


class Line:
    """One recording on its way through the heads: pieces in, outputs at the end.

    What is digitally silent is taken from the answers (`Head.hush`) if the line hears the samples too.
    """

    def __init__(
        self,
        model: MultiHeadModel,
        names: Iterable[str],
        *,
        vectors: Mapping[str, Any] | None = None,
        sample_rate: int | None = None,
    ) -> None:
        """Begin.

        Args:
            model: whose heads answer.
            names: of the heads.
            vectors: a vector for each head that fuses one with the sound, by its name; None is a missing one.
            sample_rate: Hz of the samples that are heard, by default the backbone's.

        Raises:
            UsageError: a vector for a head that takes none. DataError: one that does not fit.
        """
        self.model = model
        self.names = list(names)
        self.states = {name: model.head(name).init_state(1) for name in self.names}
        self.given: dict[str, list[Any]] = {name: [] for name in self.names}
        self.frames = 0
        self.levels = Levels(model.backbone, sample_rate)
        self.vectors = self.read_vectors(vectors)
        self._listening = False
        self._silent: list[Tensor] = []

    def read_vectors(self, vectors: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """Return vectors for heads of this line as tensors; raises as `__init__`."""
        return vectors_by_head({name: self.model.head(name) for name in self.names}, vectors)

    def hear(self, blocks: Iterable[Samples]) -> Iterator[Any]:
        """Yield blocks of samples (samples,) on their way to the encoder, having listened to them."""
        self._listening = True
        return self.levels.heard(blocks)

    def listen(self, pcm: np.ndarray | Tensor | bytes) -> None:
        """Listen to samples that have gone to the encoder; see `Levels.listen`."""
        self._listening = True
        self.levels.listen(pcm)

    def take(self, encoded: Sequence[Encoded]) -> dict[str, Any]:
        """Hand a piece to every head; return the outputs that are known now."""
        known: dict[str, Any] = {}
        count = int(encoded[0].lengths[0])
        if not count:
            return known
        self.frames += count
        silent = self.levels.silent(count) if self._listening else torch.zeros(count).bool()
        self._silent.append(silent)
        for name in self.names:
            head = self.model.head(name)
            share = self.model.share(name, encoded)
            output, self.states[name] = head.step(share, self.states[name])
            if output is not None:
                known[name] = head.hush(output, silent)
                self.given[name].append(known[name])
        return known

    def end(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the output of every head, or of some, for the whole recording."""
        return {name: self._end(name) for name in (self.names if names is None else names)}

    def _end(self, name: str) -> Any:
        head, given = self.model.head(name), self.given[name]
        more = {"vectors": self.vectors[name]} if name in self.vectors else {}
        last = head.finish(self.states[name], **more)
        if last is not None:
            silent = torch.cat(self._silent) if self._silent else torch.zeros(0).bool()
            given = [*given, head.hush(last, silent)]
        return head.join(given) if given else head(empty(head))


class HeadSession:
    """All heads on one live voice, from one pass of the encoder.

        session = model.stream(Context(8, 40, 0))
        for block in line:
            show(session.feed(block))
        print(session.finish())

    The results at the end are those of ``model.run`` over everything that was fed, in the same context.
    """

    def __init__(
        self,
        model: MultiHeadModel,
        context: Context,
        *,
        sample_rate: int | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin; arguments and errors are those of `encoder.StreamingSession` and `Line`."""
        self.model = model
        self._session = SharedSession(model.trunk, context, sample_rate=sample_rate)
        self._line = Line(model, model.heads, vectors=vectors, sample_rate=sample_rate)
        self._live = {name: model.head(name).init_live() for name in model.heads}

    def give(self, vectors: Mapping[str, Any]) -> None:
        """Set or replace vectors, by head; they count in everything that is asked from now on.

        Raises:
            UsageError: a vector for a head that takes none. DataError: one that does not fit.
        """
        self._line.vectors |= self._line.read_vectors(vectors)

    def feed(
        self, pcm: np.ndarray | Tensor | bytes, *, sample_rate: int | None = None
    ) -> dict[str, Any]:
        """Feed samples as to `StreamingSession.feed`; return what can be shown of the new frames, by head.

        Heads that answer for each frame give the stretches of the new frames (`heads.frame.merged` puts them
        together), heads that write text all of it so far, as `LiveText`. Heads that need the whole turn answer at
        `finish`, or when they are asked by `so_far`.
        """
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            encoded = self._session.feed(pcm, sample_rate=sample_rate)
            self._line.listen(pcm)
            return self._shown(encoded)

    def so_far(self, *names: str) -> dict[str, Any]:
        """Return the result of every head, or of those named, for what was encoded until now; the session goes on.

        Heads that pool have it at hand; those that write text search all of the call again.
        """
        for name in names:
            self.model.head(name)  # names what is not there
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            return self.model.decode(self._line.end(names or None))

    def finish(self) -> dict[str, Any]:
        """End the call; return every head's result for the whole of it."""
        with torch.no_grad(), evaluating(*self.model.heads.values()):
            self._line.take(self._session.finish())
            return self.model.decode(self._line.end())

    def _shown(self, encoded: Sequence[Encoded]) -> dict[str, Any]:
        shown = {}
        for name, output in self._line.take(encoded).items():
            shown[name], self._live[name] = self.model.head(name).live(output, self._live[name])
        return shown


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
