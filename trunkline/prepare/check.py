"""`trunkline data check`: every fault of a manifest and its recordings, in one pass that never stops."""

from __future__ import annotations

import argparse
import collections
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trunkline import audio, importers, log
from trunkline.errors import DataError, DependencyError, StorageError
from trunkline.rows import Cut, Row, parse_row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

KINDS = {
    "manifest": "the manifest as a whole cannot be read",
    "row": "the line is no valid cut",
    "duplicate": "the id stands on an earlier line already",
    "missing": "the recording does not exist",
    "unreadable": "the file may not be read or is no recording",
    "empty": "the recording holds no samples",
    "truncated": "the recording ends before its header says, or is damaged",
    "rate": "the sample rate is not the declared one",
    "duration": "the duration is not the declared one",
    "span": "start or end lie outside the recording",
    "channel": "several channels and none chosen, or a channel that is not there",
    "nan": "NaN or infinite samples",
    "scale": "float samples that are not scaled to [-1, 1]",
    "clipped": "flat tops near full scale",
    "silent": "no sample reaches -60 dB of full scale",
}

_SHOWN = 20  # faults printed; all of them are in the report and in the JSON output
_TOLERANCE = 0.1  # s between a declared and a true duration
_SILENT = 1e-3
_FULL, _FLAT = (
    0.97,
    1e-3,
)  # mu-law's largest value is 0.98; at most this share of samples may be flat tops


@dataclass(frozen=True)
class Finding:
    """One fault or note: where it is (`line` from 1; 0: the source has no lines) and what."""

    kind: str
    line: int
    id: str
    file: str
    message: str


@dataclass
class Report:
    """What `check` found; notes are worth knowing and no fault."""

    manifest: str
    fingerprint: str = ""
    cuts: int = 0
    files: int = 0
    hours: float = 0.0
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind that occurs."""
        return dict(collections.Counter(finding.kind for finding in self.faults))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return asdict(self) | {"counts": self.counts()}


def check(source: Path, *, samples: bool = False) -> Report:
    """Return every fault of a manifest: its lines, every header, with `samples` every sample.

    Raises:
        StorageError: the manifest itself is missing or cannot be read.
    """
    report = Report(str(source))
    manifest = _load(source, report)
    seen: dict[str, int] = {}
    headers: dict[Path, audio.AudioInfo | Finding] = {}
    for cut in log.progress(manifest, description="checking", unit="cuts"):
        if cut.id in seen:
            _add(
                report.faults, "duplicate", cut, f"id {cut.id!r} stands on line {seen[cut.id]} too"
            )
        seen.setdefault(cut.id, cut.line)
        if cut.audio_filepath not in headers:
            headers[cut.audio_filepath] = header = _header(cut)
            if samples and isinstance(header, audio.AudioInfo):
                _note_dual_mono(cut, report)
        header = headers[cut.audio_filepath]
        if isinstance(header, Finding):
            report.faults.append(_finding(header.kind, cut, header.message))
            continue
        faults = list(_against_header(cut, header))
        if samples and not any(kind in ("channel", "span") for kind, _ in faults):
            faults += _against_samples(cut)
        for kind, message in faults:
            _add(report.faults, kind, cut, message)
        report.hours += ((cut.end or header.duration) - (cut.start or 0.0)) / 3600
    report.cuts, report.files = len(manifest), len(headers)
    if manifest:
        report.fingerprint = manifest.fingerprint
    report.faults.sort(key=lambda finding: finding.line)
    return report


def _load(source: Path, report: Report) -> Manifest | tuple[()]:
    """Return what can be read of a manifest; lines that cannot are faults of the report."""
    from trunkline.manifest import load_manifest, manifest_of_rows

    if not source.exists():
        raise StorageError(f"{source} does not exist.")

    def rows() -> Iterator[tuple[int, Row]]:
        with open(source, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip():
                        yield number, parse_row(line, f"{source}:{number}")
                except DataError as error:
                    report.faults.append(Finding("row", number, "", "", str(error)))

    try:
        if importers.detect(source) == "jsonl":
            return manifest_of_rows(source, rows())
        return load_manifest(source)
    except DataError as error:
        if not report.faults:
            report.faults.append(Finding("manifest", 0, "", "", str(error)))
        return ()


def _header(cut: Cut) -> audio.AudioInfo | Finding:
    try:
        return audio.info(cut.audio_filepath)
    except audio.AudioFault as error:
        return _finding(error.kind, cut, str(error))
    except (StorageError, DependencyError) as error:
        kind = "unreadable" if os.path.exists(cut.audio_filepath) else "missing"
        return _finding(kind, cut, str(error))


def _against_header(cut: Cut, header: audio.AudioInfo) -> Iterator[tuple[str, str]]:
    if cut.sampling_rate is not None and cut.sampling_rate != header.sample_rate:
        yield "rate", f"declared {cut.sampling_rate} Hz, the file has {header.sample_rate} Hz"
    end = header.duration if cut.end is None else cut.end
    start = cut.start or 0.0
    if start >= header.duration or end > header.duration + _TOLERANCE:
        yield "span", f"{start} s to {end} s asked for, the file lasts {header.duration:.3f} s"
    elif cut.duration is not None and abs(cut.duration - (end - start)) > _TOLERANCE:
        yield "duration", f"declared {cut.duration} s, there are {end - start:.3f} s"
    if header.channels > 1 and cut.channel is None:
        yield "channel", f"the file has {header.channels} channels and the line chooses none"
    elif (cut.channel or 0) >= header.channels:
        yield "channel", f"channel {cut.channel} chosen, the file has {header.channels}"


def _against_samples(cut: Cut) -> list[tuple[str, str]]:
    peak, flat, count = 0.0, 0, 0
    try:
        for block in cut.blocks():
            peak = max(peak, float(np.abs(block).max()))
            flat += int(((block[1:] == block[:-1]) & (np.abs(block[1:]) >= _FULL)).sum())
            count += len(block)
    except audio.AudioFault as error:
        return [(error.kind, str(error))]
    except StorageError as error:
        return [("missing", str(error))]
    if peak < _SILENT:
        return [("silent", f"the loudest sample is {peak:.2g} of full scale")]
    if flat > _FLAT * count:
        return [("clipped", f"{flat / count:.1%} of the samples are flat tops near full scale")]
    return []


def _note_dual_mono(cut: Cut, report: Report) -> None:
    try:
        if audio.is_dual_mono(cut.audio_filepath):
            _add(report.notes, "dual_mono", cut, "both channels hold the same signal")
    except (DataError, StorageError):
        return  # the cut's own samples say what is wrong


def _finding(kind: str, cut: Cut, message: str) -> Finding:
    return Finding(kind, cut.line, cut.id, str(cut.audio_filepath), message)


def _add(findings: list[Finding], kind: str, cut: Cut, message: str) -> None:
    findings.append(_finding(kind, cut, message))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Read every header (--samples: every sample) and list each fault with file and line. "
        "Exit status 1 when there is one."
    )
    parser.epilog = "Example: trunkline data check calls.jsonl --samples --report faults.json"
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument(
        "--samples", action="store_true", help="decode everything, not only headers"
    )
    parser.add_argument("--report", type=Path, help="write all findings to this JSON file")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check a manifest; exit status 1 when anything is wrong."""
    from trunkline.checkpoint import write_json

    report = check(args.manifest, samples=args.samples)
    if args.report:
        from trunkline.prepare import provenance
        from trunkline.prepare.lines import arguments_of

        write_json(args.report, report.to_dict())
        counts = {"cuts": report.cuts, "files": report.files, "faults": len(report.faults)}
        inputs = {str(args.manifest): report.fingerprint}
        provenance.record(
            args.report, "check", arguments_of(args), inputs=inputs, counts=counts | report.counts()
        )
    rows, notes = (
        [
            {"line": found.line, "kind": found.kind, "id": found.id, "what": found.message}
            for found in findings
        ]
        for findings in (report.faults, report.notes)
    )
    shown = len(rows) if args.json else _SHOWN
    return {
        "manifest": str(args.manifest),
        "cuts": report.cuts,
        "files": report.files,
        "hours": round(report.hours, 4),
        "faults": len(report.faults),
        "notes": len(report.notes),
        "counts": report.counts(),
        "report": str(args.report) if args.report else None,
        "tables": {
            title: items[:shown]
            for title, items in (
                (f"faults (first {shown})" if len(rows) > shown else "faults", rows),
                ("notes", notes),
            )
            if items
        },
        "exit_status": 1 if report.faults else 0,
    }
