"""`trunkline data dedupe`: recordings that are there twice, to the sample or by ear; one is kept."""

from __future__ import annotations

import argparse
import base64
import collections
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trunkline.errors import DataError, DependencyError, StorageError, UsageError
from trunkline.prepare.fingerprint import RATE, Fingerprint, Match, fingerprint, matches
from trunkline.prepare.options import add_max_bad

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

LEAST = 24  # agreeing hashes: unrelated turns of one voice agree in up to 22 by chance
SHARE = 0.2  # of the hashes of the longer recording
RULE = "with text, then longest, then highest sample rate, then first in the manifest"

_PART = 0.5  # share of the shorter one's hashes from which it counts as a part of the longer
_SILENT = 1e-3  # peak
_VERSION = "1"  # of hashes and fingerprints
_SHOWN = 20  # groups printed; all are in the report

Row = dict[str, Any]
Item = tuple[str, int | None, float, float | None]  # file, channel, start, end


class Content(NamedTuple):
    """What a cut holds: the SHA-256 of its samples ("" when silent) and its fingerprint."""

    sha256: str
    fingerprint: Fingerprint


class Groups(NamedTuple):
    """`of_cut` (cuts,): the number of the cut that is kept instead, its own for one that is kept.

    `why` tells each cut that is not kept: "exact" or "near", with its best match to another of its
    group. `parts` are matches that are no duplicates: a short recording inside a longer one.
    """

    of_cut: np.ndarray
    why: dict[int, tuple[str, Match | None]]
    parts: list[Match]


def find_duplicates(
    contents: Sequence[Content | None],
    rank: Sequence[Any],
    *,
    near: bool = True,
    least: int = LEAST,
    share: float = SHARE,
) -> Groups:
    """Group equal recordings and choose the one of each group that is kept.

    Args:
        contents: of each cut; None (unreadable) and silence belong to no group.
        rank: of each cut, the smallest of a group is kept.
        near: also group what sounds the same.
        least: agreeing hashes that near duplicates have at least.
        share: of the longer one's hashes that agree at least.
    """
    parent = np.arange(len(contents))
    why: dict[int, tuple[str, Match | None]] = {}
    by_hash = collections.defaultdict(list)
    for index, content in enumerate(contents):
        if content is not None and content.sha256:
            by_hash[content.sha256].append(index)
    for members in by_hash.values():
        for member in members[1:]:
            _join(parent, members[0], member)
    parts: list[Match] = []
    heard: dict[int, Match] = {}
    if near:  # one of each set of equal samples speaks for all
        chosen = [members[0] for members in by_hash.values()]
        prints = [content.fingerprint for i in chosen if (content := contents[i]) is not None]
        for match in matches(prints, least=least):
            match = match._replace(first=chosen[match.first], second=chosen[match.second])
            if match.of_longer >= share:
                _join(parent, match.first, match.second)
                for side in (match.first, match.second):
                    if side not in heard or heard[side].agreeing < match.agreeing:
                        heard[side] = match
            elif match.of_shorter >= _PART:
                parts.append(match)
    groups = collections.defaultdict(list)
    for index in range(len(contents)):
        groups[_root(parent, index)].append(index)
    of_cut = np.arange(len(contents))
    for members in groups.values():
        kept = min(members, key=lambda index: (rank[index], index))
        for member in members:
            of_cut[member] = kept
            if member != kept:
                same = _hash(contents[member]) == _hash(contents[kept])
                spoke = by_hash[_hash(contents[member])][0]
                why[member] = ("exact", None) if same else ("near", _of(member, spoke, heard))
    return Groups(of_cut, why, parts)


def _of(member: int, spoke: int, heard: dict[int, Match]) -> Match | None:
    """Return a cut's best match, or that of the cut with equal samples that `spoke` for it."""
    match = heard.get(spoke)
    if match is None or member == spoke:
        return match
    return match._replace(first=member) if match.first == spoke else match._replace(second=member)


def examine(item: Item, near: bool = True) -> Row:
    """Return a cut's content as JSON: `sha256`, `hashes`, `times`; or the `reason` why there is none."""
    path, channel, start, end = item
    try:
        return _content(path, channel, start, end, near)
    except (DataError, StorageError, DependencyError) as error:
        return {"reason": str(error)}


def _content(path: str, channel: int | None, start: float, end: float | None, near: bool) -> Row:
    from trunkline import audio

    about = audio.info(path)
    digest = hashlib.sha256(f"{about.sample_rate} ".encode())
    peak = 0.0
    for block in audio.blocks(path, channel=channel, start=start, end=end):
        digest.update(np.round(block * 32768).clip(-32768, 32767).astype("<i2").tobytes())
        peak = max(peak, float(np.abs(block).max()))
    if peak < _SILENT:
        return {"sha256": "", "rate": about.sample_rate}
    row: Row = {"sha256": digest.hexdigest(), "rate": about.sample_rate}
    if near:
        narrow = audio.blocks(path, channel=channel, start=start, end=end, sample_rate=RATE)
        found = fingerprint(narrow)
        row["hashes"] = base64.b64encode(found.hashes.astype("<u4").tobytes()).decode()
        row["times"] = base64.b64encode(found.times.astype("<i4").tobytes()).decode()
    return row


def content_of(row: Row) -> Content | None:
    """Return the content that `examine` told as JSON, None where the cut could not be read."""
    if "reason" in row:
        return None
    hashes, times = (base64.b64decode(row.get(name, "")) for name in ("hashes", "times"))
    found = Fingerprint(np.frombuffer(hashes, "<u4"), np.frombuffer(times, "<i4"))
    return Content(row["sha256"], found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.description = (
        "Find cuts that hold the same samples (decoded, so another format is no other recording) "
        "and, by acoustic fingerprints, the same recording in another codec, level or trim. One of "
        f"each group is kept: {RULE}. The others go, each with what it is a duplicate of, to "
        "OUT.duplicates.jsonl, the groups to OUT.groups.jsonl. No audio is touched."
    )
    parser.epilog = "Example: trunkline data dedupe calls.jsonl unique.jsonl"
    parser.add_argument("manifest", type=Path, help="a manifest or folder in any known format")
    parser.add_argument("output", type=Path, help="the .jsonl file to write")
    parser.add_argument("--exact", action="store_true", help="equal samples only, no fingerprints")
    parser.add_argument(
        "--least", type=int, default=LEAST, help=f"hashes that agree at least ({LEAST})"
    )
    parser.add_argument(
        "--share", type=float, default=SHARE, help=f"of the longer one's hashes ({SHARE:g})"
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: every core)")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the cuts that are kept, those that are not, and the groups."""
    from trunkline.prepare.lines import Step, arguments_of, changed, dump

    if args.jobs < 0 or args.least < 1 or not 0 < args.share <= 1:
        raise UsageError("--jobs must be 0 or more, --least 1 or more, --share above 0 to 1.")
    step = Step("dedupe", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    told = _examine_all(manifest, args)
    contents = [content_of(row) for row in told]
    for index, row in enumerate(told):
        if "reason" in row:
            cut = manifest[index]
            step.set_aside(cut.audio_filepath, cut.line, row["reason"], id=cut.id)
    step.check_limit()
    groups = find_duplicates(
        contents, _ranks(manifest, told), near=not args.exact, least=args.least, share=args.share
    )
    ids = manifest.ids
    changes = [
        None if contents[index] is None or index in groups.why else {}
        for index in range(len(manifest))
    ]
    dropped = [
        {"duplicate_of": ids[groups.of_cut[index]], "duplicate": groups.why[index][0]}
        if index in groups.why
        else None
        for index in range(len(manifest))
    ]
    stem = args.output.name.removesuffix(".jsonl")
    aside = args.output.with_name(f"{stem}.duplicates.jsonl")
    report = args.output.with_name(f"{stem}.groups.jsonl")
    kept = step.write(args.output, changed(manifest, args.output, changes))
    step.write(aside, changed(manifest, aside, dropped))
    members = list(_told(groups, manifest))
    step.write(report, map(dump, members))
    kinds = collections.Counter(kind for kind, _ in groups.why.values())
    counts = {
        "cuts": len(manifest),
        "kept": kept,
        "exact": kinds["exact"],
        "near": kinds["near"],
        "groups": len({int(groups.of_cut[index]) for index in groups.why}),
        "parts": len(groups.parts),
        "silent": sum(content is not None and not content.sha256 for content in contents),
    }
    if not args.exact:
        counts["too_short_to_compare"] = sum(
            bool(content.sha256) and len(content.fingerprint.hashes) < args.least
            for content in contents
            if content is not None
        )
    summary = step.finish(args.output, counts, [args.output, aside, report])
    shown = len(members) if args.json else _SHOWN
    title = f"duplicates (first {shown})" if len(members) > shown else "duplicates"
    return summary | {
        "rule": RULE,
        "duplicates": str(aside),
        "tables": {title: members[:shown]} if members else {},
    }


def _examine_all(manifest: Manifest, args: argparse.Namespace) -> list[Row]:
    import functools

    from trunkline.prepare.journal import cores, map_resumable, state_of

    items, keys = [], []
    states: dict[str, str] = {}
    for cut in manifest:
        path = str(cut.audio_filepath)
        state = states.setdefault(path, state_of(cut.audio_filepath))
        items.append((path, cut.channel, cut.start or 0.0, cut.end))
        keys.append(f"{_VERSION} {args.exact} {items[-1]} {state}")
    told = map_resumable(
        functools.partial(examine, near=not args.exact),
        items,
        keys,
        args.output.with_name(f".{args.output.name}.dedupe"),
        jobs=args.jobs or cores(),
        description="listening",
        unit="cuts",
    )
    return [told[key] for key in keys]


def _ranks(manifest: Manifest, told: list[Row]) -> list[tuple[bool, float, int]]:
    """Return the order in which cuts of a group are kept, see `RULE`."""
    durations = np.nan_to_num(manifest.durations)
    texts = manifest.column("text")
    return [
        (not text, -round(float(seconds), 2), -row.get("rate", 0))
        for text, seconds, row in zip(texts, durations, told, strict=True)
    ]


def _told(groups: Groups, manifest: Manifest) -> Iterator[Row]:
    """Yield a line for each cut that is not kept, and for each part of another."""
    ids = manifest.ids
    for index in sorted(groups.why, key=lambda index: (groups.of_cut[index], index)):
        kind, match = groups.why[index]
        row: Row = {"kind": kind, "id": ids[index], "kept": ids[groups.of_cut[index]]}
        if match is not None:
            other = match.second if match.first == index else match.first
            row |= {"heard_in": ids[other], "agreeing": match.agreeing}
            row |= {"share": round(match.of_longer, 3), "offset": round(match.offset, 2)}
        yield row
    for match in groups.parts:
        row = {"kind": "part", "id": ids[match.first], "kept": ids[match.first]}
        row |= {"heard_in": ids[match.second], "agreeing": match.agreeing}
        yield row | {"share": round(match.of_longer, 3), "offset": round(match.offset, 2)}


def _hash(content: Content | None) -> str:
    return content.sha256 if content is not None else ""


def _root(parent: np.ndarray, index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index


def _join(parent: np.ndarray, one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)
