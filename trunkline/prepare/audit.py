"""`trunkline data audit`: is the data balanced, and what to do where it is not.

Speakers, channels, languages, accents, gender, noise, labels, splits, tags and licences, each with
its share of the hours; what is lopsided comes with a recommendation. One HTML page that opens anywhere.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline.prepare.licence import NOT_STATED, licences
from trunkline.prepare.split import KEYS, leaks
from trunkline.prepare.stats import spread, stats
from trunkline.prepare.tag import BORDERLINE
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

COLUMNS = ("channel", "language", "accent", "gender", "role", "noise")
_LABELS = ("intent", "sentiment", "emotion", "digit", "tone")  # where they stand beside `labels`
_CLASSES = 200  # a label with more values than this is no class label
_LEADING = 20.0  # % of the hours that one speaker may have
_SMALL = 5.0  # % of the hours below which a value is hardly heard
_FEW = 20  # cuts of a class
_LOPSIDED = 20.0  # times the smallest class is contained in the largest
_NOISY, _TOO_NOISY = 10.0, 20.0  # dB of SNR, and % of the cuts below it
_APART = 3.0  # dB between the median SNR of train and of an evaluation split
_SPEAKERS, _HOURS = 10, 0.5  # least of an evaluation split
_TAGGED = 5.0  # % of the cuts with one tag
_ROWS = 15  # values shown of a column
_BAR = 24  # characters of a full bar


def audit(manifest: Manifest) -> tuple[list[Row], dict[str, list[Row]]]:
    """Return the findings (topic, finding, recommendation) and the tables behind them."""
    numbers = stats(manifest)
    findings: list[Row] = []
    tables: dict[str, list[Row]] = {
        "Overview": [{"what": name, "value": value} for name, value in _overview(numbers)]
    }
    labels = _labels(manifest)
    for column in ("split", "speaker", *COLUMNS, *labels):
        rows = spread(manifest, column)
        if all(row["value"] is None for row in rows):
            continue
        many = f", the first {_ROWS} of {len(rows)}" if len(rows) > _ROWS else ""
        tables[f"{column.capitalize()}{many}"] = [_with_bar(row) for row in rows[:_ROWS]]
        if column in labels:
            findings += _about_classes(column, rows)
        elif column in COLUMNS:
            findings += _about_balance(column, rows)
    findings += _about_speakers(manifest)
    findings += _about_splits(manifest, labels)
    findings += _about_noise(manifest, tables)
    findings += _about_rest(manifest, numbers)
    tags = numbers["tags"]
    if tags:
        shares = [(name, count, 100 * count / len(manifest)) for name, count in tags.items()]
        tables["Tags"] = [
            {"tag": name, "cuts": count, "% of the cuts": round(share, 2)}
            for name, count, share in shares
        ]
        findings += [
            _finding("tags", f"{share:.1f} % of the cuts are tagged {name}", _FOR_TAGS)
            for name, _, share in shares
            if share >= _TAGGED and not name.startswith(BORDERLINE)
        ]
    return findings, tables


_FOR_TAGS = "Listen to ten of them; filter with `trunkline data filter --purpose split`."


def _finding(topic: str, finding: str, recommendation: str) -> Row:
    return {"topic": topic, "finding": finding, "recommendation": recommendation}


def _overview(numbers: Row) -> Iterator[tuple[str, Any]]:
    for name, value in numbers.items():
        if name == "seconds":
            yield from ((f"length, {which} (s)", length) for which, length in value.items())
        elif name != "tags":
            yield name.replace("_", " "), value


def _with_bar(row: Row) -> Row:
    return {
        "value": "(not stated)" if row["value"] is None else str(row["value"]),
        "cuts": row["cuts"],
        "hours": row["hours"],
        "% of the hours": row["share"],
        "": "█" * round(_BAR * row["share"] / 100),
    }


def _labels(manifest: Manifest) -> list[str]:
    """Return the names of class labels: keys of `labels`, and well-known ones beside it."""
    names: Counter[str] = Counter()
    for row in manifest.rows():
        names.update(row["labels"].keys())
        names.update(name for name in _LABELS if name in row)
    names = Counter({name: count for name, count in names.items() if name not in COLUMNS})
    return [name for name in sorted(names) if 1 < len(manifest.codes(name)[1]) <= _CLASSES]


def _about_balance(column: str, rows: Sequence[Row]) -> Iterator[Row]:
    stated = [row for row in rows if row["value"] is not None]
    missing = sum(row["share"] for row in rows if row["value"] is None)
    if missing >= _SMALL:
        yield _finding(
            column,
            f"{missing:.0f} % of the hours state no {column}",
            f"State it in the manifest, or nobody can tell how well each {column} is served.",
        )
    for row in stated:
        if len(stated) > 1 and row["share"] < _SMALL:
            yield _finding(
                column,
                f"{column} {row['value']!r} has {row['share']} % of the hours",
                "Record more of it, weight it up in training, and report results for it apart.",
            )


def _about_classes(label: str, rows: Sequence[Row]) -> Iterator[Row]:
    stated = [row for row in rows if row["value"] is not None]
    few = sorted(str(row["value"]) for row in stated if row["cuts"] < _FEW)
    if few:
        names = ", ".join(few[:10]) + (" ..." if len(few) > 10 else "")
        yield _finding(
            label,
            f"{len(few)} of {len(stated)} classes have fewer than {_FEW} cuts: {names}",
            "Label more of these, or join them with their neighbours.",
        )
    counts = [row["cuts"] for row in stated]
    if max(counts) > _LOPSIDED * min(counts):
        yield _finding(
            label,
            f"the largest class has {max(counts) / min(counts):.0f} times the cuts of the smallest",
            "Weight the classes in training, and judge by the mean over classes, not by accuracy.",
        )


def _about_speakers(manifest: Manifest) -> Iterator[Row]:
    rows = spread(manifest, "speaker")
    stated = [row for row in rows if row["value"] is not None]
    if not stated:
        yield _finding(
            "speaker",
            "no cut states a speaker",
            "Without speakers a split cannot keep them apart; give at least an id per call and channel.",
        )
        return
    shares = np.array([row["share"] for row in stated]) / 100
    for row in stated:
        if row["share"] > _LEADING:
            yield _finding(
                "speaker",
                f"speaker {row['value']!r} has {row['share']} % of the hours",
                "Cap the hours of one speaker, or the model learns that voice.",
            )
    present = shares[shares > 0] / max(1e-9, shares.sum())
    effective = float(np.exp(-(present * np.log(present)).sum())) if len(present) else 0.0
    if effective < _SPEAKERS:
        yield _finding(
            "speaker",
            f"the hours are spread as over {effective:.1f} equal speakers (of {len(stated)})",
            "Add speakers rather than hours of the same ones.",
        )


def _about_splits(manifest: Manifest, labels: Sequence[str]) -> Iterator[Row]:
    of_split, splits = manifest.codes("split")
    if not splits:
        yield _finding("split", "no cut states a split", "Run `trunkline data split`.")
        return
    leaked = Counter(row["key"] for row in leaks(manifest, KEYS))
    for key, count in leaked.items():
        yield _finding(
            "split",
            f"{count} values of {key} lie in more than one split",
            f"Split again: `trunkline data split --afresh --by {','.join(KEYS)}`.",
        )
    hours = {row["value"]: row["hours"] for row in spread(manifest, "split")}
    speaker, _ = manifest.codes("speaker")
    for place, name in enumerate(splits):
        if name == "train":
            continue
        speakers = len(set(speaker[(of_split == place) & (speaker >= 0)].tolist()))
        if 0 < speakers < _SPEAKERS:
            yield _finding(
                "split",
                f"{name} has {speakers} speakers",
                f"With fewer than {_SPEAKERS} the interval of any result is wide; add speakers.",
            )
        if 0 < hours.get(name, 0) < _HOURS:
            yield _finding(
                "split",
                f"{name} holds {60 * hours[name]:.0f} minutes",
                "Differences of a few per cent will not be distinguishable on it.",
            )
    for label in labels:
        codes, values = manifest.codes(label)
        there = (codes >= 0) & (of_split >= 0)
        table = np.zeros((len(values), len(splits)), dtype=np.int64)
        np.add.at(table, (codes[there], of_split[there]), 1)
        for place, name in enumerate(splits):
            absent = [str(values[code]) for code in np.flatnonzero(table[:, place] == 0)]
            if absent and table[:, place].any():
                yield _finding(
                    label,
                    f"{name} has no cut of {', '.join(absent[:10])}",
                    "Move whole calls with `trunkline data split --assign`, or collect more.",
                )


def _about_noise(manifest: Manifest, tables: dict[str, list[Row]]) -> Iterator[Row]:
    snr = np.array([_number(value) for value in manifest.column("snr_db")])
    known = np.isfinite(snr)
    if not known.any():
        return
    quantiles = np.percentile(snr[known], [5, 25, 50, 75, 95]).round(1).tolist()
    tables["SNR (dB)"] = [
        dict(zip(("5 %", "25 %", "median", "75 %", "95 %"), quantiles, strict=True))
    ]
    noisy = 100 * float((snr[known] < _NOISY).mean())
    if noisy > _TOO_NOISY:
        yield _finding(
            "noise",
            f"{noisy:.0f} % of the cuts have less than {_NOISY:g} dB SNR",
            "Train with noise augmentation, and report results by SNR.",
        )
    of_split, splits = manifest.codes("split")
    medians = {
        name: float(np.median(snr[known & (of_split == place)]))
        for place, name in enumerate(splits)
        if (known & (of_split == place)).any()
    }
    for name, median in medians.items():
        if abs(median - medians.get("train", median)) > _APART:
            yield _finding(
                "noise",
                f"the median SNR of {name} is {median:.1f} dB, of train {medians['train']:.1f} dB",
                "The splits are not of one kind; stratify by noise, or say so with every result.",
            )


def _about_rest(manifest: Manifest, numbers: Row) -> Iterator[Row]:
    missing = licences(manifest).get(NOT_STATED, 0)
    if missing:
        yield _finding(
            "licence",
            f"{missing} of {len(manifest)} cuts state no licence",
            "Set it with `trunkline data licence --set`, or a model card cannot state it.",
        )
    if numbers["without_duration"]:
        yield _finding(
            "duration",
            f"{numbers['without_duration']} cuts state no duration; they count no hours here",
            "Import the recordings again: `trunkline data import` fills it in.",
        )
    if 0 < numbers["with_text"] < len(manifest):
        share = 100 * numbers["with_text"] / len(manifest)
        yield _finding(
            "text",
            f"{share:.0f} % of the cuts have a text",
            "Use the others for pretraining; filter with `text != null` for heads.",
        )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad

    parser.description = (
        "Report the balance of speakers, channels, languages, accents, noise and labels, with a "
        "recommendation for each finding. Findings are no faults: the exit status is 0."
    )
    parser.epilog = "Example: trunkline data audit split.jsonl audit.html"
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument("report", type=Path, nargs="?", help="write this HTML page")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Audit a manifest."""
    from trunkline.prepare.lines import Step, arguments_of
    from trunkline.report import write_tables

    step = Step("audit", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    findings, tables = audit(manifest)
    counts = {"cuts": len(manifest), "findings": len(findings)}
    summary: dict[str, Any] = {"manifest": str(args.manifest), **counts}
    if args.report:
        pages = {"Findings": findings or [_finding("-", "nothing stands out", "-")], **tables}
        write_tables(args.report, f"Audit of {args.manifest.name}", pages)
        summary |= step.finish(args.report, counts)
    return summary | {"tables": {"findings": findings}}
