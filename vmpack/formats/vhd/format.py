"""The registry's record of VHD: how it is recognised, opened and written."""

from __future__ import annotations

from vmpack.formats.base import (
    CreateOptions,
    Format,
    ImageReader,
    ImageWriter,
    Measurer,
    OpenOptions,
    StreamWriter,
)
from vmpack.source import ByteSource

_COOKIE = b"conectix"


def _probe(source: ByteSource) -> bool:
    return source.size >= len(_COOKIE) and source.pread(0, len(_COOKIE)) == _COOKIE


def _open(source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.vhd.reader import open_vhd

    return open_vhd(source, options)


def _create(fd: int, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.vhd.writer import create

    return create(fd, options)


def _stream(options: CreateOptions) -> StreamWriter:
    from vmpack.formats.vhd.writer import stream

    return stream(options)


def _measure(options: CreateOptions) -> Measurer:
    from vmpack.formats.vhd.plan import VhdMeasurer

    return VhdMeasurer(options)


def _disk_size(options: CreateOptions) -> int:
    from vmpack.formats.vhd.plan import Plan

    return Plan.of(options).disk_size


FORMAT = Format(
    name="vhd",
    qemu_name="vpc",
    suffixes=(".vhd", ".vpc"),
    probe=_probe,
    open=_open,
    create=_create,
    stream=_stream,
    measure=_measure,
    disk_size=_disk_size,
    aliases=("vpc",),
    options={
        "subformat": "dynamic (default) or fixed",
        "azure": "on: what Azure imports: fixed, whole MiB, 20 MiB at least",
        "block_size": "bytes of a dynamic disk's block: 2M (default) or 512K",
        "force_size": "on, as it always is: the disk's exact size, no rounding to cylinders",
        "uuid": "the disk's unique id (default: derived from its content)",
    },
)
