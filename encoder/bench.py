"""`trunkline bench`: how fast and how large a backbone runs on this machine."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trunkline.command import Summary, run
from trunkline.errors import UsageError

if TYPE_CHECKING:
    import torch

    from encoder import Backbone, Context

CLIP_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline bench",
        description="Measure features, long recordings, batches of short ones and a live stream on noise: seconds of "
        "work per second of audio (real-time factor), latency of the context, time of a step, peak memory.",
        epilog="Example: trunkline bench --backbone runs/small/backbone --threads 2",
    )
    option = parser.add_argument
    option(
        "--backbone",
        default="random:small",
        help="a backbone directory, chunkformer:DIR, or random:PRESET (default random:small)",
    )
    option("--long", default="64,128,128", metavar="CONTEXT", help="of recordings and batches")
    option("--live", default="8,40,0", metavar="CONTEXT", help="of the stream")
    option("--seconds", type=float, default=60.0, help="of audio (default 60)")
    option("--streams", type=int, default=1, help="streams that are stepped together (default 1)")
    option("--rounds", type=int, default=3, help="the median of so many counts (default 3)")
    option("--threads", type=int, help="of torch; what torch takes by itself by default")
    option("--device", default="cpu", help="cpu, cuda, ...")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_bench, build_parser(), argv)


def _bench(arguments: argparse.Namespace) -> Summary:
    import torch

    from encoder import Context

    if min(arguments.seconds, arguments.rounds, arguments.streams) <= 0:
        raise UsageError("--seconds, --rounds and --streams must be above 0.")
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise UsageError(f"--threads {arguments.threads} cannot be.")
        torch.set_num_threads(arguments.threads)
    wide, live = Context.parse(arguments.long), Context.parse(arguments.live)
    backbone = _backbone(arguments.backbone, arguments.device)
    generator = torch.Generator().manual_seed(0)
    samples = round(arguments.seconds * backbone.sample_rate)
    waveform = (0.1 * torch.randn(samples, generator=generator)).to(arguments.device)
    clips = _clips(waveform, backbone.sample_rate)
    rows = [
        _row("features", arguments, len(waveform), lambda: backbone.features(waveform), backbone),
        _row("long recording", arguments, len(waveform), lambda: _drain(backbone, waveform, wide), backbone),
        _row(
            f"batch of {len(clips)} short ones",
            arguments,
            sum(map(len, clips)),
            lambda: backbone.encode_batch(clips, context=wide),
            backbone,
        ),
    ]  # fmt: skip
    return {
        "backbone": arguments.backbone,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "audio_seconds": arguments.seconds,
        "context": arguments.long,
        "stream": _stream(backbone, waveform, live, arguments),
        "peak_rss_mb": _peak_rss(),
        "tables": {"Speed": rows},
    }


def _backbone(source: str, device: str) -> Backbone:
    import torch

    from encoder import Backbone, BackboneConfig, load_backbone

    if not source.startswith("random:"):
        return load_backbone(source, device=device)
    torch.manual_seed(0)
    config = BackboneConfig.preset(source.removeprefix("random:"))
    return Backbone(config).to(device).eval()


def _clips(waveform: torch.Tensor, rate: int) -> list[torch.Tensor]:
    """Cut a waveform to clips of a second to a quarter of a minute, as turns of a call are."""
    sizes = [round(seconds * rate) for seconds in CLIP_SECONDS]
    clips: list[torch.Tensor] = []
    start = 0
    while start < len(waveform):
        size = sizes[len(clips) % len(sizes)]
        clips.append(waveform[start : start + size])
        start += size
    return clips


def _drain(backbone: Backbone, waveform: torch.Tensor, context: Context) -> None:
    for _ in backbone.encode_blocks(waveform, context=context):
        pass


def _row(
    what: str,
    arguments: argparse.Namespace,
    samples: int,
    work: Callable[[], Any],
    backbone: Backbone,
) -> dict[str, Any]:
    """Return wall and CPU seconds of the median round, and what they are per second of audio."""
    work()  # warms up: memory, tables, kernels
    wall, cpu = [], []
    for _ in range(arguments.rounds):
        began, used = time.perf_counter(), time.process_time()
        work()
        _wait(arguments.device)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    seconds, audio = statistics.median(wall), samples / backbone.sample_rate
    return {
        "what": what,
        "audio_s": round(audio, 2),
        "wall_s": seconds,
        "cpu_s": statistics.median(cpu),
        "real_time_factor": seconds / audio,
        "times_real_time": audio / seconds,
    }


def _stream(
    backbone: Backbone, waveform: torch.Tensor, context: Context, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return how long a step takes that brings a chunk to every stream."""
    features = backbone.features(waveform)[None].expand(arguments.streams, -1, -1)
    block = context.chunk * 8
    state = backbone.init_state(arguments.streams, context)
    times = []
    for number, start in enumerate(range(0, features.shape[1], block)):
        began = time.perf_counter()
        _, state = backbone.step(features[:, start : start + block], state)
        _wait(arguments.device)
        if number:
            times.append(time.perf_counter() - began)
    if not times:
        raise UsageError(f"--seconds {arguments.seconds} is less than two steps; give more.")
    times.sort()
    chunk_seconds = context.chunk * backbone.frame_shift
    return {
        "context": arguments.live,
        "streams": arguments.streams,
        "latency_s": context.latency(backbone),
        "step_audio_s": chunk_seconds,
        "step_median_ms": 1000 * statistics.median(times),
        "step_p99_ms": 1000 * times[min(len(times) - 1, int(0.99 * len(times)))],
        "real_time_factor": statistics.median(times) / chunk_seconds,
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def _peak_rss() -> float:
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


if __name__ == "__main__":
    raise SystemExit(main())
