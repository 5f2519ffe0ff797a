"""The probe's output on a console, where others print as well: between markers, with a checksum.

The markers hold a nonce that is new each time, so that nothing which the guest has printed or kept
passes for them. They are never typed as they are printed: the echo of a command is no answer.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import zlib
from collections.abc import Iterator

from vmpack.verify.guest.parse import MAX_OUTPUT
from vmpack.verify.guest.probe import script

__all__ = ["MAX_CONSOLE", "FrameError", "Framed"]

MAX_CONSOLE = 2 << 20
"""Bytes that a console may show while it is waited for the probe; its output has a tenth."""

_ESCAPES = re.compile(rb"\x1b\[[0-?]{0,64}[@-~]")
_POLYNOMIAL = 0x04C11DB7

SHOW = """\
k=plain o=$(probe)
if command -v gzip && command -v base64; then
k=gzip o=$(printf '%s\\n' "$o" | gzip -c | base64)
fi >/dev/null 2>&1
show() {
printf '%s:%s:%s\\n' vmpack-probe {nonce} "$k"
printf '%s\\n' "$o"
printf '%s:%s:%s:%s\\n' vmpack-probe {nonce} end \
"$(printf '%s\\n' "$o" | cksum 2>/dev/null)"
}
"""


class FrameError(Exception):
    """Something between the markers that the probe has not printed; it can be shown again."""


class Framed:
    """One run of the probe on a console."""

    def __init__(self, nonce: str | None = None) -> None:
        self.nonce = nonce or os.urandom(8).hex()
        mark = b"vmpack-probe:" + self.nonce.encode()
        self._begin = re.compile(mark + rb":(gzip|plain)\r?\n")
        self._end = re.compile(mark + rb":end:([0-9]{0,10})(?: [0-9]{1,10})?\s*\n")

    @property
    def script(self) -> str:
        """Shell text that defines ``show`` and needs nobody's input; to be run, then ``show``."""
        return f"probe() (\n{script()})\n" + SHOW.replace("{nonce}", self.nonce)

    def shown(self, console: bytes) -> bool:
        """Whether the end is there."""
        return self._end.search(console) is not None

    def read(self, console: bytes) -> bytes:
        """The probe's output, from what the console has shown.

        Raises :class:`FrameError` when it is not there whole.
        """
        end = _last(self._end, console)
        begin = _last(self._begin, console[: end.start()]) if end else None
        if end is None or begin is None:
            raise FrameError("its markers are not on the console")
        payload = _ESCAPES.sub(b"", console[begin.end() : end.start()]).replace(b"\r", b"")
        if end[1] and int(end[1]) != posix_cksum(payload):
            raise FrameError("something else was printed into it")
        return payload if begin[1] == b"plain" else _unpacked(payload)

    def without(self, console: bytes) -> bytes:
        """What the console has shown beside the probe's output."""
        pieces = []
        place = 0
        for begin in self._begin.finditer(console):
            if begin.start() < place:
                continue
            pieces.append(console[place : begin.start()])
            end = self._end.search(console, begin.end())
            # One that has only begun goes on to where the console was cut.
            place = end.end() if end else len(console)
        return b"".join([*pieces, console[place:]])


def _last(pattern: re.Pattern[bytes], data: bytes) -> re.Match[bytes] | None:
    return max(pattern.finditer(data), key=re.Match.start, default=None)


def _unpacked(payload: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj(wbits=31)
        output = unpacker.decompress(base64.b64decode(payload, validate=False), MAX_OUTPUT + 1)
    except (binascii.Error, ValueError, zlib.error) as exc:
        raise FrameError("it is not what gzip and base64 make") from exc
    if not unpacker.eof:
        raise FrameError("it ends early, or has no end")
    return output


def posix_cksum(data: bytes) -> int:
    """The CRC that ``cksum`` prints. Source: POSIX.1-2017, "cksum"."""
    value = 0
    table = _table()
    for octet in data + bytes(_length_octets(len(data))):
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ octet]
    return value ^ 0xFFFFFFFF


def _length_octets(length: int) -> Iterator[int]:
    while length:
        yield length & 0xFF
        length >>= 8


def _table() -> list[int]:
    table = []
    for octet in range(256):
        value = octet << 24
        for _ in range(8):
            value = (value << 1) ^ (_POLYNOMIAL if value >> 31 else 0)
            value &= 0xFFFFFFFF
        table.append(value)
    return table
