"""`trunkline data augment`: measure what telephone augmentation does, or write examples to hear."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_MAX_COST = 10.0  # ms of processor time a second of audio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "--check: run every operation of CONFIG alone on a made voice and measure duration, pitch, "
        "signal-to-noise ratio, spectrum, peak and cost; exit status 1 when one changes nothing, "
        "clips or misses what it states. --listen: write cuts of a manifest before and after. "
        "Training augments on the fly; this writes no corpus."
    )
    parser.epilog = "Example: trunkline data augment configs/augment/telephone.yaml --check"
    parser.add_argument("config", type=Path, help="settings, e.g. configs/augment/telephone.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, before any option"
    )
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--check", action="store_true", help="measure every operation")
    todo.add_argument("--listen", type=Path, metavar="FOLDER", help="write examples as WAV")
    parser.add_argument("--manifest", type=Path, help="where --listen takes its cuts from")
    parser.add_argument("--count", type=int, default=10, help="how many examples (default: 10)")
    parser.add_argument("--rate", type=int, default=8000, help="Hz (default: 8000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-cost",
        type=float,
        default=_MAX_COST,
        help=f"ms a second of audio that an operation may take ({_MAX_COST:g})",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check, or write examples; exit status 1 when an operation is not what it says."""
    from trunkline.augment import AugmentConfig
    from trunkline.errors import UsageError
    from trunkline.settings import load_settings

    if args.count < 1 or not 8000 <= args.rate <= 192_000 or not args.max_cost > 0:
        raise UsageError(
            "--count must be 1 or more, --rate 8000 to 192000 Hz, --max-cost above 0 ms."
        )
    config = load_settings(AugmentConfig, args.config, args.overrides)
    if args.check:
        return check(config, args.rate, args.max_cost) | {"config": str(args.config)}
    if args.manifest is None:
        raise UsageError("--listen needs --manifest: the recordings to augment.")
    return listen(config, args)


def check(config: Any, sample_rate: int, max_cost: float = _MAX_COST) -> dict[str, Any]:
    """Return the table of all operations and their effects, with exit status 1 for a fault."""
    import torch

    from trunkline.augment.check import check_masking, examine, trials
    from trunkline.errors import ConfigError

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for trial in trials(config, sample_rate):
            effect, wrong = examine(trial, sample_rate, max_cost)
            told = {name: _rounded(value) for name, value in effect._asdict().items()}
            rows.append({"operation": trial.operation, "setting": trial.setting} | told)
            rows[-1]["verdict"] = "; ".join(wrong) or "ok"
        masking, wrong = check_masking(config)
    finally:
        torch.set_num_threads(threads)
    if not rows:
        raise ConfigError("No operation has a probability above 0; there is nothing to check.")
    masks = {"share masked": masking["masked"], "cost": _rounded(masking["cost"])}
    faults = sum(row["verdict"] != "ok" for row in rows) + bool(wrong)
    return {
        "sample_rate": sample_rate,
        "trials": len(rows) + 1,
        "faults": faults,
        "slowest_ms_per_second": max(row["cost"] for row in rows),
        "tables": {
            "effects (ratios, dB, ms a second of audio)": rows,
            "masking": [masks | {"verdict": "; ".join(wrong) or "ok"}],
        },
        "exit_status": 1 if faults else 0,
    }


def listen(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Write `count` cuts before and after as WAV, and what was done to each."""
    import soundfile
    import torch

    from trunkline.augment import Augmenter
    from trunkline.checkpoint import write_folder, write_json
    from trunkline.manifest import load_manifest

    manifest = load_manifest(args.manifest)
    augmenter = Augmenter(config, args.rate, args.seed)
    chosen = manifest[:: max(1, len(manifest) // args.count)][: args.count]
    told = []
    with write_folder(args.listen) as folder:
        for number, cut in enumerate(chosen):
            augmented = augmenter(torch.from_numpy(cut.load(args.rate)), key=cut.id)
            for kind, waveform in (("clean", augmented.clean), ("heard", augmented.waveform)):
                soundfile.write(folder / f"{number:03d}-{kind}.wav", waveform.numpy(), args.rate)
            told.append({"number": number, "id": cut.id, "applied": augmented.applied})
        write_json(folder / "applied.json", told)
    return {"folder": str(args.listen), "cuts": len(told), "sample_rate": args.rate}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
