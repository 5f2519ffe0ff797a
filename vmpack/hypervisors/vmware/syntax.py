"""The text of a VMX: ``key = "value"`` lines in an encoding that one of them names.

VMware describes the file nowhere in full; the rules here are those that its products keep, clause
by clause in ``specs/hypervisors/vmware.md``.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError

__all__ = ["Vmx", "encode", "parse"]

MAX_KEYS = 16384
MAX_KEY = 512
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENCODING = re.compile(rb'^[ \t]*\.encoding[ \t]*=[ \t]*"?([\w.-]{1,40})"?[ \t]*\r?$', re.M | re.I)
_CODECS = {
    **{f"windows-{number}": f"cp{number}" for number in range(1250, 1259)},
    **{f"iso-8859-{number}": f"iso8859-{number}" for number in (*range(1, 12), 13, 14, 15, 16)},
    "utf-8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "shift_jis": "cp932",
    "windows-31j": "cp932",
    "windows-932": "cp932",
    "euc-jp": "euc_jp",
    "gbk": "gbk",
    "gb2312": "gbk",
    "gb18030": "gb18030",
    "windows-936": "gbk",
    "windows-936-2000": "gbk",
    "big5": "cp950",
    "windows-950": "cp950",
    "euc-kr": "cp949",
    "windows-949": "cp949",
    "koi8-r": "koi8_r",
}
_LINE = re.compile(r'([^\s="#][^\s="]*)[ \t]*=[ \t]*(?:"([^"]*)"|([^"#\s]*))[ \t]*(?:#.*)?')
_ESCAPES = re.compile(r"(?:\|[0-9A-Fa-f]{2})+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TO_ESCAPE = re.compile(r'["|#\x00-\x1f\x7f]')


@dataclass(frozen=True, slots=True)
class Vmx:
    """Keys and values in the file's order; keys are found whatever their case."""

    path: str
    entries: Mapping[str, tuple[str, str]]
    """Key in lower case -> (key as it is spelt, value)."""

    def __contains__(self, key: str) -> bool:
        return key.lower() in self.entries

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """``(key, value)``, each once."""
        return iter(self.entries.values())

    def get(self, key: str, default: str = "") -> str:
        """The key's value; ``default`` where it is absent."""
        found = self.entries.get(key.lower())
        return default if found is None else found[1]

    def spelt(self, key: str) -> str:
        """The key as the file spells it."""
        found = self.entries.get(key.lower())
        return key if found is None else found[0]

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean; ``default`` where it is absent or neither true nor false."""
        word = self.get(key).strip().lower()
        if word in ("true", "t", "yes", "y", "1", "on"):
            return True
        if word in ("false", "f", "no", "n", "0", "off"):
            return False
        return default

    def number(self, key: str) -> int | None:
        """A decimal number of up to 12 digits; ``None`` for anything else."""
        word = self.get(key).strip()
        return int(word) if re.fullmatch(r"-?[0-9]{1,12}", word, re.ASCII) else None


def parse(data: bytes, *, path: str) -> Vmx:
    """The VMX in ``data``; ``path`` is for messages.

    Raises :class:`DamagedError` for text that is no VMX, :class:`UnsupportedError` for an encoding
    that vmpack does not know, :class:`UnsafeError` for more than 16,384 keys.
    """
    text, codec = _decode(data, path)
    entries: dict[str, tuple[str, str]] = {}
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        line = raw.strip(" \t\ufeff")
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or len(found[1]) > MAX_KEY:
            raise DamagedError(
                f'line {number} is not key = "value": {escape(line[:80])!r}',
                path=path,
                clause="VMX-SYN-3",
                hint="VMware refuses such a line as well: mend it in a text editor",
            )
        value = _unescape(found[2] if found[2] is not None else found[3], codec)
        known = entries.get(found[1].lower())
        if known is not None and known[1] != value:
            raise DamagedError(
                f"line {number} gives {escape(found[1])} another value than a line before it",
                path=path,
                field=escape(found[1]),
                clause="VMX-SYN-5",
                hint="VMware refuses that as well: remove the line that is wrong",
            )
        entries.setdefault(found[1].lower(), (found[1], value))
        if len(entries) > MAX_KEYS:
            raise UnsafeError(f"more than {MAX_KEYS} keys", path=path, clause="VMX-SYN-6")
    return Vmx(path, entries)


def _decode(data: bytes, path: str) -> tuple[str, str]:
    """Text and Python's name of the codec that :func:`_unescape` needs."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _text(data[len(bom) :], name, path), "utf-8"
    named = _ENCODING.search(data[: 1 << 16])
    if named is None:
        try:
            return _text(data, "utf-8", path), "utf-8"
        except DamagedError:
            # Before .encoding there was the host's code page, mostly this one.
            return _text(data, "cp1252", path), "cp1252"
    word = named[1].decode("ascii", "replace").lower()
    if word not in _CODECS:
        raise UnsupportedError(
            f"its encoding {escape(word)!r} is not one that vmpack knows",
            path=path,
            field=".encoding",
            clause="VMX-SYN-2",
            hint='save it as UTF-8, and write .encoding = "UTF-8"',
        )
    return _text(data, _CODECS[word], path), _CODECS[word]


def _text(data: bytes, codec: str, path: str) -> str:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as exc:
        raise DamagedError(
            f"is not text in {codec}", path=path, offset=exc.start, clause="VMX-SYN-1"
        ) from exc
    bad = _CONTROL.search(text)
    if bad:
        raise DamagedError("holds control characters: it is no VMX", path=path, clause="VMX-SYN-1")
    return text


def _unescape(value: str, codec: str) -> str:
    """``|22`` is a quotation mark, ``|0A`` a line feed: bytes of the file's encoding."""
    return _ESCAPES.sub(
        lambda found: bytes.fromhex(found[0].replace("|", "")).decode(codec, "replace"), value
    )


def encode(entries: Mapping[str, str]) -> bytes:
    """A VMX in UTF-8 with these keys, in this order. Values may hold anything."""
    lines = ['.encoding = "UTF-8"']
    for key, value in entries.items():
        if key.lower() == ".encoding":
            continue
        escaped = _TO_ESCAPE.sub(lambda found: f"|{ord(found[0]):02X}", value)
        lines.append(f'{key} = "{escaped}"')
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")
