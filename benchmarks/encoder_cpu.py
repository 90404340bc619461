"""Encoder on a CPU beside the public package chunkformer 1.2.2: long recordings, batches, features, a live stream.

The package is installed from the index into an environment of its own that shares this one's torch. Both systems get
the same random weights, in the shape of chunkformer-large-vie and of 12 layers of width 256, and the same made-up
recordings at 16 kHz; each system works in a process of its own, one after the other. A whole call is timed: reading,
features, encoder, CTC and the best symbol of each frame (the package also joins them to text).

Example: python -m benchmarks.encoder_cpu
         python -m benchmarks.encoder_cpu --resume --minutes 60 --threads 1
         python -m benchmarks.encoder_cpu --shapes small --threads 1 --minutes 1 --only float32
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trunkline.checkpoint import read_json, write_json
from trunkline.command import run
from trunkline.errors import DependencyError, UsageError
from trunkline.log import get_logger

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "encoder_cpu.json"
PEER = "chunkformer==1.2.2"
# What it imports for decoding and this environment lacks; its own list has another gigabyte of training tools.
PEER_NEEDS = ("transformers", "pandas", "pydub", "colorama", "tokenizers", "regex", "python-dateutil")  # fmt: skip
SAMPLE_RATE = 16000
LONG = (64, 128, 128)
LIVE = (8, 40, 0)
SYSTEMS = (
    "reference float32",
    "reference bfloat16",
    "plain float32",
    "optimised float32",
    "optimised bfloat16",
    "optimised int8",
)
SHAPES = {
    "large": {"dim": 512, "layers": 17, "heads": 8, "feed_forward": 2048, "symbols": 6992},
    "small": {"dim": 256, "layers": 12, "heads": 4, "feed_forward": 2048, "symbols": 1024},
}
COMPARED = (
    ("plain float32", "reference float32"),
    ("optimised float32", "reference float32"),
    ("optimised bfloat16", "reference bfloat16"),
    ("optimised bfloat16", "reference float32"),
    ("optimised int8", "reference float32"),
)

CLOCKS = {
    "Wall time against the reference's": "wall_s",
    "Processor time against the reference's, which other work on the machine hardly moves": "cpu_s",
}

logger = get_logger(__name__)


def peer_python(folder: Path) -> Path:
    """Return the interpreter of an environment that has the peer, and torch from this one."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = (
            folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        )
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", PEER, *PEER_NEEDS]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            raise DependencyError(f"{PEER} cannot be installed: {done.stderr.strip()[-300:]}")
        (folder / "ready").touch()
    return python


def make_checkpoint(folder: Path, shape: str) -> None:
    """Write random weights as a checkpoint of the package, import it, and make a minute of features."""
    import numpy as np
    import torch
    import yaml

    from encoder import Backbone, BackboneConfig
    from encoder.chunkformer import import_chunkformer, their_name
    from encoder.conformer import BRANCH_SCALE

    if (folder / "features.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sizes = dict(SHAPES[shape])
    symbols = sizes.pop("symbols")
    torch.manual_seed(20250217)
    config = BackboneConfig.preset("large", conv_channels=sizes["dim"], **sizes)
    backbone = Backbone(config).eval()
    tensors = {}
    for name, tensor in backbone.state_dict().items():
        if name.endswith(("w_2.weight", "linear_out.weight", "pointwise_conv2.weight")):
            tensor = tensor / BRANCH_SCALE  # torch's own size, so that a branch that errs shows
        theirs = their_name(name)
        tensors[theirs] = (
            tensor[..., None] if ".pointwise_conv" in name and tensor.ndim == 2 else tensor
        )
    tensors["encoder.global_cmvn.mean"] = torch.full((80,), 12.0)
    tensors["encoder.global_cmvn.istd"] = torch.full((80,), 0.3)
    tensors["ctc.ctc_lo.weight"] = torch.randn(symbols, config.dim) * config.dim**-0.5
    tensors["ctc.ctc_lo.bias"] = torch.zeros(symbols)
    torch.save(tensors, folder / "pytorch_model.bin")
    statistics = {"mean_stat": [12.0] * 80, "var_stat": [144.0 + 0.3**-2] * 80, "frame_num": 1}
    (folder / "global_cmvn").write_text(json.dumps(statistics), encoding="utf-8")
    pieces = "".join(f"▁{number} {number}\n" for number in range(symbols))
    (folder / "vocab.txt").write_text(pieces, encoding="utf-8")
    conf = {
        "output_size": config.dim,
        "attention_heads": config.heads,
        "linear_units": config.feed_forward,
        "num_blocks": config.layers,
        "cnn_module_kernel": config.kernel,
        "cnn_module_norm": "layer_norm",
        "dynamic_conv": True,
    }
    values = {
        "encoder": "chunkformer",
        "model": "asr_model",
        "is_json_cmvn": True,
        "cmvn_file": "global_cmvn",
        "input_dim": 80,
        "output_dim": symbols,
        "encoder_conf": conf,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    import_chunkformer(folder, folder / "imported", licence="random numbers", overwrite=True)
    waveform = torch.from_numpy(_sound(60.0, 1)).float() / 32768
    np.save(folder / "features.npy", backbone.features(waveform).numpy())


def _sound(seconds: float, seed: int) -> Any:
    """Noise that rises and falls as syllables do: int16 (samples,)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time) * np.sin(2 * np.pi * 0.3 * time)
    return (3000 * loudness * generator.standard_normal(len(time))).astype(np.int16)


def make_recordings(folder: Path, minutes: Sequence[float], clips: int) -> dict[str, list[str]]:
    """Write the recordings; return the files of each task."""
    import numpy as np
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    seconds = np.exp(np.random.default_rng(0).uniform(np.log(2), np.log(60), 32))[:clips]
    lengths = {f"batch{number}": float(length) for number, length in enumerate(seconds)}
    lengths |= {f"long{value:g}": 60 * value for value in minutes}
    for number, (name, length) in enumerate(lengths.items()):
        path = folder / f"{name}.wav"
        if not path.exists():
            soundfile.write(path, _sound(length, number), SAMPLE_RATE, subtype="PCM_16")
    files = {f"long {value:g} min": [str(folder / f"long{value:g}.wav")] for value in minutes}
    files[f"batch {clips}"] = [str(folder / f"batch{number}.wav") for number in range(clips)]
    return files


def tasks_of(system: str, files: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what a system is timed at."""
    batches = [name for name in files if name.startswith("batch")]
    tasks = {"step": [], **files}
    if system == "reference float32":
        tasks |= {name.replace("batch", "loop"): files[name] for name in batches}
    if system in ("reference float32", "plain float32"):
        tasks |= {
            f"features {name[5:]}": file for name, file in files.items() if name not in batches
        }
    if system == "plain float32":
        tasks["mm"] = []
    if system == "reference bfloat16":
        del tasks["step"]  # autocast does not cover its hand-made caches
    tasks["frames"] = [f"{system.replace(' ', '-')}.npy"]
    return tasks


def measurements(
    arguments: argparse.Namespace, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, figures) as they come; the key is shape, threads, system and task."""
    work = arguments.work
    python = peer_python(work / "peer")
    files = make_recordings(work / "audio", arguments.minutes, arguments.clips)
    for shape in arguments.shapes:
        make_checkpoint(work / shape, shape)
        for threads in arguments.threads:
            for system in SYSTEMS:
                if arguments.only and not any(word in system for word in arguments.only):
                    continue
                prefix = f"{shape}/{threads}/{system}/"
                tasks = tasks_of(system, files)
                if arguments.resume:
                    tasks = {
                        k: v for k, v in tasks.items() if prefix + k not in known or k == "frames"
                    }
                if tasks.keys() <= {"frames"}:
                    continue
                request = {
                    "system": system,
                    "threads": threads,
                    "folder": str(work / shape),
                    "tasks": tasks,
                    "rounds": {"long 1 min": 7, "features 1 min": 7},
                    "calibration": files[f"batch {arguments.clips}"][:2],
                    "shape": [SHAPES[shape]["dim"], SHAPES[shape]["feed_forward"]],
                }
                interpreter = python if system.startswith("reference") else Path(sys.executable)
                for task, figures in _answers(interpreter, request):
                    logger.info("%s%s: %s", prefix, task, figures)
                    yield prefix + task, figures


def _answers(python: Path, request: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    # Both wait for their threads as the import of `trunkline` has set it here.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(request["threads"]),
        "PYTHONWARNINGS": "ignore",
    }
    command = [str(python), "-m", "benchmarks._encoder_systems", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            figures = json.loads(line)
            yield figures.pop("task"), {name: round(value, 4) for name, value in figures.items()}
    if done.returncode:
        raise UsageError(f"{request['system']} failed: {done.stderr.strip()[-500:]}")


def differences(work: Path, shapes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return how far each system's frames of a minute are from the reference's float32."""
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    for shape in shapes:
        path = work / shape / f"{SYSTEMS[0].replace(' ', '-')}.npy"
        if not path.exists():
            continue
        expected = np.load(path)
        for system in SYSTEMS[1:]:
            other = work / shape / f"{system.replace(' ', '-')}.npy"
            if other.exists():
                error = np.load(other) - expected
                found[f"{shape}/{system}"] = {
                    "largest": float(f"{np.abs(error).max():.3g}"),
                    "relative_l2": float(f"{np.linalg.norm(error) / np.linalg.norm(expected):.3g}"),
                }
    return found


def gflops(shape: str, seconds: float, audio: float, layers: int | None = None) -> float:
    """Return the GFLOP/s of products and convolutions, CTC included, over `audio` seconds in `seconds`."""
    sizes = SHAPES[shape]
    dim, hidden = sizes["dim"], sizes["feed_forward"]
    chunk, keys = LONG[0], sum(LONG)
    # Feed-forwards, four projections, three of the convolution's; scores, values and positions; depthwise.
    layer = 4 * dim * hidden + 7 * dim * dim + (3 * keys + chunk) * dim + 15 * dim
    # 4 x 39, 2 x 19 and 1 x 9 places a frame, and nine bins that become one frame.
    subsampling = (4 * 39 + 2 * 19 + 9) * 9 * dim + (2 * 19 + 9 + 9) * dim * dim
    each = (layers or sizes["layers"]) * layer + subsampling + dim * sizes["symbols"]
    return 2 * each * audio / 0.08 / seconds / 1e9


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run what is asked for, and write the results after each task."""
    import torch

    known: dict[str, Any] = {}
    if arguments.resume and arguments.out.exists():
        known = read_json(arguments.out)["measured"]
    about = {"cpus": os.cpu_count(), "torch": torch.__version__, "peer": PEER}
    results: dict[str, Any] = {**about, "measured": known}
    for key, figures in measurements(arguments, known):
        if figures:
            known[key] = figures
            write_json(arguments.out, results)
    results["differences"] = differences(arguments.work, list(SHAPES))
    write_json(arguments.out, results)
    return {**about, "tables": tables(results)}


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return wall seconds and how they compare, peak memory, speed against `torch.mm`, and differences."""
    times, memory, speed = [], [], []
    ratios: dict[str, list[dict[str, Any]]] = {title: [] for title in CLOCKS}
    measured = results["measured"]
    for shape, threads, task in dict.fromkeys(_place(key) for key in measured):
        found = {
            system: measured[key]
            for system in SYSTEMS
            if (key := f"{shape}/{threads}/{system}/{task}") in measured
        }
        about = {"shape": shape, "threads": threads, "task": task}
        if task == "mm":
            continue
        times.append(about | {s: found[s]["wall_s"] if s in found else "" for s in SYSTEMS})
        for title, clock in CLOCKS.items():
            pairs = {
                f"{ours} / {base}": round(found[ours][clock] / found[base][clock], 3)
                if ours in found and base in found
                else ""
                for ours, base in COMPARED
            }
            if any(pairs.values()):
                ratios[title].append(about | pairs)
        if task.startswith("long"):
            memory.append(
                about | {s: found[s]["peak_rss_gb"] if s in found else "" for s in SYSTEMS}
            )
            audio = 60 * float(task.split()[1])
            product = measured.get(f"{shape}/{threads}/plain float32/mm", {}).get("gflops", "")
            rates = {
                s: round(gflops(shape, found[s]["wall_s"], audio)) if s in found else ""
                for s in SYSTEMS
            }
            speed.append(about | {"torch.mm float32": product} | rates)
    apart = [{"frames of": key, **value} for key, value in results.get("differences", {}).items()]
    return {
        "Wall seconds": times,
        **ratios,
        "Peak memory in GB": memory,
        "GFLOP/s of a whole call, reading and features included": speed,
        "Frames of a minute against the reference's in float32, one pass": apart,
    }


def _place(key: str) -> tuple[str, str, str]:
    shape, threads, _, task = key.split("/")
    return shape, threads, task


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoder_cpu",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Example: python -m benchmarks.encoder_cpu --minutes 1 10",
    )
    option = parser.add_argument
    option(
        "--minutes",
        type=float,
        nargs="+",
        default=[1.0, 10.0],
        help="of the long recordings (default 1 10)",
    )
    option("--clips", type=int, default=32, help="recordings in the batch (default 32)")
    option("--threads", type=int, nargs="+", default=[1, 2])
    option("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    option(
        "--only",
        nargs="+",
        metavar="WORD",
        help=f"systems that have a word of these: {', '.join(SYSTEMS)}",
    )
    option("--resume", action="store_true", help="keep what the results have, and measure the rest")
    option(
        "--work",
        type=Path,
        default=Path("runs/encoder_cpu"),
        help="for the environment, weights and audio",
    )
    option("--out", type=Path, default=RESULTS)
    return run(measure, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
