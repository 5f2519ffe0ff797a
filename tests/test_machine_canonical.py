"""Canonical JSON: one form per value, and nothing else is read (CFG-JSON-1 to CFG-JSON-8)."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmpack.errors import DamagedError, UsageError, VmpackError
from vmpack.machine import canonical

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=6)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGERS = st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert json.loads(data) == value
    assert canonical.dumps(json.loads(data)) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_another_value_or_refused(value: object, data: st.DataObject) -> None:
    raw = bytearray(canonical.dumps(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        found = canonical.loads(bytes(raw))
    except DamagedError:
        return
    assert canonical.dumps(found) == bytes(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_our_own_error(raw: bytes) -> None:
    with contextlib.suppress(DamagedError):
        canonical.loads(raw)


def test_vector_of_the_specification() -> None:
    data = canonical.dumps({"b": [True, None, -1], "a": 'é"\n'})
    assert data.hex(" ") == (
        "7b 22 61 22 3a 22 c3 a9 5c 22 5c 6e 22 2c 22 62 22 3a 5b 74 72 75 65 2c 6e 75 6c 6c "
        "2c 2d 31 5d 7d"
    )


@pytest.mark.parametrize(
    ("raw", "clause"),
    [
        (b"\xef\xbb\xbf{}", "CFG-JSON-1"),
        (b"\xff", "CFG-JSON-1"),
        (b"", "CFG-JSON-1"),
        (b"{}{}", "CFG-JSON-1"),
        (b'{"a":1,"a":1}', "CFG-JSON-3"),
        ('{"é":1}'.encode(), "CFG-JSON-2"),
        (b'{"":1}', "CFG-JSON-2"),
        (b"1.0", "CFG-JSON-4"),
        (b"1e3", "CFG-JSON-4"),
        (b"NaN", "CFG-JSON-4"),
        (b"9007199254740992", "CFG-JSON-4"),
        (b"9" * 100_000, "CFG-JSON-4"),
        (b'"\\ud800"', "CFG-JSON-5"),
        (b"[" * 33 + b"]" * 33, "CFG-JSON-7"),
        (b"[" * 1_000_000, "CFG-JSON-7"),
        (b"[" + b"0," * 300_000 + b"0]", "CFG-JSON-7"),
        (b'{"a": 1}', "CFG-JSON-8"),
        (b'{"b":1,"a":1}', "CFG-JSON-8"),
        (b"-0", "CFG-JSON-8"),
        (b'"\\u0041"', "CFG-JSON-8"),
        (b'"\\/"', "CFG-JSON-8"),
        (b'"\\u001F"', "CFG-JSON-8"),
        (b"1\n", "CFG-JSON-8"),
    ],
)
def test_refuses_what_is_not_canonical(raw: bytes, clause: str) -> None:
    with pytest.raises(DamagedError) as caught:
        canonical.loads(raw, what="manifest")
    assert caught.value.clause == clause
    assert "manifest" in caught.value.message


def test_names_the_offset_of_the_first_byte_that_differs() -> None:
    with pytest.raises(DamagedError) as caught:
        canonical.loads(b'{"a":1, "b":2}')
    assert caught.value.offset == 7


def test_a_document_beyond_the_size_limit_is_refused_unread() -> None:
    with pytest.raises(DamagedError, match="at most 10 allowed"):
        canonical.loads(b'"' + b"x" * 10 + b'"', max_bytes=10)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"a",', b"[]"])
def test_time_grows_with_size_only(unit: bytes) -> None:
    # 2 MB each: scanning any of them more than once would take minutes, not a moment.
    with pytest.raises(DamagedError):
        canonical.loads(b'"' + unit * (2_000_000 // len(unit)))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": {"b": 1.5}}, "a.b"),
        ({"a": [1, math.nan]}, "a[1]"),
        ({"a": b"x"}, "a"),
        ({"a": 2**53}, "a"),
        ({"a": "\udc80"}, "a"),
        ({1: 2}, None),
        ({"a": {1, 2}}, "a"),
    ],
)
def test_refuses_to_write_what_has_no_form(value: object, field: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        canonical.dumps(value)
    assert caught.value.field == field


def test_refuses_to_write_what_it_would_not_read() -> None:
    value: object = 0
    for _ in range(canonical.MAX_DEPTH):
        value = [value]
    assert canonical.loads(canonical.dumps(value)) == value
    with pytest.raises(VmpackError, match="nested deeper"):
        canonical.dumps([value])
