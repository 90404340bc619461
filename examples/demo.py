"""`make demo`: from nothing, or from a folder of recordings, to a backbone and what it knows.

Every step is a command that you could type yourself; it is printed before it runs. Run the demo
again and it goes on where it stopped: calls that were made, and a backbone that was trained, are kept.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline import command
from trunkline.errors import DataError, TrunklineError

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

CONFIG = Path("configs/pretrain/tiny.yaml")
LABEL = "intent"
LONGEST = 600.0  # seconds of one call to encode


class StepFailedError(TrunklineError, OSError):
    """A command of the demo ended with an error."""


class Demo:
    """Runs commands, and keeps the time."""

    def __init__(self, quiet_stdout: bool) -> None:
        # With --json stdout is for the summary alone.
        self.screen = sys.stderr if quiet_stdout else sys.stdout
        self.steps: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        """Print a line where the commands print theirs."""
        print(text, file=self.screen, flush=True)

    def run(self, title: str, module: str, *arguments: str | Path) -> int:
        """Run `python -m MODULE ARGUMENTS`; return its exit status."""
        words = ["-m", module, *map(str, arguments)]
        self.say(f"\n== {title}\n$ python {shlex.join(words)}")
        began = time.monotonic()
        status = subprocess.run(
            [sys.executable, *words], stdout=self.screen, check=False
        ).returncode
        self.steps.append({"step": title, "seconds": round(time.monotonic() - began, 1)})
        return status

    def must_run(self, title: str, module: str, *arguments: str | Path) -> None:
        """Run a command that the rest of the demo needs."""
        if status := self.run(title, module, *arguments):
            raise StepFailedError(
                f"{module} ended with exit status {status}; its message is above."
            )


def run_demo(args: argparse.Namespace) -> dict[str, Any]:
    """Do every step; return where everything lies."""
    from trunkline.manifest import load_manifest

    demo = Demo(args.json)
    out: Path = args.out
    if args.calls is None:
        calls, labelled = out / "calls" / "calls.jsonl", out / "calls" / "turns.jsonl"
        if (out / "calls").exists():
            demo.say(f"== Calls: {out / 'calls'} is there already")
        else:
            title = "Calls: two-channel Vietnamese bank calls, made up"
            number = ("--calls", str(args.made_calls))
            demo.must_run(title, "examples.synth_calls", out / "calls", *number)
    else:
        out /= args.calls.resolve().stem
        calls = labelled = args.calls
    check(demo, labelled, out / "check.json")
    backbone = pretrain(demo, load_manifest(calls), calls, out / "run", args.steps)
    probes = probe(demo, load_manifest(labelled), labelled, backbone, out / "probe.json")
    speed = encode(demo, load_manifest(calls), backbone)
    return {
        "recordings": str(calls),
        **speed,
        "minutes": round(sum(step["seconds"] for step in demo.steps) / 60, 1),
        "tables": {
            **({f"accuracy of {LABEL}, frozen frames, linear probe": probes} if probes else {}),
            "time": demo.steps,
            "where everything lies": places(calls, out, backbone, bool(probes)),
        },
    }


def check(demo: Demo, manifest: Path, report: Path) -> None:
    """Look for faults; a few do not stop the demo, pretraining sets bad files aside."""
    status = demo.run(
        "Check: is the data sound?", "trunkline", "data", "check", manifest, "--report", report
    )
    if status and not report.exists():
        raise DataError(f"{manifest} cannot be checked; the reason is above.")
    if status:
        demo.say("Going on: pretraining sets unreadable files aside, and stops if they are many.")


def pretrain(demo: Demo, manifest: Manifest, calls: Path, run: Path, steps: int) -> Path:
    """Train a tiny backbone in two rounds; return its directory."""
    rounds = f"iterations=[{{steps: {steps}}}, {{steps: {steps * 2 // 3}, clusters: 100}}]"
    split = ["data.split=train"] if "train" in manifest.column("split") else []
    demo.must_run(
        "Pretrain: a tiny backbone, without labels",
        "ssl.pretrain",
        CONFIG,
        f"data.manifest={calls}",
        *split,
        f"out={run}",
        rounds,
    )
    return run / "backbone"


def probe(
    demo: Demo, manifest: Manifest, labelled: Path, backbone: Path, report: Path
) -> list[dict[str, Any]]:
    """Compare the backbone with an untrained one and MFCC, if there are labels."""
    from trunkline.checkpoint import read_json

    if all(cut.label(LABEL) is None for cut in manifest):
        demo.say(
            f"\n== Probe: left out, for no recording of {labelled} has a label {LABEL!r}; "
            'a manifest may give it: {"labels": {"intent": "balance"}}'
        )
        return []
    demo.must_run(
        f"Probe: what do frozen frames know about {LABEL}?",
        "ssl.probe",
        *("--backbone", backbone, "--backbone", "random:tiny", "--backbone", "mfcc"),
        *("--manifest", labelled, "--label", LABEL, "--head", "linear", "--out", report),
    )
    rows = next(iter(read_json(report)["tables"].values()))
    shown = ("backbone", "layer", "accuracy", "low", "high", "macro_f1")
    return [{name: row[name] for name in shown} for row in rows if row["among"] == "linear"]


def encode(demo: Demo, manifest: Manifest, directory: Path) -> dict[str, Any]:
    """Encode the last cut (of a made-up call: the customer) and measure the speed."""
    import torch

    from encoder import load_backbone
    from trunkline.audio import read

    cut = manifest[len(manifest) - 1]
    demo.say(
        f"\n== Encode: one call\n>>> backbone = load_backbone({str(directory)!r})\n"
        f">>> backbone.encode({str(cut.audio_filepath)!r}, channel={cut.channel!r})"
    )
    began = time.monotonic()
    backbone = load_backbone(directory)
    start = cut.start or 0.0
    end = start + min(float(manifest.durations[-1]), LONGEST)
    place = {"channel": cut.channel, "start": start, "end": end}
    waveform = torch.from_numpy(read(cut.audio_filepath, sample_rate=backbone.sample_rate, **place))
    with torch.inference_mode():
        backbone.encode(waveform[: backbone.sample_rate])  # the first call sets things up
        ready = time.monotonic()
        frames = backbone.encode(waveform).frames
    seconds = time.monotonic() - ready
    audio_seconds = len(waveform) / backbone.sample_rate
    demo.say(f"{frames.shape[1]} frames of {frames.shape[2]} numbers in {seconds:.2f} s")
    demo.steps.append({"step": "Encode: one call", "seconds": round(time.monotonic() - began, 1)})
    return {
        "encoded": f"{cut.id} ({audio_seconds:.1f} s, channel {cut.channel})",
        "frames_per_second": round(frames.shape[1] / seconds),
        "times_real_time": round(audio_seconds / seconds),
    }


def places(calls: Path, out: Path, backbone: Path, probed: bool) -> list[dict[str, str]]:
    """List what the demo leaves behind."""
    curves = sorted(backbone.parent.glob("**/report.html"))
    rows = [
        ("recordings", calls),
        ("faults found in them", out / "check.json"),
        ("backbone (load_backbone opens it)", backbone),
        ("its model card", backbone / "README.md"),
        *(("curves of the training", report) for report in curves),
        *((("all scores of the probe", out / "probe.json"),) if probed else ()),
    ]
    return [{"what": what, "path": str(path)} for what, path in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Make calls (or take yours), check them, pretrain a tiny backbone, "
        "compare it with an untrained one and MFCC, encode a call. Minutes on two cores.",
    )
    parser.add_argument("calls", nargs="?", type=Path, help="your recordings: folder or manifest")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument("--steps", type=int, default=900, help="updates in the first round")
    parser.add_argument("--made-calls", type=int, default=60, help="how many calls to make up")
    return command.run(run_demo, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
