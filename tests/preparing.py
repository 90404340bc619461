"""What the tests of data preparation share: the command as a user runs it, and manifests to run it on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trunkline.prepare.cli import main

ROOT = Path(__file__).parents[1]


def data(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `trunkline data ...` in this process; a traceback is never an answer."""
    words, out, err = [str(word) for word in arguments], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as left:  # argparse
            status = int(left.code or 0)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `trunkline data ...` in a process of its own."""
    words = [sys.executable, "-m", "trunkline.prepare.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: U+2028 is no end of a line of JSON.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
