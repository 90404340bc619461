"""Inventory and check on a part of every set of ../shared/data; tag, audit and splits have tests beside theirs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from preparing import data, rows_of, write_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETS = sorted(path.parent.name for path in SHARED.glob("*/manifest.jsonl"))
PART = 25  # recordings of each set
SECONDS = 200.0  # longer ones are left to the benchmark

# What these recordings really are: `kind of fault: why it is no mistake`.
TRUE = {
    "en_ravdess_emotion": {"quiet": "whispered and calm lines, recorded far below full scale"},
    "noise_rir": {"noisy": "a noise"},
    "vi_diadiem": {"quiet": "one caller far from the handset"},
}

pytestmark = pytest.mark.skipif(not SETS, reason="../shared/data is not here")


def part(name: str) -> list[dict]:
    """Return rows of a set, evenly from its whole, with absolute paths."""
    rows = [row for row in rows_of(SHARED / name / "manifest.jsonl") if row["duration"] < SECONDS]
    chosen = rows[:: max(1, len(rows) // PART)][:PART]
    return [row | {"audio_filepath": str(SHARED / name / row["audio_filepath"])} for row in chosen]


@pytest.mark.parametrize("name", SETS)
def test_inventory_and_check_run_clean_on_every_real_set(tmp_path: Path, name: str) -> None:
    rows = part(name)
    if not rows:
        pytest.skip("its only recording is too long for a test")
    folder = tmp_path / "calls"
    for row in rows:
        source = Path(row["audio_filepath"])
        target = folder / source.relative_to(SHARED / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, target)
        if row.get("text"):
            target.with_suffix(".txt").write_text(row["text"], encoding="utf-8")
    done = data("inventory", folder, tmp_path / "out", "--json", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["files"] == shown["files_read"] == len(rows)
    found = {fault["kind"] for fault in rows_of(tmp_path / "out/faults.jsonl")}
    assert found <= set(TRUE.get(name, ())), shown["tables"]["faults"]
    if name.startswith("vi_") and shown["transcripts"] > 5:
        languages = {
            row["language"]: row["files"] for row in shown["tables"]["languages of transcripts"]
        }
        assert languages.get("en", 0) + languages.get("fr", 0) == 0

    manifest = write_rows(tmp_path / "m.jsonl", rows)
    done = data("check", manifest, "--samples", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["cuts"] == len(rows)
