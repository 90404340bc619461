"""N-gram models of Vietnamese news beside KenLM's: perplexity, probabilities and speed.

Trains on nine tenths of vi_news_unc (whole documents), tests on the rest. `lmplz` and `query` are built from KenLM's
source package in a folder that is thrown away (pip, cmake, g++ and Boost's headers needed), or taken from --kenlm-bin;
where that fails the report says why. Times are processor seconds of one thread.

Example: python -m benchmarks.language_model --kenlm-bin kenlm/build/bin
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rescoring.arpa import read_arpa, write_arpa
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM, KenLM, LanguageModel
from rescoring.mixture import Interpolated
from rescoring.ngrams import Ngrams
from trunkline.checkpoint import write_json
from trunkline.command import Summary, run
from trunkline.errors import DependencyError, StorageError
from trunkline.syllable import words

RESULTS = Path(__file__).parent / "results" / "language_model.json"
DATA = Path(__file__).parent.parent.parent / "shared" / "data"
KENLM = "kenlm==0.3.0"
LISTS, HYPOTHESES, LENGTH = 50, 100, 20

Sentences = list[list[str]]


def read_news() -> tuple[list[str], list[str]]:
    """Return the lines of nine tenths of the documents, and those of every tenth document."""
    path = DATA / "vi_news_unc" / "news.tsv.xz"
    if not path.exists():
        raise StorageError(f"{path} is missing; the benchmark needs it.")
    documents: dict[str, list[str]] = {}
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for row in file:
            _, document, line = row.rstrip("\n").split("\t", 2)
            documents.setdefault(document, []).append(line)
    parts: tuple[list[str], list[str]] = ([], [])
    for number, lines in enumerate(documents.values()):
        parts[number % 10 == 0].extend(lines)
    return parts


def cut(lines: Sequence[str]) -> Sentences:
    """Return the words of each line that has any."""
    return [found for line in lines if (found := words(line))]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and its processor seconds."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def build_kenlm(folder: Path) -> Path:
    """Build `lmplz` and `query` from the source package in `folder`; return where they are."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    _call([*download, "--no-binary", "kenlm", KENLM, "-d", str(folder)])
    (archive,) = folder.glob("kenlm-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    build = folder / "build"
    _call(["cmake", "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"])
    _call(["nice", "cmake", "--build", str(build), "--target", "lmplz", "query"])
    return build / "bin"


def _call(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, **options)
    except FileNotFoundError as error:
        raise DependencyError(f"{command[0]} is not installed.") from error
    except subprocess.CalledProcessError as error:
        reason = next((x for x in error.stderr.splitlines() if "rror" in x), error.stderr[-300:])
        raise DependencyError(f"{' '.join(command[:3])} failed: {reason.strip()}") from error


def run_lmplz(bin_folder: Path, order: int, sentences: Sentences, test: Sentences) -> Summary:
    """Train and test with KenLM's own programs; return what they report, and the model as `ngrams`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, part in (("train", sentences), ("test", test)):
            (folder / file).write_text("".join(" ".join(x) + "\n" for x in part), encoding="utf-8")
        before = _children_seconds()
        command = [str(bin_folder / "lmplz"), "-o", str(order), "-S", "1G", "-T", f"{folder}/"]
        _call([*command, "--text", f"{folder}/train", "--arpa", f"{folder}/lm.arpa"])
        seconds = _children_seconds() - before
        with (folder / "test").open() as file:
            report = _call([str(bin_folder / "query"), f"{folder}/lm.arpa"], stdin=file).stdout
        found = re.findall(
            r"^(Perplexity including|Perplexity excluding).*?([\d.]+)$", report, re.M
        )
        return {
            "train_seconds": seconds,
            "including_oov": float(found[0][1]),
            "excluding_oov": float(found[1][1]),
            "ngrams": read_arpa(folder / "lm.arpa"),
        }


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def largest_difference(ours: Ngrams, theirs: Ngrams) -> float:
    """Return the largest difference of log10 probabilities and back-offs; infinite for other n-grams."""
    tables = [_table(ours), _table(theirs)]
    if tables[0].keys() != tables[1].keys():
        return float("inf")
    return max(
        abs(x - y)
        for key, row in tables[0].items()
        for x, y in zip(row, tables[1][key], strict=True)
    )


def _table(ngrams: Ngrams) -> dict[tuple[str, ...], tuple[float, float]]:
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    texts: list[tuple[str, ...]] = []
    for order in ngrams.orders:
        last = [ngrams.vocabulary[x] for x in order.word.tolist()]
        first = [texts[x] for x in order.prefix.tolist()] if texts else [()] * len(last)
        texts = [(*a, b) for a, b in zip(first, last, strict=True)]
        numbers = zip(order.log_prob.tolist(), order.backoff.tolist(), strict=True)
        found |= zip(texts, numbers, strict=True)
    return found


def make_lists(test: Sentences) -> list[list[str]]:
    """Return seeded lists of hypotheses: stretches of the test text with one to five words changed."""
    rng = np.random.default_rng(0)
    stream = [word for sentence in test for word in sentence]
    lists = []
    for start in rng.integers(0, len(stream) - LENGTH, LISTS):
        texts = []
        for _ in range(HYPOTHESES):
            text = stream[start : start + LENGTH]
            for place in rng.integers(0, LENGTH, rng.integers(1, 6)):
                text[place] = stream[rng.integers(len(stream))]
            texts.append(" ".join(text))
        lists.append(texts)
    return lists


def milliseconds(model: LanguageModel, lists: list[list[str]]) -> float:
    """Return the median time of scoring one list."""
    model.score(lists[0])
    return 1000 * statistics.median(timed(lambda x=x: model.score(x))[1] for x in lists)


def mixture_rows(news: ArpaLM) -> list[dict[str, Any]]:
    """Return perplexities of news, VIVOS and both on half of VIVOS test; the other half tunes the mixture's weight."""
    path = DATA / "vi_vivos_text" / "vivos_text.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    parts = {
        split: cut([x["text"] for x in rows if x["split"] == split]) for split in ("train", "test")
    }
    dev, test = parts["test"][::2], parts["test"][1::2]
    vivos = ArpaLM(train(parts["train"], 4).ngrams)
    mixed = Interpolated(news, vivos).tuned(dev)
    models = {"news": news, "vivos": vivos, f"mixture ({mixed.weight:.3f} news)": mixed}
    return [{"model": name} | x.perplexity(test)._asdict() for name, x in models.items()]


def _benchmark(arguments: argparse.Namespace) -> Summary:
    train_lines, test_lines = read_news()
    sentences, cutting = timed(lambda: cut(train_lines))
    test = cut(test_lines)
    trained, training = timed(lambda: train(sentences, arguments.order))
    model = ArpaLM(trained.ngrams)
    lists = make_lists(test)
    report: Summary = {
        "order": arguments.order,
        "train_words": trained.words,
        "ngrams": [len(x.word) for x in trained.ngrams.orders],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, writing = timed(lambda: write_arpa(trained.ngrams, folder / "lm.arpa"))
        _, reading = timed(lambda: ArpaLM.load(folder / "lm.arpa"))
        model.save(folder / "lm")
        _, opening = timed(lambda: ArpaLM.load(folder / "lm"))
        seconds = {"cut_into_words": cutting, "estimate": training, "write_arpa": writing}
        report |= {
            "seconds": seconds | {"read_arpa": reading, "open_folder": opening},
            "words_per_second_text_to_arpa": round(trained.words / sum(seconds.values())),
            "list_ms": milliseconds(model, lists),
            "perplexity": model.perplexity(test)._asdict(),
        }
        report["kenlm_package"] = _beside_package(folder / "lm.arpa", model, lists)
        report["lmplz"] = _beside_lmplz(arguments, folder, sentences, test, trained.ngrams)
    report["tables"] = {"Perplexity on half of VIVOS test": mixture_rows(model)}
    if "including_oov" in report["lmplz"]:
        ours, theirs = report["perplexity"]["including_oov"], report["lmplz"]["including_oov"]
        report["perplexity_over_lmplz"] = ours / theirs
    write_json(arguments.out, json.loads(json.dumps(report)))
    return report


def _beside_package(arpa: Path, model: ArpaLM, lists: list[list[str]]) -> Summary:
    """Return how far the package kenlm's scores of one file are from ours, and its speed."""
    try:
        peer = KenLM(arpa)
    except DependencyError as error:
        return {"skipped": str(error)}
    texts = [text for found in lists for text in found]
    difference = float(np.abs(peer.score(texts) - model.score(texts)).max())
    return {"largest_difference_of_scores": difference, "list_ms": milliseconds(peer, lists)}


def _beside_lmplz(
    arguments: argparse.Namespace,
    folder: Path,
    sentences: Sentences,
    test: Sentences,
    ours: Ngrams,
) -> Summary:
    try:
        programs = arguments.kenlm_bin or build_kenlm(folder)
        found = run_lmplz(programs, arguments.order, sentences, test)
    except DependencyError as error:
        return {"skipped": str(error)}
    theirs = found.pop("ngrams")
    return found | {"largest_difference_of_log10": largest_difference(ours, theirs)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model",
        description=__doc__.partition("\n")[0] if __doc__ else None,
        epilog="example: python -m benchmarks.language_model",
    )
    parser.add_argument("--order", type=int, default=4)
    parser.add_argument(
        "--kenlm-bin", type=Path, help="folder with lmplz and query; default: build"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(_benchmark, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
