"""The registry's record of VMDK: how it is recognised, opened and written."""

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

_MAGICS = (b"KDMV", b"COWD", b"# Disk DescriptorFile", b"\xbe\xba\xfe\xca\0\0\0\0")
_LONGEST = max(map(len, _MAGICS))


def _probe(source: ByteSource) -> bool:
    return source.pread(0, min(_LONGEST, source.size)).startswith(_MAGICS)


def _open(source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.vmdk.reader import VmdkReader

    return VmdkReader(source, options)


def _create(fd: int, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.vmdk.writer import create

    return create(fd, options)


def _stream(options: CreateOptions) -> StreamWriter:
    from vmpack.formats.vmdk.stream import create

    return create(options)


def _measure(options: CreateOptions) -> Measurer:
    from vmpack.formats.vmdk.measure import create

    return create(options)


FORMAT = Format(
    name="vmdk",
    qemu_name="vmdk",
    suffixes=(".vmdk",),
    probe=_probe,
    open=_open,
    create=_create,
    stream=_stream,
    measure=_measure,
    options={
        "subformat": "monolithicSparse (default; with -c streamOptimized), streamOptimized, "
        "monolithicFlat, twoGbMaxExtentSparse or twoGbMaxExtentFlat",
        "adapter_type": "lsilogic (default), buslogic, ide or legacyESX",
        "hwversion": "virtual hardware version, a number; default 4",
        "compat6": "on: the same as hwversion=6",
        "toolsversion": "VMware Tools version, a number; default 2147483647, looked after by the "
        "guest",
        "uuid": "the disk's UUID; derived from its content by default",
        "cid": "content id, eight hexadecimal digits; derived from the content by default",
    },
)
