"""Pretrain `small` on real speech, and ask frozen probes what it knows that a random backbone and MFCC do not.

Reads the train splits of all speech sets under the data folder (noises are left out), trains by the real command,
probes intent, digit of an unseen speaker, tone, emotion and gender on the sets' own test splits, in full and in
limited context, and writes `benchmarks/results/pretrain_real.json`. As digits have one speaker in test, each speaker
is then left out of the classifiers in turn as well.

Example: python -m benchmarks.pretrain_real --data ../shared/data --work runs/pretrain_real
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trunkline.checkpoint import write_json
from trunkline.command import run

RESULTS = Path(__file__).parent / "results" / "pretrain_real.json"
NOT_SPEECH = "noise_rir"
STREAM = "8,40,0"
UNTRAINED = "random:small@0-9"
"""Ten draws: on one unseen speaker, untrained backbones lie up to twenty points apart."""

TASKS = {
    "vi_diadiem": ("intent", 71.3),
    "en_fsdd_digits": ("digit", 38.2),
    "vi_syllables": ("tone", 60.5),
    "en_ravdess_emotion": ("emotion", 51.2),
    "en_librispeech_mini": ("gender", None),
}
"""Set: its label, and the accuracy (%) of the logistic regression in the set's README, if there is one."""

IN_TURN = {"en_fsdd_digits": ("digit", 5)}
"""Set: its label, and its number of speakers, each of whom is test once."""


def write_train_manifest(data: Path, target: Path) -> tuple[int, float]:
    """Join the train splits of the speech sets into one manifest; return cuts and hours."""
    rows = []
    for path in sorted(data.glob("*/manifest.jsonl")):
        if path.parent.name == NOT_SPEECH:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["split"] == "train":
                audio = path.parent / row["audio_filepath"]
                rows.append(
                    {
                        "id": f"{path.parent.name}/{row['audio_filepath']}",
                        "audio_filepath": os.path.relpath(audio, target.parent),
                        "duration": row["duration"],
                        "sampling_rate": row["sampling_rate"],
                        "split": "train",
                    }
                )
    target.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return len(rows), sum(row["duration"] for row in rows) / 3600


def _command(*arguments: str, threads: int | None = None) -> None:
    print("+ python -m", *arguments, file=sys.stderr)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run(
        [sys.executable, "-m", *arguments], check=True, stdout=sys.stderr, env=environment
    )


def _curve(run_folder: Path) -> list[dict[str, Any]]:
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {key.removeprefix("evaluate/"): value for key, value in row.items()}
        for row in rows
        if any(key.startswith("evaluate/") for key in row)
    ]


def _training(rounds: list[Path]) -> dict[str, Any]:
    """Sum up what training took: updates, hours heard, and minutes of stepping (pauses and evaluations left out)."""
    steps, seconds, heard = 0, 0.0, 0.0
    for folder in rounds:
        before, last = 0.0, 0
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "audio_hours" in row:
                seconds += (row["audio_hours"] - before) * 3600 / row["audio_seconds_per_second"]
                before, last = row["audio_hours"], row["step"]
        heard, steps = heard + before, steps + last
    threads = json.loads((rounds[-1] / "run.json").read_text(encoding="utf-8"))["threads"]
    return {
        "threads": threads,
        "steps": steps,
        "audio_hours": round(heard, 1),
        "minutes": round(seconds / 60, 1),
    }


def _probe(
    arguments: argparse.Namespace, name: str, label: str, context: str = "full", folds: int = 0
) -> dict[str, Any]:
    """Probe one label in one context; where nothing limits it, against random backbones and MFCC."""
    kind = "in-turn" if folds else context.replace(",", "-")
    out = arguments.work / f"probe-{label}-{kind}.json"
    backbones = [str(arguments.work / "run" / "backbone")]
    backbones += [UNTRAINED, "mfcc"] if context == "full" else []
    given = [part for backbone in backbones for part in ("--backbone", backbone)]
    manifest = str(arguments.data / name / "manifest.jsonl")
    _command(
        "ssl.probe", *given, "--manifest", manifest, "--label", label,
        "--context", context, "--folds", str(folds), "--out", str(out), "--quiet", threads=1,
    )  # fmt: skip
    return json.loads(out.read_text(encoding="utf-8"))


def _probes(arguments: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Probe every label, two at a time: {context: {label: report}} on the test splits, {label: report} in turn."""
    tasks: list[tuple[str, str, str, int]] = [
        (name, label, "full", folds) for name, (label, folds) in IN_TURN.items()
    ]
    for context in ("full", STREAM):
        tasks += [(name, label, context, 0) for name, (label, _) in TASKS.items()]
    with ThreadPoolExecutor(max_workers=2) as pool:
        reports = list(pool.map(lambda task: _probe(arguments, *task), tasks))
    splits: dict[str, dict[str, Any]] = {}
    in_turn: dict[str, Any] = {}
    for (_, label, context, folds), report in zip(tasks, reports, strict=True):
        (in_turn if folds else splits.setdefault(context, {}))[label] = report
    return splits, in_turn


def _portable(value: Any, folders: list[Path]) -> Any:
    """Take the folders of this machine out of all texts."""
    if isinstance(value, dict):
        return {_portable(key, folders): _portable(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, folders) for item in value]
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(f"{folder}/", "")
    return value


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, probe, and write the results."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    cuts, hours = write_train_manifest(arguments.data, work / "train.jsonl")
    out = work / "run"
    _command(
        "ssl.pretrain",
        arguments.config,
        f"data.manifest={work / 'train.jsonl'}",
        f"out={out}",
        *arguments.overrides,
    )
    rounds = sorted(out.glob("iteration-*/run"))
    splits, in_turn = _probes(arguments)
    result = {
        "cuts": cuts,
        "hours": round(hours, 2),
        "cpus": os.cpu_count(),
        "training": _training(rounds),
        "recipe": json.loads((out / "recipe.json").read_text(encoding="utf-8")),
        "rounds": [
            {
                "parameters": json.loads((folder / "run.json").read_text(encoding="utf-8"))[
                    "parameters"
                ],
                "validation": _curve(folder),
            }
            for folder in rounds
        ],
        "floors": dict(TASKS.values()),
        "probes": splits,
        "probes_in_turn": in_turn,
    }
    write_json(arguments.out, _portable(result, [arguments.work, arguments.data]))
    return {"results": str(arguments.out), **result["training"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_real",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Example: python -m benchmarks.pretrain_real --data ../shared/data --work runs/pretrain_real",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of the speech sets"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/pretrain_real"),
        help="where the run lies; resumed if there",
    )
    parser.add_argument("--config", default="configs/pretrain/small.yaml")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
