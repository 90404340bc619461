"""A language model of a set's training transcripts in the search of a head, as `--lm` puts it there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from heads import Head
from heads.recognition import RecognitionHead

WEIGHT = 0.5
"""The default of --lm-weight; nothing was tuned."""


def write_language_model(manifest: Path, target: Path) -> Path:
    """Estimate a trigram model of the transcripts of the train split; return the ARPA file."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    target.parent.mkdir(parents=True, exist_ok=True)
    text = target.with_suffix(".txt")
    lines = (row["text"] for row in rows if row["split"] == "train")
    text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = ["lm", "--text", str(text), "--out", str(target), "--order", "3", "--overwrite"]
    subprocess.run(
        [sys.executable, "-m", "rescoring.train", *words, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


def join(model: Path, heads: Iterable[Head]) -> None:
    """Let the model join the search of the heads that write text."""
    from heads.decoding.fusion import NgramFusion
    from rescoring.lm import load_lm

    lm = load_lm(model)
    for head in heads:
        if isinstance(head, RecognitionHead):
            head.scorers = (NgramFusion(lm, head.tokenizer, weight=WEIGHT),)
