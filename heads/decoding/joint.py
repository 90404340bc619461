"""One-pass search with an attention decoder and CTC: both must find a text likely.

Tokens are added one by one; a hypothesis scores (1 - weight) * ln P of the attention decoder + weight * ln P of the CTC
for everything that begins so (Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech recognition",
IEEE JSTSP 2017, algorithm 2). The CTC also bounds the length: an attention decoder alone may invent a sentence over
noise, or write one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from heads.decoding.hypotheses import Decoded
from heads.decoding.scorers import PrefixScorer

NextToken = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps (rows of the hypotheses before that live on, their newest tokens) to ln P of the next token, (rows, symbols)."""


class JointOptions(NamedTuple):
    """How hypotheses are weighed: `weight` of the CTC, `beam` of them, lengths from `shortest` to `longest`."""

    beam: int
    weight: float
    shortest: int
    longest: int


class CTCPrefixes:
    """The CTC probabilities of prefixes that grow token by token; `log_probs` is (frames, symbols)."""

    def __init__(self, log_probs: np.ndarray, blank: int) -> None:
        self.log_probs, self.blank = log_probs, blank
        blanks = np.cumsum(log_probs[:, blank])
        # ln P of the frames up to t over the paths of a prefix that end in its last token, and in a blank:
        # (frames, prefixes). The empty prefix is all blanks.
        self.label = np.full((len(log_probs), 1), -np.inf)
        self.silent = blanks[:, None]

    def extend(
        self, last: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ln P of everything that begins with a prefix and a token, and the new prefixes' own forward sums.

        Args:
            last: (prefixes,) newest tokens, -1 for none.
            tokens: (prefixes, candidates).
        """
        frames = len(self.log_probs)
        emitted = self.log_probs[:, tokens]  # (frames, prefixes, candidates)
        silent = self.log_probs[:, self.blank]
        ends = np.where(
            (tokens == last[:, None])[None],
            self.silent[:, :, None],
            np.logaddexp(self.silent, self.label)[:, :, None],
        )
        # Before the first frame only the empty prefix is possible.
        first = np.where(last < 0, 0.0, -np.inf)[None, :, None]
        before = np.concatenate([np.broadcast_to(first, (1, *tokens.shape)), ends[:-1]])
        starts = before + emitted
        label = np.empty((frames, *tokens.shape))
        quiet = np.empty((frames, *tokens.shape))
        label[0], quiet[0] = starts[0], -np.inf
        for t in range(1, frames):
            label[t] = np.logaddexp(label[t - 1] + emitted[t], starts[t])
            quiet[t] = np.logaddexp(quiet[t - 1], label[t - 1]) + silent[t]
        return np.logaddexp.reduce(starts, axis=0), label, quiet

    def complete(self) -> np.ndarray:
        """Return ln P of each prefix as the whole text, (prefixes,)."""
        return np.logaddexp(self.label[-1], self.silent[-1])

    def keep(self, label: np.ndarray, quiet: np.ndarray) -> None:
        """Go on with new prefixes, (frames, prefixes) each."""
        self.label, self.silent = label, quiet


def joint_search(
    log_probs: np.ndarray,
    next_token: NextToken,
    options: JointOptions,
    *,
    blank: int,
    eos: int,
    forbidden: Sequence[int] = (),
    scorers: Sequence[PrefixScorer] = (),
) -> list[Decoded]:
    """Return the best token sequences, best first, for one utterance of at least one frame.

    Args:
        log_probs: CTC (frames, symbols), natural logarithms.
        next_token: the attention decoder.
        options: see `JointOptions`.
        blank: the CTC's blank; never written.
        eos: the end of a text.
        forbidden: tokens that are never written.
        scorers: language models, boosted phrases.
    """
    ctc = CTCPrefixes(log_probs, blank)
    live = _Live(
        [()], np.zeros(1), np.zeros((len(scorers), 1)), [[scorer.start()] for scorer in scorers]
    )
    rows, newest = np.zeros(1, dtype=np.int64), np.full(1, eos)
    ended: list[Decoded] = []
    barred = [blank, eos, *forbidden]
    for length in range(options.longest + 1):
        scores = next_token(rows, newest).astype(np.float64)
        if length >= options.shortest:
            ended += _endings(live, scores[:, eos], ctc.complete(), options.weight, scorers)
        if length == options.longest:
            break
        scores[:, barred] = -np.inf
        step = _grow(live, scores, ctc, options, scorers)
        if step is None:
            break
        live, rows, newest, best = step
        if len(ended) >= options.beam and best <= sorted(x.score for x in ended)[-options.beam]:
            break
    return sorted(ended, key=lambda x: (-x.score, x.tokens))


class _Live(NamedTuple):
    """Hypotheses that grow: their tokens, attention scores (n,), scorers' sums (scorers, n) and states."""

    tokens: list[tuple[int, ...]]
    attention: np.ndarray
    bonus: np.ndarray
    states: list[list[Any]]


def _endings(
    live: _Live,
    eos: np.ndarray,
    ctc: np.ndarray,
    weight: float,
    scorers: Sequence[PrefixScorer],
) -> list[Decoded]:
    attention = live.attention + eos
    acoustic = (1 - weight) * attention + weight * ctc
    named = {"lm": np.zeros(len(acoustic)), "boost": np.zeros(len(acoustic))}
    for row, scorer, states in zip(live.bonus, scorers, live.states, strict=True):
        named[scorer.name] += row + scorer.final(states)
    return [
        Decoded(
            tokens,
            float(acoustic[i]),
            float(acoustic[i] + named["lm"][i] + named["boost"][i]),
            float(named["lm"][i]),
            float(named["boost"][i]),
            (("ctc", float(ctc[i])), ("attention", float(attention[i]))),
        )
        for i, tokens in enumerate(live.tokens)
        if np.isfinite(acoustic[i])
    ]


def _grow(
    live: _Live,
    scores: np.ndarray,
    ctc: CTCPrefixes,
    options: JointOptions,
    scorers: Sequence[PrefixScorer],
) -> tuple[_Live, np.ndarray, np.ndarray, float] | None:
    """Return the best hypotheses of one more token, where they came from, their tokens, and the best score."""
    count = min(2 * options.beam, scores.shape[1])
    tokens = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    last = np.array([x[-1] if x else -1 for x in live.tokens])
    prefix, label, quiet = ctc.extend(last, tokens)
    attention = live.attention[:, None] + np.take_along_axis(scores, tokens, axis=1)
    total = (1 - options.weight) * attention + options.weight * prefix
    gains = np.zeros((len(scorers), *tokens.shape))
    for k, (scorer, states) in enumerate(zip(scorers, live.states, strict=True)):
        every, places = np.unique(tokens, return_inverse=True)
        wide = scorer.gains(states, every)
        gains[k] = live.bonus[k][:, None] + np.take_along_axis(
            wide, places.reshape(tokens.shape), axis=1
        )
    total = total + gains.sum(axis=0)
    flat = np.argsort(-total, axis=None, kind="stable")[: options.beam]
    flat = flat[np.isfinite(total.ravel()[flat])]
    if not len(flat):
        return None
    rows, columns = np.unravel_index(flat, tokens.shape)
    newest = tokens[rows, columns]
    ctc.keep(label[:, rows, columns], quiet[:, rows, columns])
    grown = _Live(
        [(*live.tokens[r], int(c)) for r, c in zip(rows, newest, strict=True)],
        attention[rows, columns],
        gains[:, rows, columns],
        [
            [scorer.advance(states[r], int(c)) for r, c in zip(rows.tolist(), newest, strict=True)]
            for scorer, states in zip(scorers, live.states, strict=True)
        ],
    )
    return grown, rows, newest, float(total[rows[0], columns[0]])
