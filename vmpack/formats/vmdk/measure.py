"""How large the files of a VMDK would be together: exact, or with compression an upper bound."""

from __future__ import annotations

from vmpack.formats.base import CreateOptions, Measurer
from vmpack.formats.vmdk.describe import describe
from vmpack.formats.vmdk.layout import (
    GRAIN,
    GRAIN_SECTORS,
    SECTOR,
    SPLIT_SECTORS,
    TABLE_ENTRIES,
    TABLE_SECTORS,
    SparseLayout,
)
from vmpack.formats.vmdk.request import STREAM_OPTIMIZED, Identity, Request, read_request


class VmdkMeasurer:
    """Counts grains with data, and the tables that they need.

    Where the descriptor is a file of its own, the image is taken to be called ``disk.vmdk``.
    """

    unit = GRAIN

    def __init__(self, request: Request):
        self._request = request
        self._layout = SparseLayout(request.capacity, descriptor=True)
        self._grains = self._tables = 0
        self._last_table = -1

    def add(self, number: int) -> None:
        self._grains += 1
        table = number // TABLE_ENTRIES
        if table != self._last_table:
            self._last_table = table
            self._tables += 1

    def sizes(self) -> tuple[int, int]:
        return (
            self._size(self._grains, self._tables),
            self._size(self._layout.grains, self._layout.tables),
        )

    def _size(self, grains: int, tables: int) -> int:
        request = self._request
        if request.subformat == STREAM_OPTIMIZED:
            return self._stream_sectors(grains, tables) * SECTOR
        if request.flat:
            return request.capacity * SECTOR + self._descriptor()
        if request.split:
            return (self._split_overhead() + grains * GRAIN_SECTORS) * SECTOR + self._descriptor()
        if not self._layout.fixed_tables:
            grains += tables
        return (self._layout.overhead + grains * GRAIN_SECTORS) * SECTOR

    def _stream_sectors(self, grains: int, tables: int) -> int:
        from vmpack.formats.vmdk.stream import HEAD_SECTORS, MAX_GRAIN_SECTORS

        directory = 1 + self._layout.directory_sectors
        return (
            HEAD_SECTORS
            + grains * MAX_GRAIN_SECTORS
            + tables * (1 + TABLE_SECTORS)
            + directory
            + 3  # footer and its marker, end of stream
        )

    def _split_overhead(self) -> int:
        whole, rest = divmod(self._request.capacity, SPLIT_SECTORS)
        last = SparseLayout(rest, descriptor=False).overhead if rest else 0
        return whole * SparseLayout(SPLIT_SECTORS, descriptor=False).overhead + last

    def _descriptor(self) -> int:
        from vmpack.formats.vmdk.writer import extents_of

        nobody = Identity(0, "0" * 32, bytes(16))
        return len(describe(self._request, nobody, extents_of(self._request)))


def create(options: CreateOptions) -> Measurer:
    """The registry's measurer; raises as :func:`read_request` does."""
    return VmdkMeasurer(read_request(options))
