"""Values and verdicts as words: bounded, and without control characters.

What comes from here is safe for a terminal and a log. HTML, XML and GitHub each need their own
escaping on top of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from vmpack.binary import escape
from vmpack.verify.layers import LAYERS
from vmpack.verify.model import Difference

__all__ = ["CODES", "TITLES", "VERDICTS", "clip", "last_lines", "layers_of", "sentence", "shown"]

VALUE = 600
"""Characters of a value; whole ones stand in report.json."""

VERDICTS = {
    "same": "same",
    "differs": "differs",
    "drift": "drift",
    "not-compared": "not compared",
    "passed": "passed",
    "failed": "failed",
}

CODES = {
    "changed": "changed",
    "missing": "missing",
    "added": "added",
    "order": "out of order",
    "similarity": "not alike enough",
}

TITLES: dict[str, str] = {one.name: one.title for one in LAYERS}


def clip(text: str, limit: int = VALUE) -> str:
    """``text`` on one line, escaped, with at most ``limit`` characters of it."""
    if len(text) <= limit:
        return escape(text)
    return f"{escape(text[:limit])} … ({len(text) - limit} more characters)"


def shown(value: object, limit: int = VALUE) -> str:
    """A fact's value: a text as it is, anything else as JSON; what is not there is a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, str):
        return clip(value, limit)
    # A value of the guest may be long: no more of it is written than is shown.
    parts, length = [], 0
    for part in json.JSONEncoder(ensure_ascii=False, sort_keys=True).iterencode(value):
        parts.append(part)
        length += len(part)
        if length > limit:
            return f"{escape(''.join(parts)[:limit])} …"
    return escape("".join(parts))


def sentence(one: Difference) -> str:
    """A difference in one line."""
    layer = TITLES.get(one.layer, one.layer)
    values = f"expected {shown(one.expected, 200)}, observed {shown(one.observed, 200)}"
    if one.code == "missing":
        values = f"expected {shown(one.expected, 200)}"
    elif one.code == "added":
        values = f"observed {shown(one.observed, 200)}"
    return f"{layer}: {clip(one.item, 200)} {CODES.get(one.code, one.code)}: {values}"


def last_lines(lines: Sequence[str], count: int, width: int = 400) -> tuple[str, ...]:
    """The last ``count`` lines, each clipped."""
    return tuple(clip(line, width) for line in lines[-count:])


def layers_of(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` in the order of reports; unknown ones, of a newer vmpack, at the end."""
    known = [one.name for one in LAYERS if one.name in names]
    return (*known, *(name for name in names if name not in TITLES))
