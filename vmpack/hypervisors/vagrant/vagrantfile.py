"""A box's Vagrantfile: Ruby, of which only plain settings are read, and which is never run."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LINES = 4096
MAX_LINE = 1000
Value = str | int | bool

_SETTING = re.compile(
    r"\s*(?P<who>[A-Za-z_]\w*(?:\.vm)?)\.(?P<name>[a-z_]+)\s*=\s*"
    r"(?P<value>\"[^\"\\#]*\"|'[^'\\]*'|-?[0-9]{1,12}|true|false|:[a-z]\w*)\s*(?:#.*)?"
)
_LOADER = re.compile(
    r"\s*[A-Za-z_]\w*\.loader\s*=\s*[^;{}]+(\{ \|path\| File\.exist\?\(path\) \})?\s*"
)
"""Whatever names the firmware: that there is one makes it UEFI."""
_CALL = re.compile(r"\s*[A-Za-z_]\w*\.(?P<name>[a-z_]+)\s+(?P<pairs>:.+)")
_PAIR = re.compile(
    r"\s*:(?P<key>[a-z_]+)\s*=>\s*"
    r"(?P<value>\"[^\"\\#]*\"|'[^'\\]*'|-?[0-9]{1,12}|true|false|:[a-z]\w*)\s*"
)
_STRUCTURE = re.compile(
    r"\s*(?:#.*|end|Vagrant\.configure\(?\s*['\"]?2['\"]?\s*\)?\s*do\s*\|\w+\|"
    r"|\w+\.vm\.provider\s*\(?\s*:?['\"]?\w+['\"]?\s*(?:,[^|]*)?\)?\s*do\s*\|[\w, ]+\|"
    r"|\w+\.vm\.provider\s*\(?\s*:?['\"]?\w+['\"]?\s*\)?)?\s*"
)


def settings(text: str) -> Iterator[tuple[int, str, Value | dict[str, Value] | None]]:
    """``(line number, name, value)`` of each setting; name ``""`` and ``None`` for other code.

    Values are literals, or dictionaries of them (``cputopology :sockets => '2'``). Comments and
    the blocks that every Vagrantfile consists of are passed over.
    """
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        if len(line) > MAX_LINE:
            yield number, "", None
        elif not _STRUCTURE.fullmatch(line):
            yield (number, *_setting(line))


def _setting(line: str) -> tuple[str, Value | dict[str, Value] | None]:
    found = _SETTING.fullmatch(line)
    if found is not None:
        return found["name"], _literal(found["value"])
    if _LOADER.fullmatch(line):
        return "loader", "chosen by Ruby"
    call = _CALL.fullmatch(line)
    pairs = [] if call is None else [_PAIR.fullmatch(one) for one in call["pairs"].split(",")]
    if call is None or not all(pairs):
        return "", None
    return call["name"], {one["key"]: _literal(one["value"]) for one in pairs if one is not None}


def _literal(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if text[0] in "\"'":
        return text[1:-1]
    return text[1:] if text[0] == ":" else int(text)


def quoted(value: Value) -> str:
    """A value as a Ruby literal. Strings are single-quoted: nothing in them is code."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", value)
    return "'" + plain.replace("\\", "\\\\").replace("'", "\\'") + "'"
