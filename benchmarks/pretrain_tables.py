"""The parts of `docs/results.md` about pretraining, from `benchmarks/results/pretrain_*.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.pretrain_real import IN_TURN_PART, UNHEARD_PART

Rows = list[dict[str, Any]]

CHOSEN = "Layer chosen on dev"
PAIRED = "Paired comparison"


def real_parts(real: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield text and tables of `benchmarks/pretrain_real.py`."""
    yield (
        "## A `small` backbone pretrained on real speech (`benchmarks/pretrain_real.py`)\n\n"
        f"{real['hours']} hours in {real['cuts']} cuts, {real['training']['threads']} thread(s) of "
        f"{real['cpus']} cores, {real['training']['minutes']} minutes, "
        f"{real['training']['audio_hours']} hours heard in {real['training']['steps']} updates, "
        f"{len(real['rounds'])} round(s). "
        "Accuracy in % on the test split with its 95 % interval; classifiers and layers chosen on dev. Random init "
        f"is the mean of {_draws(real)} untrained backbones, each with its own classifier and layer, and the lowest "
        "and highest of them: one alone may be lucky. Intervals and comparisons draw cuts and untrained backbones; "
        "that another run of the same pretraining would have given another backbone is not in them."
    )
    asked, stream = real["probes"], real["stream"]
    yield probes(real, asked["full"])
    yield (
        f"As a stream hears it, in the context that was trained for (chunk, left, right in frames of 80 ms: {stream}); "
        "MFCC have no context:"
    )
    yield probes(real, asked[stream])
    yield (
        "Where test has speakers that train has not, in full context: what the cuts of a speaker have in common is "
        "taken out of the vectors without looking at labels (`--relative-to-voice`), and as dev has one to three "
        "speakers, all of train and dev choose in turn (`--rotate`). Gender is left out, as it goes with the voice:"
    )
    yield probes(real, asked[UNHEARD_PART])
    yield (
        "The one digit speaker of test tells little about the next, so each of the five speakers is answered in turn "
        "by classifiers that did not hear him (`--folds`); pretraining heard three of them, without labels:"
    )
    yield probes(real, asked[IN_TURN_PART])
    yield _summary(asked, stream)
    yield "Full context against the stream's:"
    yield contexts(real)
    yield "Masked prediction of cuts kept out of training:"
    yield curve(real)


def sweep_parts(sweep: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield text and table of `benchmarks/pretrain_sweep.py`."""
    yield (
        "## The settings around `small.yaml` (`benchmarks/pretrain_sweep.py`)\n\n"
        f"One round on {sweep['audio_seconds']:.0f} s of audio each, from a third of the cuts, in batches of "
        f"{sweep['batch_seconds']:.0f} s, one setting changed at a time. Losses of runs with other clusters or "
        "labels have another scale; the dev columns are linear probes of the best layer (digits of "
        "a speaker that was not heard). Each is one run: small differences say little."
    )
    yield sweep["runs"]


def speed_parts(speed: dict[str, Any]) -> Iterator[str | Rows]:
    """Yield text and table of `benchmarks/pretrain_speed.py`."""
    yield (
        "## Pretraining speed beside HuBERT (`benchmarks/pretrain_speed.py`)\n\n"
        f"{speed['crops']} crops of {speed['seconds_per_crop']} s, {speed['threads']} thread(s), medians of "
        f"{speed['rounds']} updates made in turn in one process."
    )
    yield speed["systems"]


def _best(report: dict[str, Any], backbone: str) -> dict[str, Any]:
    """What dev prefers of a backbone, among all classifiers."""
    (row,) = (
        row
        for row in report["tables"][CHOSEN]
        if _kind(row["backbone"]) == backbone and row["among"] == "any"
    )
    return row


def _kind(backbone: str) -> str:
    return {"mfcc": "mfcc"}.get(
        backbone, "random" if backbone.startswith("random:") else "pretrained"
    )


def _paired(report: dict[str, Any], against: str) -> dict[str, Any]:
    """How what dev prefers of the pretrained backbone compares with what it prefers of another."""
    title = next(title for title in report["tables"] if title.startswith(PAIRED))
    (row,) = (
        row
        for row in report["tables"][title]
        if _kind(row["against"]) == against and row["head"] == "any"
    )
    return row


def _verdict(report: dict[str, Any], against: str) -> str:
    row = _paired(report, against)
    return f"{row['verdict']} (p {row['p']:.2g})"


def _summary(asked: dict[str, dict[str, Any]], stream: str) -> str:
    """Say on which labels the pretrained backbone is better than both others, in each part."""
    parts = {
        "full": "in full context",
        stream: "in the stream's",
        UNHEARD_PART: "relative to voices that train has not",
        IN_TURN_PART: "with each speaker answered in turn",
    }
    told = []
    for part, how in parts.items():
        better = [
            label
            for label, report in asked[part].items()
            if all(_paired(report, other)["verdict"] == "better" for other in ("random", "mfcc"))
        ]
        told.append(f"{', '.join(better) or 'none'} {how}")
    return f"Better than untrained backbones and than MFCC, both significantly: {'; '.join(told)}."


def _percent(row: dict[str, Any]) -> str:
    text = f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})"
    if "draws" in row:
        text += f"; {100 * row['lowest']:.1f} to {100 * row['highest']:.1f}"
    return text


def _draws(real: dict[str, Any]) -> int:
    """How many untrained backbones there were."""
    report = next(iter(real["probes"]["full"].values()))
    return int(_best(report, "random")["draws"])


def probes(real: dict[str, Any], reports: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a label: pretrained, random, MFCC, and how they compare."""
    rows = []
    for label, report in reports.items():
        floor = real["floors"].get(label)
        rows.append(
            {
                "label": label,
                "pretrained": _percent(_best(report, "pretrained")),
                "random init": _percent(_best(report, "random")),
                "MFCC": _percent(_best(report, "mfcc")),
                "floor of the set": floor if floor is not None and "folds" not in report else "",
                "against random": _verdict(report, "random"),
                "against MFCC": _verdict(report, "mfcc"),
            }
        )
    return rows


def contexts(real: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a label: the pretrained backbone in full and in limited context."""
    limited = real["stream"]
    rows = []
    for label, report in real["probes"]["full"].items():
        full, stream = (
            _best(report, "pretrained"),
            _best(real["probes"][limited][label], "pretrained"),
        )
        gap = 100 * (full["accuracy"] - stream["accuracy"])
        rows.append(
            {
                "label": label,
                "full": _percent(full),
                limited: _percent(stream),
                "gap": f"{gap:+.1f}",
            }
        )
    return rows


def curve(real: dict[str, Any]) -> list[dict[str, Any]]:
    """Return held-out loss and accuracy of masked prediction along the rounds."""
    rows = []
    for number, part in enumerate(real["rounds"]):
        for point in part["validation"]:
            rows.append(
                {
                    "round": number,
                    **{k: round(v, 3) if isinstance(v, float) else v for k, v in point.items()},
                }
            )
    return rows
