"""The registry's record of VHDX: how it is recognised, opened and written."""

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

_MAGIC = b"vhdxfile"


def _probe(source: ByteSource) -> bool:
    return source.size >= len(_MAGIC) and source.pread(0, len(_MAGIC)) == _MAGIC


def _open(source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.vhdx.reader import VhdxReader

    return VhdxReader(source, options)


def _measure(options: CreateOptions) -> Measurer:
    from vmpack.formats.vhdx.layout import VhdxMeasurer

    return VhdxMeasurer(options)


def _create(fd: int, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.vhdx.writer import VhdxWriter

    return VhdxWriter(fd, options)


FORMAT = Format(
    name="vhdx",
    qemu_name="vhdx",
    suffixes=(".vhdx",),
    probe=_probe,
    open=_open,
    create=_create,
    measure=_measure,
    options={
        "subformat": "dynamic (default) or fixed",
        "block_size": "bytes of a block: 1M to 256M; default 1M, 32M for disks above 1 TiB",
        "log_size": "bytes of the log: a multiple of 1M, default 1M",
        "block_state_zero": "on: blocks without data are zeros; off: they are not present "
        "(default on; off for create)",
        "uuid": "the virtual disk's id; by default it derives from the content",
    },
)
