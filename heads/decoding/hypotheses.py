"""What a search returns, and the N-best lists that are made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from trunkline.errors import UsageError
from trunkline.nbest import Hypothesis, NBest
from trunkline.tokenizer import Tokenizer


class Decoded(NamedTuple):
    """One token sequence of a search, with what made it rank where it does; all in nats.

    `log_prob` is ln P(tokens | audio), summed over all alignments that the search kept; `lm` and `boost` are what a
    language model and boosted phrases added; `score` is what was ranked: log_prob + lm + boost. `parts` names further
    scores, such as those of a CTC and an attention decoder.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    lm: float = 0.0
    boost: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()


class Transcript(NamedTuple):
    """A text with the scores of its best token sequence; `log_prob` and `score` are of all that read so."""

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    score: float
    lm: float = 0.0
    boost: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()


def transcripts(decoded: Sequence[Decoded], tokenizer: Tokenizer) -> list[Transcript]:
    """Return the texts of token sequences, best first; sequences that read the same become one text.

    Subwords spell a text in several ways, and spaces at the ends or in a row do not make another text: the
    probabilities of all of them add up.
    """
    merged: dict[str, Transcript] = {}
    for found in decoded:
        text = " ".join(tokenizer.decode(found.tokens).split())
        new = Transcript(text, *found)
        if (old := merged.get(text)) is not None:
            best = old if old.score >= new.score else new
            new = best._replace(
                log_prob=_log_add(old.log_prob, new.log_prob),
                score=_log_add(old.score, new.score),
            )
        merged[text] = new
    return sorted(merged.values(), key=lambda x: (-x.score, x.text))


def to_nbest(
    utt_id: str,
    found: Sequence[Transcript],
    *,
    ref: str | None = None,
    group: str | None = None,
    context: str | None = None,
    bias: Sequence[str] = (),
    lm: Sequence[float] | None = None,
) -> NBest:
    """Return transcripts as a list of the schema ``trunkline.nbest/1``; `am` is ln P(text | audio).

    `lm` are the language model's own log probabilities of the texts, where there is one: what `Transcript.lm` holds
    has its weight in it.

    Raises:
        UsageError: there is no transcript.
    """
    if not found:
        raise UsageError(f"{utt_id!r} has no hypothesis; a list needs one or more.")
    hyps = []
    for i, x in enumerate(found):
        extra = dict(x.parts) | ({"boost": x.boost} if x.boost else {})
        hyps.append(Hypothesis(x.text, x.log_prob, None if lm is None else float(lm[i]), extra))
    return NBest(utt_id, tuple(hyps), ref, context, tuple(bias), group)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
