"""`trunkline data filter`: the cuts for which an expression over columns and tags is true.

    duration >= 0.5 and 'fast_speech' not in tags and labels.intent in ['balance', 'card']

The language is that of `trunkline.expression`. Names are columns, labels or unknown keys. `duration` is
end - start where a line states them. A comparison with what a cut does not state is false, except != and
not in; `speaker == null` asks for it.
"""

from __future__ import annotations

import argparse
import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trunkline import expression
from trunkline.errors import DataError, UsageError, nearest
from trunkline.rows import FIELDS, Row

Value = Callable[[Row], Any]

_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Expression:
    """A parsed expression; call it with a row of `Manifest.rows`."""

    def __init__(self, text: str) -> None:
        """Parse an expression; raises as `trunkline.expression.parse`."""
        self.text = text
        tree = expression.parse(text)
        self.names = expression.names(tree)
        self._value = _evaluator(tree)
        self._unseen = {name for name in self.names if name.partition(".")[0] not in FIELDS}
        self._keys: set[str] = set()

    def __call__(self, row: Row) -> bool:
        """Return whether the row satisfies the expression.

        Raises:
            DataError: a value has a type that cannot be compared so; the message names the line.
        """
        if self._unseen:
            self._keys |= row.keys() | row["labels"].keys()
            self._unseen = {name for name in self._unseen if _lookup(row, name) is None}
        try:
            return bool(self._value(row))
        except TypeError as error:
            raise DataError(
                f"Line {row['line']}, cut {row['id']!r}: {error} in: {self.text}"
            ) from error

    def check_names(self) -> None:
        """Refuse names that no row stated, after all rows were seen.

        Raises:
            UsageError: the name, and the nearest that there is.
        """
        for name in sorted(self._unseen):
            raise UsageError(
                f"No cut states {name!r}.{nearest(name, (self._keys | set(FIELDS)) - {'json', 'line'})}"
            )


def _evaluator(node: expression.Node) -> Value:
    """Return the function of a row that an expression's tree stands for."""
    match node:
        case expression.Name(name):
            return lambda row: _lookup(row, name)
        case expression.Value(value):
            return lambda row: value
        case expression.Not(inner):
            wrong = _evaluator(inner)
            return lambda row: not wrong(row)
        case expression.Compare(sign, left, right):
            return _compare(sign, _evaluator(left), _evaluator(right))
        case expression.Inside(item, container):
            one, many = _evaluator(item), _evaluator(container)
            return lambda row: _inside(one(row), many(row))
        case expression.All(parts):
            every = list(map(_evaluator, parts))
            return lambda row: all(part(row) for part in every)
        case expression.Any(parts):
            some = list(map(_evaluator, parts))
            return lambda row: any(part(row) for part in some)


def _lookup(row: Row, name: str) -> Any:
    from trunkline.prepare.lines import seconds

    if name == "duration":
        value = seconds(row)
        return None if value != value else value
    value = row["labels"].get(name, row.get(name))
    if value is None and "." in name:
        value = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _compare(sign: str, left: Value, right: Value) -> Value:
    if sign in ("==", "!="):
        return lambda row: (left(row) == right(row)) == (sign == "==")
    compare = _ORDER[sign]

    def ordered(row: Row) -> bool:
        a, b = left(row), right(row)
        return a is not None and b is not None and compare(a, b)

    return ordered


def _inside(item: Any, container: Any) -> bool:
    if container is None:
        return False
    if not isinstance(container, list | str | dict):
        raise TypeError(f"{container!r} is no list")
    if isinstance(container, str) and not isinstance(item, str):
        return False
    return item in container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_in_and_out

    parser.description = (
        "Write the cuts for which EXPRESSION is true; the others go to --rest, if given. "
        "--purpose judges the tags of `trunkline data tag`: train takes borderline cuts, evaluation does "
        "not, split goes by each cut's own split."
    )
    parser.epilog = (
        "Example: trunkline data filter tagged.jsonl clean.jsonl \"duration >= 0.5 and language == 'vi'\" "
        "--purpose split --rest left-out.jsonl"
    )
    add_in_and_out(parser)
    parser.add_argument("expression", nargs="?", default="true", help="by default every cut passes")
    parser.add_argument("--purpose", choices=["train", "evaluation", "split"])
    parser.add_argument("--rest", type=Path, help="write the cuts left out to this manifest")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Filter a manifest."""
    from trunkline.prepare.lines import Step, arguments_of, changed
    from trunkline.prepare.tag import fit_for

    wanted = Expression(args.expression)
    step = Step("filter", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    kept = bytearray(len(manifest))
    dropped: Counter[str] = Counter()
    for index, row in enumerate(manifest.rows()):
        kept[index] = wanted(row) and (not args.purpose or fit_for(row, args.purpose))
        if not kept[index]:
            dropped.update(row["tags"] or ["(no tag)"])
    wanted.check_names()
    if not any(kept):
        raise DataError(f"No cut of {args.manifest} satisfies: {args.expression}.")
    written = step.write(
        args.output, changed(manifest, args.output, ({} if k else None for k in kept))
    )
    outputs = [args.output]
    if args.rest:
        step.write(args.rest, changed(manifest, args.rest, (None if k else {} for k in kept)))
        outputs.append(args.rest)
    counts = {"cuts": len(manifest), "kept": written, "left_out": len(manifest) - written}
    left_out = [{"tag": tag, "cuts": count} for tag, count in dropped.most_common()]
    summary = step.finish(args.output, counts, outputs)
    return summary | {"tables": {"tags of the cuts left out": left_out}}
