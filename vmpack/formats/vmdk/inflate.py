"""zlib data of bounded length: the one place that inflates grains."""

from __future__ import annotations

import zlib


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """What the zlib stream ``data`` holds, at most ``limit`` bytes of it ever in memory.

    Bytes behind the stream's end are ignored. Raises :class:`ValueError` for a stream that is
    wrong, cut short or holds more.
    """
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, limit)
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise ValueError(f"holds more than {limit} bytes")
    except zlib.error as exc:
        raise ValueError(str(exc)) from exc
    if not stream.eof:
        raise ValueError("is cut short")
    return found
