"""The registry's record of VDI: how it is recognised, opened and written."""

from __future__ import annotations

from vmpack.formats.base import (
    CreateOptions,
    Format,
    ImageReader,
    ImageWriter,
    Measurer,
    OpenOptions,
)
from vmpack.source import ByteSource

_MAGIC = b"\x7f\x10\xda\xbe"
_MAGIC_OFFSET = 64


def _probe(source: ByteSource) -> bool:
    end = _MAGIC_OFFSET + len(_MAGIC)
    return source.size >= end and source.pread(_MAGIC_OFFSET, len(_MAGIC)) == _MAGIC


def _open(source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.vdi.reader import VdiReader

    return VdiReader(source, options)


def _measure(options: CreateOptions) -> Measurer:
    from vmpack.formats.vdi.writer import VdiMeasurer

    return VdiMeasurer(options)


def _create(fd: int, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.vdi.writer import create

    return create(fd, options)


FORMAT = Format(
    name="vdi",
    qemu_name="vdi",
    suffixes=(".vdi",),
    probe=_probe,
    open=_open,
    create=_create,
    measure=_measure,
    options={
        "static": "on: room for every block, in order; off (default): blocks with data only",
        "uuid": "the image's UUID; by default it derives from the content",
    },
)
