"""Deflate, fast: which library compresses and decompresses what.

Compressors and :func:`inflate` are safe for threads and release the interpreter's lock. For one
version of a library, the same input and level give the same bytes on every host. Formats: RFC 1950
(zlib) and RFC 1951 (deflate). Why these libraries: specs/decisions/0007-codecs.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from vmpack.errors import UsageError

Compressor = Callable[[bytes | memoryview], bytes]

ZLIB_LEVEL = 5
"""Of 1 to 12: 0.28 of the time of zlib's level 6, and 0.6% fewer bytes."""
DEFLATE_LEVEL = 5
"""Of 1 to 9: 0.36 of the time of zlib's level 6 in the same window, for 1.8% more bytes."""
_MAX_WINDOW_BITS = 15
_MEMORY_LEVEL = 8
"""9 compresses no faster, and gives 0.2% more bytes."""


class CodecError(ValueError):
    """Compressed bytes that do not decode to what they have to."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = ..., /) -> bytes: ...


def zlib_compressor(level: int | None = None) -> Compressor:
    """Compresses into a zlib stream (RFC 1950) with the full window of 32 KiB.

    ``level`` is 1 (fastest) to 12 (smallest, 15 times the time of the default); ``None`` is
    :data:`ZLIB_LEVEL`. Raises :class:`UsageError` for another one.
    """
    from deflate import zlib_compress

    wanted = level_of("deflate", level, default=ZLIB_LEVEL, smallest=12)
    return lambda data: bytes(zlib_compress(data, wanted))


def deflate_compressor(level: int | None = None, window_bits: int = 12) -> Compressor:
    """Compresses into raw deflate (RFC 1951) whose matches reach ``2 ** window_bits`` bytes back.

    ``level`` is 1 (fastest) to 9 (smallest, 3 times the time of the default); ``None`` is
    :data:`DEFLATE_LEVEL`. Raises :class:`UsageError` for another one.
    """
    from zlib_ng import zlib_ng

    wanted = level_of("deflate", level, default=DEFLATE_LEVEL, smallest=9)

    def compress(data: bytes | memoryview) -> bytes:
        # A new one each time: one that is reset may find other matches than one that is new.
        codec = zlib_ng.compressobj(wanted, zlib_ng.DEFLATED, -window_bits, _MEMORY_LEVEL)
        return codec.compress(data) + codec.flush()

    return compress


def level_of(codec: str, level: int | None, *, default: int, smallest: int) -> int:
    """``level``, or the default; raises :class:`UsageError` unless it is 1 to ``smallest``."""
    if level is None:
        return default
    if not 1 <= level <= smallest:
        raise UsageError(
            f"{codec} has no level {level}",
            field="level",
            hint=f"choose 1 (fastest) to {smallest} (smallest); {default} is the default",
        )
    return level


def inflate(
    data: bytes | memoryview,
    limit: int,
    *,
    wrapped: bool,
    trailing: bool = False,
    unended: bool = False,
    window_bits: int = _MAX_WINDOW_BITS,
) -> bytes:
    """What ``data`` holds: a zlib stream (``wrapped``), its checksum verified, or raw deflate.

    Never makes more than ``limit`` bytes. ``trailing`` allows bytes behind the stream (sectors are
    padded); ``unended`` one that is cut after giving ``limit`` bytes, as QEMU does. A raw stream
    whose matches reach back further than ``2 ** window_bits`` bytes may be refused.

    Raises :class:`CodecError` for anything else: cut short, garbage, longer than ``limit``.
    """
    # Only the streaming decoder below tells what lies behind the stream, and why it failed.
    if trailing and limit > 0 and (found := _at_once(data, limit, wrapped)) is not None:
        return found
    stream = zlib.decompressobj(window_bits if wrapped else -window_bits)
    return _streamed(stream, data, limit, trailing=trailing, unended=unended)


def _at_once(data: bytes | memoryview, limit: int, wrapped: bool) -> bytes | None:
    import deflate

    decode = deflate.zlib_decompress if wrapped else deflate.deflate_decompress
    try:
        return bytes(decode(data, limit))
    except deflate.DeflateError:
        return None


def _streamed(
    stream: _Decompressor, data: bytes | memoryview, limit: int, *, trailing: bool, unended: bool
) -> bytes:
    try:
        # Of zlib, 0 asks for all there is.
        made = stream.decompress(data, limit) if limit else b""
        rest = stream.unconsumed_tail if limit else data
        more = b"" if stream.eof else stream.decompress(rest, 1)
    except zlib.error as exc:
        raise CodecError(str(exc)) from exc
    if more:
        raise CodecError(f"holds more than {limit} bytes")
    if not stream.eof and not (unended and len(made) == limit):
        raise CodecError(f"ends in the middle of the stream, after {len(made)} bytes")
    if stream.unused_data and not trailing:
        raise CodecError(f"{len(stream.unused_data)} bytes follow the stream")
    return made


def versions() -> dict[str, str]:
    """The libraries that decide what compressed bytes look like: name -> version."""
    import deflate
    import zstandard
    from zlib_ng import zlib_ng

    return {
        "deflate": str(deflate.__version__),
        "zlib-ng": str(zlib_ng.ZLIBNG_RUNTIME_VERSION),
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }
