"""Prefix beam search beside pyctcdecode: the same posteriors, the same process, run by run.

    python -m benchmarks.decoding [--rounds N] [--peer DIR] [--out FILE]

The peer is installed into a folder that is thrown away, without its pin on an old numpy; --peer takes a folder that
holds it already. Posteriors are made from a seed: tokens of 1,000 symbols at spikes between blanks, as CTC gives
them, clear or unsure. Times are processor time of one thread; each round runs every search once, in turn.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from heads.decoding import BeamOptions, PrefixBeamSearch, transcripts
from heads.recognition import ctc_items
from trunkline.metrics import word_errors
from trunkline.tokenizer import PieceTokenizer
from trunkline.tokenizer.base import SPACE, SPECIAL

RESULTS = Path(__file__).parent / "results" / "decoding.json"
PEER = ("pyctcdecode==0.5.0", "pygtrie==2.5.0")
FRAMES, SYMBOLS, BEAM = 375, 1000, 16
SHIFT = 0.08
BEST_TEXT = "trunkline, best text"
BESIDE = {"pyctcdecode, its defaults": BEST_TEXT, "pyctcdecode, our margin": BEST_TEXT}
"""What a search is compared with, where that is not our search with its defaults: what does the same for its user."""


class Case(NamedTuple):
    """Posteriors (frames, symbols) in natural logarithms, and the text they were made from."""

    log_probs: np.ndarray
    text: str


def tokenizer() -> PieceTokenizer:
    """Return a vocabulary of 1,000 symbols: the special ones, the space, words of one syllable."""
    words = [
        f"{SPACE}{a}{b}{c}" for a in "bcdghklmnpqrstvx" for b in "aeiou" for c in "aeioumnptkgxyz"
    ]
    left = SYMBOLS - len(SPECIAL) - 1
    return PieceTokenizer("syllables", [*SPECIAL, SPACE, *words[:left]])


def make_case(seed: int, sure: float, vocabulary: PieceTokenizer) -> Case:
    """Return 30 s of speech at about 3 words a second; the higher `sure`, the less is left to others than the best."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(FRAMES, SYMBOLS)) * 1.5
    first = len(SPECIAL) + 1
    said, frame = [], 2
    spikes = np.zeros(FRAMES, dtype=bool)
    while frame < FRAMES - 2:
        token = int(random.integers(first, SYMBOLS))
        said.append(vocabulary.pieces[token].removeprefix(SPACE))
        rivals = random.integers(first, SYMBOLS, size=3)
        for t in range(frame, frame + int(random.integers(1, 3))):
            spikes[t] = True
            scores[t, token] += sure + random.normal()
            scores[t, rivals] += sure * 0.7 + random.normal(size=3)
            scores[t, 0] += sure * 0.5 + random.normal()
        frame += int(random.integers(3, 6))
    quiet = np.flatnonzero(~spikes)
    scores[quiet, 0] += sure * 1.25 + random.normal(size=len(quiet))
    log_probs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return Case(log_probs.astype(np.float32), " ".join(said))


def install(folder: Path) -> None:
    """Put the peer into a folder, without what it depends on (its pin is on numpy below 2)."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(folder), *PEER], check=True)


def peer_searches(vocabulary: PieceTokenizer) -> dict[str, Callable[[np.ndarray], str]]:
    """Return pyctcdecode with its own pruning, as it makes N-best lists, and with our margin.

    Its `decode` keeps only the best of the prefixes that end in the same word: that leaves room for other endings but
    no N-best list, for which `decode_beams` leaves all of them, as we do.
    """
    logging.disable(logging.WARNING)  # it has remarks on the vocabulary
    from pyctcdecode import build_ctcdecoder  # type: ignore[import-not-found]

    labels = ["", *vocabulary.pieces[1:]]
    labels[vocabulary.unk] = "⁇"  # its own name for the unknown token
    decoder = build_ctcdecoder(labels)
    margin = BeamOptions().margin
    return {
        "pyctcdecode, its defaults": lambda x: decoder.decode(x, beam_width=BEAM),
        "pyctcdecode, N-best": lambda x: decoder.decode_beams(x, beam_width=BEAM)[0][0],
        "pyctcdecode, our margin": lambda x: decoder.decode(
            x, beam_width=BEAM, token_min_logp=-margin, beam_prune_logp=-1e9
        ),
    }


def our_searches(vocabulary: PieceTokenizer) -> dict[str, Callable[[np.ndarray], str]]:
    """Return our search with its defaults (all of the N-best list is made), with the peer's margin, and for a text."""
    searches = {
        "trunkline": PrefixBeamSearch(options=BeamOptions(beam=BEAM)),
        "trunkline, margin 5": PrefixBeamSearch(options=BeamOptions(beam=BEAM, margin=5.0)),
        BEST_TEXT: PrefixBeamSearch(options=BeamOptions(beam=BEAM, best_only=True)),
    }
    return {
        name: lambda x, search=search: transcripts(search(x), vocabulary)[0].text
        for name, search in searches.items()
    }


def exact(case: Case, text: str, vocabulary: PieceTokenizer) -> float:
    """Return ln P(text), summed over all paths."""
    losses, _ = ctc_items(
        torch.from_numpy(case.log_probs)[None],
        torch.tensor([len(case.log_probs)]),
        [ids := vocabulary.encode(text)],
        vocabulary.blank,
    )
    return -float(losses[0]) * len(ids)


def measure(
    name: str,
    cases: Sequence[Case],
    searches: dict[str, Callable[[np.ndarray], str]],
    rounds: int,
    vocabulary: PieceTokenizer,
) -> list[dict[str, Any]]:
    """Return a row for each search: time of an utterance, ratio to ours in the same round, texts, word errors.

    Ours is the search of ours that does the same, see `BESIDE`. Where a text is another than ours, `ours_likelier`
    counts how often ours has the higher exact probability (CTC forward algorithm).
    """
    texts = {
        label: [search(case.log_probs) for case in cases] for label, search in searches.items()
    }
    seconds: dict[str, list[float]] = {label: [] for label in searches}
    for _ in range(rounds):
        for label, search in searches.items():
            began = time.process_time()
            for case in cases:
                search(case.log_probs)
            seconds[label].append((time.process_time() - began) / len(cases))
    ours = next(iter(searches))
    truth = [case.text for case in cases]
    rows = []
    for label in searches:
        beside = BESIDE.get(label, ours)
        others = [i for i, text in enumerate(texts[label]) if text != texts[beside][i]]
        likelier = sum(
            exact(cases[i], texts[beside][i], vocabulary)
            > exact(cases[i], texts[label][i], vocabulary)
            for i in others
        )
        ratios = [a / b for a, b in zip(seconds[label], seconds[beside], strict=True)]
        rows.append(
            {
                "posteriors": name,
                "search": label,
                "beside": beside,
                "ms": round(1000 * statistics.median(seconds[label]), 2),
                "times_ours": round(statistics.median(ratios), 2),
                "lowest": round(min(ratios), 2),
                "highest": round(max(ratios), 2),
                "same_best_text": f"{len(cases) - len(others)} of {len(cases)}",
                "ours_likelier": f"{likelier} of {len(others)}" if others else "-",
                "word_errors_percent": round(100 * word_errors(truth, texts[label]).wer, 2),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--utterances", type=int, default=12)
    parser.add_argument("--peer", type=Path, help="a folder that holds the peer already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    vocabulary = tokenizer()
    with tempfile.TemporaryDirectory() as temporary:
        peer = args.peer or Path(temporary)
        if args.peer is None:
            install(peer)
        sys.path.append(str(peer))
        searches = our_searches(vocabulary) | peer_searches(vocabulary)
        rows = []
        for name, sure in (("clear", 20.0), ("unsure", 14.0)):
            cases = [make_case(seed, sure, vocabulary) for seed in range(args.utterances)]
            rows += measure(name, cases, searches, args.rounds, vocabulary)
    report = {
        "peer": PEER[0],
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "frames": FRAMES,
        "seconds_of_audio": FRAMES * SHIFT,
        "symbols": SYMBOLS,
        "beam": BEAM,
        "utterances": args.utterances,
        "rounds": args.rounds,
        "clock": "processor time of one thread",
        "tables": {"Prefix beam search of one utterance": rows},
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    args.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
