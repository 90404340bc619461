"""`trunkline data split`: train, dev and test that share no call, no speaker, no phone.

Cuts that share a value of any key belong together, also through others (a speaker in two calls, a
phone in two accounts): they form one group, found by union-find. One of its values, that with the least
keyed hash (BLAKE2b), speaks for a group, and another hash of that value tells the split: so it depends
on nothing but the ratios and the salt, and large groups are no likelier in one split. What was
assigned before (a `split` in the manifest, `--previous`, `--assign`) stays and draws its group along.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trunkline.errors import DataError, StorageError, UsageError
from trunkline.rows import Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

RATIOS = {"train": 0.8, "dev": 0.1, "test": 0.1}
KEYS = ("call_id", "speaker", "phone")
_GIANT = 0.5  # a group with more of the cuts than this is worth a warning
_SHOWN = 50  # values of a column in the report, the most frequent first
_MISSING = 0.01  # a value with this share of the cuts should be in every split

Assigned = dict[tuple[str, str], str]  # (key, value as text) -> split


class Groups(NamedTuple):
    """Which cuts belong together: `of_cut` (cuts,) numbers the groups."""

    of_cut: np.ndarray
    points: np.ndarray  # (groups,) uniform in [0, 1): a keyed hash of the value that speaks for it
    nodes: list[tuple[str, Any]]  # every (key, value)
    of_node: np.ndarray  # (nodes,) group of each


class Splits(NamedTuple):
    """The split of each cut (None: its group was assigned to two), and what contradicts."""

    names: list[str | None]
    conflicts: list[Row]
    groups: int
    largest: float  # share of the cuts in the largest group


def split(
    manifest: Manifest,
    *,
    ratios: dict[str, float] | None = None,
    by: Sequence[str] = KEYS,
    salt: str = "trunkline",
    assigned: Assigned | None = None,
    keep: bool = True,
) -> Splits:
    """Return the split of each cut of a manifest.

    Args:
        ratios: share of the groups for each split, in this order; they are made to sum to 1.
        by: columns or labels whose equal values belong together; where a cut states none of them,
            its call.
        salt: another one gives another, equally lasting, division.
        assigned: splits of values that are fixed already.
        keep: hold on to the `split` that cuts of the manifest state.

    Raises:
        UsageError: a ratio is not above 0, or there are no keys.
    """
    shares = _shares(ratios or RATIOS)
    groups = _group(manifest, by, salt)
    fixed: dict[int, set[str]] = {}
    assigned = assigned or {}
    for (key, value), group in zip(groups.nodes, groups.of_node.tolist(), strict=True):
        if (name := assigned.get((key, str(value)))) is not None:
            fixed.setdefault(group, set()).add(name)
    stated, names = manifest.codes("split")
    if keep:
        for place, name in enumerate(names):
            for group in np.unique(groups.of_cut[stated == place]).tolist():
                fixed.setdefault(group, set()).add(name)
    bounds = np.cumsum(list(shares.values()))
    drawn = np.minimum(np.searchsorted(bounds, groups.points, side="right"), len(shares) - 1)
    labels = list(shares)
    chosen: list[str | None] = [labels[place] for place in drawn.tolist()]
    for group, choices in fixed.items():
        chosen[group] = next(iter(choices)) if len(choices) == 1 else None
    result: list[str | None] = [chosen[group] for group in groups.of_cut.tolist()]
    if keep:  # a cut that has a split keeps it, even where its group is torn
        result = [
            name if place < 0 else names[place]
            for name, place in zip(result, stated.tolist(), strict=True)
        ]
    sizes = np.bincount(groups.of_cut)
    return Splits(
        result,
        _conflicts(manifest, groups, {g: c for g, c in fixed.items() if len(c) > 1}),
        len(sizes),
        float(sizes.max() / len(manifest)),
    )


def _shares(ratios: dict[str, float]) -> dict[str, float]:
    if not ratios or not all(0 < value < float("inf") for value in ratios.values()):
        raise UsageError(f"Ratios must be above 0, such as train=0.8,dev=0.1,test=0.1: {ratios}.")
    total = sum(ratios.values())
    return {name: value / total for name, value in ratios.items()}


def _group(manifest: Manifest, by: Sequence[str], salt: str) -> Groups:
    if not by:
        raise UsageError("--by names no key; give one such as call_id.")
    nodes: list[tuple[str, Any]] = []
    columns = []  # (cuts,) each: the node of a cut, -1 for none
    for name in dict.fromkeys(by):
        codes, values = manifest.codes(name)
        columns.append(np.where(codes < 0, -1, codes + len(nodes)))
        nodes += [(name, value) for value in values]
    lone = np.max(columns, axis=0) < 0
    if lone.any():
        codes, values = manifest.codes("call_id")
        columns.append(np.where(lone, codes + len(nodes), -1))
        nodes += [("call_id", value) for value in values]
    table = np.stack(columns)
    first = np.max(table, axis=0)
    parent = list(range(len(nodes)))
    for column in table:
        pairs = np.unique(np.stack([first, column])[:, column >= 0], axis=1)
        for a, b in pairs.T.tolist():
            _unite(parent, a, b)
    roots = np.array([_root(parent, node) for node in range(len(nodes))])
    used = np.zeros(len(nodes), dtype=bool)
    used[table[table >= 0]] = True  # the fallback's calls are not all used
    _, of_node = np.unique(np.where(used, roots, roots.max() + 1), return_inverse=True)
    ranks = np.array([_point(salt, *node) for node in nodes])
    _, speaks = np.unique(of_node[order := np.lexsort((ranks, of_node))], return_index=True)
    # The least hash itself would be the smaller, the more values a group has.
    points = [_point(f"{salt}\0draw", *nodes[node]) for node in order[speaks].tolist()]
    return Groups(of_node[first], np.array(points), nodes, of_node)


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = node = parent[parent[node]]
    return node


def _unite(parent: list[int], a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)


def _point(salt: str, key: str, value: Any) -> float:
    """Return a number in [0, 1) that depends on nothing but a value and the salt."""
    key_bytes = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(f"{key}\0{value}".encode(), key=key_bytes, digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _conflicts(manifest: Manifest, groups: Groups, torn: dict[int, set[str]]) -> list[Row]:
    """Return a row for each group that was assigned to several splits: the splits, cuts and values."""
    if not torn:
        return []
    counts = np.bincount(groups.of_cut, minlength=len(groups.points))
    values: dict[int, list[str]] = {group: [] for group in torn}
    for node, group in zip(groups.nodes, groups.of_node.tolist(), strict=True):
        if group in values and len(values[group]) < 5:
            values[group].append(f"{node[0]}={node[1]}")
    return [
        {
            "splits": sorted(choices),
            "cuts": int(counts[group]),
            "holds": values[group],
        }
        for group, choices in sorted(torn.items())
    ]


def leaks(manifest: Manifest, by: Sequence[str] = KEYS) -> list[Row]:
    """Return a row for each key value whose cuts lie in more than one split."""
    of_split, names = manifest.codes("split")
    found = []
    for key in by:
        codes, values = manifest.codes(key)
        there = (codes >= 0) & (of_split >= 0)
        pairs = np.unique(np.stack([codes[there], of_split[there]]), axis=1)
        distinct, counts = np.unique(pairs[0], return_counts=True)
        for place in distinct[counts > 1].tolist():
            where = [names[name] for name in pairs[1][pairs[0] == place].tolist()]
            found.append({"key": key, "value": values[place], "splits": sorted(where)})
    return found


def stratification(
    manifest: Manifest, names: Sequence[str | None], columns: Iterable[str]
) -> tuple[list[Row], list[str]]:
    """Return how each value of the columns is spread over the splits, and what is missing where.

    A row has the value's cuts and, for each split, its share of the value's cuts (%).
    """
    labels = sorted({name for name in names if name is not None})
    place = {name: index for index, name in enumerate(labels)}
    of_split = np.array([len(labels) if name is None else place[name] for name in names])
    everything = np.bincount(of_split, minlength=len(labels) + 1)
    rows, warnings = [_spread("all", "", everything, labels)], []
    for column in columns:
        codes, values = manifest.codes(column)
        pairs = np.where(codes < 0, len(values), codes) * (len(labels) + 1) + of_split
        counts = np.bincount(pairs, minlength=(len(values) + 1) * (len(labels) + 1))
        table = counts.reshape(len(values) + 1, -1)[:-1]
        for code in np.argsort(-table.sum(1), kind="stable").tolist()[:_SHOWN]:
            row = _spread(column, values[code], table[code], labels)
            rows.append(row)
            absent = [name for name in labels if row[f"{name} %"] == 0]
            if row["cuts"] >= _MISSING * len(manifest) and absent:
                warnings.append(f"{column} {values[code]!r} has no cut in {' and '.join(absent)}")
    return rows, warnings


def _spread(column: str, value: Any, counts: np.ndarray, labels: Sequence[str]) -> Row:
    shares = 100 * counts[: len(labels)] / max(1, counts[: len(labels)].sum())
    return {"column": column, "value": value, "cuts": int(counts.sum())} | {
        f"{name} %": round(float(share), 1) for name, share in zip(labels, shares, strict=True)
    }


def read_assignments(path: Path) -> Assigned:
    """Return the assignments of a CSV of `key,value,split` (a header is optional).

    Raises:
        DataError: a line has not three cells, or gives a value a second split.
        StorageError: the file cannot be read.
    """
    assigned: Assigned = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(csv.reader(file), 1):
                if not cells or cells == ["key", "value", "split"]:
                    continue
                if len(cells) != 3 or not all(cells):
                    raise DataError(f"{path}:{number} must be key,value,split: {','.join(cells)}")
                key, value, name = cells
                if assigned.setdefault((key, value), name) != name:
                    raise DataError(f"{path}:{number} gives {key}={value} a second split.")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
    return assigned


def assignments_of(manifest: Manifest, by: Sequence[str]) -> Assigned:
    """Return the split of each key value of a manifest that was split before.

    Raises:
        DataError: a value lies in two splits: it leaks already.
    """
    if found := leaks(manifest, by):
        first = found[0]
        raise DataError(
            f"{manifest.path} leaks: {first['key']} {first['value']!r} lies in "
            f"{' and '.join(first['splits'])} ({len(found)} such values)."
        )
    of_split, names = manifest.codes("split")
    assigned: Assigned = {}
    for key in by:
        codes, values = manifest.codes(key)
        there = (codes >= 0) & (of_split >= 0)
        pairs = np.unique(np.stack([codes[there], of_split[there]]), axis=1)
        assigned |= {(key, str(values[code])): names[name] for code, name in pairs.T.tolist()}
    return assigned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_in_and_out, names_of, shares_of

    parser.description = (
        "Write MANIFEST with a split in every line. Cuts that share a call, speaker or phone stay "
        "together; what was split before stays where it was."
    )
    parser.epilog = (
        "Example: trunkline data split calls.jsonl split.jsonl --by call_id,speaker,phone "
        "--previous last-month.jsonl"
    )
    add_in_and_out(parser)
    parser.add_argument("--by", type=names_of, default=list(KEYS), help="call_id,speaker,phone")
    parser.add_argument("--ratios", type=shares_of, help="train=0.8,dev=0.1,test=0.1")
    parser.add_argument("--salt", default="trunkline", help="another one, another division")
    parser.add_argument(
        "--previous", type=Path, action="append", default=[], help="a manifest split before"
    )
    parser.add_argument("--assign", type=Path, help="CSV of key,value,split: explicit groups")
    parser.add_argument("--afresh", action="store_true", help="forget the splits MANIFEST states")
    parser.add_argument(
        "--report",
        type=names_of,
        default=["language", "channel", "gender", "accent"],
        help="columns to report the spread of",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Split a manifest; exit status 1 when earlier assignments contradict each other."""
    from trunkline import log
    from trunkline.prepare.lines import Step, arguments_of, changed

    step = Step("split", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    assigned = read_assignments(args.assign) if args.assign else {}
    for path in args.previous:
        for node, name in assignments_of(step.read(path), args.by).items():
            if assigned.setdefault(node, name) != name:
                raise DataError(
                    f"{path} has {node[0]} {node[1]!r} in {name}, another source in {assigned[node]}."
                )
    result = split(
        manifest,
        ratios=args.ratios,
        by=args.by,
        salt=args.salt,
        assigned=assigned,
        keep=not args.afresh,
    )
    logger = log.get_logger(__name__)
    if result.largest > _GIANT:
        logger.warning(
            "One group holds %.0f %% of the cuts: a value that many calls share (an agent, a switchboard) "
            "joins them. Name other keys with --by.",
            100 * result.largest,
        )
    spread, missing = stratification(manifest, result.names, args.report)
    for warning in missing:
        logger.warning("%s.", warning)
    changes = [{"split": name} for name in result.names]
    written = step.write(args.output, changed(manifest, args.output, changes))
    torn = sum(name is None for name in result.names)
    counts = {"cuts": written, "groups": result.groups, "conflicts": len(result.conflicts)}
    summary = step.finish(args.output, counts | {"without_split": torn})
    tables = {"spread": spread}
    if result.conflicts:
        tables["conflicts: groups that were assigned to several splits"] = result.conflicts
    return summary | {"tables": tables, "exit_status": 1 if result.conflicts else 0}
