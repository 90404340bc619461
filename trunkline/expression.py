"""One small language of conditions, for manifests and stores: parsed into a tree, never run as code.

    duration >= 0.5 and 'fast_speech' not in tags and labels.intent in ['balance', 'card']

Names are columns, with dots into objects; values are numbers, 'strings' (a quote within is doubled, or
stands in the other kind of quotes), [lists], true, false and null; operators are == (or =) != < <= > >=
in, not in, and, or, not, with brackets. What a name stands for, and how a condition is evaluated, is the
reader's: `trunkline.prepare.filter` asks rows of a manifest, `embstore.where` columns of Arrow tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from trunkline.errors import UsageError

Constant = float | str | bool | None

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)|(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<name>[^\W\d][\w.-]*)|(?P<sign>==|!=|<=|>=|[<>=()\[\],-]))""",
    re.VERBOSE,
)
_SIGNS = {"==": "==", "=": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = {"and", "or", "not", "in"}
_CONSTANTS = {"true": True, "false": False, "null": None}
_DEPTH = 100  # brackets and nots within each other


class Name(NamedTuple):
    """A column, or with dots what lies in one."""

    text: str


class Value(NamedTuple):
    """A number (float), string, true, false, null, or a list of these."""

    value: Constant | list[Constant]


class Compare(NamedTuple):
    """Two operands and a sign: == != < <= > >=."""

    sign: str
    left: Node
    right: Node


class Inside(NamedTuple):
    """Whether an item is in a list, or a string in a string."""

    item: Node
    container: Node


class Not(NamedTuple):
    """The opposite."""

    inner: Node


class All(NamedTuple):
    """True where every part is."""

    parts: list[Node]


class Any(NamedTuple):
    """True where one part is."""

    parts: list[Node]


Node = Name | Value | Compare | Inside | Not | All | Any


def parse(text: str) -> Node:
    """Return the tree of an expression.

    Raises:
        UsageError: it is no expression; the message shows where.
    """
    return _Parser(text).whole()


def names(node: Node) -> set[str]:
    """Return the names that an expression asks for."""
    match node:
        case Name(text):
            return {text}
        case Value():
            return set()
        case Not(inner):
            return names(inner)
        case Compare(_, left, right) | Inside(left, right):
            return names(left) | names(right)
        case All(parts) | Any(parts):
            return set().union(*map(names, parts))


class _Parser:
    """Recursive descent: or, and, not, comparison, operand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.place = self.depth = 0

    def whole(self) -> Node:
        node = self._or()
        if self.place < len(self.tokens):
            raise self._wrong("a comparison, 'and' or 'or'")
        return node

    def _or(self) -> Node:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Any(parts)

    def _and(self) -> Node:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else All(parts)

    def _not(self) -> Node:
        return Not(self._nested(self._not)) if self._take("not") else self._comparison()

    def _comparison(self) -> Node:
        left = self._operand()
        sign = self._peek()
        if sign in _SIGNS:
            self.place += 1
            return Compare(_SIGNS[sign], left, self._operand())
        inverted = self._take("not")
        if self._take("in"):
            inside = Inside(left, self._operand())
            return Not(inside) if inverted else inside
        if inverted:
            raise self._wrong("'in'")
        return left

    def _operand(self) -> Node:
        if self._take("("):
            inner = self._nested(self._or)
            self._expect(")")
            return inner
        if self._take("["):
            items = [] if self._peek() == "]" else [self._constant()]
            while self._take(","):
                items.append(self._constant())
            self._expect("]")
            return Value(items)
        kind, text = self.tokens[self.place] if self.place < len(self.tokens) else ("", "")
        if kind == "name" and text not in _WORDS and text not in _CONSTANTS:
            self.place += 1
            return Name(text)
        return Value(self._constant())

    def _constant(self) -> Constant:
        negative = self._take("-")
        if self.place == len(self.tokens):
            raise self._wrong("a value")
        kind, text = self.tokens[self.place]
        if kind not in ("number", "string") and (text not in _CONSTANTS or negative):
            raise self._wrong("a value")
        self.place += 1
        if kind == "number":
            return -float(text) if negative else float(text)
        if negative:
            raise UsageError(f"There is no negative of {text} in: {self.text}")
        return _CONSTANTS[text] if kind == "name" else text[1:-1].replace(text[0] * 2, text[0])

    def _nested(self, parse: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > _DEPTH:
            raise UsageError(f"More than {_DEPTH} brackets within each other: {self.text[:60]}...")
        inner = parse()
        self.depth -= 1
        return inner

    def _peek(self) -> str:
        if self.place == len(self.tokens) or self.tokens[self.place][0] == "string":
            return ""
        return self.tokens[self.place][1]

    def _take(self, text: str) -> bool:
        found = self._peek() == text
        self.place += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(repr(text))

    def _wrong(self, wanted: str) -> UsageError:
        rest = [text for _, text in self.tokens[self.place :]]
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
