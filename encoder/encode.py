"""`trunkline encode`: frames of a file, a folder or a manifest, one `.npy` a cut."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline import quarantine
from trunkline.command import Summary, run
from trunkline.errors import DataError, DependencyError, StorageError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from encoder import Backbone, Context, Encoded
    from encoder.frame_folder import FrameFolder
    from trunkline.manifest import Cut, Manifest

SHORT_SECONDS = 20.0
"""Cuts up to here are encoded together, as many as fill a block."""
UNREADABLE = (DataError, StorageError, DependencyError)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline encode",
        description="Write the frames of recordings, one vector every 80 ms: OUT/frames/*.npy of (frames, dim), "
        "OUT/index.jsonl, and OUT/quarantine.jsonl for what cannot be read. Memory does not grow with a recording. "
        "Run the same command again to go on where it stopped.",
        epilog="Example: trunkline encode runs/small/backbone calls.jsonl frames --context 64,128,128",
    )
    option = parser.add_argument
    option("backbone", metavar="BACKBONE", help="a backbone directory, or chunkformer:DIR")
    option("source", type=Path, metavar="SOURCE", help="a recording, a folder or a manifest")
    option("out", type=Path, metavar="OUT", help="the folder to write")
    option(
        "--context",
        default="64,128,128",
        help="what a frame sees: chunk,left,right in frames of 80 ms (default 64,128,128), or 'full'",
    )
    option("--channel", help="only this channel: agent, customer, or a number; all by default")
    option("--layer", type=int, metavar="N", help="frames of layer N instead of the last one's")
    option("--dtype", default="float32", choices=("float32", "float16"), help="of the files")
    option("--device", default="cpu", help="where the backbone runs: cpu, cuda, ...")
    quarantine.add_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_encode, build_parser(), argv)


def _encode(arguments: argparse.Namespace) -> Summary:
    from encoder import Context, load_backbone
    from encoder.frame_folder import FrameFolder, check_ids
    from trunkline.manifest import load_cuts
    from trunkline.training.tracking import locked

    context = Context.parse(arguments.context)
    quarantine.check_option(arguments.max_bad_fraction)
    manifest = load_cuts(arguments.source, arguments.channel)
    check_ids(manifest.ids, arguments.source)
    backbone = load_backbone(arguments.backbone, device=arguments.device)
    if arguments.layer is not None and not 0 <= arguments.layer <= backbone.num_layers:
        raise UsageError(f"--layer {arguments.layer}: the layers are 0 to {backbone.num_layers}.")
    with locked(arguments.out):
        folder = FrameFolder(arguments.out, _about(backbone, context, arguments))
        work = _Work(backbone, context, arguments.layer, arguments.dtype, folder)
        return _run(work, manifest, arguments)


def _run(work: _Work, manifest: Manifest, arguments: argparse.Namespace) -> Summary:
    """Encode what is not there yet, and tell how it went."""
    from trunkline.log import progress

    already = len(set(manifest.ids) & work.folder.index.keys())
    faults: list[dict[str, Any]] = []
    began = time.perf_counter()
    with progress(total=len(manifest), description="Encoding", unit="cuts") as bar:
        bar.advance(already)
        for cut, error in work.encode(manifest):
            bar.advance()
            if error is not None:
                faults.append(work.folder.quarantine(cut, error))
                quarantine.check_share(faults, len(manifest), arguments.max_bad_fraction)
    seconds = time.perf_counter() - began
    audio = work.frames * work.backbone.frame_shift
    return {
        "out": str(arguments.out),
        "backbone": work.backbone.fingerprint,
        "context": arguments.context,
        "cuts": len(manifest),
        "encoded": len(manifest) - already - len(faults),
        "already_there": already,
        "quarantined": len(faults),
        "frames": work.frames,
        "audio_hours": audio / 3600,
        "times_real_time": audio / seconds if work.frames else None,
        "tables": {"Quarantined": faults} if faults else {},
    }


def _about(backbone: Backbone, context: Context, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all files of the folder have in common; frame t lies at first_time + t * frame_shift of its cut."""
    return {
        "kind": "trunkline.frames",
        "backbone": backbone.fingerprint,
        "context": list(context),
        "layer": backbone.num_layers if arguments.layer is None else arguments.layer,
        "normed": arguments.layer is None,
        "dtype": arguments.dtype,
        "dim": backbone.d_model,
        "frame_shift": backbone.frame_shift,
        "first_time": float(backbone.times(1)[0]),
    }


class _Work:
    """Encodes cuts into a folder: short ones together, long ones in bounded memory."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        layer: int | None,
        dtype: str,
        folder: FrameFolder,
    ) -> None:
        self.backbone, self.context, self.folder = backbone, context, folder
        self.layers = None if layer is None else [layer]
        self.dtype = dtype
        self.frames = 0

    def encode(self, manifest: Manifest) -> Iterator[tuple[Cut, Exception | None]]:
        """Yield each cut that is not there yet when it is done, with what was wrong with it."""
        from encoder.longform import BLOCK_FRAMES

        waiting: list[tuple[Cut, np.ndarray]] = []
        room = BLOCK_FRAMES * self.backbone.frame_shift
        for index, duration in enumerate(manifest.durations):
            cut = manifest[index]
            if cut.id in self.folder.index:
                continue
            if not 0 < duration <= SHORT_SECONDS:
                yield cut, self._long(cut)
                continue
            try:
                waiting.append((cut, cut.load(self.backbone.sample_rate)))
            except UNREADABLE as error:
                yield cut, error
                continue
            room -= duration
            if room <= 0:
                yield from self._together(waiting)
                waiting, room = [], BLOCK_FRAMES * self.backbone.frame_shift
        yield from self._together(waiting)

    def _together(self, cuts: list[tuple[Cut, np.ndarray]]) -> Iterator[tuple[Cut, None]]:
        waveforms = [waveform for _, waveform in cuts]
        batch = self.backbone.encode_batch(waveforms, context=self.context, layers=self.layers)
        for (cut, _), encoded in zip(cuts, batch, strict=True):
            file = self.folder.writer(cut)
            file.write(self._array(encoded))
            file.close()
            self.frames += file.frames
            yield cut, None

    def _long(self, cut: Cut) -> Exception | None:
        """Encode a cut piece by piece; return why it cannot be read. What cannot be written is raised."""
        from encoder.longform import BLOCK_SECONDS

        file = self.folder.writer(cut)
        samples = cut.blocks(self.backbone.sample_rate, BLOCK_SECONDS)
        pieces = self.backbone.encode_blocks(samples, context=self.context, layers=self.layers)
        while True:
            try:
                encoded = next(pieces, None)
            except UNREADABLE as error:
                file.discard()
                return error
            if encoded is None:
                break
            file.write(self._array(encoded))
        file.close()
        self.frames += file.frames
        return None

    def _array(self, encoded: Encoded) -> np.ndarray:
        frames = encoded.frames[0] if encoded.layers is None else encoded.layers[0, 0]
        return frames.float().cpu().numpy().astype(self.dtype)


if __name__ == "__main__":
    raise SystemExit(main())
