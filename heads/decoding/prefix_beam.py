"""CTC prefix beam search: the most probable texts, not the most probable paths.

The probability of a prefix is the sum over all paths that collapse to it, kept in two parts: paths that end in a
blank and paths that end in the prefix's last token (Graves, "Supervised sequence labelling", 2012, section 7.5;
Hannun et al., arXiv 1408.2873, algorithm 1). All prefixes and symbols of a frame are one array operation; where
nothing but blank is likely, which is most frames, nothing is sorted at all. A stream fed in any pieces gives what
the whole recording gives, since a frame's work depends on that frame and the state alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from heads.decoding.greedy import checked
from heads.decoding.hypotheses import Decoded
from heads.decoding.scorers import PrefixScorer
from heads.decoding.trie import ROOT, Trie
from trunkline.errors import ConfigError


@dataclass(frozen=True)
class BeamOptions:
    """How wide a search looks.

    Args:
        beam: prefixes that are kept after each frame.
        margin: symbols of a frame more than this many nats below its best one extend no prefix.
        symbols: at most so many symbols of a frame extend prefixes, the best ones.
        nbest: how many token sequences are returned.
        best_only: look for the best sequence alone. Of prefixes that end in the same token, and so have the same
            futures, only those are kept that no other one beats; the beam then has room for other endings. What else
            is returned is no N-best list, and probabilities may lack paths. Scorers tell prefixes apart that end
            alike, so it does nothing beside them.
    """

    beam: int = 16
    margin: float = 8.0
    symbols: int = 40
    nbest: int = 10
    best_only: bool = False

    def __post_init__(self) -> None:
        for name in ("beam", "symbols", "nbest"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not self.margin > 0:
            raise ConfigError(f"margin is {self.margin}; it must be above 0 nats.")


_SMALL = 1e-100
"""Probabilities are scaled up when their largest falls below this; a frame's own may be as small again."""


class BeamState(NamedTuple):
    """The prefixes of a stream, all arrays (prefixes,); `step` returns a new one and leaves the old as it is.

    Probabilities are divided by exp(`log_scale`), so that hours do not underflow. `bonus` is (scorers, prefixes).
    """

    trie: Trie
    nodes: np.ndarray
    parents: np.ndarray
    last: np.ndarray
    p_blank: np.ndarray
    p_label: np.ndarray
    bonus: np.ndarray
    states: tuple[list[Any], ...]
    log_scale: float
    frames: int


class _Symbols(NamedTuple):
    """The symbols worth a look: those of frame t are `ids[starts[t]:starts[t + 1]]`, with their probabilities."""

    ids: np.ndarray
    probs: np.ndarray
    starts: list[int]


class PrefixBeamSearch:
    """The search with its options and scorers; it holds no utterance, so one serves many streams.

    Args:
        blank: number of the blank.
        options: beam, margins.
        scorers: a language model, boosted phrases; see `heads.decoding.scorers`.
    """

    def __init__(
        self,
        *,
        blank: int = 0,
        options: BeamOptions | None = None,
        scorers: Sequence[PrefixScorer] = (),
    ) -> None:
        self.blank, self.options = blank, options or BeamOptions()
        self.scorers = tuple(scorers)

    def __call__(self, log_probs: Any) -> list[Decoded]:
        """Return the best token sequences of log probabilities (frames, symbols), best first; raises as `step`."""
        return self.finish(self.step(log_probs, self.begin()))

    def begin(self) -> BeamState:
        """Return the state before the first frame: the empty prefix."""
        one = np.array([ROOT])
        return BeamState(
            Trie(),
            one,
            one - 1,
            one - 1,
            np.ones(1),
            np.zeros(1),
            np.zeros((len(self.scorers), 1)),
            tuple([scorer.start()] for scorer in self.scorers),
            0.0,
            0,
        )

    def step(self, log_probs: Any, state: BeamState) -> BeamState:
        """Return the state after more frames of natural-log probabilities (frames, symbols).

        Raises:
            DataError: another shape, or a frame without a finite maximum; the message names it.
        """
        table = checked(log_probs, self.blank)
        trie, nodes = state.trie.pruned(state.nodes.tolist())
        parents = np.array([trie.parents[node] for node in nodes.tolist()])
        beam = _Beam(self, state._replace(trie=trie, nodes=nodes, parents=parents), table.shape[1])
        symbols = self._symbols(table)
        blank = np.exp(table[:, self.blank], dtype=np.float64).tolist()
        for t, row in enumerate(table):
            low, high = symbols.starts[t], symbols.starts[t + 1]
            beam.advance(row, blank[t], symbols.ids[low:high], symbols.probs[low:high])
        return beam.state(state.frames + len(table))

    def partial(self, state: BeamState) -> tuple[int, ...]:
        """Return the best token sequence so far; later frames may change it."""
        scores = _log(state.p_blank + state.p_label) + state.bonus.sum(axis=0)
        return state.trie.path(int(state.nodes[int(scores.argmax())]))

    def finish(self, state: BeamState) -> list[Decoded]:
        """Return the best token sequences of what was fed, best first; at least one."""
        bonus = state.bonus.copy()
        for row, scorer, states in zip(bonus, self.scorers, state.states, strict=True):
            row += scorer.final(states)
        log_probs = _log(state.p_blank + state.p_label) + state.log_scale
        named = {"lm": np.zeros(len(log_probs)), "boost": np.zeros(len(log_probs))}
        for row, scorer in zip(bonus, self.scorers, strict=True):
            named[scorer.name] += row
        scores = log_probs + bonus.sum(axis=0)
        found = [
            Decoded(
                state.trie.path(int(state.nodes[i])),
                float(log_probs[i]),
                float(scores[i]),
                float(named["lm"][i]),
                float(named["boost"][i]),
            )
            for i in range(len(scores))
        ]
        return sorted(found, key=lambda x: (-x.score, x.tokens))[: self.options.nbest]

    def _symbols(self, table: np.ndarray) -> _Symbols:
        if not len(table):
            return _Symbols(np.zeros(0, np.int64), np.zeros(0), [0])
        wanted = table >= table.max(axis=1, keepdims=True) - self.options.margin
        wanted[:, self.blank] = False
        rows, ids = np.nonzero(wanted)
        starts = np.searchsorted(rows, np.arange(len(table) + 1))
        if len(crowded := np.flatnonzero(np.diff(starts) > self.options.symbols)):
            most = self.options.symbols
            for row in crowded:
                allowed = np.where(wanted[row], table[row], -np.inf)
                wanted[row] = False
                wanted[row, np.argpartition(-allowed, most - 1)[:most]] = True
            rows, ids = np.nonzero(wanted)
            starts = np.searchsorted(rows, np.arange(len(table) + 1))
        return _Symbols(ids, np.exp(table[rows, ids], dtype=np.float64), starts.tolist())


class _Beam:
    """The prefixes while frames are fed. Its arrays are replaced, never written to, once `state` has shared them."""

    def __init__(self, search: PrefixBeamSearch, state: BeamState, symbols: int) -> None:
        self.width, self.scorers = search.options.beam, search.scorers
        self.best_only = search.options.best_only and not self.scorers
        self.trie, self.nodes, self.parents, self.last = state[:4]
        self.p_blank, self.p_label, self.bonus, self.states = state[4:8]
        self.log_scale = state.log_scale
        # Of each symbol among those of the frame; one more for the empty prefix, whose last token is -1.
        self.place = np.full(symbols + 1, -1)
        self.numbers = np.arange(symbols)
        self._find_family()

    def state(self, frames: int) -> BeamState:
        return BeamState(
            self.trie,
            self.nodes,
            self.parents,
            self.last,
            self.p_blank,
            self.p_label,
            self.bonus,
            self.states,
            self.log_scale,
            frames,
        )

    def _find_family(self) -> None:
        """Note which prefixes of the beam are another one and one more token."""
        pairs = np.nonzero(self.nodes[:, None] == self.parents)
        self.shorter, self.longer = pairs

    def advance(self, row: np.ndarray, blank: float, ids: np.ndarray, probs: np.ndarray) -> None:
        """Take one frame: its log probabilities, and the symbols that may extend prefixes."""
        total = self.p_blank + self.p_label
        stay_blank = total * blank
        # The empty prefix has last token -1, which reads some probability that its p_label of 0 cancels.
        stay_label = self.p_label * np.exp(row[self.last], dtype=np.float64)
        if not len(ids):
            self.p_blank, self.p_label = stay_blank, stay_label
            self._rescale(stay_blank + stay_label)
            return
        self.place[ids] = self.numbers[: len(ids)]
        extended = total[:, None] * probs
        # A repeated token is a new one only after a blank: "chín chín".
        columns = self.place[self.last]
        again = np.flatnonzero(columns >= 0)
        extended[again, columns[again]] = self.p_blank[again] * probs[columns[again]]
        # An extension that is in the beam already adds to it.
        columns = columns[self.longer]
        there = columns >= 0
        source, target, columns = self.shorter[there], self.longer[there], columns[there]
        stay_label[target] += extended[source, columns]
        extended[source, columns] = 0.0
        self.place[ids] = -1
        self._choose(stay_blank, stay_label, extended, ids)

    def _choose(
        self, stay_blank: np.ndarray, stay_label: np.ndarray, extended: np.ndarray, ids: np.ndarray
    ) -> None:
        """Keep the best of the prefixes as they are and of their extensions (prefixes, symbols)."""
        if self.best_only:
            self._drop_beaten(stay_blank, stay_label, extended, ids)
        count = len(stay_blank)
        probs = np.concatenate([stay_blank + stay_label, extended.ravel()])
        bonus = self._bonus(ids) if self.scorers else None
        ranks = probs if bonus is None else _log(probs) + bonus.sum(axis=0)
        if len(ranks) > self.width:
            kept = np.argpartition(ranks, len(ranks) - self.width)[-self.width :]
            kept = np.sort(kept[probs[kept] > 0])
        else:
            kept = np.flatnonzero(probs > 0)
        unchanged = int(np.searchsorted(kept, count))  # so many are prefixes as they were
        stays, new = kept[:unchanged], kept[unchanged:] - count
        sources, columns = np.divmod(new, len(ids))
        self.p_blank = np.concatenate([stay_blank[stays], np.zeros(len(new))])
        self.p_label = np.concatenate([stay_label[stays], probs[kept[unchanged:]]])
        if bonus is not None:
            self.bonus = bonus[:, kept]
        if len(new) or len(stays) < count:
            self._rename(stays, sources, ids[columns])
        self._rescale(probs[kept])

    def _drop_beaten(
        self, stay_blank: np.ndarray, stay_label: np.ndarray, extended: np.ndarray, ids: np.ndarray
    ) -> None:
        """Set to 0 what another candidate with the same last token beats, in both parts of the probability."""
        best = extended.argmax(axis=0)
        kept = extended[best, self.numbers[: len(ids)]]
        total = stay_blank + stay_label
        beaten = (
            (self.last[:, None] == self.last)
            & (stay_blank[:, None] >= stay_blank)
            & (stay_label[:, None] >= stay_label)
            & (total[:, None] > total)
        ).any(axis=0)
        # An extension has no path that ends in a blank.
        self.place[ids] = self.numbers[: len(ids)]
        columns = self.place[self.last]
        self.place[ids] = -1
        there = columns >= 0
        rival = np.zeros(len(ids))
        np.maximum.at(rival, columns[there], stay_label[there])
        kept[rival >= kept] = 0.0
        extended[:] = 0.0
        extended[best, self.numbers[: len(ids)]] = kept
        stay_blank[beaten] = stay_label[beaten] = 0.0

    def _rename(self, stays: np.ndarray, sources: np.ndarray, tokens: np.ndarray) -> None:
        parents = self.nodes[sources]
        child = self.trie.child
        new = [child(*pair) for pair in zip(parents.tolist(), tokens.tolist(), strict=True)]
        self.nodes = np.concatenate([self.nodes[stays], np.array(new, dtype=np.int64)])
        self.parents = np.concatenate([self.parents[stays], parents])
        self.last = np.concatenate([self.last[stays], tokens])
        pairs = list(zip(sources.tolist(), tokens.tolist(), strict=True))
        self.states = tuple(
            [states[i] for i in stays.tolist()] + [scorer.advance(states[i], c) for i, c in pairs]
            for scorer, states in zip(self.scorers, self.states, strict=True)
        )
        self._find_family()

    def _bonus(self, ids: np.ndarray) -> np.ndarray:
        """Return what each candidate of `_choose` has by each scorer: (scorers, prefixes + prefixes * symbols)."""
        rows = []
        for own, scorer, states in zip(self.bonus, self.scorers, self.states, strict=True):
            gains = own[:, None] + scorer.gains(states, ids)
            rows.append(np.concatenate([own, gains.ravel()]))
        return np.stack(rows)

    def _rescale(self, totals: np.ndarray) -> None:
        top = float(totals.max())
        if top > _SMALL:
            return
        self.p_blank = self.p_blank / top
        self.p_label = self.p_label / top
        self.log_scale += math.log(top)


def _log(probs: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probs)
