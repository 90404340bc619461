"""`python -m embstore.export`: the calls of a manifest through a backbone into a store."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline import quarantine
from trunkline.command import Summary, run
from trunkline.errors import UsageError
from trunkline.log import get_logger, progress

if TYPE_CHECKING:
    from embstore.exporter import Exporter, ShardReport
    from embstore.plan import ExportOptions

SOME_FAILED = 3
"""Exit status where some cuts could not be read; all others are in the store."""
TELL_EVERY = 10.0  # seconds between two lines of progress

logger = get_logger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m embstore.export",
        description="Write the vectors of calls into a store: one for each cut and one for each segment, and on "
        "request every frame. A cut is encoded once in each space (backbone, layer, pooling, precision, context): "
        "run the same command again, kill it, run two at once, and each is there once. Exit status 3 where some cuts "
        "could not be read.",
        epilog="Example: python -m embstore.export --manifest calls.jsonl --backbone runs/small/backbone --out store",
    )
    option = parser.add_argument
    option("--manifest", required=True, metavar="PATH", help="a manifest or folder of recordings")
    option(
        "--backbone", required=True, metavar="DIR", help="a backbone directory, or chunkformer:DIR"
    )
    option("--out", required=True, type=Path, metavar="STORE", help="the store, made if need be")
    option("--pooled", default="mean", metavar="LIST",
           help="poolings, each a space of its own: mean, std, mean+std, max, attentive:DIR or speaker:DIR (of a "
           "head), or none (default mean)")  # fmt: skip
    option("--segments", default="10s", metavar="HOW",
           help="segments: of a length such as 10s, vad, turns, manifest (its `segments`), or none (10s)")  # fmt: skip
    option("--frames", action="store_true", help="also every frame, rounded to 10 mantissa bits")
    option("--npy", action="store_true", help="also every frame as one float16 .npy file a cut")
    option("--precision", default="m10", choices=("m10", "f32"), help="of frames (m10)")
    option("--layer", default="last", metavar="N|mix",
           help="frames of layer N instead of the normalised output, or the mean of all layers")  # fmt: skip
    option("--context", default="64,128,128", metavar="C,L,R",
           help="what a frame sees: chunk,left,right in frames of 80 ms, or full (64,128,128)")  # fmt: skip
    option("--heads", action="append", default=[], metavar="NAME=DIR",
           help="columns NAME_label, NAME_score and NAME_confidence from a head; may be repeated")  # fmt: skip
    option("--keep-meta", default="", metavar="LIST", help="columns meta_* from the manifest")
    option("--device", default="cpu", help="where the backbone runs: cpu, cuda, ...")
    how = parser.add_argument_group("how it is run")
    option = how.add_argument
    option("--workers", type=int, default=1, metavar="N", help="processes on this machine (1)")
    option("--threads", type=int, default=0, metavar="N", help="threads of each process")
    option("--ray", metavar="auto|ADDRESS", help="export on a Ray cluster (extra `scale`)")
    option("--shard", default="0/1", metavar="K/N", help="only every N-th shard from the K-th on")
    option("--shard-hours", type=float, default=1.0, metavar="H", help="audio of one shard (1)")
    option("--refresh", action="store_true", help="export again what has changed since")
    option("--no-check-audio", action="store_true", help="do not look whether recordings changed")
    option("--no-audio-hash", action="store_true", help="tell changes by size and time only")
    quarantine.add_option(parser)
    option(
        "--dry-run",
        action="store_true",
        help="only tell what there is to do, and how large it gets",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_export, build_parser(), argv)


def _options(arguments: argparse.Namespace) -> ExportOptions:
    from embstore.plan import ExportOptions
    from embstore.windows import check_method

    if arguments.workers < 1 or arguments.threads < 0:
        raise UsageError("--workers takes 1 or more, --threads 0 or more.")
    if arguments.shard_hours <= 0:
        raise UsageError("--shard-hours must be above 0.")
    quarantine.check_option(arguments.max_bad_fraction)
    if arguments.layer not in ("last", "mix") and not arguments.layer.isdecimal():
        raise UsageError(f"--layer {arguments.layer}: give the number of a layer, or mix.")
    heads = [tuple(item.partition("=")[::2]) for item in arguments.heads]
    if wrong := [item for item in heads if not (item[0].isidentifier() and item[1])]:
        raise UsageError(f"--heads {wrong[0][0]}: write NAME=DIR, such as intent=runs/intent/head.")
    pooled = _names(arguments.pooled)
    return ExportOptions(
        manifest=arguments.manifest,
        backbone=arguments.backbone,
        store=str(arguments.out),
        pooled=() if pooled == ("none",) else pooled,
        segments=check_method(arguments.segments),
        frames=arguments.frames,
        npy=arguments.npy,
        precision=arguments.precision,
        layer=arguments.layer,
        context=arguments.context,
        heads=tuple(heads),  # type: ignore[arg-type]
        keep_meta=_names(arguments.keep_meta),
        device=arguments.device,
        threads=arguments.threads,
        audio_hash=not arguments.no_audio_hash,
        shard_hours=arguments.shard_hours,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _export(arguments: argparse.Namespace) -> Summary:
    from embstore import runner

    shard = runner.parse_shard(arguments.shard)
    options = _options(arguments)
    from embstore.exporter import Exporter

    exporter = Exporter(options)
    changed = _changed(exporter, arguments)
    numbers = runner.order(len(exporter.plan.shards), shard)
    todo = [n for n in numbers if any(map(exporter.missing, exporter.plan.shards[n].tolist()))]
    total = sum(map(len, exporter.plan.shards))
    summary: Summary = {
        "store": str(arguments.out),
        "spaces": {space.name: space.pooling for space in exporter.spaces},
        "cuts": total,
        "hours": exporter.plan.hours,
    }
    if arguments.dry_run:
        return summary | _estimate(exporter, todo)
    if arguments.ray:
        from embstore.scale import run_ray

        reports = run_ray(options, todo, arguments.ray)
    elif arguments.workers > 1 and len(todo) > 1:
        reports = runner.run_processes(options, todo, arguments.workers)
    else:
        reports = runner.run_here(exporter, todo)
    done = _follow(reports, exporter, todo, arguments.max_bad_fraction)
    return summary | done | _outcome(exporter, changed)


def _changed(exporter: Exporter, arguments: argparse.Namespace) -> list[int]:
    """Return the cuts whose recording is another now; with --refresh they are taken out, to be exported again."""
    from embstore.erasure import leave_out
    from embstore.plan import changed_cuts

    if arguments.no_check_audio:
        return []
    space = exporter.spaces[0]
    changed = changed_cuts(exporter.store, space, exporter.manifest)
    if changed and arguments.refresh and not arguments.dry_run:
        leave_out(exporter.store, map(exporter.pair, changed))
    elif changed:
        logger.warning(
            "%d cuts have another recording now than when they were exported, the first %s; they stay as they are. "
            "Give --refresh to export them again.",
            len(changed),
            exporter.manifest[changed[0]].audio_filepath,
        )
    return changed


def _follow(
    reports: Iterator[ShardReport], exporter: Exporter, todo: Sequence[int], limit: float
) -> Summary:
    """Add up what becomes of the shards, and tell how far it is."""
    hours = exporter.manifest.durations / 3600
    wanted = float(sum(hours[exporter.plan.shards[number]].sum() for number in todo))
    cuts = sum(len(exporter.plan.shards[number]) for number in todo)
    totals = dict.fromkeys(("cuts", "added", "already", "erased", "frames"), 0)
    faults: list[dict[str, Any]] = []
    encoding = working = passed = audio = 0.0
    began = told = time.perf_counter()
    with progress(total=cuts, description="Exporting", unit="cuts") as bar:
        for report in reports:
            for name in totals:
                totals[name] += getattr(report, name)
            faults += report.faults
            encoding, working = encoding + report.encoding, working + report.seconds
            audio += report.hours
            passed += float(hours[exporter.plan.shards[report.number]].sum())
            bar.advance(len(exporter.plan.shards[report.number]))
            total = sum(map(len, exporter.plan.shards))
            quarantine.check_share(faults, total, limit, remark="What was exported stays.")
            now = time.perf_counter()
            if now - told > TELL_EVERY:
                told = now
                logger.info("%s", _progress_line(passed, wanted, now - began))
    seconds = time.perf_counter() - began
    return {
        "encoded": totals["cuts"],
        "added": totals["added"],
        "added_by_others": totals["already"],
        "forgotten_left_out": totals["erased"],
        "quarantined": len(faults),
        "frames": totals["frames"],
        "audio_hours": audio,
        "hours_per_hour": audio * 3600 / seconds if audio else None,
        "seconds": seconds,
        "outside_encoder": 1 - encoding / working if audio else None,
        "tables": {"Quarantined": faults} if faults else {},
        "exit_status": SOME_FAILED if faults else 0,
    }


def _progress_line(done: float, wanted: float, seconds: float) -> str:
    speed = done / seconds
    left = (wanted - done) / speed if speed else 0.0
    clock = f"{int(left // 3600)}:{int(left % 3600 // 60):02d}:{int(left % 60):02d}"
    return f"{done:.2f} of {wanted:.2f} hours, {speed * 3600:.0f} hours per hour, {clock} left"


def _outcome(exporter: Exporter, changed: Sequence[int]) -> Summary:
    exporter.store.refresh()
    state = exporter.store.state
    return {
        "changed_recordings": len(changed),
        "log_version": state.version,
        "megabytes": sum(file.size for file in state.files.values()) / 1e6,
    }


def _estimate(exporter: Exporter, todo: Sequence[int]) -> Summary:
    """Return how much there is to do, and about how many bytes it takes."""
    from embstore.schema import FRAMES

    bytes_of, lacking, hours = dict.fromkeys((s.name for s in exporter.spaces), 0.0), 0, 0.0
    for number in todo:
        for place in exporter.plan.shards[number].tolist():
            spaces = exporter.missing(place)
            seconds = float(exporter.manifest.durations[place])
            lacking += bool(spaces)
            hours += seconds / 3600 * bool(spaces)
            for space in spaces:
                # Sizes of byte-stream split and zstd against raw float32: 0.846, and 0.441 of 10 mantissa bits.
                if space.pooling == FRAMES:
                    share = 0.441 if space.precision == "m10" else 0.846
                    bytes_of[space.name] += seconds / space.frame_shift * space.dim * 4 * share
                else:
                    bytes_of[space.name] += (1 + seconds / 10) * space.dim * 4 * 0.846
    return {
        "to_encode": lacking,
        "hours_to_encode": hours,
        "megabytes_estimated": {name: size / 1e6 for name, size in bytes_of.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
