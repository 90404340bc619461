"""Spaces, schemas and rounded mantissas."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embstore import Space
from embstore.schema import TABLES, round_mantissa, schema_of, vector_column, vectors_of
from embstore.state import Keys
from trunkline.errors import DataError, UsageError

FLOATS = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


@settings(deadline=None, max_examples=60)
@given(FLOATS)
def test_rounding_is_to_nearest_even_and_changes_nothing_twice(values):
    rounded = round_mantissa(values)
    np.testing.assert_array_equal(round_mantissa(rounded).view(np.uint32), rounded.view(np.uint32))
    finite = np.isfinite(values)
    np.testing.assert_array_equal(rounded.view(np.uint32)[~finite], values.view(np.uint32)[~finite])
    assert not (rounded.view(np.uint32)[finite] & 0x1FFF).any(), "ten bits of the mantissa are left"
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(values))
    # Half floats have these ten bits too, where their exponent reaches.
    normal = finite & (np.abs(values) < 65000) & (np.abs(values) >= 2.0**-14)
    halves = values[normal].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rounded[normal], halves)


@settings(deadline=None, max_examples=30)
@given(FLOATS)
def test_rounding_keeps_the_order_and_full_precision_keeps_all(values):
    rounded = round_mantissa(np.sort(values[np.isfinite(values)]))
    assert (rounded[1:] >= rounded[:-1]).all()
    np.testing.assert_array_equal(
        round_mantissa(values, "f32").view(np.uint32), values.view(np.uint32)
    )


def test_vectors_go_through_arrow_without_a_copy():
    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    column = vector_column(vectors)
    assert vectors_of(column).base is not None and np.shares_memory(vectors_of(column), vectors)
    np.testing.assert_array_equal(
        vectors_of(pa.chunked_array([column[1:3], column[3:]])), vectors[1:]
    )


def test_schemas_are_what_every_reader_reads():
    space = Space(backbone="ab", dim=4, columns={"meta_agent": "string"})
    for table in (*TABLES, "errors"):
        schema = schema_of(table, None if table == "errors" else space)
        for field in schema:
            plain = str(field.type)
            assert "dictionary" not in plain and "float16" not in plain and "uint" not in plain
            assert "[ns" not in plain and not isinstance(field.type, pa.ExtensionType)
        if "v" in schema.names:
            assert not schema.field("v").nullable and schema.field("v").type.list_size == 4
    assert "meta_agent" in schema_of("calls", space).names
    assert schema_of("pooled", space).metadata[b"trunkline.space"].decode() == space.name


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "cd"},
        {"dim": 5},
        {"layer": "3"},
        {"pooling": "max"},
        {"precision": "m10"},
        {"context": "8,40,0"},
    ],
)
def test_whatever_makes_vectors_incomparable_makes_another_space(change):
    first = {"backbone": "ab", "dim": 4}
    assert Space(**first).name != Space(**first | change).name
    same = Space(**first, columns={"meta_agent": "string"}, about={"backbone": "small"})
    assert Space(**first).name == same.name


def test_a_space_is_read_back_and_an_altered_one_is_refused():
    space = Space(backbone="ab", dim=4, columns={"meta_agent": "string"})
    value = json.loads(json.dumps(space.to_json()))
    assert Space.from_json(value, "x") == space
    for change in ({"dim": 5}, {"about": {"licence": "none"}}, {"pooling": "muan"}, {"name": "y"}):
        with pytest.raises(DataError, match="x "):
            Space.from_json(value | change, "x")
    with pytest.raises(DataError, match="schema 9, this version reads up to 1"):
        Space.from_json(value | {"schema": 9}, "x")
    with pytest.raises(DataError, match="does not describe a space"):
        Space.from_json([], "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mena"}, "Did you mean 'mean'"),
        ({"precision": "f16"}, "Unknown precision 'f16'"),
        ({"dim": 0}, "Vectors of 0 numbers"),
        ({"columns": {"call_id": "string"}}, "'call_id' of type 'string' cannot be added"),
        ({"columns": {"meta_x": "list"}}, "one of the types"),
    ],
)
def test_a_space_that_cannot_be_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Space(**{"backbone": "ab", "dim": 4} | change)


@settings(deadline=None, max_examples=60)
@given(st.text(), st.text(), st.text(), st.text())
def test_keys_tell_cuts_apart_and_need_the_stores_key(call, cut, other_call, other_cut):
    keys = Keys(b"k" * 32)
    same = (call, cut) == (other_call, other_cut)
    assert (keys.cut(call, cut, 0) == keys.cut(other_call, other_cut, 0)) == same
    assert (keys.call(call) == keys.call(other_call)) == (call == other_call)
    assert keys.call(call) != Keys(b"l" * 32).call(call)
    assert keys.call(call) != keys.speaker(call) and keys.cut(call, cut, 0) != keys.cut(
        call, cut, 1
    )
