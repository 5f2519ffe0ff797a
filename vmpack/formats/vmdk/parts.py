"""The pieces that a VMDK's disk is joined from, and how their files are opened.

Profile: specs/vmdk.md, VMDK-PART.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from vmpack.errors import DamagedError, UnsafeError
from vmpack.extent import Extent
from vmpack.formats.backing import open_beside
from vmpack.formats.base import Finding, Format, ImageInfo, ImageReader, MapRun, OpenOptions
from vmpack.formats.raw import RawReader
from vmpack.formats.vmdk import structs
from vmpack.formats.vmdk.cowd import CowdExtent
from vmpack.formats.vmdk.descriptor import FLAT_KINDS, ExtentLine
from vmpack.formats.vmdk.sesparse import SeSparseExtent
from vmpack.formats.vmdk.sparse import SparseExtent
from vmpack.formats.vmdk.structs import SECTOR
from vmpack.formats.vmdk.tables import TableExtent
from vmpack.source import ByteSource

_EXTENTS: dict[bytes, type[SparseExtent | CowdExtent | SeSparseExtent]] = {
    structs.SPARSE_MAGIC: SparseExtent,
    structs.COWD_MAGIC: CowdExtent,
    structs.SESPARSE_MAGIC: SeSparseExtent,
}
_KINDS: dict[str, tuple[type[TableExtent], ...]] = {
    "SPARSE": (SparseExtent, CowdExtent),
    "VMFSSPARSE": (CowdExtent, SparseExtent),
    "SESPARSE": (SeSparseExtent,),
}


class Part(NamedTuple):
    """``length`` bytes of the disk from ``offset``: what ``reader`` holds, zeros without one."""

    offset: int
    length: int
    reader: ImageReader | None


class Window:
    """The part of a parent's disk from ``offset`` on, as the backing image of one extent.

    The parent stays its owner's. Source and rules of the parent's own format apply.
    """

    def __init__(self, parent: ImageReader, offset: int, length: int):
        self.format: Format = parent.format
        self.path = parent.path
        self.cluster_size = parent.cluster_size
        self._parent = parent
        self._offset = min(offset, parent.virtual_size)
        self.virtual_size = min(length, parent.virtual_size - self._offset)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        for one in self._parent.extents(self._offset + offset, length):
            yield Extent(one.offset - self._offset, one.length, one.kind)

    def read(self, offset: int, length: int) -> bytes:
        return self._parent.read(self._offset + offset, length)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for run in self._parent.map_runs(self._offset + offset, length):
            yield run._replace(offset=run.offset - self._offset)

    def info(self) -> ImageInfo:
        return self._parent.info()

    def check(self) -> Iterator[Finding]:
        return self._parent.check()

    def close(self) -> None:
        """Nothing: the parent is closed by who opened it."""


def open_extent(source: ByteSource) -> SparseExtent | CowdExtent | SeSparseExtent:
    """The extent in ``source``, by its magic. Raises :class:`DamagedError` for anything else."""
    head = source.pread(0, min(8, source.size))
    for magic, kind in _EXTENTS.items():
        if head.startswith(magic):
            return kind(source)
    raise DamagedError(
        f"is no VMDK extent: it begins with {head.hex(' ') or 'nothing'}",
        path=source.path,
        offset=0,
        clause="VMDK-PART-2",
    )


def open_part(
    image: ByteSource, line: ExtentLine, options: OpenOptions
) -> tuple[ImageReader | None, ByteSource | None]:
    """The reader of what a descriptor's line says, and its file; ``None`` for zeros.

    Raises as :func:`open_beside`; :class:`DamagedError` where the file is not what the line says,
    :class:`UnsafeError` where it is the descriptor itself.
    """
    if line.name is None:
        return None, None
    source = open_beside(image, line.name, options, what="extent", clause="VMDK-PART-1")
    try:
        if _same_file(image, source):
            raise UnsafeError("names itself as its extent", path=image.path, clause="VMDK-PART-3")
        if line.kind in FLAT_KINDS:
            return _flat(source, line), source
        return _sparse(source, line), source
    except BaseException:
        source.close()
        raise


def _flat(source: ByteSource, line: ExtentLine) -> RawReader:
    offset = (line.offset or 0) * SECTOR
    if offset + line.size > source.size:
        raise DamagedError(
            f"holds {source.size} bytes, but {line.size} from {offset} on are part of the disk",
            path=source.path,
            offset=min(offset, source.size),
            clause="VMDK-PART-4",
            hint="the file is cut short, or not the one that belongs to the descriptor",
        )
    return RawReader(source.slice(offset, line.size))


def _sparse(source: ByteSource, line: ExtentLine) -> TableExtent:
    extent = open_extent(source)
    if not isinstance(extent, _KINDS[line.kind]):
        raise extent.damaged(f"is a {extent.kind} extent, not {line.kind}", "PART-2", 0)
    if isinstance(extent, SparseExtent):
        extent.require_no_descriptor()
    require_capacity(extent, line)
    return extent


def require_capacity(extent: TableExtent, line: ExtentLine) -> None:
    """The line's sectors are those of the extent, whose last grain may be rounded up."""
    if not line.size <= extent.capacity < line.size + extent.cluster_size:
        raise extent.damaged(
            f"holds a disk of {extent.capacity} bytes, the descriptor says {line.size}", "PART-5"
        )
    extent.virtual_size = line.size


def _same_file(image: ByteSource, other: ByteSource) -> bool:
    here, there = os.fstat(image.fd), os.fstat(other.fd)
    return (here.st_dev, here.st_ino, image.base) == (there.st_dev, there.st_ino, other.base)
