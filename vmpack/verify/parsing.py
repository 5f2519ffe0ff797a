"""JSON of a stranger, read within bounds: size, depth, number of values, integers.

Unlike a manifest, a record's file may be written in any way that JSON allows.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from vmpack.errors import DamagedError

__all__ = ["parse"]

MAX_DEPTH = 32
MAX_VALUES = 1 << 18
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_DIGITS = 17


def parse(data: bytes, *, path: str, most: int) -> object:
    """The value of the JSON document ``data``, of at most ``most`` bytes.

    Raises :class:`DamagedError`.
    """

    def fail(message: str, offset: int | None = None) -> DamagedError:
        return DamagedError(
            message,
            path=path,
            offset=offset,
            clause="BHV-LIM-2",
            hint="name a bundle, or a file that vmpack verify --record-to wrote",
        )

    if len(data) > most:
        raise fail(f"a behaviour record has at most {most} bytes")
    depth = values = 0
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        depth += (token in b"[{") - (token in b"]}")
        values += token not in b"]}"
        if depth > MAX_DEPTH or values > MAX_VALUES:
            raise fail("nested too deep, or too many values", match.start())
    try:
        return json.loads(
            data,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError) as exc:
        text = exc.msg if isinstance(exc, json.JSONDecodeError) else str(exc)
        raise fail(f"is no behaviour record: {text[:100]}") from exc


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _integer(text: str) -> int:
    # Length first: converting a million digits costs quadratic time.
    if len(text) > _DIGITS:
        _refuse(text)
    return int(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not an integer that JSON tools keep")
