"""A box's Vagrantfile: Ruby, of which only plain settings are read, and which is never run."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LINES = 4096
Value = str | int | bool

_SETTING = re.compile(
    r"\s*(?P<who>[A-Za-z_]\w*(?:\.vm)?)\.(?P<name>[a-z_]+)\s*=\s*"
    r"(?P<value>\"[^\"\\#]*\"|'[^'\\]*'|-?[0-9]{1,12}|true|false|:[a-z]\w*)\s*(?:#.*)?"
)
_TOPOLOGY = re.compile(r"\s*[A-Za-z_]\w*\.cputopology\s+(?P<values>[:\w\s=>,'\"]+)\s*")
_PAIR = re.compile(r":(sockets|cores|threads)\s*=>\s*['\"]?([0-9]{1,4})['\"]?")
_STRUCTURE = re.compile(
    r"\s*(?:#.*|end|Vagrant\.configure\(?\s*['\"]?2['\"]?\s*\)?\s*do\s*\|\w+\|"
    r"|\w+\.vm\.provider\s*\(?\s*:?['\"]?\w+['\"]?\s*(?:,[^|]*)?\)?\s*do\s*\|[\w, ]+\|"
    r"|\w+\.vm\.provider\s*\(?\s*:?['\"]?\w+['\"]?\s*\)?)?\s*"
)


def settings(text: str) -> Iterator[tuple[int, str, Value | dict[str, int] | None]]:
    """``(line number, name, value)`` of each setting; name ``""`` and ``None`` for other code.

    Values are literals; ``cputopology`` is a dictionary. Comments and the blocks that every
    Vagrantfile consists of are passed over.
    """
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        if len(line) > 1000:
            yield number, "", None
            continue
        if _STRUCTURE.fullmatch(line):
            continue
        topology = _TOPOLOGY.fullmatch(line)
        found = _SETTING.fullmatch(line)
        if topology is not None:
            values = {name: int(value) for name, value in _PAIR.findall(topology["values"])}
            yield number, "cputopology", values
        elif found is not None:
            yield number, found["name"], _literal(found["value"])
        else:
            yield number, "", None


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
