"""The registry's VMDK writer: chooses among the kinds of image, and opens the files they need.

Profile: specs/vmdk.md, VMDK-WRITE-*.
"""

from __future__ import annotations

from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions, ImageWriter
from vmpack.formats.vmdk.describe import describe
from vmpack.formats.vmdk.layout import (
    DESCRIPTOR_OFFSET,
    DESCRIPTOR_SECTORS,
    GRAIN_SECTORS,
    SECTOR,
    SPLIT_SECTORS,
    SparseLayout,
)
from vmpack.formats.vmdk.request import STREAM_OPTIMIZED, Request, is_name, read_request
from vmpack.formats.vmdk.structs import FLAG_NEWLINES, FLAG_REDUNDANT, SparseHeader

MAX_EXTENTS = 999
"""Their numbers have three digits, and each is an open file while it is written."""

Extents = list[tuple[int, str]]
"""Sectors and file name of each extent."""


def create(fd: int, options: CreateOptions) -> ImageWriter:
    """A writer over the fresh file ``fd``.

    Raises :class:`UsageError` for a value that an option does not take and for an image of
    several files where there can be one only; :class:`UnsupportedError` for a disk too large.
    """
    request = read_request(options)
    if request.subformat == STREAM_OPTIMIZED:
        from vmpack.formats.vmdk.stream import StreamFile

        return StreamFile(fd, request)
    if request.flat:
        return _flat(fd, request, options)
    if request.split:
        return _split_sparse(fd, request, options)
    return _monolithic_sparse(fd, request)


def extents_of(request: Request) -> Extents:
    """The extents of an image that has them in files of their own.

    Raises :class:`UsageError` for a disk of no bytes: QEMU aborts when a descriptor has no extents.
    """
    if not request.capacity:
        raise UsageError(
            f"a {request.subformat} VMDK holds at least one sector",
            field="subformat",
            hint="choose -o subformat=monolithicSparse",
        )
    if not request.split:
        return [(request.capacity, f"{request.stem}-flat.vmdk")]
    letter = "f" if request.flat else "s"
    found: Extents = []
    if request.capacity > MAX_EXTENTS * SPLIT_SECTORS:
        raise UnsupportedError(
            f"a disk of more than {MAX_EXTENTS} extents of 2047 MiB",
            hint="choose -o subformat=monolithicSparse or monolithicFlat",
        )
    for start in range(0, request.capacity, SPLIT_SECTORS):
        name = f"{request.stem}-{letter}{len(found) + 1:03d}.vmdk"
        found.append((min(SPLIT_SECTORS, request.capacity - start), name))
    return found


def _monolithic_sparse(fd: int, request: Request) -> ImageWriter:
    from vmpack.formats.vmdk.sparse_writer import SparseExtent, SparseWriter, put

    layout = SparseLayout(request.capacity, descriptor=True)
    seed = request.new_seed()

    def close() -> None:
        text = describe(
            request, request.identity(seed), [(request.capacity, request.embedded_name)]
        )
        put(fd, text, DESCRIPTOR_OFFSET * SECTOR)
        put(fd, _header(layout).encode(), 0)

    return SparseWriter([SparseExtent(fd, layout)], max(1, layout.grains), seed, close)


def _split_sparse(fd: int, request: Request, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.vmdk.sparse_writer import SparseExtent, SparseWriter, put

    extents = extents_of(request)
    parts = [
        SparseExtent(file, SparseLayout(sectors, descriptor=False))
        for (sectors, _), file in zip(extents, _open(extents, options), strict=True)
    ]
    seed = request.new_seed()

    def close() -> None:
        for part in parts:
            put(part.fd, _header(part.layout).encode(), 0)
        put(fd, describe(request, request.identity(seed), extents), 0)

    return SparseWriter(parts, SPLIT_SECTORS // GRAIN_SECTORS, seed, close)


def _flat(fd: int, request: Request, options: CreateOptions) -> ImageWriter:
    from vmpack.formats.raw import RawWriter
    from vmpack.formats.vmdk.flat_writer import FlatWriter
    from vmpack.formats.vmdk.sparse_writer import put

    extents = extents_of(request)
    parts = [
        RawWriter(file, sectors * SECTOR)
        for (sectors, _), file in zip(extents, _open(extents, options), strict=True)
    ]
    seed = request.new_seed()

    def close() -> None:
        put(fd, describe(request, request.identity(seed), extents), 0)

    step = (SPLIT_SECTORS if request.split else request.capacity) * SECTOR
    return FlatWriter(parts, step, seed, close)


def _open(extents: Extents, options: CreateOptions) -> list[int]:
    """The extents' files, all of them before anything is written."""
    if options.sibling is None:
        raise UsageError(
            "this subformat of VMDK needs more than one file, and there is room for one",
            field="subformat",
            hint="choose -o subformat=monolithicSparse or streamOptimized",
        )
    for _, name in extents:
        if not is_name(name):
            raise UsageError(
                f"a VMDK's descriptor cannot name the file {name!r}",
                field="subformat",
                hint="give the output a name without quotes and control characters",
            )
    return [options.sibling(name) for _, name in extents]


def _header(layout: SparseLayout) -> SparseHeader:
    # QEMU takes an extent without capacity but with a descriptor for a descriptor file.
    described = layout.descriptor and layout.capacity > 0
    return SparseHeader(
        flags=FLAG_NEWLINES | FLAG_REDUNDANT,
        capacity=layout.capacity,
        descriptor_offset=DESCRIPTOR_OFFSET if described else 0,
        descriptor_size=DESCRIPTOR_SECTORS if described else 0,
        rgd_offset=layout.spare_directory,
        gd_offset=layout.directory,
        overhead=layout.overhead,
    )
