"""Where the parts of a hosted sparse extent lie. Offsets and sizes in sectors of 512 bytes.

Source: VMware Virtual Disk Format 5.0, "Hosted Sparse Extents".
"""

from __future__ import annotations

from dataclasses import dataclass

from vmpack.units import round_up

SECTOR = 512
GRAIN_SECTORS = 128
GRAIN = GRAIN_SECTORS * SECTOR
"""Bytes of a grain: VMware's default, and the only size that its products write."""
TABLE_ENTRIES = 512
TABLE_SECTORS = TABLE_ENTRIES * 4 // SECTOR
DESCRIPTOR_OFFSET = 1
DESCRIPTOR_SECTORS = 20
MAX_SECTORS = 1 << 32
"""Tables hold sector numbers of 32 bits: no sparse extent's file can be larger than 2 TiB."""
SPLIT_SECTORS = 4_192_256
"""2,047 MiB: what VMware puts into each extent of a twoGbMaxExtent disk."""


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """The metadata of a sparse extent of ``capacity`` sectors, before its first grain.

    A copy of the grain directory and its tables comes first, then the ones in use. All tables have
    their place from the start, as VMware's products expect; only where the extent is larger than
    2 TiB (which those products do not make as sparse extents) a table is written behind its grains
    and only if it maps any: an empty disk of 64 TiB would begin with 8 GiB of nothing.
    """

    capacity: int
    descriptor: bool
    """The extent holds the image's descriptor."""

    @property
    def grains(self) -> int:
        return -(-self.capacity // GRAIN_SECTORS)

    @property
    def tables(self) -> int:
        return -(-self.grains // TABLE_ENTRIES)

    @property
    def directory_sectors(self) -> int:
        return -(-self.tables * 4 // SECTOR)

    @property
    def fixed_tables(self) -> bool:
        """Every grain table has its place behind its directory."""
        return self.capacity <= MAX_SECTORS

    @property
    def spare_directory(self) -> int:
        """Where the redundant grain directory is."""
        return DESCRIPTOR_OFFSET + DESCRIPTOR_SECTORS if self.descriptor else 1

    @property
    def directory(self) -> int:
        return self.spare_directory + self._block

    @property
    def overhead(self) -> int:
        """Sectors before the first grain."""
        return round_up(self.directory + self._block, GRAIN_SECTORS)

    @property
    def _block(self) -> int:
        """Sectors of a directory and the tables that have their place behind it."""
        tables = self.tables * TABLE_SECTORS if self.fixed_tables else 0
        return self.directory_sectors + tables

    def table(self, directory: int, number: int) -> int:
        """Where table ``number`` of that directory is, in an extent with fixed tables."""
        return directory + self.directory_sectors + number * TABLE_SECTORS
