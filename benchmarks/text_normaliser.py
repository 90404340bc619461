"""Speed of the normaliser and the tokenizers on one core, and whether anything is lost, on real Vietnamese texts.

    python -m benchmarks.text_normaliser [--data ../shared/data] [--rounds N]

Times are processor time of one process (the median of the rounds), so that a shared core does not distort them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trunkline.text import Normalised, Normaliser
from trunkline.tokenizer import KINDS, train_tokenizer

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "text_normaliser.json"
SUBWORDS = 2000
WANTED = 50_000  # words a second


def read_news(data: Path) -> list[str]:
    """Return the 44,600 news lines."""
    with lzma.open(data / "vi_news_unc/news.tsv.xz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    header = lines[0].split("\t")[-1] in ("line", "text")
    return [line.split("\t", 2)[-1] for line in lines[header:] if line]


def read_vivos(data: Path) -> list[str]:
    """Return the VIVOS transcripts."""
    with lzma.open(data / "vi_vivos_text/vivos_text.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def read_bank(data: Path) -> list[str]:
    """Return the posts about banks."""
    return [
        json.loads(line)["text"]
        for name in ("train", "test")
        for line in (data / f"vi_bank_ubs/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def timed(function: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """Return what `function` returns and the median of its processor seconds."""
    seconds, result = [], None
    for _ in range(rounds):
        began = time.process_time()
        result = function()
        seconds.append(time.process_time() - began)
    return result, statistics.median(seconds)


def is_reported(text: str, result: Normalised) -> bool:
    """Whether the reported changes, made in the text, give the result (white space apart)."""
    out, at = [], 0
    for change in result.changes:
        out += [text[at : change.start], change.after]
        at = change.end
    return "".join(("".join(out) + text[at:]).split()) == "".join(result.text.split())


def measure_normaliser(
    name: str, texts: list[str], rounds: int
) -> tuple[dict[str, Any], list[str]]:
    """Return one row of the table, and the normalised texts."""

    def explain() -> list[Normalised]:
        normaliser = Normaliser()  # a new one each round, so that no word is remembered
        return [normaliser.explain(text) for text in texts]

    results, seconds = timed(explain, rounds)
    words = sum(len(text.split()) for text in texts)
    again = Normaliser()
    row = {
        "texts": name,
        "lines": len(texts),
        "words": words,
        "words per second": round(words / seconds),
        "changed by a second pass": sum(again(result.text) != result.text for result in results),
        "not fully reported": sum(
            not is_reported(text, result) for text, result in zip(texts, results, strict=True)
        ),
        "changes": sum(len(result.changes) for result in results),
        "flags": sum(len(result.flags) for result in results),
        "digits left without a flag": sum(map(unflagged_digits, results)),
    }
    return row, [result.text for result in results]


def unflagged_digits(result: Normalised) -> bool:
    """Whether a digit stands in the result outside every flag."""
    flagged = sum(x.isdecimal() for mark in result.flags for x in mark.text)
    return sum(x.isdecimal() for x in result.text) > flagged


def measure_tokenizer(kind: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Return one row of the table of tokenizers."""
    size = SUBWORDS if kind in ("bpe", "unigram") else None
    tokenizer, training = timed(lambda: train_tokenizer(kind, texts, size=size), 1)
    ids, seconds = timed(lambda: [tokenizer.encode(text) for text in texts], rounds)
    words = sum(len(text.split()) for text in texts)
    return {
        "tokenizer": kind,
        "tokens": len(tokenizer),
        "tokens per word": round(sum(map(len, ids)) / words, 2),
        "unknown": sum(row.count(tokenizer.unk) for row in ids),
        "not back exactly": sum(
            tokenizer.decode(row) != text for text, row in zip(texts, ids, strict=True)
        ),
        "training s": round(training, 1),
        "words per second": round(words / seconds),
    }


def main() -> int:
    """Measure, print the tables and keep the figures; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"{args.data} is not here; nothing was measured.")
        return 0
    rows, texts = [], []
    sources = {
        "vi_news_unc": read_news(args.data),
        "vi_vivos_text": read_vivos(args.data),
        "vi_bank_ubs": read_bank(args.data),
    }
    for name, source in sources.items():
        row, normalised = measure_normaliser(name, source, args.rounds)
        print(row)
        rows.append(row)
        if name != "vi_bank_ubs":
            texts += [text for text in normalised if text]
    tokenizers = [measure_tokenizer(kind, texts, args.rounds) for kind in KINDS]
    for row in tokenizers:
        print(row)
    record = {
        "limits": {"words_per_second": WANTED},
        "rounds": args.rounds,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "normaliser": rows,
        "tokenizers": tokenizers,
    }  # fmt: skip
    args.results.parent.mkdir(exist_ok=True)
    args.results.write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    missed = any(
        row["words per second"] < WANTED
        or row["changed by a second pass"]
        or row["not fully reported"]
        for row in rows
    ) or any(row["not back exactly"] for row in tokenizers)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
