"""Hosted sparse extents and stream-optimized ones: the header KDMV.

Source: VMware, Virtual Disk Format 1.1 and 5.0, "Hosted Sparse Extents", "Stream-Optimized
Compressed Sparse Extents". Profile: specs/vmdk.md, VMDK-SPARSE and VMDK-STREAM.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from vmpack.binary import reject_unknown
from vmpack.errors import UnsupportedError
from vmpack.formats.base import Finding
from vmpack.formats.mapped import COMPRESSED, Run
from vmpack.formats.vmdk import structs
from vmpack.formats.vmdk.descriptor import MAX_BYTES, SIGNATURE, Descriptor, parse
from vmpack.formats.vmdk.structs import SECTOR, Marker, SparseHeader
from vmpack.formats.vmdk.tables import MAX_TABLES, Span, TableExtent, load_words, word_runs
from vmpack.source import ByteSource

EMPTY_DISK_SECTORS = 21
"""Header and descriptor of a disk of no sectors."""
_SAME = ("version", "flags", "capacity", "grain_size", "num_gtes_per_gt", "compress_algorithm")


class SparseExtent(TableExtent):
    """One extent with the header KDMV. Opening reads the header, and a stream's footer."""

    kind = "SPARSE"

    def __init__(self, source: ByteSource):
        super().__init__(source)
        self.header = SparseHeader.decode(source.pread_padded(0, SECTOR), path=source.path)
        self._check_header(self.header)
        self.footer = self.header.gd_offset == structs.GD_AT_END
        self.tables = self._read_footer() if self.footer else self.header
        self.compressed = bool(self.header.flags & structs.FLAG_COMPRESSED)
        self.dirty = self.header.unclean_shutdown != 0
        self.descriptor_span = self._descriptor_span()
        self.set_up(
            capacity=self.header.capacity,
            grain=self.header.grain_size,
            entries=self.header.num_gtes_per_gt,
            spans=((0, SECTOR), self.descriptor_span),
        )
        self.directory_bytes = self.directory_entries * 4
        if self.directory_entries > MAX_TABLES:
            raise self.damaged(f"a directory of {self.directory_entries} tables", "SPARSE-4")
        self.spans = (*self.spans, *self._places())

    def _check_header(self, header: SparseHeader) -> None:
        if not 1 <= header.version <= 3:
            raise UnsupportedError(
                f"sparse extent of version {header.version}",
                path=self.path,
                offset=4,
                clause="VMDK-SPARSE-1",
            )
        known = structs.FLAG_COMPRESSED | structs.FLAG_MARKERS
        reject_unknown(
            header.flags & structs.INCOMPATIBLE_FLAGS,
            known,
            {},
            what="sparse extent flag",
            path=self.path,
            offset=8,
            clause="VMDK-SPARSE-2",
        )
        if header.flags & structs.FLAG_NEWLINES and header.newlines != structs.NEWLINES:
            raise self.damaged("was changed by a transfer as text", "SPARSE-3", 73)
        if not 1 <= header.num_gtes_per_gt <= 512:
            raise self.damaged(f"{header.num_gtes_per_gt} entries in a table", "SPARSE-4", 44)
        if header.grain_size == 0:
            raise self.damaged("a grain of 0 sectors", "MAP-1", 20)
        self._check_compression(header)

    def _check_compression(self, header: SparseHeader) -> None:
        if header.compress_algorithm not in (structs.COMPRESSION_NONE, structs.COMPRESSION_DEFLATE):
            raise UnsupportedError(
                f"compression algorithm {header.compress_algorithm}",
                path=self.path,
                offset=77,
                clause="VMDK-STREAM-1",
            )
        compressed = bool(header.flags & structs.FLAG_COMPRESSED)
        if compressed != (header.compress_algorithm == structs.COMPRESSION_DEFLATE):
            raise self.damaged("flag and algorithm of compression disagree", "STREAM-1", 77)
        if compressed != bool(header.flags & structs.FLAG_MARKERS):
            raise UnsupportedError(
                "compressed grains without markers"
                if compressed
                else "markers without compression",
                path=self.path,
                offset=8,
                clause="VMDK-STREAM-1",
            )
        if header.gd_offset == structs.GD_AT_END and not compressed:
            raise self.damaged("only a stream has its directory at the end", "STREAM-2", 56)

    def _read_footer(self) -> SparseHeader:
        """The footer: marker, header with the directory's place, end-of-stream marker."""
        size = self.source.size
        if size % SECTOR or size < 4 * SECTOR:
            raise self.damaged(f"a stream of {size} bytes has no footer", "STREAM-2")
        raw = self.source.pread(size - 3 * SECTOR, 3 * SECTOR)
        before = Marker.decode(raw, path=self.path, offset=size - 3 * SECTOR)
        after = Marker.decode(raw[2 * SECTOR :], path=self.path, offset=size - SECTOR)
        if (before.size, before.type) != (0, structs.MARKER_FOOTER):
            raise self.damaged("no footer at its end: cut short?", "STREAM-2", size - 3 * SECTOR)
        if (after.value, after.size, after.type) != (0, 0, structs.MARKER_END):
            raise self.damaged("does not end with an end marker", "STREAM-2", size - SECTOR)
        place = size - 2 * SECTOR
        footer = SparseHeader.decode(raw[SECTOR:], path=self.path, offset=place)
        for name in _SAME:
            if getattr(footer, name) != getattr(self.header, name):
                raise self.damaged(f"header and footer disagree on {name}", "STREAM-3", place)
        if footer.gd_offset == structs.GD_AT_END:
            raise self.damaged("the footer points to a footer", "STREAM-3", place + 56)
        return footer

    def _descriptor_span(self) -> Span:
        offset, size = self.header.descriptor_offset, self.header.descriptor_size
        if offset == 0:
            return self._empty_disk_span()
        if offset != 1 or not 0 < size * SECTOR < MAX_BYTES:
            raise self.damaged(f"a descriptor of {size} sectors at {offset}", "DESC-2", 28)
        if (offset + size) * SECTOR > self.source.size:
            raise self.damaged("the descriptor lies outside the file", "DESC-2", 28)
        return (offset * SECTOR, (offset + size) * SECTOR)

    def _empty_disk_span(self) -> Span:
        """An empty disk's header leaves out where its descriptor is: QEMU would open it alone."""
        high = min(self.source.size, EMPTY_DISK_SECTORS * SECTOR)
        if self.header.capacity or high <= SECTOR:
            return (0, 0)
        begins = self.source.pread_padded(SECTOR, len(SIGNATURE)) == SIGNATURE.encode()
        return (SECTOR, high) if begins else (0, 0)

    def descriptor(self) -> Descriptor | None:
        """The embedded descriptor, if there is one; room for one that is empty is none."""
        low, high = self.descriptor_span
        raw = self.source.pread(low, high - low)
        return parse(raw, path=self.path, offset=low) if raw.lstrip(b"\0") else None

    def _places(self) -> Sequence[Span]:
        """Where the directories are; one that lies outside the file is left out."""
        found = []
        for sector in (self.tables.gd_offset, self._spare_offset()):
            low, high = sector * SECTOR, sector * SECTOR + self.directory_bytes
            if sector and high <= self.source.size:
                found.append((low, high))
        return tuple(found)

    def _spare_offset(self) -> int:
        """Sector of the redundant directory; 0 where there is none."""
        return self.tables.rgd_offset if self.header.flags & structs.FLAG_REDUNDANT else 0

    def load_directory(self) -> array[int]:
        """The directory; a table outside the file is taken from the redundant one."""
        main, spare = self._sectors(self.tables.gd_offset), self._sectors(self._spare_offset())
        if main is None and spare is None:
            raise self.damaged(
                "the grain directory lies outside the file", "SPARSE-5", self._gd_field()
            )
        chosen = main if main is not None else spare
        assert chosen is not None
        limit = (self.source.size - self.table_bytes) // SECTOR
        if main is not None and spare is not None and main and max(main) > limit:
            for number, sector in enumerate(main):
                if sector > limit:
                    chosen[number] = spare[number]
        return array("Q", (sector * SECTOR for sector in chosen))

    def _gd_field(self) -> int:
        return self.source.size - 2 * SECTOR + 56 if self.footer else 56

    def _sectors(self, sector: int) -> array[int] | None:
        """The directory at ``sector`` as it is stored; ``None`` where that is no place for one."""
        low, high = sector * SECTOR, sector * SECTOR + self.directory_bytes
        inside = sector > 0 and high <= self.source.size
        over = any(low < end and begin < high for begin, end in ((0, SECTOR), self.descriptor_span))
        if self.directory_entries and (not inside or over):
            return None
        return load_words(self.source, low, self.directory_entries, "I")

    def table_runs(self, table: array[int], guest: int) -> Iterator[Run]:
        zero = bool(self.header.flags & structs.FLAG_ZERO_GRAINS)
        return word_runs(self, table, guest, zero=zero, compressed=self.compressed)

    def decode(self, runs: list[Run]) -> list[bytes]:
        from vmpack.formats.vmdk.grains import decode_grains

        return decode_grains(self, runs)

    def stored_length(self, run: Run) -> int:
        if run.state != COMPRESSED:
            return run.length
        from vmpack.formats.vmdk.grains import stored_length

        return stored_length(self, run)

    def check_more(self) -> Iterator[Finding]:
        from vmpack.formats.vmdk.check import check_directories, check_markers

        if self._spare_offset():
            main, spare = (
                self._sectors(self.tables.gd_offset),
                self._sectors(self._spare_offset()),
            )
            yield from check_directories(self, main, spare)
        if self.footer:
            yield from check_markers(self)

    def require_no_descriptor(self) -> None:
        """An extent of a disk whose descriptor is a file of its own has none itself."""
        low, high = self.descriptor_span
        if self.source.pread(low, high - low).strip(b"\0"):
            raise self.damaged(
                "is named as an extent and holds a descriptor itself", "DESC-11", SECTOR
            )
