"""Reads a VMDK: its extents joined to one disk, over its parent where it has one.

Profile: specs/vmdk.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError, UsageError, VmpackError
from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats.backing import open_parent
from vmpack.formats.base import Finding, ImageInfo, ImageReader, MapRun, OpenOptions
from vmpack.formats.raw import BLOCK, RawReader, require_inside
from vmpack.formats.vmdk import FORMAT
from vmpack.formats.vmdk.descriptor import MAX_BYTES, NO_PARENT, Descriptor, ExtentLine, parse
from vmpack.formats.vmdk.parts import Part, Window, open_extent, open_part, require_capacity
from vmpack.formats.vmdk.sparse import SparseExtent
from vmpack.formats.vmdk.structs import COWD_MAGIC, SECTOR, SESPARSE_MAGIC, SPARSE_MAGIC
from vmpack.formats.vmdk.tables import TableExtent
from vmpack.source import ByteSource

_EMBEDDED = ("monolithicSparse", "streamOptimized")


class VmdkReader:
    """A VMDK image: a descriptor with the files beside it, or one sparse file.

    Opening reads headers and descriptors only. ``metadata_only`` opens no further file: such a
    reader refuses to read. Raises :class:`DamagedError`, :class:`UnsupportedError` or
    :class:`UnsafeError` for an image that breaks the format, uses what vmpack lacks, or needs a
    file that the caller did not allow.
    """

    def __init__(self, source: ByteSource, options: OpenOptions | None = None):
        """Takes ownership of ``source``, also when it raises."""
        self.format = FORMAT
        self.path = source.path
        self.source = source
        self.options = options or OpenOptions()
        self.part_sources: list[ByteSource] = []
        self.backing: ImageReader | None = None
        self.descriptor: Descriptor | None = None
        self._parts: list[Part] = []
        self._refusal: VmpackError | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self.options.snapshot is not None:
            raise UsageError("a VMDK image has no snapshots inside", path=self.path)
        head = self.source.pread(0, min(8, self.source.size))
        if head.startswith((SPARSE_MAGIC, COWD_MAGIC, SESPARSE_MAGIC)):
            self._open_single()
        else:
            self._open_descriptor()
        self.virtual_size = self._lines_size()
        self._starts = [part.offset for part in self._parts]
        self.cluster_size = max(
            [one.cluster_size for one in self.extent_readers() if one is not None], default=BLOCK
        )
        if self.descriptor is not None and self.descriptor.parent_cid != NO_PARENT:
            self._open_parent(self.descriptor)

    def _lines_size(self) -> int:
        if self.descriptor is not None:
            return self.descriptor.virtual_size
        return sum(part.length for part in self._parts)

    def _open_single(self) -> None:
        """One file: a sparse extent with its descriptor inside, or ESXi's extent on its own."""
        extent = open_extent(self.source)
        if isinstance(extent, SparseExtent):
            found = extent.descriptor()
            if found is None:
                raise UnsafeError(
                    "is one extent of an image; its descriptor is another file",
                    path=self.path,
                    clause="VMDK-PART-6",
                    hint="name the descriptor: the small .vmdk file that lists the extents",
                )
            require_capacity(extent, self._only_line(found))
            self.descriptor = found
        elif not getattr(extent, "root", True):
            raise UnsafeError(
                "holds the changes to a parent, which only its descriptor names",
                path=self.path,
                clause="VMDK-PART-6",
                hint="name the descriptor: the small .vmdk file that lists the extents",
            )
        self._parts = [Part(0, extent.virtual_size, extent)]

    def _only_line(self, found: Descriptor) -> ExtentLine:
        """A descriptor inside an extent describes that extent and nothing else."""
        line = found.extents[0]
        if found.create_type not in _EMBEDDED or len(found.extents) > 1 or line.kind != "SPARSE":
            raise DamagedError(
                f"is a sparse extent, but its descriptor is that of {len(found.extents)} "
                f"{line.kind} extents of a {found.create_type} disk",
                path=self.path,
                offset=SECTOR,
                clause="VMDK-DESC-11",
            )
        return line

    def _open_descriptor(self) -> None:
        if self.source.size >= MAX_BYTES:
            raise DamagedError(
                f"is no VMDK: no extent's magic, and {self.source.size} bytes are too long for a "
                "descriptor",
                path=self.path,
                offset=0,
                clause="VMDK-DESC-2",
            )
        self.descriptor = parse(self.source.pread(0, self.source.size), path=self.path)
        if self.options.metadata_only:
            self._refusal = UsageError("was opened for its metadata only", path=self.path)
        else:
            self._parts = list(self._opened_parts(self.descriptor))

    def _opened_parts(self, descriptor: Descriptor) -> Iterator[Part]:
        offset = 0
        for line in descriptor.extents:
            reader, source = open_part(self.source, line, self.options)
            if source is not None:
                self.part_sources.append(source)
            yield Part(offset, line.size, reader)
            offset += line.size

    def _open_parent(self, descriptor: Descriptor) -> None:
        names = [] if descriptor.parent_hint is None else [descriptor.parent_hint]
        try:
            if self.options.metadata_only:
                raise UnsafeError(
                    f"needs its parent {escape(names[0] if names else '(no name)')!r}",
                    path=self.path,
                    clause="VMDK-REF-1",
                )
            parent = open_parent(self.source, names, FORMAT, self.options, clauses="VMDK-REF")
        except VmpackError as exc:
            if not self.options.metadata_only:
                raise
            self._refusal = exc
            return
        self.backing = parent
        self._require_parent(parent, descriptor.parent_cid)
        for part in self._parts:
            if isinstance(part.reader, TableExtent):
                part.reader.backing = Window(parent, part.offset, part.length)

    def _require_parent(self, parent: ImageReader, cid: int) -> None:
        assert isinstance(parent, VmdkReader)
        found = parent.descriptor
        if found is None or found.cid != cid:
            has = "none" if found is None else f"{found.cid:08x}"
            raise UnsafeError(
                f"needs a parent with the CID {cid:08x}; {escape(parent.path)} has {has}",
                path=self.path,
                field="parentCID",
                clause="VMDK-REF-6",
                hint="name the right one with --parent FILE; one that was written to since is lost",
            )

    def extent_readers(self) -> Sequence[TableExtent | None]:
        """The readers of the image's extents in their order; ``None`` for flat and zero ones."""
        return [
            part.reader if isinstance(part.reader, TableExtent) else None for part in self._parts
        ]

    def require_data(self) -> None:
        """Raise where the image was opened to be described only."""
        if self._refusal is not None:
            raise self._refusal

    def _covering(self, offset: int, length: int) -> Iterator[tuple[Part, int, int]]:
        """The parts of a range: each with the range's piece of it, from the part's own start."""
        self.require_data()
        require_inside(offset, length, self.virtual_size, self.path)
        end = offset + length
        at = max(0, bisect_right(self._starts, offset) - 1)
        while offset < end:
            part = self._parts[at]
            size = min(end, part.offset + part.length) - offset
            if size:
                yield part, offset - part.offset, size
            offset, at = offset + size, at + 1

    def read(self, offset: int, length: int) -> bytes:
        pieces = [
            bytes(size) if part.reader is None else part.reader.read(start, size)
            for part, start, size in self._covering(offset, length)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        self.require_data()
        require_inside(offset, length, self.virtual_size, self.path)
        return coalesce(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for part, start, size in self._covering(offset, length):
            if part.reader is None:
                yield Extent(part.offset + start, size, Kind.ZERO)
                continue
            for one in part.reader.extents(start, size):
                yield Extent(part.offset + one.offset, one.length, one.kind)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for part, start, size in self._covering(offset, length):
            if part.reader is None:
                yield MapRun(part.offset + start, size, 0, data=False)
                continue
            for run in part.reader.map_runs(start, size):
                hole = not run.data and isinstance(part.reader, RawReader)
                yield run._replace(
                    offset=part.offset + run.offset, data=run.data or hole, file_hole=hole
                )

    def info(self) -> ImageInfo:
        from vmpack.formats.vmdk.info import image_info

        return image_info(self)

    def check(self) -> Iterator[Finding]:
        """Opens the extents beside the descriptor where that was not done yet; no parent."""
        from vmpack.formats.vmdk.check import finding

        if self.descriptor is not None and not self._parts:
            try:
                self._parts = list(self._opened_parts(self.descriptor))
            except DamagedError as exc:
                yield finding(exc)
                return
        found = [one for one in self.extent_readers() if one is not None]
        for extent in found:
            yield from extent.check()

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        for source in (*self.part_sources, self.source):
            source.close()

    def __repr__(self) -> str:
        return f"<vmdk {escape(self.path)!r}>"
