"""Conditions over the columns of a store: what they mean, what they refuse, and that they run nothing."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore.where import expression, names, select
from trunkline.errors import UsageError
from trunkline.prepare.filter import Expression

MORNING = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)
ROWS = [
    {"call_id": "a", "channel": 0, "duration_ms": 1000, "meta_agent": "A12", "good": True},
    {"call_id": "b", "channel": 1, "duration_ms": 2000, "meta_agent": None, "good": False},
    {"call_id": "c'; DROP TABLE calls; --", "channel": 1, "duration_ms": 3000, "meta_agent": "A17"},
    {"call_id": 'say "hello"', "channel": 0, "duration_ms": 4000, "meta_agent": "", "good": True},
]
SCHEMA = pa.schema(
    [
        ("call_id", pa.string()), ("channel", pa.int8()), ("duration_ms", pa.int64()),
        ("meta_agent", pa.string()), ("good", pa.bool_()),
    ]
)  # fmt: skip
TABLE = pa.Table.from_pylist(ROWS, SCHEMA)
TIMES = TABLE.append_column(
    "started_at", pa.array([MORNING, None, MORNING, None], pa.timestamp("us", "UTC"))
)


def chosen(text: str, table: pa.Table = TABLE) -> str:
    """The chosen rows by their numbers."""
    ids = TABLE["call_id"].to_pylist()
    return "".join(str(ids.index(name)) for name in select(table, text)["call_id"].to_pylist())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("channel=1 and duration_ms>2000", "2"),
        ("channel == 1", "12"),
        ("not channel = 1 or duration_ms >= 3000", "023"),
        ("channel in [0, 7]", "03"),
        ("channel not in [0, 7]", "12"),
        ("channel in []", ""),
        ("meta_agent = 'A12'", "0"),
        ("meta_agent != 'A12'", "123"),
        ("not (meta_agent = 'A12')", "123"),
        ("meta_agent = null", "1"),
        ("meta_agent != null", "023"),
        ("meta_agent in ['A17', null]", "12"),
        ("meta_agent", "02"),
        ("'A1' in meta_agent", "02"),
        ("good", "03"),
        ("good = false", "1"),
        ("not good", "12"),
        ("call_id = 'c''; DROP TABLE calls; --'", "2"),
        ('call_id = "c\'; DROP TABLE calls; --"', "2"),
        ("call_id = 'say \"hello\"'", "3"),
        ("meta_agent = call_id", ""),
        ("meta_agent = meta_agent", "0123"),
        ("duration_ms < 1000.5", "0"),
        ("duration_ms > -1e3 and true", "0123"),
        ("false", ""),
        ("1 < 2", "0123"),
        ("channel", "12"),
    ],
)
def test_a_condition_says_what_it_means(text, rows):
    assert chosen(text) == rows


def test_times_are_written_as_strings_in_utc():
    assert chosen("started_at >= '2026-01-31'", TIMES) == "02"
    assert chosen("started_at > '2026-01-31T08:30'", TIMES) == ""
    assert chosen("started_at = '2026-01-31T15:30+07:00'", TIMES) == "02"
    assert chosen("started_at = null", TIMES) == "13"
    naive = TIMES.set_column(5, "started_at", TIMES["started_at"].cast(pa.timestamp("us")))
    assert chosen("'2026-01-31T15:30+07:00' <= started_at", naive) == "02"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chanel = 1", "no column 'chanel' for: chanel = 1. Did you mean 'channel'?"),
        ("agent = 'A12'", "Did you mean 'meta_agent'?"),
        ("channel = 'agent'", "channel (number) and 'agent' (string) cannot be compared"),
        ("good < 3", "cannot be compared"),
        ("channel in meta_agent", "'in' needs a list"),
        ("1 in channel", "'in' needs a list"),
        ("[1] = channel", "no value to compare"),
        ("(channel = 1) = true", "a condition is no value to compare"),
        ("channel = 1; DROP TABLE calls", "cannot be read from '; DROP TABLE calls'"),
        ("channel = 1 UNION SELECT 1", "needs a comparison, 'and' or 'or' at 'UNION SELECT 1'"),
        ("__import__('os')", "needs a comparison"),
        ("", "needs a value"),
    ],
)
def test_what_cannot_be_asked_is_refused(text, said):
    with pytest.raises(UsageError) as error:
        expression(text, SCHEMA)
    assert said in str(error.value)


def test_a_time_that_is_none_is_refused():
    with pytest.raises(UsageError, match="'yesterday' is no time"):
        expression("started_at > 'yesterday'", TIMES.schema)


def test_names_are_told_without_a_schema():
    assert names("a = 1 and not (b.c in ['x'] or 'y' in d)") == {"a", "b.c", "d"}


@given(st.text(alphabet="chanel good'\"<>=!()[],.- 0159itr", max_size=30))
def test_no_text_makes_the_compiler_fail_otherwise(text):
    with contextlib.suppress(UsageError):
        select(TABLE, text)


_ATOMS = st.sampled_from(
    [
        "channel = 1", "duration_ms > 1500", "duration_ms <= 3000", "meta_agent = null",
        "meta_agent != 'A12'", "meta_agent in ['A12', '']", "'1' in meta_agent",
        "meta_agent not in ['A17']", "good", "good = true", "duration_ms < channel",
    ]
)  # fmt: skip
_CONDITIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda a: f"not ({a})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
    ),
    max_leaves=6,
)


@given(_CONDITIONS)
def test_columns_and_manifest_rows_are_judged_alike(text):
    judge = Expression(text)
    rows = [{**row, "labels": {}, "line": 1, "id": "x"} for row in ROWS]
    assert chosen(text) == "".join(str(number) for number, row in enumerate(rows) if judge(row))
