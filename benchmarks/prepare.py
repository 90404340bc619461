"""What data preparation costs: an inventory of short files, and steps over a manifest of 1,000,000 rows.

    python -m benchmarks.prepare [--files N] [--rows N] [--folder DIR]

Each command runs in a process of its own, those over the manifest after it was loaded once (that cost is in
`benchmarks/manifest_load.py`). Times are processor time, workers included, so that a shared core does
not distort them; wall time is told too. Peak RSS is VmHWM: pages of mapped files count, though the
kernel takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.manifest_load import status

RESULTS = Path(__file__).parent / "results" / "prepare.json"
LIMITS = {"seconds": 60, "peak_rss_mb": 1000, "files_a_minute": 1000, "cores": 2}
RATE, SECONDS = 8000, 8.0
TEXT = "dạ em chào anh chị cần hỗ trợ gì ạ tài khoản của mình còn năm triệu đồng"
WORDS = TEXT.split()


def write_calls(folder: Path, files: int) -> None:
    """Write short two-channel calls, mu-law, no two alike, each with its transcript."""
    from trunkline.augment.check import voice

    folder.mkdir()
    speech = voice(RATE, SECONDS + 1).numpy()
    for number in range(files):
        rng = np.random.default_rng(number)
        starts = rng.integers(RATE, size=2)
        sides = [speech[start : start + round(SECONDS * RATE)] for start in starts]
        call = np.stack(sides, 1) + 1e-3 * rng.standard_normal((len(sides[0]), 2))
        soundfile.write(folder / f"{number:06d}.wav", call, RATE, subtype="ULAW")
        (folder / f"{number:06d}.txt").write_text(TEXT, encoding="utf-8")


def write_rows(path: Path, rows: int) -> None:
    """Write turns such as a contact centre has: many to a call, each with its own text."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            call, turn = divmod(index, 20)
            places = range(index % 12 + 2)
            row = {
                "audio_filepath": f"calls/{call // 1000:05d}/{call:09d}.wav",
                "id": f"{call:09d}-{turn:03d}",
                "channel": index % 2,
                "start": turn * 6.0,
                "end": turn * 6.0 + 4.5,
                "text": " ".join(WORDS[(index * 7 + each * each) % len(WORDS)] for each in places),
                "language": "vi",
                "speaker": f"customer-{call * 7 % 30_000}" if index % 2 else f"agent-{call}",
                "intent": ("balance", "card", "loan")[index % 3],
                "phone": f"line-{call % 40_000}",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(words: list[str]) -> None:
    """Run one command and print what it cost as JSON."""
    from trunkline.prepare.cli import main

    began = time.perf_counter()
    exit_status = main([*words, "--quiet"])
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "cpu_seconds": round(time.process_time() + workers.ru_utime + workers.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "peak_rss_mb": round(status("VmHWM")),
        "anonymous_mb": round(status("RssAnon")),
        "exit_status": exit_status,
    }
    print(json.dumps(figures))


def cost_of(*words: str | Path) -> dict[str, Any]:
    """Return what a command costs in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.prepare", "--measure", *map(str, words)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    print(f"{words[0]:8}", figures, flush=True)
    return figures


def run_inventory(folder: Path, files: int) -> dict[str, Any]:
    """Take an inventory and return its cost and files a minute of one core."""
    write_calls(folder / "calls", files)
    figures = cost_of("inventory", folder / "calls", folder / "out", "--jobs", "2")
    rate = round(60 * files / figures["cpu_seconds"])
    return {"files": files, "seconds_each": SECONDS, "files_a_minute_of_a_core": rate, **figures}


def run_steps(folder: Path, rows: int) -> dict[str, dict[str, Any]]:
    """Run the steps over a manifest of `rows` rows and return the cost of each."""
    turns, split, tagged, clean = (
        folder / f"{name}.jsonl" for name in ("turns", "split", "tagged", "clean")
    )
    write_rows(turns, rows)
    steps: dict[str, list[str | Path]] = {
        "stats": [turns],
        "split": [turns, split],
        "tag": [split, tagged],
        "filter": [tagged, clean, "duration >= 0.5", "--purpose", "split"],
        "audit": [tagged],
    }
    load = "import sys; from trunkline.manifest import load_manifest as f; f(sys.argv[1])"
    runs = {}
    for name, words in steps.items():
        subprocess.run([sys.executable, "-c", load, str(words[0])], check=True)
        runs[name] = cost_of(name, *words)
    return runs


def missed(record: dict[str, Any]) -> list[str]:
    """Return the limits that a record misses."""
    wrong = [
        f"{name}: {figures[key]} {key}, the limit is {LIMITS[limit]}"
        for name, figures in record["runs"].items()
        for key, limit in (("cpu_seconds", "seconds"), ("peak_rss_mb", "peak_rss_mb"))
        if figures[key] > LIMITS[limit] or figures["exit_status"]
    ]
    rate = record["inventory"]["files_a_minute_of_a_core"] * LIMITS["cores"]
    if rate < LIMITS["files_a_minute"]:
        wrong.append(f"inventory: {rate} files a minute, wanted {LIMITS['files_a_minute']}")
    return wrong


def main() -> int:
    """Make the data, run the commands, print and keep the figures; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write the data; a temporary one")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        inventory = run_inventory(Path(folder), args.files)
        runs = run_steps(Path(folder), args.rows)
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()}
    record = {"rows": args.rows, "limits": LIMITS, "machine": machine}
    record |= {"inventory": inventory, "runs": runs}
    args.results.parent.mkdir(exist_ok=True)
    args.results.write_text(json.dumps(record, indent=2) + "\n")
    wrong = missed(record)
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
