"""What the pages on rescoring show is true: their Python runs, their commands parse."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM
from rescoring.weights import Weights
from trunkline.nbest import Hypothesis, NBest, write_nbest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("rescoring", "phonetics", "language-models")


def text(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_python_runs_and_prints_what_its_comments_say(page, tmp_path):
    Weights(beta=0.5).save(tmp_path / "weights.json")
    ArpaLM(train([["xin", "chào"], ["xin", "chờ"]], 2).ngrams).save(tmp_path / "models/lm")
    write_nbest(tmp_path / "calls.nbest.jsonl", [NBest("u", (Hypothesis("xin chào", -1.0),))])
    blocks = re.findall(r"^```python\n(.*?)^```", text(page), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told = re.findall(r"^print\(.*\)  # (.*)", block, flags=re.MULTILINE)
        for comment, line in zip(told, done.stdout.splitlines(), strict=False):
            assert comment.startswith(line)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_a_command_exists(page):
    commands = re.findall(r"^    python -m ([\w.]+)(.*?)(?:\s{2,}#.*)?$", text(page), re.MULTILINE)
    assert commands or page == "phonetics"
    for module, arguments in commands:
        words = shlex.split(arguments)
        kind = words[:1] if module == "rescoring.train" else []
        done = subprocess.run(
            [sys.executable, "-m", module, *kind, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and importlib.import_module(module)
        assert [x for x in words if x.startswith("--") and x not in done.stdout] == []
