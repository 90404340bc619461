"""What each operation of telephone augmentation does, and costs on one core.

    python -m benchmarks.augment [--data ../shared/data]

The operations and settings are those of `configs/augment/telephone.yaml`, measured as `trunkline data augment
--check` does, at 8 and 16 kHz; with the data also recorded noises and rooms, and second talkers. Costs are
processor time of one thread, so that a shared core does not distort them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

from trunkline.augment.config import AugmentConfig, Talker
from trunkline.prepare.augment import check
from trunkline.settings import load_settings

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "augment.json"
CONFIG = ROOT.parent / "configs" / "augment" / "telephone.yaml"
LIMIT = 10.0  # ms a second of audio


def recorded(config: AugmentConfig, data: Path) -> AugmentConfig:
    """Return the settings with noises, rooms and talkers of recordings, and nothing else."""
    noises, talkers = (
        str(data / name / "manifest.jsonl") for name in ("noise_rir", "en_librispeech_mini")
    )
    return AugmentConfig(
        reverb=replace(config.reverb, probability=1.0, manifest=noises),
        noise=replace(config.noise, probability=1.0, manifest=noises),
        talker=Talker(probability=1.0, manifest=talkers),
    )


def measure(config: AugmentConfig, rate: int) -> dict[str, Any]:
    """Return the rows of one check and how many operations are at fault."""
    report = check(config, rate, LIMIT)
    effects, masking = report["tables"].values()
    return {"sample_rate": rate, "faults": report["faults"], "effects": effects, "masking": masking}


def main() -> int:
    """Measure, print the costs and keep the figures; 1 when an operation is not what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write")
    args = parser.parse_args()
    config = load_settings(AugmentConfig, CONFIG, [])
    runs = {"made": measure(config, 8000), "made, 16 kHz": measure(config, 16000)}
    if args.data.is_dir():
        runs["recorded"] = measure(recorded(config, args.data), 8000)
    for name, run in runs.items():
        for row in run["effects"]:
            print(
                f"{name:14}{row['operation']:10}{row['setting']:34}{row['cost']:8} ms  {row['verdict']}"
            )
    record = {
        "limits": {"ms_per_second": LIMIT},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "runs": runs,
    }  # fmt: skip
    args.results.parent.mkdir(exist_ok=True)
    args.results.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(any(run["faults"] for run in runs.values()))


if __name__ == "__main__":
    raise SystemExit(main())
