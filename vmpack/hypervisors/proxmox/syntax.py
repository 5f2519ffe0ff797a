"""``qm.conf(5)``: lines of ``key: value``, sections of snapshots, values of ``a=b,c=d``.

Source: Proxmox VE, qm.conf(5). Profile: specs/hypervisors/proxmox.md.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError

MAX_LINES = 16384
MAX_LINE = 65536
_PAIR = re.compile(r"([a-z][a-z_]*_?[0-9]*):[ \t]*(\S.*?)?[ \t]*")
_SECTION = re.compile(r"\[([^\]]{1,128})\][ \t]*")
_MAP = re.compile(r"#qmdump#map:([a-z]+[0-9]+):([^:]+):[^:]*:([^:]*):?")


@dataclass(slots=True)
class Config:
    """A config as it is written, without its meaning."""

    values: dict[str, str] = field(default_factory=dict)
    """The machine as it is now, in the order of the file."""
    description: str = ""
    sections: list[str] = field(default_factory=list)
    """Names of what follows: snapshots, ``PENDING``, ``special:...``."""
    strange: list[str] = field(default_factory=list)
    """Lines that are no option."""
    devices: dict[str, str] = field(default_factory=dict)
    """Drive -> device of the backup that holds it (``#qmdump#map``)."""


def parse(data: bytes, *, path: str) -> Config:
    """Take a config apart.

    Raises :class:`DamagedError` for what is no text, :class:`UnsafeError` for absurd sizes.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DamagedError(
            "is not UTF-8", path=path, offset=exc.start, clause="PVE-READ-1"
        ) from exc
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES or any(len(line) > MAX_LINE for line in lines):
        raise UnsafeError(
            f"has more than {MAX_LINES} lines, or one of more than {MAX_LINE} characters",
            path=path,
            clause="PVE-READ-1",
        )
    found = Config()
    notes: list[str] = []
    for line in lines:
        _line(found, notes, line)
    given = found.values.pop("description", None)
    found.description = decode_text(given) if given is not None else "\n".join(notes)
    return found


def _line(found: Config, notes: list[str], line: str) -> None:
    section = _SECTION.fullmatch(line)
    if section:
        found.sections.append(section[1])
        return
    if found.sections or not line.strip():
        return
    device = _MAP.fullmatch(line)
    if device:
        found.devices[device[1]] = device[2]
    elif line.startswith("#"):
        if not line.startswith(("#qmdump#", "#vzdump#")):
            notes.append(decode_text(line[1:]))
    else:
        pair = _PAIR.fullmatch(line)
        if pair is None or pair[1] in found.values:
            found.strange.append(escape(line[:80]))
        else:
            found.values[pair[1]] = pair[2] or ""


def properties(value: str, first: str) -> dict[str, str]:
    """``a,b=c``, ``first`` being the name of what has none; of two the last counts."""
    found = {}
    for part in value.split(","):
        name, mark, content = part.partition("=")
        if part:
            found[name.strip() if mark else first] = content if mark else part.strip()
    return found


def joined(parts: Mapping[str, str], first: str = "") -> str:
    """The reverse of :func:`properties`; the value of ``first`` stands alone in front."""
    head = [parts[first]] if first in parts else []
    return ",".join(head + [f"{key}={value}" for key, value in parts.items() if key != first])


def is_true(value: str) -> bool:
    """Proxmox' booleans."""
    return value.lower() in ("1", "on", "yes", "true")


def decode_text(text: str) -> str:
    """Text as options and comments have it: bytes that are not plain as ``%XX``."""
    return unquote(text, errors="replace")


def encode_text(text: str) -> str:
    """The reverse of :func:`decode_text`, for one line."""
    return quote(text, safe=" !\"$&'()*+,-./;<=>?@[]^_`{|}~")


def plain_base64(text: str) -> str | None:
    """What a field of ``smbios1`` says when ``base64=1``; ``None`` where it is no text."""
    try:
        return b64decode(text, validate=True).decode("utf-8")
    except (Error, ValueError):
        return None


def to_base64(text: str) -> str:
    """The reverse of :func:`plain_base64`."""
    return b64encode(text.encode()).decode()
