"""Time and memory of split, tag, filter, stats and audit on a manifest of 1,000,000 rows.

    python -m benchmarks.prepare [--rows N] [--folder DIR]

Each command runs in a process of its own, after the manifest was loaded once (that cost is in
`benchmarks/manifest_load.py`). Peak RSS is VmHWM: pages of mapped files count, though the kernel
takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.manifest_load import status

RESULTS = Path(__file__).parent / "results" / "prepare.json"
LIMITS = {"seconds": 60, "peak_rss_mb": 1000}
WORDS = [
    "dạ",
    "em",
    "chào",
    "anh",
    "chị",
    "tôi",
    "muốn",
    "hỏi",
    "số",
    "dư",
    "tài",
    "khoản",
    "thẻ",
    "tín",
    "dụng",
    "khoản",
    "vay",
    "lãi",
    "suất",
]


def write_rows(path: Path, rows: int) -> None:
    """Write turns such as a contact centre has: many to a call, each with its own text."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            call = index // 20
            start = index % 20 * 6.0
            words = [
                WORDS[(index * 7 + place * place) % len(WORDS)] for place in range(index % 12 + 2)
            ]
            row = {
                "audio_filepath": f"calls/{call // 1000:05d}/{call:09d}.wav",
                "id": f"{call:09d}-{index % 20:03d}",
                "channel": index % 2,
                "start": start,
                "end": start + 4.5,
                "text": " ".join(words),
                "language": "vi",
                "speaker": f"customer-{call * 7 % 30_000}" if index % 2 else f"agent-{call}",
                "intent": ("balance", "card", "loan")[index % 3],
                "phone": f"line-{call % 40_000}",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(words: list[str]) -> None:
    """Run one command and print what it cost as JSON."""
    from trunkline.prepare.cli import main

    began, cpu = time.perf_counter(), time.process_time()
    exit_status = main([*words, "--quiet"])
    figures = {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_rss_mb": round(status("VmHWM")),
        "anonymous_mb": round(status("RssAnon")),
        "exit_status": exit_status,
    }
    print(json.dumps(figures))


def main() -> int:
    """Write a manifest, run the commands over it, print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write the manifests; a temporary one")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0
    runs = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        turns, split, tagged = (
            Path(folder) / f"{name}.jsonl" for name in ("turns", "split", "tagged")
        )
        write_rows(turns, args.rows)
        steps = {
            "stats": ["stats", turns],
            "split": ["split", turns, split],
            "tag": ["tag", split, tagged],
            "filter": [
                "filter",
                tagged,
                Path(folder) / "clean.jsonl",
                "duration >= 0.5",
                "--purpose",
                "split",
            ],
            "audit": ["audit", tagged],
        }
        for name, words in steps.items():
            source = str(words[1])
            load = [
                "-c",
                "import sys; from trunkline.manifest import load_manifest as f; f(sys.argv[1])",
            ]
            subprocess.run([sys.executable, *load, source], check=True)
            command = [sys.executable, "-m", "benchmarks.prepare", "--measure", *map(str, words)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[name] = json.loads(output.splitlines()[-1])
            print(f"{name:8}", runs[name], flush=True)
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()}
    record = {"rows": args.rows, "limits": LIMITS, "machine": machine, "runs": runs}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
