"""Vocabularies from texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from trunkline import syllable
from trunkline.errors import DataError, UsageError, nearest
from trunkline.text import TAGS
from trunkline.tokenizer.base import SPACE, SPECIAL, Tokenizer
from trunkline.tokenizer.pieces import PieceTokenizer

KINDS = ("characters", "syllables", "bpe", "unigram")
_SIZE = {"bpe": 2000, "unigram": 2000}


def train_tokenizer(
    kind: str, texts: Iterable[str], *, size: int | None = None, min_count: int = 1
) -> Tokenizer:
    """Return a tokenizer made from normalised texts; the same texts in any order give the same one (bpe, unigram:
    in the same order).

    Args:
        kind: "characters"; "syllables" (Vietnamese syllables, other words letter by letter); "bpe"; "unigram".
        texts: as `trunkline.text.normalise` leaves them.
        size: the most tokens there may be, special ones included; 2000 for bpe and unigram, no limit for others.
        min_count: characters (of kind "characters") or syllables that are rarer get no token.

    Raises:
        UsageError: the kind is unknown, or `size` too small.
        DataError: there is no text.
    """
    if kind not in KINDS:
        raise UsageError(f"No tokenizer {kind!r}.{nearest(kind, KINDS)}")
    if kind in _SIZE:
        from trunkline.tokenizer.subwords import train_subwords

        lines = [text for text in texts if text.strip()]
        if not lines:
            raise DataError("There is no text to train a tokenizer on.")
        return train_subwords(kind, lines, size or _SIZE[kind])
    words: Counter[str] = Counter()
    for text in texts:
        words.update(text.split())
    if not words:
        raise DataError("There is no text to train a tokenizer on.")
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    del characters[SPACE]  # what marks spaces cannot also be a character
    if kind == "characters":
        tags = [tag for tag in TAGS if tag in words]
        kept = _ranked(characters, min_count)
        return _made(kind, [SPACE, *tags, *kept], size)
    syllables = Counter(
        {
            SPACE + word: count
            for word, count in words.items()
            if word in TAGS or (SPACE not in word and syllable.parse(word) is not None)
        }
    )
    spelled = [SPACE, *_ranked(characters, 1)]
    return _made(kind, [*spelled, *_ranked(syllables, min_count)], size, needed=len(spelled))


def _ranked(counts: Counter[str], min_count: int) -> list[str]:
    """Return what occurs often enough, the most frequent first, in a fixed order."""
    return sorted(
        (x for x, count in counts.items() if count >= min_count), key=lambda x: (-counts[x], x)
    )


def _made(kind: str, pieces: list[str], size: int | None, needed: int = 1) -> PieceTokenizer:
    room = len(pieces) if size is None else size - len(SPECIAL)
    if room < needed:
        raise UsageError(
            f"A {kind} tokenizer of these texts needs a size of {needed + len(SPECIAL)} at least, not {size}."
        )
    return PieceTokenizer(kind, [*SPECIAL, *pieces[:room]])
