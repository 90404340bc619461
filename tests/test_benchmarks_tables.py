"""No figure in the results page was typed by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.tables import RESULTS, SECTIONS

ROOT = Path(__file__).parent.parent


def test_the_results_page_is_what_the_command_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == done.stdout


def test_every_result_has_its_part_of_the_page() -> None:
    assert {path.stem for path in RESULTS.glob("*.json")} <= set(SECTIONS)
