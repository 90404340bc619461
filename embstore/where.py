"""Conditions over columns: text in the language of `trunkline.expression` becomes an Arrow expression.

    channel = 1 and duration_ms > 2000 and meta_agent in ['A12', 'A17']

Nothing of the text is ever run or handed to a database: it is parsed, its names are looked up among the columns
there are, its values become Arrow scalars. So an id may hold quotes, semicolons or SQL. A comparison with
what is not stated (null) is false, except != and not in; `meta_agent = null` asks for it. Times (UTC) are written
as strings: `started_at >= '2026-01-31'`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, so no checker can know them)

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from trunkline import expression as language
from trunkline.errors import UsageError, nearest


def names(text: str) -> set[str]:
    """Return the columns that a condition asks for; raises as `trunkline.expression.parse`."""
    return language.names(language.parse(text))


def expression(text: str, schema: pa.Schema) -> pc.Expression:
    """Return a condition as an Arrow expression over columns of `schema`.

    Raises:
        UsageError: it is no expression, names an unknown column (the nearest is named), or compares what cannot
            be compared.
    """
    tree = language.parse(text)
    check_names(language.names(tree), schema.names, text)
    return _Compiler(schema, text).truth(tree)


def check_names(wanted: Iterable[str], columns: Iterable[str], text: str) -> None:
    """Refuse a column that is not there.

    Raises:
        UsageError: the column, and the nearest there is.
    """
    columns = list(columns)
    for name in sorted(set(wanted) - set(columns)):
        raise UsageError(f"There is no column {name!r} for: {text}.{nearest(name, columns)}")


def select(table: pa.Table, text: str) -> pa.Table:
    """Return the rows of a table for which a condition holds; raises as `expression`."""
    return table.filter(expression(text, table.schema))


class _Compiler:
    """Turns the nodes of a tree into Arrow expressions."""

    def __init__(self, schema: pa.Schema, text: str) -> None:
        self.schema, self.text = schema, text

    def truth(self, node: language.Node) -> pc.Expression:
        """Return an expression that is true where the node is; null, in a filter, is as good as false."""
        match node:
            case language.Not(inner):
                return ~pc.coalesce(self.truth(inner), pc.scalar(False))
            case language.All(parts):
                return _joined("and", [self.truth(part) for part in parts])
            case language.Any(parts):
                return _joined("or", [self.truth(part) for part in parts])
            case language.Compare(sign, left, right):
                return self._compare(sign, left, right)
            case language.Inside(item, container):
                return self._inside(item, container)
            case language.Value(value):
                return pc.scalar(bool(value))
            case language.Name(name):
                return self._stated(name)

    def _stated(self, name: str) -> pc.Expression:
        kind, field = self.schema.field(name).type, pc.field(name)
        if pa.types.is_boolean(kind):
            return field
        if _is_number(kind):
            return field != 0
        return field != "" if _is_string(kind) else field.is_valid()

    def _compare(self, sign: str, left: language.Node, right: language.Node) -> pc.Expression:
        if sign == "!=":
            return ~pc.coalesce(self._compare("==", left, right), pc.scalar(False))
        null = language.Value(None)
        if null in (left, right):
            if sign != "==":
                return pc.scalar(False)
            other = left if right == null else right
            return pc.scalar(True) if other == null else self._operand(other, None).is_null()
        kinds = self._kind(left), self._kind(right)
        if not _comparable(*kinds):
            raise UsageError(
                f"{_words(left)} ({_type_name(kinds[0])}) and {_words(right)} ({_type_name(kinds[1])}) "
                f"cannot be compared in: {self.text}."
            )
        a, b = self._operand(left, kinds[1]), self._operand(right, kinds[0])
        if sign == "==":
            both = isinstance(left, language.Name) and isinstance(right, language.Name)
            return (a == b) | (a.is_null() & b.is_null()) if both else a == b
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[sign]

    def _inside(self, item: language.Node, container: language.Node) -> pc.Expression:
        if isinstance(container, language.Value) and isinstance(container.value, list):
            parts = [self._compare("==", item, language.Value(value)) for value in container.value]
            return _joined("or", parts) if parts else pc.scalar(False)
        if isinstance(item, language.Value) and isinstance(item.value, str):
            kind = self._kind(container)
            if kind is not None and _is_string(kind):
                return pc.match_substring(self._operand(container, None), item.value)
        raise UsageError(
            f"'in' needs a list, or a string in a column of strings, not {_words(container)} in: {self.text}."
        )

    def _kind(self, node: language.Node) -> pa.DataType | None:
        match node:
            case language.Name(name):
                return self.schema.field(name).type
            case language.Value(value) if not isinstance(value, list):
                return pa.scalar(value).type
        raise UsageError(f"{_words(node)} is no value to compare in: {self.text}.")

    def _operand(self, node: language.Node, beside: pa.DataType | None) -> pc.Expression:
        """Return a column or a value, the value in the type of the column it stands beside."""
        if isinstance(node, language.Name):
            return pc.field(node.text)
        assert isinstance(node, language.Value)
        if isinstance(node.value, str) and beside is not None and pa.types.is_timestamp(beside):
            return pc.scalar(pa.scalar(self._moment(node.value, beside), beside))
        return pc.scalar(node.value)

    def _moment(self, text: str, kind: pa.DataType) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(
                f"{text!r} is no time in: {self.text}; write it as 2026-01-31 or 2026-01-31T08:30."
            ) from error
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return moment if kind.tz else moment.replace(tzinfo=None)


def _joined(function: str, parts: list[pc.Expression]) -> pc.Expression:
    result, *rest = parts
    for part in rest:
        result = result & part if function == "and" else result | part
    return result


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _comparable(a: pa.DataType | None, b: pa.DataType | None) -> bool:
    if a is None or b is None:
        return False
    groups = (_is_number, _is_string, pa.types.is_boolean, pa.types.is_timestamp)
    if pa.types.is_timestamp(a) and _is_string(b) or pa.types.is_timestamp(b) and _is_string(a):
        return True
    return any(group(a) and group(b) for group in groups)


def _type_name(kind: pa.DataType | None) -> str:
    if kind is None:
        return "nothing"
    return "number" if _is_number(kind) else "string" if _is_string(kind) else str(kind)


def _words(node: language.Node) -> str:
    match node:
        case language.Name(text):
            return text
        case language.Value(value):
            return repr(value)
    return "a condition"
