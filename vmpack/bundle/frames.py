"""Decodes stored frames, trusting nothing that they say."""

from __future__ import annotations

import threading

import zstandard

_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW = 8 << 20
"""Bytes: what RFC 8878 asks every decoder to support. QEMU gives up beyond 128 MiB."""
_LOCAL = threading.local()


def decode_frame(raw: bytes, size: int) -> bytes | None:
    """The ``size`` bytes of the single frame ``raw``; ``None`` when it is anything else.

    A frame has content size and checksum, no dictionary, a window no larger than its content or
    8 MiB, and nothing after it (VMP-FRAME-1).
    """
    if raw[:4] != _MAGIC:
        return None
    try:
        parameters = zstandard.get_frame_parameters(raw)
        good = parameters.content_size == size and parameters.has_checksum
        if not good or parameters.dict_id or parameters.window_size > max(size, _MAX_WINDOW):
            return None
        context: zstandard.ZstdDecompressor | None = getattr(_LOCAL, "context", None)
        if context is None:
            context = _LOCAL.context = zstandard.ZstdDecompressor()
        if not size:
            # The one call does not look further where the frame says that it is empty.
            stream = context.decompressobj()
            return b"" if not stream.decompress(raw) and _ended(stream) else None
        data = context.decompress(raw, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return data if len(data) == size else None


def _ended(stream: zstandard.ZstdDecompressionObj) -> bool:
    """Whether the frame is complete, its checksum right, and nothing follows it."""
    return bool(stream.eof) and not stream.unused_data
