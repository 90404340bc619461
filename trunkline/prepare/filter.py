"""`trunkline data filter`: the cuts for which an expression over columns and tags is true.

    duration >= 0.5 and 'fast_speech' not in tags and labels.intent in ['balance', 'card']

Names are columns, labels or unknown keys, with dots into objects; values are numbers, 'strings',
[lists], true, false and null; operators are == != < <= > >= in, not in, and, or, not. An expression
is parsed, never run as code. `duration` is end - start where a line states them. A comparison with what
a cut does not state is false, except != and not in; `speaker == null` asks for it.
"""

from __future__ import annotations

import argparse
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trunkline.errors import DataError, UsageError, nearest
from trunkline.rows import FIELDS, Row

Value = Callable[[Row], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)|(?P<string>'[^']*'|"[^"]*")
    |(?P<name>[^\W\d][\w.-]*)|(?P<sign>==|!=|<=|>=|[<>()\[\],-]))""",
    re.VERBOSE,
)
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_WORDS = {"and", "or", "not", "in"}
_CONSTANTS = {"true": True, "false": False, "null": None}
_DEPTH = 100  # brackets and nots within each other


class Expression:
    """A parsed expression; call it with a row of `Manifest.rows`."""

    def __init__(self, text: str) -> None:
        """Parse an expression.

        Raises:
            UsageError: it is no expression; the message shows where.
        """
        self.text = text
        self.names: set[str] = set()
        self._tokens = list(_tokens(text))
        self._place = self._depth = 0
        self._value = self._or()
        if self._place < len(self._tokens):
            raise self._wrong("a comparison, 'and' or 'or'")
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

    def _or(self) -> Value:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def _and(self) -> Value:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _not(self) -> Value:
        if not self._take("not"):
            return self._comparison()
        inner = self._nested(self._not)
        return lambda row: not inner(row)

    def _comparison(self) -> Value:
        left = self._operand()
        sign = self._peek()
        if sign in ("==", "!=", *_ORDER):
            self._place += 1
            return _compare(sign, left, self._operand())
        inverted = sign == "not"
        if inverted:
            self._place += 1
        if self._take("in"):
            right = self._operand()
            return lambda row: _inside(left(row), right(row)) != inverted
        if inverted:
            raise self._wrong("'in'")
        return left

    def _operand(self) -> Value:
        if self._take("("):
            inner = self._nested(self._or)
            self._expect(")")
            return inner
        if self._take("["):
            items = [] if self._peek() == "]" else [self._constant()]
            while self._take(","):
                items.append(self._constant())
            self._expect("]")
            return lambda row: items
        kind, text = self._tokens[self._place] if self._place < len(self._tokens) else ("", "")
        if kind == "name" and text not in _WORDS and text not in _CONSTANTS:
            self._place += 1
            self.names.add(text)
            return lambda row: _lookup(row, text)
        constant = self._constant()
        return lambda row: constant

    def _constant(self) -> Any:
        negative = self._take("-")
        if self._place == len(self._tokens):
            raise self._wrong("a value")
        kind, text = self._tokens[self._place]
        if kind not in ("number", "string") and (text not in _CONSTANTS or negative):
            raise self._wrong("a value")
        self._place += 1
        if kind == "number":
            return -float(text) if negative else float(text)
        if negative:
            raise UsageError(f"There is no negative of {text} in: {self.text}")
        return _CONSTANTS[text] if kind == "name" else text[1:-1]

    def _nested(self, parse: Callable[[], Value]) -> Value:
        self._depth += 1
        if self._depth > _DEPTH:
            raise UsageError(f"More than {_DEPTH} brackets within each other: {self.text[:60]}...")
        inner = parse()
        self._depth -= 1
        return inner

    def _peek(self) -> str:
        if self._place == len(self._tokens) or self._tokens[self._place][0] == "string":
            return ""
        return self._tokens[self._place][1]

    def _take(self, text: str) -> bool:
        found = self._peek() == text
        self._place += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(repr(text))

    def _wrong(self, wanted: str) -> UsageError:
        rest = [text for _, text in self._tokens[self._place :]]
        where = f"at {' '.join(rest)!r}" if rest else "at its end"
        return UsageError(f"The expression {self.text!r} needs {wanted} {where}.")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise UsageError(
                f"The expression {text!r} cannot be read from {text[place:].strip()!r} on."
            )
        yield str(match.lastgroup), match[str(match.lastgroup)]
        place = match.end()


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

    expression = Expression(args.expression)
    step = Step("filter", arguments_of(args), max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    kept = bytearray(len(manifest))
    dropped: Counter[str] = Counter()
    for index, row in enumerate(manifest.rows()):
        kept[index] = expression(row) and (not args.purpose or fit_for(row, args.purpose))
        if not kept[index]:
            dropped.update(row["tags"] or ["(no tag)"])
    expression.check_names()
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
