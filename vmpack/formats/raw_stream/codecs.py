"""Decodes a compressed file from its beginning to its end, in pieces of bounded size.

Each codec's files may hold several frames (members, streams) one after another, whose contents
follow one another. Memory is bounded by each codec's window, whatever the file says.
Sources: RFC 8878 (zstd), RFC 1952 (gzip), The .xz File Format 1.2 (2.1.1.2 "Stream Padding").
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError
from vmpack.source import ByteSource

PIECE = 1 << 20
"""Bytes that a decoder may give at a time; zstd gives up to 32 MiB."""
READ = 256 << 10
ZSTD_WINDOW = 128 << 20
"""What `zstd -d` accepts without being asked: `--long=27`."""
XZ_MEMORY = 192 << 20
"""Bytes for a decoder: dictionaries of up to 128 MiB (`xz -9` has 64)."""
_ZSTD_LEAST, _ZSTD_MOST = 32, 1024
"""Bytes of input for a call, which gives all that they decode to: 128 KiB for 4 bytes at most."""


class _Frame(Protocol):
    """One frame: fed with what follows in the file until it is at its end."""

    ended: bool
    rest: bytes
    """What was fed behind the frame's end."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` decodes to. Raises what the codec's library raises."""


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._codec = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        self._step = _ZSTD_LEAST
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(data):
            end = start + self._step
            piece = self._codec.decompress(data[start:end])
            yield piece
            if self._codec.eof:
                self.ended = True
                self.rest = self._codec.unused_data + data[end:]
                return
            start = end
            # Pieces of many MiB cost several times what small ones do: each is memory made anew.
            if len(piece) > PIECE:
                self._step = _ZSTD_LEAST
            elif len(piece) < PIECE >> 5:
                self._step = min(2 * self._step, _ZSTD_MOST)


class _Gzip:
    def __init__(self) -> None:
        self._codec = zlib.decompressobj(wbits=31)
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._codec.decompress(data, PIECE)
            yield piece
            data = self._codec.unconsumed_tail
            if self._codec.eof:
                self.ended, self.rest = True, self._codec.unused_data
                return
            if not data and len(piece) < PIECE:
                return


class _Buffered:
    """bzip2 and xz: their decoders keep what they were fed until they need more."""

    def __init__(self, codec: bz2.BZ2Decompressor | lzma.LZMADecompressor):
        self._codec = codec
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield self._codec.decompress(data, PIECE)
            data = b""
            if self._codec.eof:
                self.ended, self.rest = True, self._codec.unused_data
                return
            if self._codec.needs_input:
                return


def _xz() -> _Frame:
    return _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))


_FRAMES: dict[str, Callable[[], _Frame]] = {
    "zstd": _Zstd,
    "gzip": _Gzip,
    "bzip2": lambda: _Buffered(bz2.BZ2Decompressor()),
    "xz": _xz,
}
_TOO_MUCH_MEMORY = ("too much memory", "Memory usage limit")


def decoded(source: ByteSource, codec: str) -> Iterator[bytes]:
    """All that the file decodes to, in order; pieces may be empty.

    Raises :class:`DamagedError` for a file that is cut, broken or followed by something else, and
    :class:`UnsafeError` for one that asks for more memory than its codec's usual files.
    """
    errors = _errors(codec)
    position, data = 0, b""
    while position < source.size or data or not position:
        begin = position - len(data)
        frame = _FRAMES[codec]()
        while not frame.ended:
            if not data:
                data = source.pread(position, min(READ, source.size - position))
                position += len(data)
            if not data:
                raise _damaged(source, f"the {codec} data ends in the middle", position, 1)
            try:
                yield from frame.feed(data)
            except errors as exc:
                raise _failure(source, codec, begin, exc) from exc
            data = frame.rest
        if codec == "xz":
            position, data = _behind_padding(source, position, data)


def _errors(codec: str) -> tuple[type[Exception], ...]:
    if codec == "zstd":
        import zstandard

        return (zstandard.ZstdError,)
    return (zlib.error, lzma.LZMAError, EOFError, ValueError, OSError)


def _behind_padding(source: ByteSource, position: int, data: bytes) -> tuple[int, bytes]:
    """What follows the zeros behind an xz stream, in multiples of four, and how far was read."""
    begin = position - len(data)
    while True:
        data = data.lstrip(b"\0")
        if data or position == source.size:
            break
        data = source.pread(position, min(READ, source.size - position))
        position += len(data)
    if (position - len(data) - begin) % 4:
        raise _damaged(source, "the xz stream's padding is not a multiple of 4", begin, 1)
    return position, data


def _failure(
    source: ByteSource, codec: str, offset: int, exc: Exception
) -> DamagedError | UnsafeError:
    text = escape(str(exc))
    if any(words in text for words in _TOO_MUCH_MEMORY):
        return UnsafeError(
            f"its {codec} data needs more than the usual memory to decode",
            path=source.path,
            offset=offset,
            clause="RAW-STREAM-3",
            hint="decompress it with the tool that wrote it first",
        )
    return _damaged(source, f"not whole {codec} data: {text}", offset, 1)


def _damaged(source: ByteSource, message: str, offset: int, clause: int) -> DamagedError:
    return DamagedError(message, path=source.path, offset=offset, clause=f"RAW-STREAM-{clause}")
