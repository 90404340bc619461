"""Cuts through the backbone into shards: short ones together, long ones in blocks, each cut once in each space.

`Exporter.export_shard` is the unit of work of every way to run an export: one process, many, Ray, or a scheduler of
one's own. Doing one twice, or at two places at once, does no harm: the log takes each cut once.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embstore import plan as planning
from embstore.behind import Behind
from embstore.cut_sinks import CutSinks, Job
from embstore.layers import layer_frames, wanted_layers
from embstore.plan import ExportOptions
from embstore.schema import Space, all_finite
from embstore.state import KEY
from embstore.store import EmbeddingStore
from embstore.windows import windows_of
from embstore.writer import Record, Shard
from trunkline.errors import DataError, DependencyError, StorageError

if TYPE_CHECKING:
    from embstore.labels import HeadColumns
    from encoder import Backbone, Context, Encoded
    from encoder.backbone import Layers
    from trunkline.manifest import Cut, Manifest

SHORT_SECONDS = 20.0
"""Cuts up to here are encoded together, as many as fill a block."""
UNREADABLE = (DataError, StorageError, DependencyError)


@dataclass
class ShardReport:
    """What became of a shard."""

    number: int
    cuts: int = 0
    """That were encoded."""
    added: int = 0
    """Cuts and spaces that are new: one cut in two spaces counts twice."""
    already: int = 0
    """That another process had added in the meantime."""
    erased: int = 0
    """Cuts that were forgotten and are left out."""
    frames: int = 0
    hours: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)
    encoding: float = 0.0
    """Seconds in the backbone and in reading audio for it."""
    seconds: float = 0.0


class Exporter:
    """A backbone, a manifest and a store; holds what is the same for all shards."""

    def __init__(self, options: ExportOptions, *, backbone: Backbone | None = None) -> None:
        """Open all three, and make the spaces known to the store.

        Raises:
            UsageError: settings that cannot be, or spaces that the store began otherwise.
        """
        from encoder import Context, load_backbone
        from trunkline.manifest import load_manifest

        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        self.manifest: Manifest = load_manifest(options.manifest)
        self.options = options = planning.with_licence(options, self.manifest)
        self.backbone = backbone or load_backbone(options.backbone, device=options.device)
        self.context: Context = Context.parse(options.context)
        self.heads = _heads(options, self.backbone)
        learnt = self.heads.poolings if self.heads else {}
        self.spaces = planning.spaces_of(options, self.backbone, self.manifest, learnt)
        self.store = EmbeddingStore.create(options.store)
        self.store.log.collect()
        self.spaces = [self.store.add_space(space) for space in self.spaces]
        self.keys = planning.keys_of(self.store, self.manifest)
        self.plan = planning.plan(self.manifest, options.shard_hours)
        self.calls = self.manifest.column("call_id")
        self._durations = self.manifest.durations

    def missing(self, place: int) -> list[Space]:
        """Return the spaces that lack a cut."""
        cut = self.keys.cuts[place]
        return [space for space in self.spaces if cut not in self.store.state.live(space.name)]

    def is_erased(self, place: int) -> bool:
        """Return whether a cut's call or speaker was forgotten."""
        erased = self.store.state.erased
        return bool(erased) and (
            self.pair(place)[:KEY] in erased or self.keys.speakers[place] in erased
        )

    def pair(self, place: int) -> bytes:
        """Return the keys of a cut's call and of the cut."""
        call = str(self.calls[place])
        return self.store.log.keys.call(call) + self.keys.cuts[place]

    def export_shard(self, number: int) -> ShardReport:
        """Encode and commit what the store lacks of a shard.

        Raises:
            StorageError: the store cannot be written; what was committed stays.
        """
        began = time.perf_counter()
        report = ShardReport(number)
        self.store.refresh()
        jobs = []
        for place in self.plan.shards[number].tolist():
            spaces = self.missing(place)
            if spaces and self.is_erased(place):
                report.erased += 1
            elif spaces:
                pair, duration = self.pair(place), float(self._durations[place])
                jobs.append(Job(self.manifest[place], pair, spaces, duration))
        if jobs:
            with self.store.shard() as shard:
                work = _ShardWork(self, shard, report)
                work.encode(jobs)
                shard.add_errors(self._new(report.faults))
                committed = shard.commit()
            report.added, report.already = committed.added, committed.already
            report.erased += committed.erased
        report.seconds = time.perf_counter() - began
        return report

    def _new(self, faults: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the faults that the store's quarantine list does not hold yet."""
        known: set[tuple[Any, ...]] = set()
        names = ["call_id", "cut_id", "channel", "reason"]
        for file in [each for each in self.store.state.files.values() if each.table == "errors"]:
            table = self.store.table(file, names)
            known.update(zip(*(table.column(name).to_pylist() for name in names), strict=True))
        return [fault for fault in faults if tuple(fault[name] for name in names) not in known]


def _heads(options: ExportOptions, backbone: Backbone) -> HeadColumns | None:
    if not options.heads and not any(":" in name for name in options.pooled):
        return None
    from embstore.labels import HeadColumns

    return HeadColumns(options, backbone)


class _ShardWork:
    """Encodes the cuts of one shard."""

    def __init__(self, exporter: Exporter, shard: Shard, report: ShardReport) -> None:
        self.exporter, self.shard, self.report = exporter, shard, report
        self.backbone, self.options = exporter.backbone, exporter.options
        self._thread = ThreadPoolExecutor(1)
        self._behind = Behind()
        self._open: list[CutSinks] = []
        self._facts: dict[Path, Future[planning.AudioFacts]] = {}
        self.layers: Layers = wanted_layers(exporter.options.layer)

    def encode(self, jobs: Sequence[Job]) -> None:
        """Encode jobs in their order, short ones in a row together.

        Meanwhile one thread hashes their recordings, and another writes what was encoded before.
        """
        with self._thread:
            try:
                with self._behind:
                    self._encode(jobs)
            except BaseException:
                for sinks in self._open:
                    sinks.abort()
                raise

    def _encode(self, jobs: Sequence[Job]) -> None:
        from encoder.longform import BLOCK_FRAMES

        room = full = BLOCK_FRAMES * self.backbone.frame_shift
        waiting: list[tuple[Job, np.ndarray]] = []
        for job in jobs:
            if not 0 < job.duration <= SHORT_SECONDS:
                self._together(waiting)
                waiting, room = [], full
                self._look_at(job.cut)
                self._one(job, self._pieces(job))
                continue
            began = time.perf_counter()
            try:
                waiting.append((job, job.cut.load(self.backbone.sample_rate)))
                self._look_at(job.cut)
            except UNREADABLE as error:
                self._fault(job, error)
                continue
            finally:
                self.report.encoding += time.perf_counter() - began
            room -= job.duration
            if room <= 0:
                self._together(waiting)
                waiting, room = [], full
        self._together(waiting)

    def _together(self, cuts: Sequence[tuple[Job, np.ndarray]]) -> None:
        if not cuts:
            return
        began = time.perf_counter()
        batch = self.backbone.encode_batch(
            [waveform for _, waveform in cuts], context=self.exporter.context, layers=self.layers
        )
        self.report.encoding += time.perf_counter() - began
        for (job, _), encoded in zip(cuts, batch, strict=True):
            self._one(job, iter([encoded]))

    def _pieces(self, job: Job) -> Iterator[Encoded]:
        from encoder.longform import BLOCK_SECONDS

        samples = job.cut.blocks(self.backbone.sample_rate, BLOCK_SECONDS)
        return self.backbone.encode_blocks(
            samples, context=self.exporter.context, layers=self.layers
        )

    def _one(self, job: Job, pieces: Iterator[Encoded]) -> None:
        """Write what the spaces want of one cut. What cannot be read is a fault, what cannot be written is raised."""
        try:
            shortest = self.backbone.receptive_field / self.backbone.sample_rate
            windows = windows_of(job.cut, max(job.duration, shortest), self.options.segments)
        except UNREADABLE as error:
            self._fault(job, error)
            return
        sinks = CutSinks(self.shard, job, windows)
        self._open.append(sinks)
        count = 0
        while True:
            try:
                frames = self._next(pieces, job)
                if frames is None:
                    columns, pooled = self._answers(job)
                    facts = self._facts_of(job.cut)
                    break
            except UNREADABLE as error:
                self._behind.call(self._abort, sinks)
                self._fault(job, error)
                return
            self._behind.call(sinks.write, frames)
            count += len(frames)
        self._behind.call(self._finish, sinks, _record(job, facts, columns), pooled)
        self.report.cuts += 1
        self.report.frames += count
        self.report.hours += count * self.backbone.frame_shift / 3600

    def _abort(self, sinks: CutSinks) -> None:
        self._open.remove(sinks)
        sinks.abort()

    def _finish(self, sinks: CutSinks, record: Record, pooled: dict[str, np.ndarray]) -> None:
        self._open.remove(sinks)
        sinks.finish(record, pooled)

    def _next(self, pieces: Iterator[Encoded], job: Job) -> np.ndarray | None:
        """Return the next frames (frames, dim) of a cut, None after the last."""
        began = time.perf_counter()
        try:
            encoded = next(pieces, None)
            return None if encoded is None else self._frames(encoded, job)
        finally:
            self.report.encoding += time.perf_counter() - began

    def _answers(self, job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return a cut's columns, and its vectors by pooling, as far as heads give them."""
        columns = planning.meta_values(job.spaces[0], job.cut, self.options.keep_meta)
        heads, began = self.exporter.heads, time.perf_counter()
        if heads is None:
            return columns, {}
        try:
            own, pooled = heads.answers(job.cut, self.exporter.context)
        finally:
            self.report.encoding += time.perf_counter() - began
        return columns | own, pooled

    def _frames(self, encoded: Encoded, job: Job) -> np.ndarray:
        """Return (frames, dim) float32 of the layer that is wanted."""
        array = layer_frames(encoded, self.options.layer)
        if not all_finite(array):
            raise DataError(f"The backbone gave NaN or infinite frames of cut {job.cut.id!r}.")
        return array

    def _look_at(self, cut: Cut) -> None:
        """Have the thread look at a cut's recording; the cuts of one recording follow one another."""
        path = cut.audio_filepath
        if path not in self._facts:
            self._facts[path] = self._thread.submit(
                planning.audio_facts, path, self.options.audio_hash
            )

    def _facts_of(self, cut: Cut) -> planning.AudioFacts:
        """Return what the thread saw, and forget what it saw of recordings before."""
        path = cut.audio_filepath
        self._look_at(cut)
        try:
            facts = self._facts[path].result()
        except OSError as error:
            raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
        while (first := next(iter(self._facts))) != path:
            del self._facts[first]
        return facts

    def _fault(self, job: Job, error: Exception) -> None:
        cut = job.cut
        self.report.faults.append(
            {
                "call_id": cut.call_id,
                "cut_id": cut.id,
                "channel": cut.channel or 0,
                "speaker": cut.speaker,
                "file": str(cut.audio_filepath),
                "line": cut.line,
                "reason": str(error),
            }
        )


def _record(job: Job, facts: planning.AudioFacts, columns: dict[str, Any]) -> Record:
    cut = job.cut
    return Record(
        call_id=cut.call_id,
        cut_id=cut.id,
        channel=cut.channel or 0,
        start=cut.start or 0.0,
        duration=job.duration,
        speaker=cut.speaker,
        file=str(cut.audio_filepath),
        audio_sha256=facts.sha256,
        audio_bytes=facts.bytes,
        audio_mtime=facts.mtime,
        started_at=_started_at(cut),
        columns=columns,
    )


def _started_at(cut: Cut) -> datetime.datetime | None:
    """Return when the call began, where the manifest says so in ISO 8601; without a zone it is UTC."""
    value = cut.label("started_at")
    if not isinstance(value, str):
        return None
    try:
        time = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
