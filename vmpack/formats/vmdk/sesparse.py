"""Space-efficient sparse extents of ESXi (seSparse), the form of snapshots since VMFS 6.

VMware does not document them. Sources: QEMU, block/vmdk.c ("ESXi seSparse Extent"), and an extent
that ESXi wrote. Profile: specs/vmdk.md, VMDK-SE.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from vmpack.errors import UnsupportedError
from vmpack.formats.mapped import DATA, HOLE, ZERO, Run
from vmpack.formats.vmdk import structs
from vmpack.formats.vmdk.structs import SECTOR, SeSparseHeader, SeSparseVolatile
from vmpack.formats.vmdk.tables import MAX_TABLES, TableExtent, load_words
from vmpack.source import ByteSource

GRAIN = 8
TABLE_SECTORS = 64
ENTRIES = TABLE_SECTORS * SECTOR // 8
TABLE_PRESENT = 0x1000_0000 << 32
"""The upper half of a directory's entry; the lower is the table's number."""
_HOLE, _UNMAPPED, _ZERO, _DATA = range(4)
"""What an entry's top four bits say."""
_STEP = 1 << 48
"""From an entry to that of the next grain of the file, within 4,096 of them."""


def entry_index(entry: int) -> int:
    """The number of the grain of the file that an entry names: its low 12 bits stand on top."""
    return (entry >> 48 & 0xFFF) | (entry & (_STEP - 1)) << 12


class SeSparseExtent(TableExtent):
    """One seSparse extent. Opening reads its two headers."""

    kind = "SESPARSE"
    word = "Q"

    def __init__(self, source: ByteSource):
        super().__init__(source)
        raw = source.pread(0, min(SECTOR, source.size))
        self.header = SeSparseHeader.decode(raw, path=source.path)
        self._check_header()
        self._check_volatile()
        header = self.header
        self.set_up(
            capacity=header.capacity,
            grain=header.grain_size,
            entries=ENTRIES,
            spans=(
                (0, SECTOR),
                self._span("volatile header", header.volatile_offset, header.volatile_size),
                self._span("grain directory", header.gd_offset, header.gd_size),
            ),
        )
        count = self.directory_entries
        if count > min(header.gd_size * SECTOR // 8, MAX_TABLES):
            raise self.damaged(f"a directory too small for {count} tables", "SE-3", 136)

    def _check_header(self) -> None:
        header = self.header
        wrong = [
            f"{name} {getattr(header, name):#x}"
            for name, wanted in (
                ("version", structs.SESPARSE_VERSION),
                ("grain_size", GRAIN),
                ("grain_table_size", TABLE_SECTORS),
                ("flags", 0),
            )
            if getattr(header, name) != wanted
        ]
        wrong += ["reserved fields"] * any(header.reserved) + ["padding"] * any(header.pad)
        if wrong:
            raise UnsupportedError(
                f"seSparse extent with {', '.join(wrong)}",
                path=self.path,
                offset=0,
                clause="VMDK-SE-1",
            )

    def _check_volatile(self) -> None:
        low, high = self._span("volatile header", self.header.volatile_offset, 1)
        found = SeSparseVolatile.decode(
            self.source.pread(low, high - low), path=self.path, offset=low
        )
        if found.replay_journal:
            raise UnsupportedError(
                "seSparse extent with a journal to replay",
                path=self.path,
                offset=low + 24,
                clause="VMDK-SE-2",
                hint="start and stop the virtual machine on ESXi, or clone its disk there",
            )

    def _span(self, what: str, offset: int, size: int) -> tuple[int, int]:
        low, high = offset * SECTOR, (offset + size) * SECTOR
        if not offset or high > self.source.size:
            raise self.damaged(f"the {what} lies outside the file", "SE-3", 0)
        return low, high

    def load_directory(self) -> array[int]:
        header = self.header
        entries = load_words(self.source, header.gd_offset * SECTOR, self.directory_entries, "Q")
        limit = header.tables_size // TABLE_SECTORS
        places = array("Q", bytes(8 * len(entries)))
        for number, entry in enumerate(entries):
            if not entry:
                continue
            table = entry ^ TABLE_PRESENT
            place = (header.tables_offset + table * TABLE_SECTORS) * SECTOR
            if table >= min(limit, 1 << 32) or place > self.source.size:
                raise self.damaged(
                    f"entry {number} of the directory is 0x{entry:016x}",
                    "SE-4",
                    header.gd_offset * SECTOR + number * 8,
                )
            places[number] = place
        return places

    def table_runs(self, table: array[int], guest: int) -> Iterator[Run]:
        size = self.cluster_size
        count, index = len(table), 0
        while index < count:
            entry, begin = table[index], index
            index += 1
            at = guest + begin * size
            state = entry >> 60
            if state == _DATA:
                follows = entry + _STEP
                while index < count and table[index] == follows and follows >> 60 == _DATA:
                    index, follows = index + 1, follows + _STEP
                yield self._data(entry, at, index - begin)
                continue
            if state > _DATA or (state == _HOLE and entry):
                raise self.damaged(f"guest offset {at}: entry 0x{entry:016x}", "SE-5")
            while index < count and table[index] == entry:
                index += 1
            yield Run(at, (index - begin) * size, ZERO if state else HOLE)

    def _data(self, entry: int, guest: int, count: int) -> Run:
        first = entry_index(entry)
        if (first + count) * GRAIN > self.header.grains_size:
            raise self.damaged(f"guest offset {guest}: entry 0x{entry:016x}", "SE-5")
        host = (self.header.grains_offset + first * GRAIN) * SECTOR
        return self.checked(Run(guest, count * self.cluster_size, DATA, host))
