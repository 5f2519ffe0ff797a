"""Values as PowerShell's source has them. Source: about_Quoting_Rules, PowerShell 5.1."""

from __future__ import annotations

import re

_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")
"""What PowerShell takes for a single quote, typographic ones as well."""


def quoted(text: str) -> str:
    """``text`` as a single-quoted string, in which only quotes mean something: they are doubled."""
    return "'" + _QUOTES.sub(lambda found: found[0] * 2, text) + "'"


def boolean(value: bool) -> str:
    """``$true`` or ``$false``."""
    return "$true" if value else "$false"


def document(lines: list[str]) -> bytes:
    """A script: with a byte-order mark, without which PowerShell 5.1 takes it for ANSI."""
    return b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).replace("\r\r", "\r").encode()
