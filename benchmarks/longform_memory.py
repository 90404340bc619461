"""Peak memory of encoding one long file, beside that of a short one: 16 hours against 10 minutes.

The files are made (noise shaped like turns of speech, 8 kHz mu-law) and encoded by a process each, whose peak resident
memory the kernel tells (VmHWM). Frames are counted and dropped, as `trunkline encode` writes them and drops them.

Example: python -m benchmarks.longform_memory --preset small --long-minutes 960
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.checkpoint import write_json
from trunkline.command import run
from trunkline.errors import StorageError

RESULTS = Path(__file__).parent / "results" / "longform_memory.json"
RATE = 8000


def make_recording(path: Path, minutes: float) -> None:
    """Write a mono mu-law file minute by minute: noise that comes and goes as turns do."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    turns = 0.05 * (1.0 + np.sin(2 * np.pi * np.arange(60 * RATE) / (7 * RATE)))
    with soundfile.SoundFile(path, "w", RATE, 1, format="W64", subtype="ULAW") as file:
        left = round(minutes * 60 * RATE)
        while left > 0:
            block = turns * rng.standard_normal(len(turns), dtype=np.float32)
            file.write(block[:left].astype(np.float32))
            left -= len(block)


def encode_file(path: Path, preset: str, context: str) -> dict[str, Any]:
    """Encode a file in this process; return frames, last time, seconds and peak memory."""
    import torch

    from encoder import Backbone, BackboneConfig, Context

    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig.preset(preset)).eval()
    began, used, frames, last = time.perf_counter(), time.process_time(), 0, 0.0
    for piece in backbone.encode_blocks(path, context=Context.parse(context)):
        if frames_here := piece.frames.shape[1]:
            frames, last = frames + frames_here, float(piece.times[-1])
    return {
        "frames": frames,
        "last_time_s": last,
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(time.process_time() - used, 1),
        "peak_rss_mb": round(_own_peak(), 1),
    }


def _own_peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise StorageError(
        "/proc/self/status does not tell the peak memory; this benchmark needs Linux."
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encode both files in a process each, and write the results."""
    if arguments.only is not None:
        return encode_file(arguments.only, arguments.preset, arguments.context)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in (arguments.short_minutes, arguments.long_minutes):
            path = Path(folder) / "recording.w64"
            make_recording(path, minutes)
            command = [sys.executable, "-m", "benchmarks.longform_memory", "--json"]
            command += ["--only", str(path), "--preset", arguments.preset]
            done = subprocess.run(
                [*command, "--context", arguments.context], check=True, stdout=subprocess.PIPE
            )
            found = json.loads(done.stdout)
            speed = round(minutes * 60 / found["cpu_s"], 1)
            rows.append({"minutes": minutes, **found, "times_real_time_cpu": speed})
    short, long = (row["peak_rss_mb"] for row in rows)
    report = {
        "preset": arguments.preset,
        "context": arguments.context,
        "ratio_of_peaks": round(long / short, 3),
        "tables": {"Peak memory": rows},
    }
    write_json(arguments.out, report)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    option = parser.add_argument
    option("--preset", default="small")
    option("--context", default="64,128,128")
    option("--short-minutes", type=float, default=10.0)
    option("--long-minutes", type=float, default=960.0)
    option("--out", type=Path, default=RESULTS)
    option("--only", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
