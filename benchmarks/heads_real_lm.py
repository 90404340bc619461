"""A language model of a set's training transcripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


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
