"""Canonical JSON: one byte string for one value, so that digests of JSON mean something.

A subset of RFC 8785 (JSON Canonicalization Scheme). Specified in ``specs/config-v1.md``, section
"Canonical JSON" (clauses CFG-JSON-1 to CFG-JSON-8). The reader accepts nothing that the writer
would not have written, and is bounded in size, depth and number of values. Imports no pydantic:
opening a bundle uses this module alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from vmpack.errors import DamagedError, UsageError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_INTEGER", "MAX_VALUES", "dumps", "loads"]

MAX_INTEGER = 2**53 - 1
"""Largest magnitude of an integer: what every JSON tool keeps exactly (RFC 7493, 2.2)."""

MAX_DEPTH = 32
"""Most arrays and objects open at once."""

MAX_BYTES = 16 << 20
"""Longest document that is read, in bytes."""

MAX_VALUES = 1 << 18
"""Most values in a document that is read: bounds the memory that a small document can ask for."""

_KEY = re.compile(r"[\x20-\x7e]+")
# An unclosed string matches up to the end, so that no input is scanned twice.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_HINT = "the document was written by another program, or changed since; pack it again"


def dumps(value: object) -> bytes:
    """The canonical bytes of ``value``: UTF-8, keys sorted, no white space, integers only.

    ``value`` is made of ``dict`` (keys of printable ASCII), ``list``/``tuple``, ``str``, ``int``,
    ``bool`` and ``None``. Raises :class:`UsageError` with the field for anything else: a float, an
    integer beyond +-(2**53 - 1), a lone surrogate, nesting deeper than :data:`MAX_DEPTH`.
    """
    _reject_foreign(value, "", 0)
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
    )
    return text.encode("utf-8")


def _reject_foreign(value: object, field: str, depth: int) -> None:
    """Raise :class:`UsageError` for the first part of ``value`` that has no canonical form."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _reject_surrogates(value, field)
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            _refuse("integer beyond +-(2**53 - 1)", field, "CFG-JSON-4")
    elif isinstance(value, Mapping | list | tuple):
        if depth >= MAX_DEPTH:
            _refuse(f"nested deeper than {MAX_DEPTH}", field, "CFG-JSON-7")
        _reject_foreign_items(value, field, depth + 1)
    else:
        _refuse(f"a {type(value).__name__} has no canonical form", field, "CFG-JSON-4")


def _reject_foreign_items(
    value: Mapping[object, object] | list[object] | tuple[object, ...], field: str, depth: int
) -> None:
    if not isinstance(value, Mapping):
        for index, item in enumerate(value):
            _reject_foreign(item, f"{field}[{index}]", depth)
        return
    if not isinstance(value, dict):
        _refuse(f"a {type(value).__name__} has no canonical form", field, "CFG-JSON-4")
    for key, item in value.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            _refuse(f"key {key!a} is not printable ASCII", field, "CFG-JSON-2")
        _reject_foreign(item, f"{field}.{key}" if field else key, depth)


def _reject_surrogates(text: str, field: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse("lone surrogate in a string", field, "CFG-JSON-5")


def _refuse(message: str, field: str, clause: str) -> NoReturn:
    raise UsageError(message, field=field or None, clause=clause)


def loads(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES, what: str = "JSON"
) -> object:
    """The value of the canonical document ``data``.

    Raises :class:`DamagedError` for anything that :func:`dumps` would not have written (white
    space, unsorted or duplicate keys, floats, needless escapes, a byte-order mark, ...) and beyond
    the limits. ``what`` names the document in messages.
    """
    if len(data) > max_bytes:
        raise DamagedError(
            f"{what} of {len(data)} bytes, at most {max_bytes} allowed", clause="CFG-JSON-7"
        )
    _check_bounds(data, max_values, what)
    try:
        value: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
        again = dumps(value)
    except json.JSONDecodeError as exc:
        # "pos" counts characters; what was decoded so far tells the bytes.
        offset = len(exc.doc[: exc.pos].encode("utf-8"))
        raise DamagedError(
            f"{what} is not JSON: {exc.msg}", offset=offset, clause="CFG-JSON-1", hint=_HINT
        ) from exc
    except UnicodeDecodeError as exc:
        raise DamagedError(
            f"{what} is not UTF-8", offset=exc.start, clause="CFG-JSON-1", hint=_HINT
        ) from exc
    except UsageError as exc:
        raise DamagedError(
            f"{what} is not canonical: {exc.message}",
            field=exc.field,
            clause=exc.clause,
            hint=_HINT,
        ) from exc
    if again != data:
        raise DamagedError(
            f"{what} is not canonical",
            offset=_first_difference(again, data),
            clause="CFG-JSON-8",
            hint=_HINT,
        )
    return value


def _check_bounds(data: bytes, max_values: int, what: str) -> None:
    """Refuse depth and number of values before the parser allocates anything for them."""
    depth = values = 0
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        if token in b"[{":
            depth += 1
            values += 1
        elif token in b"]}":
            depth -= 1
        else:
            values += 1
        if depth > MAX_DEPTH:
            raise DamagedError(
                f"{what} is nested deeper than {MAX_DEPTH}",
                offset=match.start(),
                clause="CFG-JSON-7",
            )
        if values > max_values:
            raise DamagedError(
                f"{what} holds more than {max_values} values",
                offset=match.start(),
                clause="CFG-JSON-7",
            )


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _refuse(f"key {key!a} twice in one object", "", "CFG-JSON-3")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    # Length first: converting a million digits costs quadratic time.
    if len(text) > len(str(-MAX_INTEGER)):
        _refuse("integer beyond +-(2**53 - 1)", "", "CFG-JSON-4")
    return int(text)


def _no_number(text: str) -> NoReturn:
    _refuse(f"{text[:40]} is not an integer", "", "CFG-JSON-4")


def _first_difference(left: bytes, right: bytes) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
