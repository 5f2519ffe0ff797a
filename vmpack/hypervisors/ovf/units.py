"""Units of quantities: programmatic units (DSP0004, annex C) and the words of older exporters."""

from __future__ import annotations

import re

_WORDS = {
    "b": 1,
    "byte": 1,
    "bytes": 1,
    "kb": 1 << 10,
    "kilobyte": 1 << 10,
    "kilobytes": 1 << 10,
    "mb": 1 << 20,
    "megabyte": 1 << 20,
    "megabytes": 1 << 20,
    "gb": 1 << 30,
    "gigabyte": 1 << 30,
    "gigabytes": 1 << 30,
    "tb": 1 << 40,
}
_MOST = 1 << 62


def factor(text: str) -> int | None:
    """Bytes of one unit (``byte * 2^20``, ``MegaBytes``); ``None`` for a unit that is not known."""
    word = re.sub(r"\s+", "", text.lower())
    if not word:
        return 1
    if word in _WORDS:
        return _WORDS[word]
    found = re.fullmatch(r"bytes?\*([0-9]{1,19})(?:\^([0-9]{1,2}))?", word)
    if found is None:
        return None
    base, power = int(found[1]), int(found[2] or 1)
    value = base**power
    return value if 0 < value <= _MOST else None


def number(text: str) -> int | None:
    """A plain number of at most 19 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) else None
