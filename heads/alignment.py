"""When each token and word was said: forced alignment of a text to CTC log probabilities, and exact times.

`torchaudio.functional.forced_align` does it where torchaudio's native part loads; our Viterbi search, which adds the
same numbers in the same order and breaks ties the same way, does it elsewhere and gives the same path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trunkline import _torchaudio
from trunkline.errors import DataError
from trunkline.tokenizer import Tokenizer
from trunkline.tokenizer.base import SPACE

MAX_CELLS = 400_000_000
"""Frames times states of one alignment (a byte each); an hour is cut at its pauses before it comes here."""


class Span(NamedTuple):
    """A token and its frames [start, end); `log_prob` is the mean of the token's log probability over them."""

    token: int
    start: int
    end: int
    log_prob: float


class Alignment(NamedTuple):
    """The best path of a token sequence: the symbol of each frame (frames,), the tokens' spans, the path's ln P."""

    path: np.ndarray
    spans: list[Span]
    log_prob: float


class WordSpan(NamedTuple):
    """A word and its frames [start, end); `log_prob` is the mean over its tokens' frames."""

    word: str
    start: int
    end: int
    log_prob: float


def frames_needed(tokens: Sequence[int]) -> int:
    """Return how many frames a CTC path of these tokens takes at least: a blank stands between repeats."""
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))


def has_native_alignment() -> bool:
    """Return whether torchaudio's search loads beside this torch."""
    return "functional.forced_align" not in _torchaudio.missing()


def force_align(
    log_probs: Any, tokens: Sequence[int], *, blank: int = 0, native: bool | None = None
) -> Alignment:
    """Return the most probable path of `tokens` through log probabilities (frames, symbols).

    Args:
        log_probs: natural logarithms, float32 or float64.
        tokens: what was said; no blanks.
        blank: number of the blank.
        native: use torchaudio's search, or ours; by default torchaudio's where it loads.

    Raises:
        DataError: more tokens than frames, a token that is the blank or no symbol, a text that is impossible here.
    """
    table = torch.as_tensor(log_probs).detach().cpu()
    _check(table, tokens, blank)
    if not len(tokens):
        path = np.full(len(table), blank)
    elif native or (native is None and has_native_alignment()):
        targets = torch.tensor([list(tokens)], dtype=torch.int32)
        aligned, _ = _torchaudio.load().functional.forced_align(table[None], targets, blank=blank)
        path = aligned[0].numpy().astype(np.int64)
    else:
        path = _viterbi(table.numpy(), tokens, blank)
    scores = table.double().numpy()[np.arange(len(path)), path]
    total = float(scores.sum())
    if not math.isfinite(total):
        raise DataError(
            "The text cannot be aligned: every path of it has a frame of probability 0."
        )
    return Alignment(path, _spans(path, scores, blank), total)


def _check(table: torch.Tensor, tokens: Sequence[int], blank: int) -> None:
    if table.ndim != 2 or not 0 <= blank < table.shape[1]:
        raise DataError(
            f"Log probabilities of shape {tuple(table.shape)} with blank {blank}: expected (frames, symbols)."
        )
    if bool(torch.isnan(table).any()):
        raise DataError("The log probabilities hold NaN.")
    wrong = [token for token in tokens if not 0 <= token < table.shape[1] or token == blank]
    if wrong:
        raise DataError(
            f"Token {wrong[0]} cannot be aligned: it is the blank, or not one of {table.shape[1]} symbols."
        )
    needed = frames_needed(tokens)
    if needed > len(table):
        raise DataError(
            f"{len(tokens)} tokens need at least {needed} frames (a blank between repeats), but there are "
            f"{len(table)}; the text is too long for the audio."
        )
    if len(table) * (2 * len(tokens) + 1) > MAX_CELLS:
        raise DataError(
            f"{len(table)} frames and {len(tokens)} tokens are too much for one alignment; cut them at a pause."
        )


def _viterbi(table: np.ndarray, tokens: Sequence[int], blank: int) -> np.ndarray:
    """Return the best path (frames,) through the states blank, token, blank, ..., blank."""
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    # From the token before a blank one may come directly, unless it is the same token.
    skips = np.zeros(len(states), dtype=bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    lowest = np.array(-np.inf, dtype=table.dtype)
    best = np.full(len(states), lowest)
    best[:2] = table[0, states[:2]]
    moves = np.zeros((len(table), len(states)), dtype=np.int8)
    for t in range(1, len(table)):
        one = np.concatenate([[lowest], best[:-1]])
        two = np.where(skips, np.concatenate([[lowest, lowest], best[:-2]]), lowest)
        # The ties of torchaudio's search: to skip or to step must be strictly better.
        move = np.where((two > one) & (two > best), 2, np.where((one > best) & (one > two), 1, 0))
        moves[t] = move
        best = np.where(move == 2, two, np.where(move == 1, one, best)) + table[t, states]
    at = len(states) - 1 if best[-1] > best[-2] else len(states) - 2
    path = np.empty(len(table), dtype=np.int64)
    for t in range(len(table) - 1, -1, -1):
        path[t] = states[at]
        at -= int(moves[t, at])
    return path


def _spans(path: np.ndarray, scores: np.ndarray, blank: int) -> list[Span]:
    edges = np.flatnonzero(np.diff(path, prepend=-1, append=-1))
    return [
        Span(int(path[a]), int(a), int(b), float(scores[a:b].mean()))
        for a, b in zip(edges[:-1], edges[1:], strict=True)
        if path[a] != blank
    ]


def word_spans(spans: Sequence[Span], tokenizer: Tokenizer) -> list[WordSpan]:
    """Return the words of aligned tokens, each from its first letter's frame to its last's.

    A space that is a token of its own belongs to no word's time.
    """
    words: list[list[Span]] = []
    open_word = False
    for span in spans:
        piece = tokenizer.pieces[span.token]
        if piece.startswith(SPACE):
            open_word = False
        if piece == SPACE:
            continue
        if not open_word:
            words.append([])
            open_word = True
        words[-1].append(span)
    return [_word(parts, tokenizer) for parts in words]


def _word(parts: Sequence[Span], tokenizer: Tokenizer) -> WordSpan:
    frames = sum(span.end - span.start for span in parts)
    total = sum(span.log_prob * (span.end - span.start) for span in parts)
    text = tokenizer.decode([span.token for span in parts]).strip()
    return WordSpan(text, parts[0].start, parts[-1].end, total / frames)


def span_seconds(
    start: int, end: int, times: Sequence[float] | np.ndarray, frame_shift: float
) -> tuple[float, float]:
    """Return the seconds of frames [start, end), from the middle between two frames' centres to the next such.

    `times` are the centres as `Encoded.times` gives them, by sample arithmetic from the recording's beginning: they
    do not drift, after an hour no more than after a second.
    """
    half = frame_shift / 2
    return max(0.0, float(times[start]) - half), float(times[end - 1]) + half
