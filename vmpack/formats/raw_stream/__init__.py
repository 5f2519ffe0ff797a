"""Raw disks compressed as a stream: ``disk.raw.zst``, ``.gz``, ``.xz``, ``.bz2``. Read only.

Profile: specs/raw.md, RAW-STREAM. ``codecs`` decodes, ``spool`` keeps what was decoded in an
unlinked sparse file, ``reader`` joins them.
"""

from __future__ import annotations

from functools import partial

from vmpack.formats import RAW_SUFFIXES, STREAM_SUFFIXES
from vmpack.formats.base import Format, ImageReader, OpenOptions
from vmpack.source import ByteSource


def stream_format(codec: str, *, named: bool = False) -> Format:
    """The format of a raw disk compressed with ``codec`` (``zstd``, ``gzip``, ``xz``, ``bzip2``).

    ``named``: only the file's name says so, and content that begins as another format does is
    refused (RAW-STREAM-4).
    """
    suffix = next(key for key, value in STREAM_SUFFIXES.items() if value == codec)
    return Format(
        name=f"raw{suffix}",
        qemu_name="raw",
        suffixes=tuple(f"{raw}{suffix}" for raw in RAW_SUFFIXES),
        probe=lambda _source: False,
        open=partial(_open, codec, named),
    )


def _open(codec: str, named: bool, source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.raw_stream.reader import RawStreamReader

    return RawStreamReader(source, codec, options, named=named)
