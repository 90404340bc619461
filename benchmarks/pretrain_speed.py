"""How many seconds of audio one second trains, beside torchaudio's HuBERT of the same depth, width and crop.

Both take the same waveforms and make one update each (features, masking, forward, loss over 100 clusters, backward,
AdamW) in turn in one process; the ratio is that of the medians. Peak memory is read from a process each. The peer
reads 16 kHz, as published; ours reads the same seconds at 8 kHz, as it is trained for telephone calls, and, as a
second row, at 16 kHz.

Example: python -m benchmarks.pretrain_speed --rounds 7
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trunkline.checkpoint import write_json
from trunkline.command import run
from trunkline.errors import StorageError

RESULTS = Path(__file__).parent / "results" / "pretrain_speed.json"
CLUSTERS = 100
SYSTEMS = ("trunkline 8 kHz", "trunkline 16 kHz", "torchaudio HuBERT")


def make_ours(sample_rate: int, crops: int, seconds: float) -> Callable[[], None]:
    """Return one update of a `small` backbone with four label slots."""
    import numpy as np
    import torch

    from encoder import Backbone, BackboneConfig, Context
    from encoder.subsampling import num_frames
    from ssl.crops import collate
    from ssl.hubert import ClusterPrediction, MaskedPrediction, ObjectiveConfig
    from ssl.masking import MaskConfig, mask_frames

    backbone = Backbone(BackboneConfig.preset("small", sample_rate=sample_rate))
    objective = ObjectiveConfig()
    task = MaskedPrediction(
        backbone, ClusterPrediction(backbone.d_model, CLUSTERS, 4, objective), objective
    ).train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, fused=True)
    waveform = torch.randn(crops, int(seconds * sample_rate)) * 0.1
    rng = np.random.default_rng(0)

    def update() -> None:
        items = []
        for row in waveform:
            features = backbone.features(row).numpy()
            frames = num_frames(len(features))
            items.append(
                {
                    "id": "made",
                    "features": features,
                    "masked": mask_frames(frames, MaskConfig(), rng),
                    "targets": rng.integers(CLUSTERS, size=(frames, 4)),
                    "seconds": seconds,
                }
            )
        loss, _ = task.loss(collate(items), Context.full())  # type: ignore[arg-type]
        _step(loss, optimizer, task)

    return update


def make_peer(crops: int, seconds: float) -> Callable[[], None]:
    """Return one update of torchaudio's HuBERT with the depth, width and feed-forward of `small`."""
    import torch
    from torch.nn import functional

    from encoder import BackboneConfig
    from trunkline import _torchaudio

    config = BackboneConfig.preset("small")
    task = (
        _torchaudio.load()
        .models.hubert_pretrain_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=None,
            extractor_conv_bias=False,
            encoder_embed_dim=config.dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=128,
            encoder_pos_conv_groups=16,
            encoder_num_layers=config.layers,
            encoder_num_heads=config.heads,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=config.feed_forward,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            mask_prob=0.8,
            mask_selection="static",
            mask_other=0.0,
            mask_length=10,
            no_mask_overlap=False,
            mask_min_space=1,
            mask_channel_prob=0.0,
            mask_channel_selection="static",
            mask_channel_other=0.0,
            mask_channel_length=10,
            no_mask_channel_overlap=False,
            mask_channel_min_space=1,
            skip_masked=False,
            skip_nomask=True,
            num_classes=CLUSTERS,
            final_dim=256,
            feature_grad_mult=0.1,
        )
        .train()
    )
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, fused=True)
    samples = int(seconds * 16000)
    waveform = torch.randn(crops, samples) * 0.1
    labels = torch.randint(CLUSTERS, (crops, (samples - 400) // 320 + 1))
    lengths = torch.full((crops,), samples)

    def update() -> None:
        logits, _, penalty = task(waveform, labels, lengths)
        # Column 0 is the right cluster in torchaudio's logits.
        target = torch.zeros(len(logits), dtype=torch.long)
        _step(functional.cross_entropy(logits, target) + 10 * penalty, optimizer, task)

    return update


def _step(loss: Any, optimizer: Any, task: Any) -> None:
    import torch

    loss.backward()
    torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def make(system: str, crops: int, seconds: float) -> Callable[[], None]:
    """Return one update of a system."""
    if system == SYSTEMS[2]:
        return make_peer(crops, seconds)
    return make_ours(8000 if system == SYSTEMS[0] else 16000, crops, seconds)


def peak_memory(system: str, arguments: argparse.Namespace) -> float:
    """Return the peak resident memory in GB of a process that makes three updates."""
    given = ["--rounds", "3", "--crops", str(arguments.crops), "--seconds", str(arguments.seconds)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.pretrain_speed",
        *given,
        "--threads",
        str(arguments.threads),
    ]
    done = subprocess.run(
        [*command, "--only", system, "--json"], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)["peak_rss_gb"])


def _own_peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e9
    raise StorageError(
        "/proc/self/status does not tell the peak memory; this benchmark needs Linux."
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the systems in turn, and write the results."""
    import torch

    torch.set_num_threads(arguments.threads)
    systems = [arguments.only] if arguments.only else list(SYSTEMS)
    updates = {system: make(system, arguments.crops, arguments.seconds) for system in systems}
    times: dict[str, list[float]] = {system: [] for system in systems}
    for number in range(arguments.rounds + 1):
        for system, update in updates.items():
            began = time.perf_counter()
            update()
            if number:  # the first round warms up
                times[system].append(time.perf_counter() - began)
    if arguments.only:
        return {"peak_rss_gb": _own_peak()}
    audio = arguments.crops * arguments.seconds
    rows = [
        {
            "system": system,
            "audio_seconds_per_second": round(audio / statistics.median(times[system]), 1),
            "slowest": round(audio / max(times[system]), 1),
            "fastest": round(audio / min(times[system]), 1),
            "times_the_peer": round(
                statistics.median(times[SYSTEMS[2]]) / statistics.median(times[system]), 2
            ),
            "peak_rss_gb": round(peak_memory(system, arguments), 2),
        }
        for system in systems
    ]
    about = {
        "crops": arguments.crops,
        "seconds_per_crop": arguments.seconds,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
    }
    write_json(arguments.out, {**about, "systems": rows})
    return {**about, "tables": {"One update of pretraining": rows}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_speed",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Example: python -m benchmarks.pretrain_speed --rounds 7",
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed updates of each system")
    parser.add_argument("--crops", type=int, default=4, help="crops in a batch")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a crop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", choices=SYSTEMS, help="make this system's updates and print its peak memory"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
