"""The parts of `docs/results.md` about data preparation, text and augmentation, from `benchmarks/results/*.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Rows = list[dict[str, Any]]
Parts = Iterator[str | Rows]


def prepare_parts(found: Mapping[str, Any]) -> Parts:
    """Yield text and tables of `benchmarks/prepare.py`."""
    inventory = found["inventory"]
    yield "## Data preparation (`benchmarks/prepare.py`)"
    yield (
        f"`trunkline data inventory` of {inventory['files']:,} two-channel files of {inventory['seconds_each']:g} s "
        f"with transcripts: {inventory['files_a_minute_of_a_core']:,} files a minute of one core, "
        f"{inventory['peak_rss_mb']} MB at most."
    )
    yield (
        f"Steps over a manifest of {found['rows']:,} turns that was loaded before. Seconds are processor time of one "
        "core; peak RSS counts pages of the mapped manifest, which the kernel takes back when it needs them:"
    )
    yield [
        {
            "step": name,
            "s": figures["cpu_seconds"],
            "peak RSS, MB": figures["peak_rss_mb"],
            "of it own memory at the end, MB": figures["anonymous_mb"],
        }
        for name, figures in found["runs"].items()
    ]


def text_parts(found: Mapping[str, Any]) -> Parts:
    """Yield text and tables of `benchmarks/text_normaliser.py`."""
    yield "## The normaliser and the tokenizers (`benchmarks/text_normaliser.py`)"
    yield (
        "Processor time of one core, reports included, nothing remembered from another text. A change that is not "
        "reported, and a digit that stands in the result without a flag, would be something lost or missed:"
    )
    yield found["normaliser"]
    yield "Tokenizers over the normalised news and VIVOS transcripts:"
    yield found["tokenizers"]


def augment_parts(found: Mapping[str, Any]) -> Parts:
    """Yield text and tables of `benchmarks/augment.py`."""
    yield "## Telephone augmentation (`benchmarks/augment.py`)"
    yield (
        "Processor time of one thread, ms a second of audio, for each operation of `configs/augment/telephone.yaml` "
        f"alone; the limit is {found['limits']['ms_per_second']:g}. `trunkline data augment --check` measures the same:"
    )
    rates = {name: run["sample_rate"] for name, run in found["runs"].items()}
    yield [
        {
            "sources": "recorded" if name.startswith("recorded") else "made",
            "Hz": rates[name],
            "operation": row["operation"],
            "setting": row["setting"],
            "ms": row["cost"],
            "SNR, dB": "" if row["snr"] is None else row["snr"],
            "above 3.4 kHz, dB": row["above_edge"],
        }
        for name, run in found["runs"].items()
        for row in run["effects"]
    ]
    yield [
        {
            "sources": "SpecAugment",
            "Hz": rates[name],
            "share masked": row["share masked"],
            "ms": row["cost"],
        }
        for name, run in found["runs"].items()
        for row in run["masking"]
    ][:1]
