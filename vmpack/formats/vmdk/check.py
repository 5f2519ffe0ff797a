"""Checks the structures of an extent: bounds, overlaps, copies that must agree, markers.

Profile: specs/vmdk.md, VMDK-CHECK.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.base import Finding
from vmpack.formats.mapped import COMPRESSED, DATA, Run
from vmpack.formats.vmdk import structs
from vmpack.formats.vmdk.structs import SECTOR, Marker
from vmpack.formats.vmdk.tables import load_words

if TYPE_CHECKING:
    from vmpack.formats.vmdk.sparse import SparseExtent
    from vmpack.formats.vmdk.tables import TableExtent

MAX_RANGES = 2_000_000
"""Pieces of the file that are kept to find overlaps: about 110 MiB of memory."""
_WIDTH = 64
_MASK = (1 << _WIDTH) - 1


class _Ranges:
    """Pieces of a file that are in use; neighbours are joined as they come."""

    def __init__(self, path: str):
        self._path = path
        # Start and end in one number: half of what a tuple of them takes.
        self._pieces: list[int] = []
        self._low = self._high = 0

    def add(self, low: int, high: int) -> None:
        if low == self._high:
            self._high = high
            return
        self._keep()
        self._low, self._high = low, high

    def _keep(self) -> None:
        if self._high > self._low:
            self._pieces.append(self._low << _WIDTH | self._high)
        if len(self._pieces) > MAX_RANGES:
            raise UnsupportedError(
                f"checking an extent in more than {MAX_RANGES} pieces",
                path=self._path,
                clause="VMDK-CHECK-1",
                hint="convert the image: reading checks every table and grain it uses",
            )

    def overlaps(self) -> Iterator[int]:
        """Where pieces overlap the ones before them, ascending."""
        self._keep()
        self._pieces.sort()
        end = 0
        for piece in self._pieces:
            low, high = piece >> _WIDTH, piece & _MASK
            if low < end:
                yield low
            end = max(end, high)


def finding(error: DamagedError) -> Finding:
    """What a check reports of an error that reading would have ended with."""
    return Finding("corruption", error.message, error.offset, clause=error.clause)


def check_extent(extent: TableExtent) -> Iterator[Finding]:
    """Every table and every grain's place, whole markers too; data is not decoded."""
    ranges = _Ranges(extent.path)
    for low, high in extent.spans:
        ranges.add(low, high)
    try:
        directory = extent.directory()
    except DamagedError as exc:
        yield finding(exc)
        return
    for number, place in enumerate(directory):
        if place:
            yield from _check_table(extent, number, place, ranges)
    for place in ranges.overlaps():
        yield Finding(
            "corruption",
            "two grains or tables of the image share their place",
            extent.source.base + place,
            clause="VMDK-CHECK-1",
        )
    yield from extent.check_more()


def _check_table(
    extent: TableExtent, number: int, place: int, ranges: _Ranges
) -> Iterator[Finding]:
    base = number * extent.coverage
    try:
        extent.require_free(place, extent.table_bytes, f"grain table {number}", "MAP-3")
        ranges.add(place, place + extent.table_bytes)
        table = extent.table(number, place)
    except DamagedError as exc:
        yield finding(exc)
        return
    if table is None:
        return
    used = -(-min(extent.coverage, extent.capacity - base) // extent.cluster_size)
    try:
        runs = list(extent.table_runs(table[:used], base))
    except DamagedError:
        runs = []
        for index in range(used):
            guest = base + index * extent.cluster_size
            try:
                runs += extent.table_runs(table[index : index + 1], guest)
            except DamagedError as exc:
                yield finding(exc)
    yield from _check_runs(extent, runs, ranges)


def _check_runs(extent: TableExtent, runs: list[Run], ranges: _Ranges) -> Iterator[Finding]:
    for run in runs:
        if run.state not in (DATA, COMPRESSED):
            continue
        try:
            length = extent.stored_length(run)
        except DamagedError as exc:
            yield finding(exc)
            continue
        ranges.add(run.host, run.host + length)


def check_directories(
    extent: SparseExtent, main: array[int] | None, spare: array[int] | None
) -> Iterator[Finding]:
    """The redundant directory leads to tables equal to those of the first."""
    for found, name in ((main, "grain directory"), (spare, "redundant grain directory")):
        if found is None:
            yield Finding(
                "corruption", f"the {name} lies outside the file", 0, clause="VMDK-SPARSE-5"
            )
    if main is None or spare is None:
        return
    limit = (extent.source.size - extent.table_bytes) // SECTOR
    for number, (first, second) in enumerate(zip(main, spare, strict=True)):
        if first == second:
            continue
        if max(first, second) > limit:
            where = f"table {number} lies outside the file in one of the grain directories"
            yield Finding("corruption", where, clause="VMDK-SPARSE-5")
        elif not _equal_tables(extent, number, first, second):
            where = f"table {number} and its redundant copy differ"
            yield Finding("corruption", where, second * SECTOR, clause="VMDK-SPARSE-6")


def _equal_tables(extent: SparseExtent, number: int, first: int, second: int) -> bool:
    tables = []
    for sector in (first, second):
        table = extent.table(number, sector * SECTOR)
        tables.append(table or load_words(extent.source, 0, 0, "I"))
    return tables[0] == tables[1]


def check_markers(extent: SparseExtent) -> Iterator[Finding]:
    """A stream has a marker before its directory and before each of its tables."""
    sector = extent.tables.gd_offset
    wanted = [(sector, structs.MARKER_DIRECTORY, -(-extent.directory_bytes // SECTOR))]
    size = -(-extent.table_bytes // SECTOR)
    wanted += [
        (place // SECTOR, structs.MARKER_TABLE, size) for place in extent.directory() if place
    ]
    for sector, kind, length in wanted:
        offset = (sector - 1) * SECTOR
        if not 0 < offset <= extent.source.size - SECTOR:
            continue
        found = Marker.decode(extent.source.pread(offset, SECTOR), path=extent.path, offset=offset)
        if (found.value, found.size, found.type) != (length, 0, kind):
            what = "grain directory" if kind == structs.MARKER_DIRECTORY else "grain table"
            yield Finding(
                "corruption", f"no marker before the {what}", offset, clause="VMDK-CHECK-2"
            )
