"""Facts made fit to be kept: whatever a guest says, a record stays bounded canonical JSON.

Profile: specs/behaviour-v1.md, BHV-LIM. Cleaning what is clean already changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import cast

from vmpack.binary import escape
from vmpack.verify.layers import LayerName
from vmpack.verify.model import CUT, Facts, Json, Observation

__all__ = [
    "MAX_DEPTH",
    "MAX_KEY",
    "MAX_LAYER_BYTES",
    "MAX_LAYER_VALUES",
    "MAX_PICTURE_BYTES",
    "MAX_TEXT",
    "clean",
    "clean_facts",
]

MAX_KEY = 200
"""Characters of a key."""
MAX_TEXT = 16 << 10
"""Characters of a text; a picture's may be longer."""
MAX_DEPTH = 8
"""Arrays and objects inside each other, within one fact."""
MAX_LAYER_VALUES = 20_000
"""Values in one layer: ten full layers stay below what a bundle's manifest may hold."""
MAX_LAYER_BYTES = 1 << 20
"""Bytes of one layer's texts and keys, as UTF-8, some for each value included."""
MAX_PICTURE_BYTES = 4 << 20
"""The same for the layer of pictures."""

MAX_INTEGER = 2**53 - 1
VALUE_BYTES = 8
_KEY = re.compile(r"[\x20-\x7e]+")


def clean(observation: Observation) -> Observation:
    """``observation`` with every layer cleaned: what a record can hold, and what is compared."""
    layers = {name: clean_facts(name, facts) for name, facts in observation.layers.items()}
    return replace(observation, layers=cast("Mapping[LayerName, Facts]", layers))


def clean_facts(name: str, facts: Mapping[str, object]) -> dict[str, Json]:
    """The facts of the layer ``name``: keys of printable ASCII, no floats, bounded.

    Facts beyond the bounds are left out, and counted under :data:`~vmpack.verify.model.CUT`.
    """
    picture = name == "picture"
    budget = _Budget(MAX_PICTURE_BYTES if picture else MAX_LAYER_BYTES)
    longest = MAX_PICTURE_BYTES if picture else MAX_TEXT
    kept: dict[str, Json] = {}
    dropped = 0
    before = facts.get(CUT)
    if type(before) is int and before > 0:
        dropped = min(before, MAX_INTEGER)
    for key, value in facts.items():
        if key == CUT:
            continue
        if isinstance(value, list | dict) and len(value) > MAX_LAYER_VALUES:
            dropped = min(dropped + 1, MAX_INTEGER)
            continue
        text, cleaned = _key(key), _value(value, longest, 0)
        if budget.take(text, cleaned):
            kept[text] = cleaned
        else:
            dropped = min(dropped + 1, MAX_INTEGER)
    if dropped:
        kept[CUT] = dropped
    return kept


class _Budget:
    """What a layer may still hold."""

    def __init__(self, size: int) -> None:
        self._bytes = size
        self._values = MAX_LAYER_VALUES

    def take(self, key: str, value: Json) -> bool:
        """Whether there was room for one more fact; then it is taken."""
        values, size = _cost(value)
        values, size = values + 1, size + len(key)
        if values > self._values or size > self._bytes:
            return False
        self._values -= values
        self._bytes -= size
        return True


def _cost(value: Json) -> tuple[int, int]:
    if isinstance(value, str):
        return 1, VALUE_BYTES + len(value.encode())
    if isinstance(value, list):
        parts = [_cost(item) for item in value]
    elif isinstance(value, dict):
        parts = [_cost(item) for item in value.values()]
        parts.append((len(value), sum(len(key) for key in value)))
    else:
        return 1, VALUE_BYTES
    return 1 + sum(each for each, _ in parts), VALUE_BYTES + sum(size for _, size in parts)


def _key(text: object) -> str:
    key = text if isinstance(text, str) else repr(text)
    if not _KEY.fullmatch(key):
        key = escape(key).encode("ascii", "backslashreplace").decode() or "-"
    return _short(key, MAX_KEY)


def _short(text: str, longest: int) -> str:
    """``text``, or its beginning and a digest of the whole."""
    if len(text) <= longest:
        return text
    digest = sha256(text.encode()).hexdigest()[:16]
    return f"{text[: longest - len(digest) - 1]}~{digest}"


def _value(value: object, longest: int, depth: int) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Python refuses to write down integers of some thousand digits; their digits say nothing.
        return value if abs(value) <= MAX_INTEGER else _short(hex(value), longest)
    if isinstance(value, str):
        # Surrogates, which UTF-8 does not have, are written as Python writes them.
        value = value.encode("utf-8", "backslashreplace").decode()
        return _short(value, longest)
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        return {_key(key): _value(item, longest, depth + 1) for key, item in value.items()}
    if depth < MAX_DEPTH and isinstance(value, list | tuple):
        return [_value(item, longest, depth + 1) for item in value]
    # Deeper than anything that is observed, or a float: a text that is equal for equal values.
    return _short(repr(value).encode("ascii", "backslashreplace").decode(), longest)
