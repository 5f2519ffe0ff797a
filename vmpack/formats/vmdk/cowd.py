"""ESX Server sparse extents (copy-on-write disks): the header COWD.

Source: VMware, Virtual Disk Format 1.1, "ESX Server Sparse Extents". Profile: specs/vmdk.md,
VMDK-COWD.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from vmpack.errors import UnsupportedError
from vmpack.formats.mapped import Run
from vmpack.formats.vmdk import structs
from vmpack.formats.vmdk.structs import SECTOR, CowdHeader
from vmpack.formats.vmdk.tables import MAX_TABLES, TableExtent, load_words, word_runs
from vmpack.source import ByteSource

HEADER_BYTES = 2048
_INCONSISTENT = 1 << 2


class CowdExtent(TableExtent):
    """One extent with the header COWD. Opening reads the header."""

    kind = "VMFSSPARSE"

    def __init__(self, source: ByteSource):
        super().__init__(source)
        raw = source.pread(0, min(HEADER_BYTES, source.size))
        self.header = header = CowdHeader.decode(raw, path=source.path)
        if header.version != 1:
            raise UnsupportedError(
                f"copy-on-write extent of version {header.version}",
                path=self.path,
                offset=4,
                clause="VMDK-COWD-1",
            )
        if header.flags & _INCONSISTENT:
            raise self.damaged("is marked inconsistent", "COWD-1", 8)
        self.dirty = header.unclean_shutdown != 0
        self.set_up(
            capacity=header.capacity,
            grain=header.grain_size,
            entries=structs.COWD_ENTRIES,
            spans=((0, HEADER_BYTES),),
        )
        self._check_directory()

    @property
    def root(self) -> bool:
        """The extent says that it needs no parent."""
        return bool(self.header.flags & structs.COWD_ROOT)

    def _check_directory(self) -> None:
        count = self.directory_entries
        low = self.header.gd_offset * SECTOR
        if self.header.gd_entries < count:
            raise self.damaged(
                f"{self.header.gd_entries} tables for a disk of {count}", "COWD-2", 24
            )
        if count > MAX_TABLES or low + count * 4 > self.source.size or low < HEADER_BYTES:
            raise self.damaged(f"a directory of {count} tables at {low}", "COWD-2", 20)
        self.spans = (*self.spans, (low, low + count * 4))

    def load_directory(self) -> array[int]:
        low = self.header.gd_offset * SECTOR
        sectors = load_words(self.source, low, self.directory_entries, "I")
        return array("Q", (sector * SECTOR for sector in sectors))

    def table_runs(self, table: array[int], guest: int) -> Iterator[Run]:
        return word_runs(self, table, guest, zero=False, compressed=False)
