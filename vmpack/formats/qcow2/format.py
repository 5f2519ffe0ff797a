"""The registry's record of qcow2: how it is recognised, opened and written."""

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

_MAGIC = b"QFI\xfb"


def _probe(source: ByteSource) -> bool:
    return source.size >= len(_MAGIC) and source.pread(0, len(_MAGIC)) == _MAGIC


def _open(source: ByteSource, options: OpenOptions) -> ImageReader:
    from vmpack.formats.qcow2.reader import Qcow2Reader

    return Qcow2Reader(source, options)


def _measure(options: CreateOptions) -> Measurer:
    from vmpack.formats.qcow2.measure import Qcow2Measurer

    return Qcow2Measurer(options)


def _create(fd: int, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.qcow2.writer import create

    return create(fd, options)


FORMAT = Format(
    name="qcow2",
    qemu_name="qcow2",
    suffixes=(".qcow2",),
    probe=_probe,
    open=_open,
    create=_create,
    measure=_measure,
    options={
        "compat": "version: 1.1 (default) or 0.10",
        "cluster_size": "bytes of a cluster: 512 to 2M, default 64K",
        "compression_type": "zlib or zstd; with -c zstd by default, zlib for compat 0.10",
        "refcount_bits": "bits of a refcount: 1 to 64, a power of two, default 16",
        "backing_file": "name of the backing file, for `create`: it is not opened",
        "backing_fmt": "format of the backing file",
    },
)
