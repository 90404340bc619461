"""Simulated N-best lists of Vietnamese news, and models trained on other documents: what `rescoring` measures with."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.nbest import NBest
from rescoring.semantic import SemanticModel, Word2VecConfig, train_word2vec
from rescoring.simulate import simulate
from trunkline.syllable import parse, words

DATA = Path(__file__).parents[2] / "shared" / "data"


class Line(NamedTuple):
    """A line of a news document."""

    document: str
    text: str


@cache
def news() -> tuple[list[Line], list[Line]]:
    """Return the lines of 7 documents in 8, and those of the others."""
    with lzma.open(DATA / "vi_news_unc" / "news.tsv.xz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    lines = [Line(row[1], row[2]) for row in rows]
    held_out = set(sorted({line.document for line in lines})[::8])
    kept = [line for line in lines if line.document not in held_out]
    return kept, [line for line in lines if line.document in held_out]


@cache
def models() -> tuple[ArpaLM, SemanticModel, tuple[str, ...]]:
    """Return a 4-gram model and word vectors of the first lines, and the words of all lines."""
    kept, held_out = news()
    sentences = [found for line in kept if (found := words(line.text))]
    vocabulary = tuple(
        dict.fromkeys(word for line in (*kept, *held_out) for word in words(line.text))
    )
    return (
        ArpaLM(train(sentences).ngrams),
        SemanticModel(train_word2vec(sentences, Word2VecConfig(epochs=2))),
        vocabulary,
    )


def spoken(count: int, seed: int, wanted: Callable[[Line], bool] = lambda _: True) -> list[Line]:
    """Return lines of the other documents, of 4 to 25 words, a document's together."""
    lines = [x for x in news()[1] if 4 <= len(words(x.text)) <= 25 and wanted(x)]
    drawn = np.random.default_rng(seed).permutation(len(lines))[:count]
    return sorted((lines[row] for row in drawn), key=lambda line: line.document)


def heard(lines: Sequence[Line], seed: int, names: Sequence[str] = ()) -> list[NBest]:
    """Return simulated lists; a document is a call. The recogniser can write all words of the news and of `names`."""
    return list(
        simulate(
            [line.text for line in lines],
            vocabulary=[*models()[2], *(word for name in names for word in words(name))],
            groups=[line.document for line in lines],
            seed=seed,
        )
    )


def names_in(text: str) -> list[str]:
    """Return the runs of two to four capitalised syllables inside a sentence: mostly names."""
    found, run = [], []
    for token in [*text.split()[1:], ""]:
        word = token.strip("“”\"'(),.:;!?")
        if word and word[0].isupper() and word[1:].islower() and parse(word):
            run.append(word)
            if token.endswith(word):
                continue
        found += [" ".join(run)] if 2 <= len(run) <= 4 else []
        run = []
    return found


def renamed(names: Sequence[str], seed: int) -> list[Line]:
    """Return the other documents' lines of 4 to 25 words that hold names, each name replaced by one of `names`."""
    rng = np.random.default_rng(seed)
    found = []
    for document, text in spoken(10_000, seed, lambda line: bool(names_in(line.text))):
        for name in names_in(text):
            text = text.replace(name, names[int(rng.integers(len(names)))])
        found.append(Line(document, text))
    return found
