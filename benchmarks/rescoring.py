"""What rescoring brings, on simulated lists, on phrases, on real outputs of 22 systems, and what it costs.

Needs ../shared/data (vi_news_unc, vi_lexicon, en_asr_multihyp). Times are of the processor, one thread. What is
simulated says nothing about a real recogniser.

Example: python -m benchmarks.rescoring --part simulated --part speed
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._rescoring_lists import DATA, heard, models, names_in, renamed, spoken
from benchmarks.phonetics import made_up_names
from rescoring.bias import default_threshold, expander, phrase_errors
from rescoring.combine import Rescorer
from rescoring.consensus import Consensus, Phonetic
from rescoring.features import Features, collect
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.nbest import Hypothesis, NBest
from rescoring.phrases import PhraseList
from rescoring.tuning import report, tune
from rescoring.weights import Weights
from trunkline.checkpoint import write_json
from trunkline.metrics import paired_difference
from trunkline.syllable import words

RESULTS = Path(__file__).parent / "results" / "rescoring.json"
SYSTEMS = 22
PIVOTS = 5
FOLDS = 5


def with_noise(lists: Iterable[NBest], seed: int) -> list[NBest]:
    """Give every hypothesis a score that means nothing."""
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(
            nbest,
            hyps=tuple(
                dataclasses.replace(x, extra={"noise": float(rng.normal())}) for x in nbest.hyps
            ),
        )
        for nbest in lists
    ]


def simulated() -> dict[str, Any]:
    """500 lists to tune on, with a term of pure noise; 500 of other documents to test the weights."""
    lm, semantic, _ = models()
    lines = spoken(1200, seed=0)
    documents = sorted({line.document for line in lines})
    dev_documents = set(documents[::2])
    dev = with_noise(heard([x for x in lines if x.document in dev_documents][:500], 1), 2)
    test = with_noise(heard([x for x in lines if x.document not in dev_documents][:500], 3), 4)
    rescorer = Rescorer(lm=lm, semantic=semantic, phonetic=Phonetic(pivots=PIVOTS))
    features, test_features = collect(dev, rescorer), collect(test, rescorer)
    rows = []
    for terms in (["lm"], ["lm", "len"], ["sem"], ["phon"], ["noise"], None):
        tuned = tune(features, terms=terms)
        name = "all, chosen" if terms is None else " ".join(terms)
        rows.append(
            {"terms": name} | _row(report(features, tuned.chosen), tuned.weights, features)
            | {f"test_{k}": v for k, v in _test(test_features, tuned.weights).items()}
        )  # fmt: skip
    return {
        "dev_lists": len(dev),
        "test_lists": len(test),
        "words": int(features.words.sum()),
        "one_best": features.scored(np.zeros(len(dev), dtype=int)).wer,
        "oracle": features.scored(features.oracle()).wer,
        "test_one_best": test_features.scored(np.zeros(len(test), dtype=int)).wer,
        "test_oracle": test_features.scored(test_features.oracle()).wer,
        "unchanged_with_weights_0": all(Rescorer(Weights(alpha=0)).rescore(x) == x for x in dev),
        "terms": rows,
        "false_alarms_of_noise": noise_alarms(features),
    }


def noise_alarms(features: Features, draws: int = 20) -> dict[str, int]:
    """Count how often a term of fresh noise is given a weight."""
    alarms = 0
    column = features.names.index("noise")
    for seed in range(draws):
        values = features.values.copy()
        drawn = np.random.default_rng(seed).normal(size=values.shape[:2])
        values[..., column] = np.where(features.present, drawn, 0)
        fresh = dataclasses.replace(features, values=values)
        alarms += bool(tune(fresh, terms=["noise"], restarts=2).weights.of("noise"))
    return {"draws": draws, "given_a_weight": alarms}


def _row(found: dict[str, Any], weights: Weights, features: Features) -> dict[str, Any]:
    difference = found["difference"]
    return {
        "weights": {
            name: round(weights.of(name), 4) for name in features.names if weights.of(name)
        },
        "wer": found["tables"]["Word error rates"][1]["wer"],
        "difference": difference["difference"],
        "low": difference["low"],
        "high": difference["high"],
        "verdict": difference["verdict"],
        "gap_closed": found["gap_closed"],
        "better": found["utterances_better"],
        "worse": found["utterances_worse"],
    }


def _test(features: Features, weights: Weights) -> dict[str, Any]:
    found = report(features, features.chosen(weights))
    row = _row(found, weights, features)
    return {name: row[name] for name in ("wer", "low", "high", "verdict", "gap_closed")}


def phrases() -> dict[str, Any]:
    """Names to listen for in place of those in the text: tuned on half of the documents, measured on the others."""
    lm, _, _ = models()
    listed = made_up_names(100, random.Random(5))
    lines = renamed(listed, seed=6) + spoken(600, 7, lambda line: not names_in(line.text))
    documents = sorted({line.document for line in lines})
    on_dev = set(np.random.default_rng(8).permutation(documents)[::2].tolist())
    dev = heard([x for x in lines if x.document in on_dev], 9, listed)
    test = heard([x for x in lines if x.document not in on_dev], 10, listed)
    phrase_list = PhraseList(listed)
    plain, hearing = Rescorer(lm=lm), Rescorer(lm=lm, phrases=phrase_list)
    without = tune(collect(dev, plain), terms=["lm", "len"]).weights
    expanded = map(expander(hearing.with_weights(without)), dev)
    tuned = tune(collect(expanded, hearing), terms=["lm", "len", "bias"]).weights
    wider = map(expander(hearing.with_weights(tuned)), test)
    answers = {
        "1-best": [x.hyps[0].text for x in test],
        "lm": [plain.with_weights(without).score(x).best for x in test],
        "lm, phrases": [hearing.with_weights(tuned).score(x).best for x in wider],
    }
    references = [x.ref or "" for x in test]
    return {
        "phrases": len(phrase_list),
        "threshold": default_threshold(len(phrase_list)),
        "dev_lists": len(dev),
        "test_lists": len(test),
        "with_a_phrase": sum(
            bool(phrase_errors([r], [r], phrase_list).biased_words) for r in references
        ),
        "weights": {name: round(weight, 3) for name, weight in tuned.items() if weight},
        "systems": [
            {"system": name, **_phrase_row(references, answer, answers["lm"], phrase_list, test)}
            for name, answer in answers.items()
        ],
    }


def _phrase_row(
    references: Sequence[str],
    answer: Sequence[str],
    base: Sequence[str],
    listed: PhraseList,
    lists: Sequence[NBest],
) -> dict[str, Any]:
    found, before = (phrase_errors(references, x, listed) for x in (answer, base))
    groups = [nbest.group for nbest in lists]
    row: dict[str, Any] = {
        "wer": float((found.biased_errors + found.unbiased_errors).sum())
        / float((found.biased_words + found.unbiased_words).sum()),
        "biased": found.biased_rate,
        "biased_words": int(found.biased_words.sum()),
        "unbiased": found.unbiased_rate,
    }
    for part in ("biased", "unbiased"):
        new, old = getattr(found, f"{part}_errors"), getattr(before, f"{part}_errors")
        difference = paired_difference(
            new,
            old,
            groups,
            sizes=getattr(found, f"{part}_words"),
            higher_is_better=False,
            unit="call",
        )
        row |= {f"{part}_against_lm": difference.verdict}
        row |= {f"{part}_low": difference.low, f"{part}_high": difference.high}
    return row


def real() -> dict[str, Any]:
    """Outputs of 22 systems on LibriSpeech test-other: votes, consensus and an n-gram of other speakers' text."""
    with lzma.open(DATA / "en_asr_multihyp" / "hyps.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    other = [row for row in rows if row["subset"] == "test-other"]
    speakers = [row["id"].split("-")[0] for row in other]
    fold = {name: number % FOLDS for number, name in enumerate(sorted(set(speakers)))}
    clean = [words(row["ref"]) for row in rows if row["subset"] == "test-clean"]
    lists: list[NBest] = []
    for number in range(FOLDS):
        outside = [
            words(r["ref"]) for r, s in zip(other, speakers, strict=True) if fold[s] != number
        ]
        lm = ArpaLM(train([*clean, *outside], order=3).ngrams)
        inside = [x for x in zip(other, speakers, strict=True) if fold[x[1]] == number]
        lists += [_votes(row, speaker, lm) for row, speaker in inside]
    features = collect(lists, Rescorer(), tokenize=str.split)
    found = []
    for terms in ([], ["consensus"], ["lm", "len"], ["lm", "len", "consensus"]):
        tuned = tune(features, terms=terms)
        measured = report(features, tuned.chosen)
        found.append(
            {"terms": " ".join(["votes", *terms])} | _row(measured, tuned.weights, features)
        )
    rates = measured["tables"]["Word error rates"]
    return {
        "utterances": len(lists),
        "speakers": len(fold),
        "systems": SYSTEMS,
        "baseline": rates[0]["wer"],
        "oracle": rates[-1]["wer"],
        "terms": found,
    }


def _votes(row: dict[str, Any], speaker: str, lm: ArpaLM) -> NBest:
    """Return the distinct outputs, the baseline's first; for want of scores am is the log of the share of votes."""
    order = sorted(row["hyps"], key=lambda x: x["text"] != row["baseline"])
    texts = [x["text"] for x in order]
    shares = np.log([len(x["systems"]) / SYSTEMS for x in order])
    risk = Consensus("word", scale=1.0).risk([text.split() for text in texts], shares)
    scores = lm.score(texts)
    hyps = tuple(
        Hypothesis(text, float(share), float(score), {"consensus": -float(apart)})
        for text, score, share, apart in zip(texts, scores, shares, risk, strict=True)
    )
    return NBest(row["id"], hyps, ref=row["ref"], group=speaker)


def speed() -> dict[str, Any]:
    """Processor time of one list of 100 hypotheses of about 20 words; the median of 100 different lists."""
    lm, semantic, _ = models()
    lists = heard(spoken(100, 11, lambda x: 18 <= len(words(x.text)) <= 22), 12)
    weights = Weights(beta=0.5, gamma=1.0, delta=1.0, length=1.0)
    rows = []
    for name, phonetic, consensus in (
        ("lm, sem, phon to the 1-best", Phonetic(pivots=1), None),
        ("lm, sem, phon to the best 20", Phonetic(pivots=20), None),
        ("lm, sem, phon to all (4,950 pairs)", Phonetic(pivots=100), None),
        ("lm, sem, phonetic consensus (4,950 pairs)", Phonetic(pivots=1), Consensus("phonetic")),
    ):
        rescorer = Rescorer(weights, lm, semantic, phonetic, consensus=consensus)
        rescorer.score(lists[0])
        seconds = []
        for nbest in lists:
            began = time.process_time()
            rescorer.score(nbest)
            seconds.append(time.process_time() - began)
        rows.append(
            {
                "terms": name,
                "median_ms": round(1000 * float(np.median(seconds)), 2),
                "p95_ms": round(1000 * float(np.quantile(seconds, 0.95)), 2),
            }
        )
    length = float(np.mean([len(words(text)) for nbest in lists for text in nbest.texts]))
    return {
        "lists": len(lists),
        "hypotheses": float(np.mean([len(nbest) for nbest in lists])),
        "words": round(length, 1),
        "runs": rows,
        "import_s": _import_time(),
    }


def _import_time() -> float:
    """Return the processor seconds of `import rescoring` and its first name, the best of five."""
    code = (
        "import time; began = time.process_time(); from rescoring import Rescorer; "
        "print(time.process_time() - began)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return round(min(float(run.stdout) for run in runs), 3)


def main() -> None:
    """Measure the parts that are asked for, and keep the others' earlier figures."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        part.__name__: part for part in (simulated, phrases, real, speed)
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=parts)
    wanted = parser.parse_args().part or list(parts)
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in wanted:
        found[name] = _rounded(parts[name]())
        write_json(RESULTS, found)
        print(json.dumps({name: found[name]}, indent=2, ensure_ascii=False), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
