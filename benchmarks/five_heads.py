"""Five heads on one 10-minute call: beside the encoder alone, and beside five models that each have their own encoder.

Heads for text (CTC), intent, sentiment, speaker and voice activity, with random weights in their default sizes, answer
for one made-up channel. "heads" is from the waveform to every head's output; "with results" also decodes them: the
best text by prefix beam search, labels, stretches, vectors. Every way runs once in each round, in turn, so that a slow
minute of the machine hits all; times are the least of the rounds.

Example: python -m benchmarks.five_heads --backbone runs/small/backbone --rounds 5
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trunkline.checkpoint import write_json
from trunkline.command import run

RESULTS = Path(__file__).parent / "results" / "five_heads.json"
GOAL = 1.10
LETTERS = (
    "aàáảãạăằắẳẵặâầấẩẫậbcdđeèéẻẽẹêềếểễệghiìíỉĩịklmnoòóỏõọôồốổỗộơờớởỡợpqrstuùúủũụưừứửữựvxyỳýỷỹỵ "
)


def make_call(minutes: float, rate: int) -> Any:
    """Return (samples,) of noise that comes and goes as turns do."""
    import numpy as np

    samples = round(minutes * 60 * rate)
    turns = 0.05 * (1.0 + np.sin(2 * np.pi * np.arange(samples) / (7 * rate)))
    noise = np.random.default_rng(0).standard_normal(samples, dtype=np.float32)
    return (turns * noise).astype(np.float32)


def make_heads(backbone: Any, adapter: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the five heads in evaluation mode; with `adapter`, the last three bend the trunk, each for itself."""
    import torch

    from heads import TrunkSpec, attach_adapter, find_head
    from heads.adapter import Adapter
    from trunkline.settings import read_settings

    labels: dict[str, Any] = {
        "ctc": [LETTERS],
        "intent": ["balance", "card", "loan", "transfer", "complaint", "other"],
        "sentiment": ["negative", "neutral", "positive"],
        "speaker": [f"speaker {number}" for number in range(100)],
        "vad": [[[0.0, 1.0, "speech"]]],
    }
    torch.manual_seed(0)
    heads = {}
    for kind, examples in labels.items():
        cls = find_head(kind)
        bent = {"adapter": dict(adapter)} if adapter and kind in list(labels)[2:] else {}
        options = read_settings(cls.Options, bent)
        head = cls(options, TrunkSpec.of(backbone), cls.prepare(options, examples))
        heads[kind] = attach_adapter(head, backbone).eval()
        if isinstance(head.adapter, Adapter):
            # As after training: adapters that differ are not joined.
            for parameter in head.adapter.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
    return heads


def measure(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Return the least wall and processor seconds of each way over the rounds."""
    found = {name: {"wall_s": float("inf"), "cpu_s": float("inf")} for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began, used = time.perf_counter(), time.process_time()
            way()
            took = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}
            found[name] = {key: min(took[key], value) for key, value in found[name].items()}
    return found


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from encoder import Backbone, BackboneConfig, Context, load_backbone
    from heads import MultiHeadModel

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    backbone = (
        load_backbone(arguments.backbone)
        if arguments.backbone
        else Backbone(BackboneConfig.preset("small")).eval()
    )
    context = Context.parse(arguments.context)
    call = make_call(arguments.minutes, backbone.sample_rate)
    heads = make_heads(backbone)
    model = MultiHeadModel(backbone, heads)
    alone = [MultiHeadModel(backbone, {name: head}) for name, head in heads.items()]
    adapted = MultiHeadModel(
        backbone, make_heads(backbone, {"kind": "houlsby", "layers": arguments.adapted_layers})
    )

    def encode() -> None:
        for _ in backbone.encode_blocks(call, context=context):
            pass

    ways: dict[str, Callable[[], Any]] = {
        "encoder alone": encode,
        "five heads, one pass": lambda: model.outputs(call, context=context),
        "five heads, one pass, with results": lambda: model.run(call, context=context),
        "five models": lambda: [one.outputs(call, context=context) for one in alone],
        f"five heads, three with adapters in the last {arguments.adapted_layers} layers": (
            lambda: adapted.outputs(call, context=context)
        ),
    }
    times = measure(ways, arguments.rounds)
    depth = backbone.num_layers
    passes = [depth, model.trunk.layer_passes, model.trunk.layer_passes, 5 * depth]
    base = times["encoder alone"]
    rows = [
        {
            "way": name,
            "layer passes": count,
            "wall s": round(took["wall_s"], 2),
            "processor s": round(took["cpu_s"], 2),
            "wall beside the encoder": round(took["wall_s"] / base["wall_s"], 3),
            "processor beside the encoder": round(took["cpu_s"] / base["cpu_s"], 3),
        }
        for (name, took), count in zip(
            times.items(), [*passes, adapted.trunk.layer_passes], strict=True
        )
    ]
    summary = {
        "minutes": arguments.minutes,
        "context": arguments.context,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "backbone": f"{depth} layers of width {backbone.d_model}",
        "goal_beside_the_encoder": GOAL,
        "goal_met_wall": rows[1]["wall beside the encoder"] <= GOAL,
        "goal_met_processor": rows[1]["processor beside the encoder"] <= GOAL,
        "tables": {"One call": rows},
    }
    write_json(arguments.out, summary)
    return summary


def make_parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.five_heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", help="backbone directory (default: random weights, small)")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the call")
    parser.add_argument("--context", default="64,128,128", help="chunk,left,right in frames")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--adapted-layers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run(_run, make_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
