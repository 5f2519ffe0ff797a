"""Reads VHD images: fixed, dynamic, and differencing with their parents. Profile: specs/vhd.md."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.errors import DamagedError, UsageError, VmpackError
from vmpack.extent import Extent, coalesce
from vmpack.formats.base import Finding, ImageInfo, ImageReader, MapRun, OpenOptions
from vmpack.formats.mapped import DATA, HOLE, MappedReader, Run
from vmpack.formats.raw import BLOCK, RawReader
from vmpack.formats.vhd.footer import Found, disk_size, find_footer
from vmpack.formats.vhd.format import FORMAT
from vmpack.formats.vhd.structs import SECTOR, TYPE_DIFFERENCING, TYPE_FIXED
from vmpack.formats.vhd.table import SAME_BITS, BlockTable, load_header
from vmpack.source import ByteSource


def open_vhd(source: ByteSource, options: OpenOptions) -> FixedReader | SparseReader:
    """A reader of the image; takes ownership of ``source``, also when it raises.

    Raises :class:`DamagedError` and :class:`UnsupportedError` for what breaks the format or is not
    read, :class:`UnsafeError` for a differencing disk whose parent the caller did not allow.
    """
    try:
        if options.snapshot is not None:
            raise UsageError("a VHD has no snapshots", path=source.path)
        found = find_footer(source)
        if found.footer.disk_type == TYPE_FIXED:
            return FixedReader(source, found)
        return SparseReader(source, found, options)
    except BaseException:
        source.close()
        raise


class FixedReader:
    """A fixed disk: its bytes as they are, then the footer."""

    def __init__(self, source: ByteSource, found: Found):
        self.format = FORMAT
        self.path = source.path
        self.source = source
        self.found = found
        self.virtual_size, self.size_from = disk_size(found.footer)
        self.cluster_size = BLOCK
        if self.virtual_size > found.end:
            raise DamagedError(
                f"its disk has {self.virtual_size} bytes, the file {found.end} before its footer",
                path=source.path,
                offset=found.end,
                clause="VHD-SIZE-2",
            )
        self._disk = RawReader(source.slice(0, self.virtual_size))

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        return coalesce(self._disk.extents(offset, length))

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        return self._disk.map_runs(offset, length)

    def info(self) -> ImageInfo:
        from vmpack.formats.vhd.info import fixed_info

        return fixed_info(self)

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.vhd.check import check_fixed

        return check_fixed(self)

    def close(self) -> None:
        self.source.close()

    def __repr__(self) -> str:
        return f"<fixed vhd {escape(self.path)!r}, {self.virtual_size} bytes>"


class SparseReader(MappedReader):
    """A dynamic or differencing disk. Opening reads footers and header only."""

    def __init__(self, source: ByteSource, found: Found, options: OpenOptions):
        self.format = FORMAT
        self.path = source.path
        self.source = source
        self.found = found
        self.virtual_size, self.size_from = disk_size(found.footer)
        self.header = load_header(source, found)
        self.cluster_size = self.header.block_size
        self.table = BlockTable(source, found, self.header)
        self.differencing = found.footer.disk_type == TYPE_DIFFERENCING
        self._refusal: VmpackError | None = None
        if self.differencing:
            try:
                self.backing = self._open_parent(options)
            except VmpackError as exc:
                if not options.metadata_only:
                    raise
                self._refusal = exc

    def _open_parent(self, options: OpenOptions) -> ImageReader:
        from vmpack.formats.backing import open_parent
        from vmpack.formats.vhd.parent import parent_names

        names = parent_names(self.source, self.header)
        parent = open_parent(self.source, names, FORMAT, options, clauses="VHD-REF")
        assert isinstance(parent, FixedReader | SparseReader)
        if parent.found.footer.unique_id != self.header.parent_unique_id:
            found = parent.found.footer.uuid
            parent.close()
            raise DamagedError(
                f"{escape(parent.path)} is not its parent: it has another unique id, {found}",
                path=self.path,
                offset=self.found.footer.data_offset + 40,
                clause="VHD-REF-4",
                hint="name the disk that this one was made from: --parent FILE",
            )
        return parent

    def require_data(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        if not length:
            return
        block, bitmap = self.table.block_size, self.table.bitmap_size
        first, end = offset // block, -(-(offset + length) // block)
        for number, count, where in self.table.runs(first, end):
            guest = number * block
            if where is None:
                yield Run(guest, count * block, HOLE)
            elif self.differencing:
                yield from self._sectors(guest, where, offset, offset + length)
            else:
                yield Run(guest, block, DATA, where + bitmap)

    def _sectors(self, guest: int, where: int, low: int, high: int) -> Iterator[Run]:
        """Runs of a differencing disk's block, its own sectors and its parent's.

        Those that lie in the guest's range ``[low, high)``, in part at least.
        """
        size = self.table.bitmap_size
        bits = int.from_bytes(self.source.pread(where, size), "big")
        text = f"{bits:0{8 * size}b}"
        first = max(0, low - guest) // SECTOR
        end = -(-min(self.table.block_size, high - guest) // SECTOR)
        for same in SAME_BITS.finditer(text, first, end):
            start, length = same.start() * SECTOR, (same.end() - same.start()) * SECTOR
            if text[same.start()] == "1":
                yield Run(guest + start, length, DATA, where + size + start)
            else:
                yield Run(guest + start, length, HOLE)

    def info(self) -> ImageInfo:
        from vmpack.formats.vhd.info import sparse_info

        return sparse_info(self)

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.vhd.check import check_sparse

        return check_sparse(self)

    def __repr__(self) -> str:
        return f"<vhd {escape(self.path)!r}, {self.virtual_size} bytes>"
