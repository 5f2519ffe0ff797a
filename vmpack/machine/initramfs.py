"""Which drivers an initramfs brings: the names of its kernel modules. Bounded, and never unpacked.

An initramfs is one or more cpio archives ("newc"), the first of them often uncompressed (microcode)
and the last compressed. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Initramfs", "read_initramfs"]

MAX_DECODED = 768 << 20
"""Bytes that an initramfs may decompress to; the largest real ones have some 300 MiB."""
MAX_MEMBERS = 200_000
_HEADER = 110
"""Magic, then 13 numbers of 8 hexadecimal digits."""
_MAGICS = (b"070701", b"070702")
_MAX_NAME = 4096
_MAX_BUILTIN = 1 << 20
_STEP = 64 << 10
_PIECE = 1 << 20
_WINDOW = 128 << 20
_MODULE = re.compile(r"^(?:usr/)?lib/modules/[^/]+/.*?([^/]+)\.ko(?:\.gz|\.xz|\.zst|\.bz2)?$")
_BUILTIN = re.compile(r"^(?:usr/)?lib/modules/[^/]+/modules\.builtin$")


@dataclass(slots=True)
class Initramfs:
    """What was found; ``problem`` says why there may be more."""

    modules: set[str] = field(default_factory=set)
    """Names of modules, ``_`` for ``-``."""
    builtin: set[str] | None = None
    """Names of what the kernel has built in; ``None`` where the initramfs does not say."""
    members: int = 0
    problem: str = ""

    def has(self, driver: str) -> bool:
        """Whether the kernel can load the driver, or has it."""
        return driver in self.modules or driver in (self.builtin or ())


class _TooMuchError(Exception):
    """A bound is reached."""


class _Stream:
    """Bytes that come in pieces: taken or skipped, forward only."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces = pieces
        self._buffer = bytearray()
        self.position = 0

    def take(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end."""
        found = self.peek(size)
        del self._buffer[: len(found)]
        self.position += len(found)
        return found

    def peek(self, size: int) -> bytes:
        """As :meth:`take`, and they stay."""
        while len(self._buffer) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer += piece
        return bytes(self._buffer[:size])

    def skip(self, size: int) -> bool:
        """Leave ``size`` bytes out; whether there were as many."""
        while size > 0:
            found = len(self.take(min(size, _PIECE)))
            if not found:
                return False
            size -= found
        return True


def read_initramfs(data: bytes) -> Initramfs:
    """The modules of the initramfs ``data``. Raises nothing: what is wrong is in ``problem``."""
    found = Initramfs()
    view = memoryview(data)
    try:
        at = _archives(_Stream(_slices(view)), found)
        if at < len(data):
            pieces = _decompressed(view[at:])
            if pieces is None:
                found.problem = "compressed in a way that is not read here"
            else:
                _archives(_Stream(_bounded(pieces)), found)
    except _TooMuchError as exc:
        found.problem = str(exc)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as exc:
        found.problem = f"damaged: {exc}"[:200]
    except Exception as exc:
        # zstandard's error is looked for only where zstandard was needed.
        if type(exc).__module__.partition(".")[0] not in ("zstandard", "zstd"):
            raise
        found.problem = f"damaged: {exc}"[:200]
    return found


def _slices(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE))


def _archives(stream: _Stream, found: Initramfs) -> int:
    """Read cpio archives one after another; the position of what is none."""
    while True:
        while stream.peek(1) == b"\0":
            zeros = stream.peek(4096)
            stream.take(len(zeros) - len(zeros.lstrip(b"\0")))
        if stream.peek(6) not in _MAGICS:
            return stream.position
        _archive(stream, found)


def _archive(stream: _Stream, found: Initramfs) -> None:
    while True:
        header = stream.take(_HEADER)
        if len(header) < _HEADER or header[:6] not in _MAGICS:
            raise ValueError("a member's header is cut or wrong")
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        found.members += 1
        if found.members > MAX_MEMBERS or not 0 < name_size <= _MAX_NAME:
            raise _TooMuchError(f"more than {MAX_MEMBERS} members, or a name of {name_size} bytes")
        # Header and name together are padded to 4 bytes, and so is the content.
        raw = stream.take(name_size + -(_HEADER + name_size) % 4)
        name = raw[: name_size - 1].decode("utf-8", "replace")
        if name == "TRAILER!!!":
            return
        padded = size + -size % 4
        if _BUILTIN.match(name) and size <= _MAX_BUILTIN:
            lines = stream.take(padded)[:size].decode("utf-8", "replace").splitlines()
            stems = (line.rsplit("/", 1)[-1].split(".ko")[0] for line in lines if ".ko" in line)
            found.builtin = (found.builtin or set()) | {stem.replace("-", "_") for stem in stems}
            continue
        match = _MODULE.match(name)
        if match:
            found.modules.add(match[1].replace("-", "_"))
        if not stream.skip(padded):
            raise ValueError("a member is cut")


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > MAX_DECODED:
            raise _TooMuchError(f"more than {MAX_DECODED >> 20} MiB when decompressed")
        yield piece


def _decompressed(data: memoryview) -> Iterator[bytes] | None:
    """The pieces of a compressed archive by its magic; ``None`` for what is not read."""
    head = bytes(data[:6])
    if head[:2] == b"\x1f\x8b":
        return _inflated(data)
    if head == b"\xfd7zXZ\0" or head[:3] == b"\x5d\0\0":
        return _by_steps(lzma.LZMADecompressor(memlimit=_WINDOW + (64 << 20)), data)
    if head[:3] == b"BZh":
        return _by_steps(bz2.BZ2Decompressor(), data)
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(data)
    return None


def _inflated(data: memoryview) -> Iterator[bytes]:
    codec = zlib.decompressobj(wbits=31)
    for at in range(0, len(data), _STEP):
        rest = bytes(data[at : at + _STEP])
        while rest and not codec.eof:
            yield codec.decompress(rest, _PIECE)
            rest = codec.unconsumed_tail
        if codec.eof:
            return


def _by_steps(codec: Any, data: memoryview) -> Iterator[bytes]:
    at = 0
    while not codec.eof:
        step = b""
        if codec.needs_input:
            step = bytes(data[at : at + _STEP])
            at += len(step)
            if not step:
                raise EOFError("it is cut")
        yield codec.decompress(step, _PIECE)


def _zstd(data: memoryview) -> Iterator[bytes]:
    import io

    import zstandard

    codec = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    yield from codec.read_to_iter(io.BytesIO(data), write_size=_PIECE)
