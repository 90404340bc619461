"""Phon2Vec: vectors of whole syllables in Telex that lie near each other when recognisers or ears confuse them.

Skip-gram over transcripts in which syllables are swapped for others of the same VnSoundex, or for what a recogniser
had in the same place of its N-best lists (Shivakumar and Georgiou, "Confusion2Vec", arXiv:1811.03199, train on such
confusions too). A model that does not order sound-alikes right is refused: see `Gate`.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rescoring.alignment import align
from rescoring.phonetics import distance_matrix
from rescoring.soundex import vnsoundex
from rescoring.telex import from_telex, to_telex
from rescoring.vectors import syllable_vector
from rescoring.word_vectors import WordVectors
from trunkline.errors import CheckpointError, DataError
from trunkline.nbest import NBest
from trunkline.syllable import parse, words

SYLLABLE, FOREIGN = "v:", "f:"
SWAPPED = 0.3
"""Share of the syllables that are swapped for a sound-alike."""

MIN_PASSED = 0.9
MIN_TRIPLES = 100
NEAR, APART = 0.085, 0.2
"""Syllables nearer than `NEAR` sound alike: parts that merge somewhere, or one tone or vowel for its neighbour."""


class Gate(NamedTuple):
    """How often the vectors agree with the phonetic distance on triples (syllable, sound-alike, other)."""

    passed: float
    triples: int

    @property
    def is_open(self) -> bool:
        """Whether the vectors may be used: 90 % of the triples, and enough of them to tell."""
        return self.passed >= MIN_PASSED and self.triples >= MIN_TRIPLES


def to_token(word: str) -> str:
    """Return a word as Phon2Vec's token: ``v:`` and Telex for a syllable, tone kept, ``f:`` for anything else.

    Without the class, `mix` and `mĩ` would be one token.
    """
    return (SYLLABLE + to_telex(word)) if parse(word) else FOREIGN + word


def to_word(token: str) -> str:
    """Return the word of a token."""
    word = token.removeprefix(SYLLABLE)
    return from_telex(word) if word != token else token.removeprefix(FOREIGN)


Slot = tuple[str, tuple[str, ...]]
"""A token, and those it may be swapped for."""


class Swapped:
    """Sentences of slots as tokens, a share of them swapped, and each token beside one of its fellows.

    The pairs are what Confusion2Vec calls intra-confusion: swaps alone, which only share contexts, bring sound-alikes
    too slowly together to pass the gate. Every pass draws anew, and every object makes the same passes.
    """

    def __init__(
        self, sentences: Sequence[Sequence[Slot]], share: float = SWAPPED, seed: int = 1
    ) -> None:
        self.sentences, self.share = sentences, share
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[list[str]]:
        draw, choice = self._random.random, self._random.choice
        for sentence in self.sentences:
            yield [
                choice(others) if others and draw() < self.share else token
                for token, others in sentence
            ]
            for token, others in sentence:
                if others:
                    yield [token, choice(others)]


def sound_alike_slots(sentences: Iterable[Sequence[str]]) -> list[list[Slot]]:
    """Return words as slots, each syllable with those of the text that have the same VnSoundex (without tone)."""
    found = [list(sentence) for sentence in sentences]
    vocabulary = list(dict.fromkeys(word for sentence in found for word in sentence))
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for word in vocabulary:
        if parse(word):
            alike[vnsoundex(word)].append(to_token(word))
    slots: dict[str, Slot] = {}
    for word in vocabulary:
        token = to_token(word)
        others = alike[vnsoundex(word)] if parse(word) else []
        slots[word] = token, tuple(other for other in others if other != token)
    return [[slots[word] for word in sentence] for sentence in found]


def nbest_slots(lists: Iterable[NBest]) -> list[list[Slot]]:
    """Return each list's first text as slots, each with what the other hypotheses have in its place."""
    sentences = []
    for nbest in lists:
        first, *others = (words(text) for text in nbest.texts)
        heard: list[dict[str, None]] = [{} for _ in first]
        for other in others:
            if not first or not other:
                continue
            for here, there in align(distance_matrix(first, other)):
                if here is not None and there is not None and first[here] != other[there]:
                    heard[here][to_token(other[there])] = None
        sentences.append([(to_token(word), tuple(x)) for word, x in zip(first, heard, strict=True)])
    return [sentence for sentence in sentences if sentence]


def measure_gate(vectors: WordVectors, *, seed: int = 1, triples: int = 2000) -> Gate:
    """Return how often a syllable is nearer to one that sounds alike than to another, among covered syllables.

    A triple is a syllable, one at phonetic distance `NEAR` at most, and one that is farther by `APART` at least, drawn
    from all syllables that have a vector. The distances are those of the cost tables, not of VnSoundex.
    """
    covered = [token for token in vectors.tokens if token.startswith(SYLLABLE)]
    spoken = [to_word(token) for token in covered]
    drawn = random.Random(seed)
    passed = count = 0
    # A triple needs one anchor; where anchors are few, each serves several times.
    for anchor in drawn.choices(range(len(covered)), k=triples) if len(covered) > 2 else []:
        distances = distance_matrix([spoken[anchor]], spoken)[0]
        distances[anchor] = np.inf
        near = np.flatnonzero(distances <= NEAR)
        if not len(near):
            continue
        alike = int(drawn.choice(near.tolist()))
        far = np.flatnonzero((distances >= distances[alike] + APART) & np.isfinite(distances))
        if not len(far):
            continue
        other = int(drawn.choice(far.tolist()))
        count += 1
        passed += vectors.cosine(covered[anchor], covered[alike]) > vectors.cosine(
            covered[anchor], covered[other]
        )
    return Gate(passed / count if count else 0.0, count)


class Phon2Vec:
    """Similarity of sound by trained vectors; syllables without one fall back to the vectors of the cost tables.

    Raises:
        DataError: the vectors do not pass their gate.
    """

    def __init__(self, vectors: WordVectors, gate: Gate) -> None:
        if not gate.is_open:
            raise DataError(
                f"Phon2Vec orders {gate.passed:.1%} of {gate.triples} sound triples right; {MIN_PASSED:.0%} of at "
                f"least {MIN_TRIPLES} are needed. Train on more text, or use phonetic distances without it."
            )
        self.vectors, self.gate = vectors, gate

    def word_similarity(self, first: str, second: str) -> float:
        """Return the cosine of two words where both have a vector, else 1 - the distance of their table vectors.

        A word that is no syllable and has no vector is 1 to itself and 0 to others.
        """
        if first == second:
            return 1.0
        tokens = to_token(first), to_token(second)
        if tokens[0] in self.vectors and tokens[1] in self.vectors:
            return self.vectors.cosine(*tokens)
        syllables = parse(first), parse(second)
        if syllables[0] is None or syllables[1] is None:
            return 0.0
        difference = syllable_vector(syllables[0]) - syllable_vector(syllables[1])
        return max(0.0, 1.0 - float(difference @ difference))

    def similarity(self, first: str, second: str) -> float:
        """Return the sum of similarities of aligned words over the longer text's words: 1 for the same words."""
        a, b = words(first), words(second)
        if not a or not b:
            return float(a == b)
        alike = np.array([[self.word_similarity(x, y) for y in b] for x in a])
        pairs = align(1.0 - alike)
        return float(
            sum(alike[i, j] for i, j in pairs if i is not None and j is not None)
            / max(len(a), len(b))
        )

    def score(self, texts: Sequence[str], heard: str) -> np.ndarray:
        """Return words x similarity of each text to what a second recogniser `heard`, float64 (texts,)."""
        return np.array([len(words(text)) * self.similarity(text, heard) for text in texts])

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the vectors' folder, with the gate's result in its JSON."""
        about = self.vectors.about | {"gate": self.gate._asdict()}
        WordVectors(self.vectors.tokens, self.vectors.matrix, about).save(
            folder, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Phon2Vec:
        """Open what `save` wrote.

        Raises:
            StorageError, CheckpointError: as `WordVectors.load`, or the folder holds no Phon2Vec.
            DataError: its gate is not passed.
        """
        vectors = WordVectors.load(folder)
        try:
            gate = Gate(**vectors.about["gate"])
            return cls(vectors, gate)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} holds no Phon2Vec: it has no gate.") from error
