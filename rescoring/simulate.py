"""`python -m rescoring.simulate`: N-best lists made from text, to try rescoring without a recogniser.

Everything here is simulated. Each word of a text gets alternatives that sound alike (from the
phonetic tables, in the speaker's dialect, whose mergers make them alike), may be dropped, and may
be followed by a filler; each alternative's acoustic score is minus its phonetic distance, in nats,
plus noise. The list holds the best combinations. Such lists show that the machinery works and
that effects have the right order; they say nothing about how well a real recogniser will fare.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rescoring.corpus import read_lines
from rescoring.options import refuse_inputs_as_output
from trunkline.command import Summary, run
from trunkline.errors import DataError, UsageError
from trunkline.nbest import Hypothesis, NBest, write_nbest
from trunkline.syllable import parse, words

BLOCK = 256  # words whose distances to the vocabulary are held at once
MAX_NATS = 1e6
FILLERS = 8  # the commonest words of the vocabulary are what gets inserted


@dataclass(frozen=True)
class Recogniser:
    """A recogniser that does not exist: how it mishears.

    Args:
        size: hypotheses a list, at most.
        noise: standard deviation of every alternative's score, in nats.
        contrast: nats that separate two words with nothing in common, phonetic distance 1.
        alternatives: sound-alikes a word, drawn from `pool` nearest ones of the vocabulary.
        pool: how many neighbours are drawn from.
        deletion, insertion: nats that leaving a word out, or adding a filler, costs.
        dialects: each call's speaker has one of them.

    Raises:
        UsageError: a number that makes no recogniser.
    """

    size: int = 100
    noise: float = 1.0
    contrast: float = 14.0
    alternatives: int = 6
    pool: int = 20
    deletion: float = 3.0
    insertion: float = 3.5
    dialects: tuple[str, ...] = ("north", "centre", "south")

    def __post_init__(self) -> None:
        if self.size < 1 or self.alternatives < 1 or self.pool < 1 or not self.dialects:
            raise UsageError("size, alternatives and pool must be 1 or more, with some dialect.")
        nats = (self.noise, self.contrast, self.deletion, self.insertion)
        if not all(0 <= x <= MAX_NATS for x in nats):
            raise UsageError(
                f"noise, contrast, deletion and insertion must be from 0 to {MAX_NATS:g} nats."
            )


def simulate(
    texts: Sequence[str],
    recogniser: Recogniser | None = None,
    *,
    vocabulary: Iterable[str] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[NBest]:
    """Yield a list for each text that has words; its `ref` is the normalised text.

    Args:
        vocabulary: the words that the recogniser can write; by default those of the texts. A word
            of a text that is not among them is always misheard.
        groups: the call of each text; by default five texts in a row are a call.

    Raises:
        DataError: no text has words, or the vocabulary is empty.
        UsageError: a negative seed, or as many groups as texts are not given.
    """
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more, not {seed}.")
    recogniser = Recogniser() if recogniser is None else recogniser
    spoken = [words(text) for text in texts]
    if not any(spoken):
        raise DataError("No text holds words; there is nothing to simulate.")
    if groups is not None and len(groups) != len(texts):
        raise UsageError(f"There are {len(texts)} texts but {len(groups)} groups.")
    counts = Counter(word for text in spoken for word in text)
    known = list(dict.fromkeys(counts if vocabulary is None else vocabulary))
    if not known:
        raise DataError("The vocabulary is empty; a recogniser must be able to write something.")
    fillers = sorted(known, key=lambda word: (-counts[word], word))[:FILLERS]
    near = {
        dialect: _neighbours(list(counts), known, dialect, recogniser.pool)
        for dialect in dict.fromkeys(recogniser.dialects)
    }
    calls: dict[str, int] = {}
    for index, text in enumerate(spoken):
        call = f"call{index // 5:05d}" if groups is None else groups[index]
        number = calls.setdefault(call, len(calls))
        if not text:
            continue
        dialect = recogniser.dialects[
            int(np.random.default_rng([seed, number]).integers(len(recogniser.dialects)))
        ]
        rng = np.random.default_rng([seed, number, index])
        slots = list(_slots(text, near[dialect], fillers, recogniser, rng))
        found = [
            Hypothesis(text=hypothesis, am=round(score, 4))
            for hypothesis, score in _best_paths(slots, recogniser.size)
        ]
        yield NBest(
            utt_id=f"simulated-{index:06d}",
            hyps=tuple(found),
            ref=" ".join(text),
            group=call,
            extra={"simulated": dialect},
        )


Neighbours = Mapping[str, tuple[list[str], np.ndarray]]
Slot = list[tuple[str, float]]


def _neighbours(spoken: Sequence[str], known: Sequence[str], dialect: str, pool: int) -> Neighbours:
    """Return each word's nearest words of the vocabulary and their distances, itself first if known."""
    from rescoring.phonetics import distance_matrix

    syllables = [word for word in known if parse(word) is not None]
    recognised = set(known)
    found = {}
    # A foreign word that is known is heard right or not at all: the tables know no sound-alikes.
    for word in (word for word in spoken if parse(word) is None):
        if word in recognised:
            found[word] = ([word], np.zeros(1))
        else:
            row = distance_matrix([word], known, dialect)[0]
            found[word] = _first_of(known, row, pool)
    native = [word for word in spoken if word not in found]
    for start in range(0, len(native) if syllables else 0, BLOCK):
        block = native[start : start + BLOCK]
        for word, row in zip(block, distance_matrix(block, syllables, dialect), strict=True):
            found[word] = _first_of(syllables, row, pool + 1)
    return found


def _first_of(known: Sequence[str], row: np.ndarray, pool: int) -> tuple[list[str], np.ndarray]:
    nearest = np.argsort(row, kind="stable")[:pool]
    return [known[int(column)] for column in nearest], row[nearest].astype(np.float64)


def _slots(
    text: Sequence[str],
    near: Neighbours,
    fillers: Sequence[str],
    recogniser: Recogniser,
    rng: np.random.Generator,
) -> Iterator[Slot]:
    """Yield what may stand at each place: word and score; "" is nothing."""
    for word in text:
        candidates, distances = near.get(word, ([], np.zeros(0)))
        itself = [index for index, x in enumerate(candidates) if x == word]
        others = np.array([index for index, x in enumerate(candidates) if x != word], dtype=np.intp)
        if len(others) > recogniser.alternatives:
            odds = np.exp(-recogniser.contrast / 2 * distances[others])
            others = rng.choice(
                others, size=recogniser.alternatives, replace=False, p=odds / odds.sum()
            )
        heard = [*itself, *others.tolist()]
        scores = -recogniser.contrast * distances[heard] + rng.normal(
            0, recogniser.noise, len(heard)
        )
        slot = list(zip((candidates[index] for index in heard), scores.tolist(), strict=True))
        slot.append(("", -recogniser.deletion + recogniser.noise * float(rng.normal())))
        yield slot
        added = -recogniser.insertion + recogniser.noise * float(rng.normal())
        yield [("", 0.0), (fillers[int(rng.integers(len(fillers)))], added)]


def _best_paths(slots: Sequence[Slot], size: int) -> list[tuple[str, float]]:
    """Return the distinct texts of the best paths through independent slots, the best first."""
    totals = np.zeros(1)
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for slot in slots:
        sums = totals[:, None] + np.array([score for _, score in slot])
        kept = np.argsort(-sums, axis=None, kind="stable")[: 2 * size]
        before, choice = np.unravel_index(kept, sums.shape)
        taken.append((before, choice))
        totals = sums[before, choice]
    found: dict[str, float] = {}
    for path, total in enumerate(totals.tolist()):
        here, written = path, []
        for slot, (before, choice) in zip(reversed(slots), reversed(taken), strict=True):
            written.append(slot[int(choice[here])][0])
            here = int(before[here])
        found.setdefault(" ".join(word for word in reversed(written) if word), total)
        if len(found) == size:
            break
    return list(found.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_simulate, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    default = Recogniser()
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.simulate",
        description="Make N-best lists from text with a simulated recogniser, to try rescoring without a real one. "
        "What is measured on such lists says nothing about real recordings.",
        epilog="example: python -m rescoring.simulate --text turns.txt --out lists.jsonl",
    )
    option = parser.add_argument
    option(
        "--text",
        type=Path,
        required=True,
        metavar="FILE",
        help='one utterance a line; of .tsv the last column, of .jsonl "text"',
    )
    option("--out", type=Path, required=True, metavar="FILE", help="the lists, JSONL")
    option("--size", type=int, default=default.size, help="hypotheses a list (%(default)s)")
    option("--noise", type=float, default=default.noise, help="nats (%(default)s)")
    option("--contrast", type=float, default=default.contrast, help="nats (%(default)s)")
    option("--alternatives", type=int, default=default.alternatives, help="a word (%(default)s)")
    option("--vocabulary", type=Path, metavar="FILE", help="words it can write; default: the text")
    option("--seed", type=int, default=0)
    return parser


def _simulate(arguments: argparse.Namespace) -> Summary:
    refuse_inputs_as_output(arguments.out, filter(None, (arguments.text, arguments.vocabulary)))
    recogniser = Recogniser(
        size=arguments.size,
        noise=arguments.noise,
        contrast=arguments.contrast,
        alternatives=arguments.alternatives,
    )
    vocabulary = None
    if arguments.vocabulary:
        vocabulary = (word for line in read_lines(arguments.vocabulary) for word in words(line))
    texts = list(read_lines(arguments.text))
    lists = simulate(texts, recogniser, vocabulary=vocabulary, seed=arguments.seed)
    count = write_nbest(arguments.out, lists)
    return {"lists": count, "out": str(arguments.out), "note": "simulated, not recognised"}


if __name__ == "__main__":
    raise SystemExit(main())
