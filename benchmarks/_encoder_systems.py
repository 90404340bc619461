"""The systems that `benchmarks.encoder_cpu` compares, one a process: `python -m benchmarks._encoder_systems REQUEST`.

REQUEST is JSON: `system`, `threads`, `folder` (a checkpoint of the package chunkformer, and the same imported), `tasks`
(name -> list of files) and `rounds`. Prints a JSON object a line: a task's wall and CPU seconds, and peak memory in GB.
The reference runs in the environment that has the package; everything else runs in the toolkit's own.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.encoder_cpu import LIVE, LONG

STEPS = 100


class Ours:
    """Trunkline's encoder, with the checkpoint's CTC on top."""

    def __init__(self, system: str, folder: Path, calibration: Sequence[str]) -> None:
        import safetensors.torch

        from encoder import Context, load_backbone
        from encoder.packed import PackedLinear

        backbone = load_backbone(folder / "imported")
        tensors = safetensors.torch.load_file(folder / "imported" / "heads" / "ctc.safetensors")
        weight, bias = tensors["ctc.ctc_lo.weight"], tensors["ctc.ctc_lo.bias"]
        self.context, self.live = Context(*LONG), Context(*LIVE)
        half = system == "optimised bfloat16" or (system == "optimised int8" and has_bfloat16())
        if system == "plain float32":
            self.ctc: Callable[[Any], Any] = lambda rows: torch.nn.functional.linear(
                rows, weight, bias
            )
        else:
            options: dict[str, Any] = {"dtype": "bfloat16"} if half else {}
            if system == "optimised int8":
                # Random weights: what the frames lose is printed by the comparison, not limited here.
                options |= {"quantize": "int8", "calibration": list(calibration), "limit": 10.0}
            backbone = backbone.optimize(context=self.context, **options)
            kind = torch.bfloat16 if half else torch.float32
            self.ctc = PackedLinear(weight.to(kind), bias.to(kind))
        self.backbone = backbone

    def long(self, files: Sequence[str]) -> None:
        """Frames and best symbols of a recording, block by block."""
        for encoded in self.backbone.encode_blocks(files[0], context=self.context):
            self.ctc(encoded.frames[0]).max(-1)  # `argmax` takes three times as long in bfloat16

    def batch(self, files: Sequence[str]) -> None:
        """Frames and best symbols of many recordings."""
        for encoded in self.backbone.encode_batch(files, context=self.context):
            self.ctc(encoded.frames[0]).max(-1)  # `argmax` takes three times as long in bfloat16

    def features(self, files: Sequence[str]) -> None:
        """Features of a recording, block by block."""
        from encoder.features import init_features, step_features
        from trunkline.audio import blocks

        state = init_features(1)
        for block in blocks(files[0], sample_rate=self.backbone.sample_rate):
            _, state = step_features(self.backbone.log_mel, torch.from_numpy(block)[None], state)

    def steps(self) -> Callable[[], None]:
        """Return a function that takes one step of a stream."""
        features = torch.randn(1, 8 * LIVE[0], self.backbone.config.features.num_mels)
        states = [self.backbone.init_state(1, self.live)]

        def step() -> None:
            _, states[0] = self.backbone.step(features, states[0])

        return step

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """Frames (frames, dim) of features (features, mels) in the context of long recordings."""
        return self.backbone.encode_batch([features], context=self.context)[0].frames[0]


class Reference:
    """The package chunkformer, called as its users call it."""

    def __init__(self, system: str, folder: Path, calibration: Sequence[str]) -> None:
        from trunkline import _torchaudio

        _torchaudio.load()
        from chunkformer import ChunkFormerModel  # type: ignore[import-not-found]

        self.model = ChunkFormerModel.from_pretrained(str(folder))
        self.encoder = self.model.get_encoder()
        self.bfloat16 = system == "reference bfloat16"

    def _precision(self) -> Any:
        if self.bfloat16:
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()

    def long(self, files: Sequence[str]) -> None:
        """Decode a long recording."""
        with self._precision():
            self.model.endless_decode(files[0], *LONG)

    def batch(self, files: Sequence[str]) -> None:
        """Decode many recordings as a masked batch."""
        with self._precision():
            self.model.batch_decode(list(files), *LONG)

    def loop(self, files: Sequence[str]) -> None:
        """Decode many recordings one by one."""
        for file in files:
            self.batch([file])

    def features(self, files: Sequence[str]) -> None:
        """Features of a recording."""
        self.model._load_audio_and_extract_features(files[0])  # noqa: SLF001  (its README says to)

    def steps(self) -> Callable[[], None]:
        """Return a function that takes one step of a stream, with its caches made by hand."""
        chunk, left, right = LIVE
        encoder = self.encoder
        width, heads, blocks = encoder._output_size, encoder.attention_heads, encoder.num_blocks  # noqa: SLF001
        caches = [
            torch.zeros(blocks, 1, heads, left, 2 * width // heads),
            torch.zeros(blocks, 1, width, encoder.cnn_module_kernel // 2),
        ]
        features = torch.randn(1, 8 * (chunk - 1) + 15, encoder.input_size)

        def step() -> None:
            _, _, caches[0], caches[1] = encoder.forward_chunk(
                features, *caches, chunk, left, right, 10 * left
            )

        return step

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """Frames (frames, dim) of features (features, mels), decoded in one pass."""
        with self._precision():
            frames, lengths, *_ = self.encoder.forward_parallel_chunk(
                xs=[features],
                xs_origin_lens=torch.tensor([len(features)], dtype=torch.int),
                chunk_size=LONG[0],
                left_context_size=LONG[1],
                right_context_size=LONG[2],
                offset=torch.zeros(1, dtype=torch.int),
            )
        return frames.flatten(0, 1)[: int(lengths[0])]


def has_bfloat16() -> bool:
    """Return whether the processor computes bfloat16 products."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def timed(function: Callable[[], object], rounds: int) -> dict[str, float]:
    """Return the median of wall and CPU seconds, and the peak of the memory meanwhile."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "peak_rss_gb": peak_memory(),
    }


def peak_memory() -> float:
    """Return the peak resident memory of this process in GB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def products(dim: int, hidden: int) -> float:
    """Return the GFLOP/s of `torch.mm` in the shape of a feed-forward, 512 frames at once."""
    rows, weight = torch.randn(512, dim), torch.randn(dim, hidden)
    seconds = timed(lambda: [torch.mm(rows, weight) for _ in range(20)], 5)["wall_s"]
    return 20 * 2 * 512 * dim * hidden / seconds / 1e9


def answer(request: dict[str, Any]) -> None:
    """Do what is asked, and print a line for each task as soon as it is done."""
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    folder, tasks = Path(request["folder"]), request["tasks"]
    kind = Reference if request["system"].startswith("reference") else Ours
    system = kind(request["system"], folder, request["calibration"])
    with torch.no_grad():
        for name, files in tasks.items():
            task = name.split()[0]
            rounds = request["rounds"].get(name, 1)
            if task == "step":
                step = system.steps()
                for _ in range(10):
                    step()
                found = timed(step, STEPS)
            elif task == "frames":
                features = torch.from_numpy(np.load(folder / "features.npy"))
                np.save(folder / files[0], system.frames(features).float().numpy())
                found = {}
            elif task == "mm":
                found = {"gflops": products(*request["shape"])}
            else:
                work = getattr(system, task)
                if rounds > 1:
                    work(files)
                found = timed(lambda work=work, files=files: work(files), rounds)
            print(json.dumps({"task": name, **found}), flush=True)


if __name__ == "__main__":
    answer(json.loads(sys.argv[1]))
