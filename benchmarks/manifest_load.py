"""Time and memory of loading a manifest of 1,000,000 rows, at first and from the cache.

    python -m benchmarks.manifest_load [--rows N] [--folder DIR]

Each load runs in a process of its own. RSS is what the kernel reports: RssAnon is memory proper,
VmHWM the peak of everything resident, pages of mapped files included (the kernel takes those back
when it needs them).
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

RESULTS = Path(__file__).parent / "results" / "manifest_load.json"


def write_rows(path: Path, rows: int) -> None:
    """Write a manifest such as a contact centre has: two cuts a call, eight fields and a label."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            row = {
                "audio_filepath": f"calls/{index // 2000:05d}/{index // 2:09d}.wav",
                "id": f"{index // 2:09d}-{index % 2}",
                "channel": index % 2,
                "duration": 60.0 + index % 600,
                "sampling_rate": 8000,
                "text": "xin chào tôi muốn hỏi số dư tài khoản",
                "speaker": f"speaker-{index % 50_000}",
                "split": "train" if index % 20 else "test",
                "intent": ("balance", "card", "loan")[index % 3],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def status(name: str) -> float:
    """Return a field of this process's /proc status in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def measure(path: Path) -> None:
    """Load a manifest, touch it as training does, and print what it cost as JSON."""
    from trunkline.manifest import load_manifest

    imported = status("RssAnon")
    began, cpu = time.perf_counter(), time.process_time()
    manifest = load_manifest(path)
    loaded, loaded_cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = status("VmHWM")
    hours = float(manifest.durations.sum()) / 3600
    for index in range(0, len(manifest), max(1, len(manifest) // 1000)):
        _ = manifest[index].id
    figures = {
        "rows": len(manifest),
        "hours": round(hours),
        "load_s": round(loaded, 2),
        "load_cpu_s": round(loaded_cpu, 2),
        "peak_rss_load_mb": round(peak),
        "rss_anon_mb": round(status("RssAnon")),
        "of_it_imports_mb": round(imported),
        "peak_rss_used_mb": round(status("VmHWM")),
    }
    print(json.dumps(figures))


def main() -> int:
    """Write a manifest, load it twice in fresh processes, print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write the manifest; a temporary one")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "manifest.jsonl"
        write_rows(path, args.rows)
        command = [sys.executable, "-m", "benchmarks.manifest_load", "--measure", str(path)]
        runs = {}
        for name in ("first", "cached"):
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[name] = json.loads(output)
        size = path.stat().st_size / 1e6
    print(f"{'load':8}" + "".join(f"{name:>18}" for name in runs["first"]))
    for name, figures in runs.items():
        print(f"{name:8}" + "".join(f"{value:>18}" for value in figures.values()))
    record = {
        "manifest_mb": round(size),
        "limits": {"load_s": 5, "rss_mb": 300},
        "machine": {
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
        },
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
