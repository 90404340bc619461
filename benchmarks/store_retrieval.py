"""Whether what is near in a store is alike: precision@10 on every audio set, beside MFCC and an untrained backbone.

Each set is exported with the backbone, with an untrained one of the same shape and normalisation, and as means of MFCC
(39 numbers, the whole cut), into one store of three spaces; the store is verified, indexed, and searched with each of
its cuts. Precision@10 is the share of cuts with the query's label among its ten nearest others; chance is that of ten
others drawn at random. Where a set names speakers it is also measured among other speakers' cuts only. Rows already in
the results are kept.

Example: python -m benchmarks.store_retrieval --backbone runs/small/backbone --data ../shared/data --work /data/tmp
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trunkline.checkpoint import write_json, write_text
from trunkline.command import Summary, run
from trunkline.errors import DataError
from trunkline.log import get_logger

if TYPE_CHECKING:
    from embstore import EmbeddingStore, Space
    from encoder import Backbone

RESULTS = Path(__file__).parent / "results" / "store_retrieval.json"
K = 10
SYSTEMS = ("pretrained", "untrained", "mfcc")
METRICS = ("cosine", "whitened")

logger = get_logger(__name__)


class Labelled(NamedTuple):
    """An audio set and the labels to look for; without labels it is only exported, verified and searched."""

    manifest: str
    labels: tuple[str, ...] = ()
    longest: float | None = 60.0
    """Seconds; longer cuts are left out of sets of short ones."""


SETS = {
    "demo calls": Labelled("turns.jsonl", ("intent",)),
    "vi_diadiem": Labelled("vi_diadiem/manifest.jsonl", ("text",)),
    "vi_syllables": Labelled("vi_syllables/manifest.jsonl", ("tone", "text", "speaker")),
    "en_fsdd_digits": Labelled("en_fsdd_digits/manifest.jsonl", ("digit", "speaker")),
    "en_ravdess_emotion": Labelled("en_ravdess_emotion/manifest.jsonl", ("emotion", "gender")),
    "en_s2i_barista": Labelled("en_s2i_barista/manifest.jsonl", ("slots.coffeeDrink",)),
    "en_librispeech_mini": Labelled("en_librispeech_mini/manifest.jsonl", ("speaker", "gender")),
    "he_yesno": Labelled("he_yesno/manifest.jsonl"),
    "vi_read_clips": Labelled("vi_read_clips/manifest.jsonl"),
    "fr_longform_librivox": Labelled("fr_longform_librivox/manifest.jsonl", longest=None),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the sets that are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store_retrieval",
        description="Measure precision@10 of searches in a store.",
    )
    option = parser.add_argument
    option("--backbone", required=True, help="a pretrained backbone's directory")
    option("--data", type=Path, default=Path("../shared/data"), help="folder of the audio sets")
    option("--work", type=Path, required=True, help="folder for stores")
    option("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    option("--limit", type=int, default=600, help="cuts of a set, drawn at random, default 600")
    option("--out", type=Path, default=RESULTS)
    option("--again", action="store_true", help="also sets that are there")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> Summary:
    from encoder import load_backbone

    arguments.work.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(arguments.backbone)
    measured = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if measured.get("backbone") != backbone.fingerprint or arguments.again:
        measured = {"backbone": backbone.fingerprint, "sets": {}}
    untrained = untrained_like(backbone, arguments.work / "untrained")
    for name in arguments.sets:
        if name in measured["sets"]:
            continue
        manifest = chosen_manifest(name, arguments)
        if manifest is None:
            logger.warning("%s is not there.", name)
            continue
        folders = {"pretrained": arguments.backbone, "untrained": str(untrained)}
        measured["sets"][name] = measure(name, manifest, folders, arguments.work)
        write_json(arguments.out, measured)
        logger.info("%s: %s", name, measured["sets"][name])
    rows = [row for found in measured["sets"].values() for row in found["precision"]]
    return {"tables": {"precision@10": [_short(row) for row in rows]}}


def untrained_like(backbone: Backbone, folder: Path) -> Path:
    """Save a backbone of the same shape and normalisation with fresh weights."""
    import torch

    from encoder import Backbone

    torch.manual_seed(0)
    fresh = Backbone(backbone.config)
    fresh.feature_mean.copy_(backbone.feature_mean)
    fresh.feature_scale.copy_(backbone.feature_scale)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.save(folder)
    return folder


def chosen_manifest(name: str, arguments: argparse.Namespace) -> Path | None:
    """Write a manifest of at most `--limit` cuts of a set, drawn at random; None where the set is not there."""
    labelled = SETS[name]
    if name == "demo calls":
        folder = arguments.work / "demo"
        if not folder.exists():
            words = ["-m", "examples.synth_calls", str(folder), "--calls", "40"]
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
    else:
        folder = arguments.data
    source = folder / labelled.manifest
    if not source.is_file():
        return None
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line]
    rows = [
        row
        for row in rows
        if labelled.longest is None or row.get("duration", 0) <= labelled.longest
    ]
    kept = np.random.default_rng(0).permutation(len(rows))[: arguments.limit]
    for row in (rows := [rows[number] for number in sorted(kept)]):
        row["audio_filepath"] = str((source.parent / row["audio_filepath"]).resolve())
    target = arguments.work / f"{name.replace(' ', '-')}.jsonl"
    write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return target


def measure(name: str, manifest: Path, folders: dict[str, str], work: Path) -> dict[str, Any]:
    """Export, verify and search one set."""
    from embstore import EmbeddingStore
    from embstore.exporter import Exporter
    from embstore.plan import ExportOptions
    from embstore.verify import verify
    from trunkline.manifest import load_manifest

    path = work / f"store-{name.replace(' ', '-')}"
    spaces: dict[str, Space] = {}
    hours = 0.0
    for system, folder in folders.items():
        exporter = Exporter(ExportOptions(manifest=str(manifest), backbone=folder, store=str(path)))
        reports = [exporter.export_shard(number) for number in range(len(exporter.plan.shards))]
        if faults := [fault for report in reports for fault in report.faults]:
            raise DataError(f"{name}: {faults[0]}")
        (spaces[system],) = exporter.spaces
        hours = exporter.plan.hours
    cuts = {cut.id: cut for cut in load_manifest(manifest)}
    store = EmbeddingStore.open(path)
    spaces["mfcc"] = add_mfcc(store, cuts)
    hits = {
        metric: {system: nearest(store, space, metric) for system, space in spaces.items()}
        for metric in METRICS
    }
    faults = verify(EmbeddingStore.open(path))
    precision = [
        {"set": name, "label": label, "metric": metric, **row}
        for label in SETS[name].labels
        for metric in METRICS
        for row in precisions(label, cuts, hits[metric])
    ]
    return {
        "cuts": len(cuts), "hours": hours, "faults": len(faults),
        "searches": sum(len(ranked) for found in hits.values() for ranked in found.values()), "precision": precision,
    }  # fmt: skip


def add_mfcc(store: EmbeddingStore, cuts: dict[str, Any]) -> Space:
    """Add the means of MFCC of each cut as a space of its own."""
    from embstore import Space
    from ssl.pooled import MfccFeatures

    features = MfccFeatures(8000, pooling="mean")
    vectors = np.stack([features.pooled([cut.load(8000)])[0, 0].numpy() for cut in cuts.values()])
    space = Space(backbone="mfcc", dim=vectors.shape[1])
    columns = {
        "call_id": [cut.call_id for cut in cuts.values()],
        "cut_id": list(cuts),
        "channel": [cut.channel or 0 for cut in cuts.values()],
    }
    store.append_columns(space, columns, vectors)  # leaves out what is there from a run before
    return space


def nearest(store: EmbeddingStore, space: Space, metric: str) -> dict[str, list[str]]:
    """Return the other cuts for each cut, from the nearest on: every one, so that some may be left out."""
    from embstore.index.build import build, plan
    from embstore.search import search

    name = f"{space.name}-{metric}"
    build(plan(store, "pooled", space, name, metric=metric))
    vectors, keys = store.pooled(space)
    own = keys["cut_id"].to_pylist()
    found = search(store, vectors, len(own), space=space.name, index=name)
    queries, cuts = found["query"].to_pylist(), found["cut_id"].to_pylist()
    hits: dict[str, list[str]] = {name: [] for name in own}
    for query, cut in zip(queries, cuts, strict=True):
        if cut != own[query]:
            hits[own[query]].append(cut)
    return hits


def precisions(
    label: str, cuts: dict[str, Any], hits: dict[str, dict[str, list[str]]]
) -> Iterator[dict[str, Any]]:
    """Yield precision@10 of a label: among all others, and among other speakers where there are some."""
    of = {cut_id: _label(cut, label) for cut_id, cut in cuts.items()}
    speakers = {cut_id: cut.speaker for cut_id, cut in cuts.items()}
    among = ["others"]
    if label not in ("speaker", "gender") and len({s for s in speakers.values() if s}) > 1:
        among.append("other speakers")
    for which in among:
        allowed = {
            query: [
                cut for cut in ranked
                if of[cut] is not None and (which == "others" or speakers[cut] != speakers[query])
            ]
            for query, ranked in hits[SYSTEMS[0]].items()
        }  # fmt: skip
        queries = [
            query for query, others in allowed.items()
            if of[query] is not None and any(of[cut] == of[query] for cut in others)
        ]  # fmt: skip
        if len(queries) >= 2:
            yield {
                "among": which,
                **_scores(queries, of, speakers, hits, allowed),
            }


def _label(cut: Any, name: str) -> Any:
    """Return a label of a cut; with a dot, what lies in one."""
    first, _, rest = name.partition(".")
    value = cut.label(first)
    return value.get(rest) if rest and isinstance(value, dict) else value


def _scores(
    queries: Sequence[str],
    of: dict[str, Any],
    speakers: dict[str, Any],
    hits: dict[str, dict[str, list[str]]],
    allowed: dict[str, list[str]],
) -> dict[str, Any]:
    from trunkline.metrics import interval, paired_difference

    groups = [speakers[query] for query in queries]
    chance = []
    for query in queries:
        counts = Counter(of[cut] for cut in allowed[query])
        chance.append(counts[of[query]] / len(allowed[query]))
    row: dict[str, Any] = {"queries": len(queries), "chance": float(np.mean(chance))}
    scores: dict[str, list[float]] = {}
    for system in SYSTEMS:
        found = []
        for query in queries:
            valid = set(allowed[query])
            best = [cut for cut in hits[system][query] if cut in valid][:K]
            found.append(sum(of[cut] == of[query] for cut in best) / len(best))
        scores[system] = found
        bounds = interval(found, groups)
        row[system] = {"precision": float(np.mean(found)), "low": bounds.low, "high": bounds.high}
    for other in SYSTEMS[1:]:
        row[f"against_{other}"] = paired_difference(
            scores[SYSTEMS[0]], scores[other], groups
        ).verdict
    return row


def _short(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in ("set", "label", "metric", "among", "queries")}
    shown["chance"] = f"{100 * row['chance']:.1f}"
    for system in SYSTEMS:
        one = row[system]
        shown[system] = (
            f"{100 * one['precision']:.1f} ({100 * one['low']:.1f}-{100 * one['high']:.1f})"
        )
    return shown | {name.replace("_", " "): row[name] for name in row if name.startswith("against")}


def tables(measured: dict[str, Any]) -> Iterator[str | list[dict[str, Any]]]:
    """Yield the part of `docs/results.md` about searches on real speech."""
    yield "## What is near in a store (`benchmarks/store_retrieval.py`)"
    yield (
        "Each set exported, verified, indexed and searched with every one of its cuts (`demo calls` are made up, all "
        "others recorded). Precision@10 in percent with its 95 % interval, by speaker where speakers are known; "
        "verdicts are paired. Vectors are plain means of the frames, nothing is trained on any label; `whitened` "
        "searches as `embstore.index --metric whitened` does."
    )
    yield [_short(row) for found in measured["sets"].values() for row in found["precision"]]
    yield [
        {
            "set": name,
            "cuts": found["cuts"],
            "hours": f"{found['hours']:.2f}",
            "searches": found["searches"],
            "faults found by verify": found["faults"],
        }
        for name, found in measured["sets"].items()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
