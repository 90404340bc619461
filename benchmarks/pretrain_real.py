"""Pretrain `small` on real speech, and ask frozen probes what it knows that a random backbone and MFCC do not.

Reads the train splits of all speech sets under the data folder (noises are left out), trains by the real command,
probes intent, digit of an unseen speaker, tone, emotion and gender on the sets' own test splits, in full and in
limited context, and writes `benchmarks/results/pretrain_real.json`. Where test has speakers that train has not,
vectors relative to their voices are probed too; as digits have one speaker in test, each speaker is left out of the
classifiers in turn as well. Begun again, it goes on, and keeps probes that are newer than their backbone.

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
from typing import Any, NamedTuple

from trunkline.checkpoint import write_json
from trunkline.command import run

RESULTS = Path(__file__).parent / "results" / "pretrain_real.json"
NOT_SPEECH = "noise_rir"
STREAM = "8,40,0"
UNTRAINED = "random:small@0-9"
"""Ten draws: on one unseen speaker, untrained backbones lie up to twenty points apart."""

IN_TURN_PART = "in turn"
UNHEARD_PART = "relative to voices"

TASKS = {
    "vi_diadiem": ("intent", 71.3),
    "en_fsdd_digits": ("digit", 38.2),
    "vi_syllables": ("tone", 60.5),
    "en_ravdess_emotion": ("emotion", 51.2),
    "en_librispeech_mini": ("gender", None),
}
"""Set: its label, and the accuracy (%) of the logistic regression in the set's README, if there is one."""

IN_TURN = {"en_fsdd_digits": 5}
"""Set: its number of speakers, each of whom is test once."""

UNHEARD = {"en_fsdd_digits": 4, "en_ravdess_emotion": 4}
"""Set whose speakers of test are not in train: in how many parts train and dev choose in turn. Gender goes with the
voice: once that is taken out nobody can tell."""


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


class Question(NamedTuple):
    """What is asked of the backbones: the label of a set, and how."""

    name: str
    context: str = "full"
    folds: int = 0
    rotate: int = 0

    @property
    def label(self) -> str:
        """What is to be told."""
        return TASKS[self.name][0]

    @property
    def part(self) -> str:
        """Which part of the results the answer belongs to."""
        if self.folds:
            return IN_TURN_PART
        return UNHEARD_PART if self.rotate else self.context


def _questions() -> list[Question]:
    """Return all questions, the longest first."""
    return [
        *(Question(name, folds=folds) for name, folds in IN_TURN.items()),
        *(Question(name, rotate=parts) for name, parts in UNHEARD.items()),
        *(Question(name, context) for context in ("full", STREAM) for name in TASKS),
    ]


def _probe(arguments: argparse.Namespace, asked: Question) -> dict[str, Any]:
    """Ask the pretrained backbone, random ones and MFCC, or take what was answered since the backbone was made."""
    backbone = arguments.work / "run" / "backbone"
    kind = asked.part.replace(",", "-").replace(" ", "-")
    out = arguments.work / f"probe-{asked.label}-{kind}.json"
    if not out.exists() or out.stat().st_mtime < (backbone / "config.json").stat().st_mtime:
        given = [
            part for each in (str(backbone), UNTRAINED, "mfcc") for part in ("--backbone", each)
        ]
        how = ["--context", asked.context, "--folds", str(asked.folds)]
        how += ["--relative-to-voice", "--rotate", str(asked.rotate)] if asked.rotate else []
        _command(
            "ssl.probe", *given, "--manifest", str(arguments.data / asked.name / "manifest.jsonl"),
            "--label", asked.label, *how, "--out", str(out), "--quiet", threads=1,
        )  # fmt: skip
    return json.loads(out.read_text(encoding="utf-8"))


def _probes(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Ask everything, two questions at a time: {part: {label: report}}."""
    questions = _questions()
    with ThreadPoolExecutor(max_workers=2) as pool:
        reports = list(pool.map(lambda asked: _probe(arguments, asked), questions))
    probes: dict[str, dict[str, Any]] = {}
    for asked, report in zip(questions, reports, strict=True):
        probes.setdefault(asked.part, {})[asked.label] = report
    return probes


def _portable(value: Any, folders: list[Path]) -> Any:
    """Take the folders of this machine out of all texts."""
    if isinstance(value, dict):
        return {_portable(key, folders): _portable(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, folders) for item in value]
    if isinstance(value, str):
        for folder in folders:
            for path in (folder.resolve(), folder):
                value = value.replace(f"{path}/", "")
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
    probes = _probes(arguments)
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
        "stream": STREAM,
        "probes": probes,
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
