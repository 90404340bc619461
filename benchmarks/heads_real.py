"""Heads on real recordings: what frozen frames, adapters and fine-tuning give, and what pretraining is worth.

Every row is one training by the code behind `python -m heads.train`, judged on the set's own test split with 95 %
intervals; paired tests between rows follow. Rows are made one by one and written to
`benchmarks/results/heads_real.json` as they come, so the command goes on where it stopped; `--row` makes some only.
Times are processor time, so that other work on the machine does not count.

Example: python -m benchmarks.heads_real --backbone runs/small/backbone --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.heads_real_rows import COMPARISONS, ROWS, Row
from trunkline.checkpoint import read_json, write_json
from trunkline.command import run
from trunkline.errors import UsageError, nearest

if TYPE_CHECKING:
    from encoder import Backbone
    from heads.head import Head

RESULTS = Path(__file__).parent / "results" / "heads_real.json"
SEGMENT_SECONDS = 3.0
EMOTIONS = "en_ravdess_emotion"
VOICES = "en_librispeech_mini"


def write_segments(data: Path, target: Path) -> Path:
    """Cut the utterances of train and dev, one per speaker, into stretches of 3 s; return the manifest.

    Test utterances stay whole.
    """
    rows = []
    for line in (data / VOICES / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        path = os.path.relpath(data / VOICES / row["audio_filepath"], target.parent)
        row |= {"audio_filepath": path, "id": row["audio_filepath"]}
        pieces = 1 if row["split"] == "test" else max(1, int(row["duration"] // SEGMENT_SECONDS))
        seconds = row["duration"] / pieces
        for piece in range(pieces):
            part = (
                {}
                if pieces == 1
                else {
                    "id": f"{row['id']}#{piece}",
                    "start": round(piece * seconds, 3),
                    "end": round((piece + 1) * seconds, 3),
                    "duration": None,
                }
            )
            rows.append({key: x for key, x in (row | part).items() if x is not None})
    target.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return target


class Bench:
    """The folders of a benchmark and what was measured so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data: Path = arguments.data
        self.work: Path = arguments.work
        self.out: Path = arguments.out
        self.backbone = str(arguments.backbone)
        self.found: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        return read_json(self.out) if self.out.exists() else {"rows": {}}

    def manifest(self, name: str) -> Path:
        """Return the manifest of a set, or the stretches made of it."""
        if name == VOICES:
            return write_segments(self.data, self.work / "voices.jsonl")
        return self.data / name / "manifest.jsonl"

    def known(self) -> set[str]:
        """Return the rows that are there."""
        return set(self._read()["rows"])

    def check(self) -> None:
        """Raise a UsageError if what is there was measured on another backbone."""
        fingerprint = read_json(Path(self.backbone) / "config.json")["fingerprint"]
        if self.found.setdefault("backbone", fingerprint) != fingerprint:
            raise UsageError(
                f"{self.out} was measured on another backbone; remove it, or choose another --out."
            )

    def save(self) -> None:
        """Write what was measured."""
        self.found |= {"cpus": os.cpu_count(), "threads": 1}
        write_json(self.out, self.found)

    def make(self, row: Row) -> None:
        """Train and judge one row."""
        began, clock = time.process_time(), time.monotonic()
        whole = not (self.work / row.name).exists()
        made = self._drawn if row.draws > 1 else self._heard_again if row.lm_of else self._trained
        found = made(row) if row.heads else self._baseline(row)
        about = {"group": row.group, "trunk": row.trunk, "labels": row.fraction, "note": row.note}
        spent = {
            "cpu_seconds": round(time.process_time() - began, 1),
            "wall_seconds": round(time.monotonic() - clock, 1),
        }
        if not whole:  # the times of a training that was cut off before are not known
            spent = dict.fromkeys(spent)
        self.found |= self._read()  # another process may have made other rows meanwhile
        self.found["rows"][row.name] = {**about, **found, **spent}
        self.save()

    def _trained(self, row: Row) -> dict[str, Any]:
        from heads.config import HeadsConfig
        from heads.evaluate import open_heads
        from heads.run import HeadsRun, with_rates
        from heads.search import search_rates
        from trunkline.settings import load_settings

        config = load_settings(HeadsConfig, None, self.settings(row))
        rates: dict[str, float] = {}
        if row.search:
            rates, _ = search_rates(config)
            config = replace(with_rates(config, rates))
        trained = HeadsRun(config)
        summary = trained.run()
        if "tables" not in summary:  # stopped by a signal
            raise KeyboardInterrupt
        labelled = {x["head"]: x["labelled"] for x in summary["tables"]["Heads on dev"]}
        scores = self._judged(row, *open_heads(self.work / row.name, summary["backbone"]))
        seen = sum(labelled.values())
        return {"labelled": seen, "rates": rates, "steps": summary["steps"], "scores": scores}

    def _heard_again(self, row: Row) -> dict[str, Any]:
        """Judge the head of another row with a language model in its search."""
        source = self.found["rows"].get(row.lm_of)
        if source is None:
            raise UsageError(f"{row.name} judges the head of {row.lm_of}; make that row first.")
        from benchmarks.heads_real_lm import write_language_model
        from heads.evaluate import open_heads
        from heads.joined_search import add_scorers
        from heads.recognition import RecognitionHead
        from rescoring.lm import load_lm

        trunk, heads = open_heads(self.work / row.lm_of, None)
        target = self.work / row.name / "lm.arpa"
        lm = load_lm(write_language_model(self.manifest(row.sets[0]), target))
        writing = [head for head in heads.values() if isinstance(head, RecognitionHead)]
        add_scorers(writing, lm=lm)  # the default weight; nothing was tuned
        return {"labelled": source["labelled"], "scores": self._judged(row, trunk, heads)}

    def _drawn(self, row: Row) -> dict[str, Any]:
        """Train and judge several draws of an untrained trunk; return their mean."""
        from benchmarks.heads_real_draws import mean_scores

        parts = []
        for seed in range(row.draws):
            settings = (*row.settings, f"train.seed={seed}")
            name = self._draws(row)[seed].relative_to(self.work)
            parts.append(self._trained(replace(row, name=str(name), draws=1, settings=settings)))
        folders = [self._evaluations(row, head) for head in row.heads]
        scores = mean_scores([part["scores"] for part in parts], folders)
        return parts[0] | {"steps": [part["steps"] for part in parts], "scores": scores}

    def _draws(self, row: Row) -> list[Path]:
        """Return the folder of a row, or of each draw of it."""
        folder = self.work / row.name
        return [folder] if row.draws == 1 else [folder / f"draw-{n}" for n in range(row.draws)]

    def _evaluations(self, row: Row, head: str) -> list[Path]:
        return [folder / "evaluation" / head for folder in self._draws(row)]

    def settings(self, row: Row) -> list[str]:
        """Return the settings of a row, as they would stand on the command line."""
        paths = [str(self.manifest(name)) for name in row.sets]
        split = ["data.split=train", f"data.train={paths[0]}", f"data.fraction={row.fraction}"]
        if len(paths) > 1:
            listed = ", ".join(f"{{manifest: {path}, split: train, weight: 1}}" for path in paths)
            split = [f"data.train=[{listed}]"]
        backbone = self.backbone if row.pretrained else f"random:{self.backbone}"
        if row.after:
            backbone = str(self.work / row.after / "backbone")
        return [
            f"backbone={backbone}",
            f"out={self.work / row.name}",
            f"data.cache={self.work / 'frames'}",
            "data.frame_type=float16",
            "train.threads=1",
            "train.trackers=[]",
            *split,
            *row.settings,
            *(
                f"heads.{head}.start={self.work / row.start / 'heads' / head}"
                for head in row.heads
                if row.start
            ),
        ]

    def _judged(self, row: Row, trunk: Backbone, heads: Mapping[str, Head]) -> dict[str, Any]:
        """Return the scores of each head of a row on test, by context; predictions are left in its folder."""
        from heads.assess import EvaluateOptions, evaluate
        from trunkline.manifest import load_manifest

        folder = self.work / row.name
        scores: dict[str, Any] = {}
        for name, head in heads.items():
            manifest = load_manifest(self.manifest(row.heads[name])).filter(split="test")
            options = EvaluateOptions(contexts=row.contexts)
            evaluation = evaluate(trunk, {name: head}, manifest, options)
            evaluation.write(folder / "evaluation" / name, row.name, {})
            scores[name] = evaluation.context_rows()
        return scores

    def _baseline(self, row: Row) -> dict[str, Any]:
        from benchmarks.heads_real_floors import emotion_floor, voices_floor

        floor = {EMOTIONS: emotion_floor, VOICES: voices_floor}[row.sets[0]]
        evaluation = floor(self.manifest(row.sets[0]))
        name = next(iter(evaluation.scorers))[0]
        evaluation.write(self.work / row.name / "evaluation" / name, row.name, {})
        return {"scores": {name: evaluation.context_rows()}}

    def compare(self) -> None:
        """Make the paired tests between rows that are there."""
        from benchmarks.heads_real_draws import compared

        self.found |= self._read()
        tests = []
        known = {row.name: row for row in ROWS}
        for (row_a, context_a), (row_b, context_b), head_a, head_b in COMPARISONS:
            a, b = (
                self._evaluations(known[name], head)
                for name, head in ((row_a, head_a), (row_b, head_b))
            )
            if not all((folder / "scores.json").exists() for folder in (*a, *b)):
                continue
            found = (
                _tested((a[0], context_a), (b[0], context_b))
                if len(a) == len(b) == 1
                else [compared((a, context_a), (b, context_b))]
            )
            rows = {"row_a": f"{row_a} ({context_a})", "row_b": f"{row_b} ({context_b})"}
            tests += [{**rows, "head": head_a, **score} for score in found]
        self.found["comparisons"] = tests
        self.save()


def _tested(a: tuple[Path, str], b: tuple[Path, str]) -> list[dict[str, Any]]:
    """Return the paired tests of two evaluations, each with its context, as `heads.compare` makes them."""
    from heads.compare import compare
    from heads.predictions import read_predictions, read_scored_trials
    from heads.scoring import ScoreOptions

    sides = [
        [x for x in [*read_predictions(f), *read_scored_trials(f)] if x.context == context]
        for f, context in (a, b)
    ]
    tables = compare(sides[0], sides[1], ScoreOptions())["tables"]
    return next(rows for title, rows in tables.items() if title.startswith("Comparison"))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the rows that were asked for and are not there yet."""
    bench = Bench(arguments)
    names = [row.name for row in ROWS]
    wanted = [row for row in ROWS if _asked(row.name, arguments.row)]
    if not wanted:
        raise UsageError(f"No row is called {arguments.row}.{nearest(arguments.row[0], names)}")
    if arguments.list:
        rows = [{"row": row.name, "there": row.name in bench.found["rows"]} for row in wanted]
        return {"tables": {"Rows": rows}}
    import torch

    bench.check()
    torch.set_num_threads(1)
    for row in wanted:
        if row.name not in bench.known():
            bench.make(row)
    bench.compare()
    return {"results": str(bench.out), "rows": len(bench.found["rows"]), "of": len(ROWS)}


def _asked(name: str, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(
        re.fullmatch(pattern.replace("*", ".*"), name) for pattern in patterns
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads_real",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Example: python -m benchmarks.heads_real --backbone runs/small/backbone --row 'intent-*'",
    )
    option = parser.add_argument
    option("--backbone", type=Path, required=True, help="a pretrained backbone directory")
    option("--data", type=Path, default=Path("../shared/data"), help="folder of the speech sets")
    option("--work", type=Path, default=Path("runs/heads_real"), help="where the runs lie")
    option(
        "--row", action="append", metavar="NAME", help="make these rows only; * stands for anything"
    )
    option("--list", action="store_true", help="show the rows and which are there")
    option("--out", type=Path, default=RESULTS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
