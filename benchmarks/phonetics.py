"""Syllables, Telex, dialects, distances and phrase lists: how much of real text they hold for, and how fast.

Needs ../shared. Times are of the processor, one thread; the medians are over single calls.

Example: python -m benchmarks.phonetics
"""

from __future__ import annotations

import itertools
import json
import lzma
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rescoring import phrases as rescoring_phrases
from rescoring.costs import DIALECTS
from rescoring.dialects import Phonemes, homophones, phonemes
from rescoring.phonetics import (
    distance_matrix,
    pairwise_distances,
    phonetic_distance,
    sentence_distances,
)
from rescoring.phrases import PhraseList
from rescoring.soundex import vnsoundex
from rescoring.telex import from_telex, to_telex
from rescoring.vectors import dimension, syllable_vector
from trunkline.checkpoint import write_json
from trunkline.command import format_summary
from trunkline.syllable import Syllable, normalise, parse, split_tone, words

RESULTS = Path(__file__).parent / "results" / "phonetics.json"
SHARED = Path(__file__).parents[2] / "shared"
DATA = SHARED / "data"
TRIPLES = 5_000
NOISE = 0.16
"""Mean distance of what is looked for in the recall of retrieval, and its threshold."""


def rows_of(name: str) -> list[list[str]]:
    """Return the fields of each line of a text file of the data."""
    path = DATA / name
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
    return [line.split("\t") for line in text.split("\n") if line]


@cache
def dictionary() -> list[str]:
    """Return the syllables of the dictionary that are not extended, in lower case."""
    listed = {row[0] for row in rows_of("vi_lexicon/hunspell_vi_DauCu.dic")[1:]}
    return sorted(x for x in listed if x == normalise(x) and (s := parse(x)) and not s.ext)


@cache
def transcripts() -> list[str]:
    """Return the sentences of VIVOS."""
    return [json.loads(row[0])["text"] for row in rows_of("vi_vivos_text/vivos_text.jsonl.xz")]


def telex() -> dict[str, Any]:
    """Return golden cases met, and what does not return from Telex in each set."""
    golden = [
        row.split("\t")
        for row in (SHARED / "golden/telex/cases.tsv").read_text("utf-8").splitlines()
    ]
    keys = [(row[0], row[1]) for row in rows_of("vi_telex_keys/telex_keys.tsv")[1:]]
    canonical = [(typed, word) for typed, word in keys if typed == to_telex(word)]
    news = (word for row in rows_of("vi_news_unc/news.tsv.xz") for word in words(row[2]))
    sets = {
        "dictionary, old marks": (
            row[0] for row in rows_of("vi_lexicon/hunspell_vi_DauCu.dic")[1:]
        ),
        "dictionary, new marks": (
            row[0] for row in rows_of("vi_lexicon/hunspell_vi_DauMoi.dic")[1:]
        ),
        "recorded syllables": (row[0] for row in rows_of("vi_lexicon/syllables_recorded.tsv")[1:]),
        "VIVOS": (word for text in transcripts() for word in words(text)),
        "news": news,
    }
    return {
        "golden cases met": f"{sum(to_telex(row[0]) == row[1] for row in golden)}/{len(golden)}",
        "canonical key sequences": len(canonical),
        "of them read otherwise": [
            f"{typed} {word}" for typed, word in canonical if from_telex(typed) != normalise(word)
        ],
        "tables": {"Round trips (types)": [{"set": x} | returned(y) for x, y in sets.items()]},
    }


def returned(tokens: Iterable[str]) -> dict[str, Any]:
    """Return how many syllables, and how many other words, come back from Telex."""
    types = sorted({normalise(token) for token in tokens})
    syllables = [x for x in types if parse(x)]
    lost = [x for x in syllables if split_tone(from_telex(to_telex(x))) != split_tone(x)]
    others = [x for x in types if not parse(x)]
    changed = [x for x in others if from_telex(to_telex(x)) != x]
    return {
        "syllables": len(syllables),
        "lost": len(lost),
        "other words": len(others),
        "changed": len(changed),
        "for example": changed[:6],
    }


def sounds() -> dict[str, Any]:
    """Return codes and homophones of the dictionary."""
    parsed = [x for x in map(parse, dictionary()) if x is not None]
    rows = []
    for dialect in DIALECTS[1:]:
        count = Counter(phonemes(x, dialect) for x in parsed)
        shared = sum(n for n in count.values() if n > 1)
        rows.append(
            {
                "dialect": dialect,
                "homophone pairs": sum(n * (n - 1) // 2 for n in count.values()),
                "syllables with a homophone": shared / len(parsed),
            }
        )
    return {
        "syllables": len(parsed),
        "VnSoundex codes": len({vnsoundex(x) for x in dictionary()}),
        "with tone": len({vnsoundex(x, tone=True) for x in dictionary()}),
        "tables": {"Homophones": rows},
    }


def triples() -> dict[str, Any]:
    """Return how often a homophone of a dialect is nearer than what differs in one part and sounds the same nowhere."""
    rng = random.Random(0)
    known = {x: y for x in dictionary() if (y := parse(x)) is not None}
    but_one: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for written, syllable in known.items():
        for part in range(5):
            but_one[without(syllable, part)].append(written)
    rows = []
    for dialect in DIALECTS[1:]:
        alike: defaultdict[Phonemes, list[str]] = defaultdict(list)
        for written, syllable in known.items():
            alike[phonemes(syllable, dialect)].append(written)
        found = 0
        ordered: Counter[str] = Counter()
        while found < TRIPLES:
            anchor = rng.choice(dictionary())
            same = alike[phonemes(known[anchor], dialect)]
            near = [x for x in same if known[x] != known[anchor]]
            far = rng.choice(but_one[without(known[anchor], rng.randrange(5))])
            if not near or any(homophones(far, anchor, name) for name in DIALECTS[1:]):
                continue
            found += 1
            alike_one = rng.choice(near)
            for profile in ("any", dialect):
                a, b = (phonetic_distance(anchor, x, profile) for x in (alike_one, far))
                ordered[profile] += a < b
        rows.append(
            {
                "homophones in": dialect,
                "triples": found,
                "in order by distances of any": ordered["any"] / found,
                "by those of the dialect": ordered[dialect] / found,
            }
        )
    return {
        "tables": {"A homophone is nearer than a syllable that differs audibly in one part": rows}
    }


def without(syllable: Syllable, part: int) -> tuple[str, ...]:
    """Return the parts of a syllable but one."""
    return (str(part), *(x for place, x in enumerate(syllable[:5]) if place != part))


def vectors() -> dict[str, Any]:
    """Return how well the vectors find the ten nearest syllables."""
    listed = dictionary()
    stacked = np.stack([syllable_vector(x) for x in map(parse, listed) if x is not None])
    asked = np.random.default_rng(0).choice(len(listed), 300, replace=False)
    exact = distance_matrix([listed[x] for x in asked], listed)
    squared = ((stacked[asked, None] - stacked) ** 2).sum(axis=-1)
    for row, place in enumerate(asked):
        exact[row, place] = squared[row, place] = np.inf
    nearest = np.argsort(exact, axis=1, kind="stable")[:, :10]
    recall = {}
    for depth in (10, 50):
        proposed = np.argsort(squared, axis=1, kind="stable")[:, :depth]
        hits = [len(set(a) & set(b)) for a, b in zip(nearest, proposed, strict=True)]
        recall[f"ten nearest among {depth}"] = float(np.mean(hits)) / 10
    return {"dimensions": dimension(), **recall}


def median_ms(function: Callable[[Any], object], arguments: Iterable[Any]) -> float:
    """Return the median processor time of a call, in milliseconds."""
    times = []
    for argument in arguments:
        start = time.process_time()
        function(argument)
        times.append(time.process_time() - start)
    return statistics.median(times) * 1000


def speed() -> dict[str, Any]:
    """Return what parsing, coding and comparing cost."""
    rng = random.Random(1)
    lists = [nbest(rng) for _ in range(20)]
    listed = dictionary()
    start = time.process_time()
    for word in listed:
        parse.__wrapped__(word)
    parsed = (time.process_time() - start) / len(listed) * 1e6
    vocabularies = [sorted({word for tokens in x for word in tokens}) for x in lists]
    return {
        "parse, not cached, us": parsed,
        "to_telex of a sentence of VIVOS, us": 1000 * median_ms(to_telex, transcripts()[:2000]),
        "distance matrix of the list's vocabulary, ms": median_ms(
            lambda x: distance_matrix(x, x), vocabularies
        ),
        "words in it": statistics.median(map(len, vocabularies)),
        "100 x 20 words to the first, ms": median_ms(lambda x: sentence_distances(x[0], x), lists),
        "all pairs of 100 x 20 words, ms": median_ms(pairwise_distances, lists),
    }


def nbest(rng: random.Random) -> list[list[str]]:
    """Return 100 variants of 20 words, with one word in seven replaced, the replacements shared."""
    pool = [rng.sample(dictionary(), 5) for _ in range(20)]
    return [[x[0] if rng.random() > 1 / 7 else rng.choice(x) for x in pool] for _ in range(100)]


def phrase_lists() -> dict[str, Any]:
    """Return times and recall over lists of names and wards, for sentences that hold a misheard phrase."""
    rows = []
    for size in (100, 1000, 10_000, 100_000):
        rng = random.Random(size)
        listed = made_up_names(size, rng)
        start = time.process_time()
        index = PhraseList(listed)
        index.find(words("một hai ba bốn năm sáu bảy tám"), 0.04)
        built = time.process_time() - start
        texts = [misheard(rng, index) for _ in range(100)]
        row: dict[str, Any] = {"phrases": len(index), "built_s": built}
        row["find_ms"] = median_ms(lambda text, index=index: index.find(text, 0.08), texts)
        if size > rescoring_phrases.EXHAUSTIVE:
            row |= recall(index, texts[:40])
        rows.append(row)
    title = f"Phrase lists (sentences of VIVOS with a misheard phrase; threshold .08, recall at {NOISE})"
    return {"tables": {title: rows}}


def recall(index: PhraseList, texts: Sequence[list[str]]) -> dict[str, float]:
    """Return the share of what an exhaustive search finds up to `NOISE`, and of the nearest of each text."""
    found = [index.find(text, NOISE) for text in texts]
    limit, rescoring_phrases.EXHAUSTIVE = rescoring_phrases.EXHAUSTIVE, len(index)
    wanted = [index.find(text, NOISE) for text in texts]
    rescoring_phrases.EXHAUSTIVE = limit
    pairs = list(zip(found, wanted, strict=True))
    return {
        "recall": sum(len(set(a) & set(b)) for a, b in pairs) / sum(map(len, wanted)),
        "recall_of_nearest": float(np.mean([b[0] in a for a, b in pairs if b])),
    }


def made_up_names(size: int, rng: random.Random) -> list[str]:
    """Return wards, then made-up names of a family name and a given name; distinct."""
    families = [
        "Nguyễn",
        "Trần",
        "Lê",
        "Phạm",
        "Hoàng",
        "Huỳnh",
        "Phan",
        "Vũ",
        "Võ",
        "Đặng",
        "Bùi",
        "Đỗ",
        "Hồ",
        "Ngô",
        "Dương",
        "Lý",
        "Đinh",
        "Trịnh",
    ]
    given = [
        row[0].strip()
        for name in ("male", "female")
        for row in rows_of(f"vi_lexicon/given_names_{name}.txt")
        if row[0].strip()
    ]
    wards = [row[1] for row in rows_of("vi_lexicon/provinces_wards.tsv")[1:]]
    found = dict.fromkeys(rng.sample(wards, min(size // 3, len(set(wards)))))
    names = [f"{a} {b}" for a, b in itertools.product(families, given)]
    longer = (f"{rng.choice(names)} {rng.choice(given)}" for _ in itertools.count())
    for name in itertools.chain(rng.sample(names, min(len(names), size)), longer):
        if len(found) >= size:
            break
        found[name] = None
    return list(found)


@cache
def neighbours(word: str) -> list[str]:
    """Return the twelve nearest syllables of the dictionary."""
    row = distance_matrix([word], dictionary())[0]
    return [dictionary()[place] for place in np.argsort(row, kind="stable")[1:13]]


def misheard(rng: random.Random, index: PhraseList) -> list[str]:
    """Return about 20 words: a sentence of VIVOS with a phrase in it, each of its words misheard one time in two."""
    tokens = words(rng.choice(transcripts()))[:17]
    place = rng.randrange(len(tokens) + 1)
    said = [
        rng.choice(neighbours(x)) if rng.random() < 0.5 and parse(x) else x
        for x in rng.choice(index.tokens)
    ]
    return [*tokens[:place], *said, *tokens[place:]]


def main() -> None:
    """Measure everything, print it, and write it to benchmarks/results/phonetics.json."""
    record: dict[str, Any] = {}
    for part in (telex, sounds, triples, vectors, speed, phrase_lists):
        name = part.__name__.replace("_", " ")
        record[name] = part()
        print(f"== {name}\n{format_summary(record[name])}", flush=True)
    write_json(RESULTS, record)


if __name__ == "__main__":
    main()
