"""Writes monolithicSparse and twoGbMaxExtentSparse images: grains as they come, tables beside them.

Profile: specs/vmdk.md, VMDK-WRITE-*.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vmpack.content_seed import ContentSeed
from vmpack.errors import UnsupportedError
from vmpack.formats.base import Job
from vmpack.formats.vmdk.layout import (
    GRAIN,
    GRAIN_SECTORS,
    MAX_SECTORS,
    SECTOR,
    TABLE_ENTRIES,
    SparseLayout,
)

_ZERO_GRAIN = bytes(GRAIN)
_ENTRY = "I"
assert array(_ENTRY).itemsize == 4


class Run(NamedTuple):
    """Whole grains with data, from grain ``first`` of the disk (its end may cut the last)."""

    first: int
    data: memoryview


def data_runs(offset: int, data: bytes) -> list[Run]:
    """The runs of grains in ``data`` that are not all zero; ``offset`` is a multiple of a grain."""
    view = memoryview(data)
    first = offset // GRAIN
    runs: list[Run] = []
    start = 0
    for begin in _zero_grains(data, view):
        if begin > start:
            runs.append(Run(first + start // GRAIN, view[start:begin]))
        start = min(begin + GRAIN, len(data))
    if start < len(data):
        runs.append(Run(first + start // GRAIN, view[start:]))
    return runs


def _zero_grains(data: bytes, view: memoryview) -> Iterator[int]:
    """Where grains begin that are all zero, ascending."""
    whole = len(data) // GRAIN * GRAIN
    # Each grain's first eight bytes, in one call: most grains with data begin with some.
    heads = view[:whole].cast("Q")[:: GRAIN // 8].tolist() if whole else []
    for number, head in enumerate(heads):
        if head == 0 and view[number * GRAIN : (number + 1) * GRAIN] == _ZERO_GRAIN:
            yield number * GRAIN
    tail = len(data) - whole
    if tail and data.endswith(bytes(tail)):
        yield whole


def table_bytes(entries: array[int]) -> bytes:
    """Entries as a grain table or directory has them: 32 bits, little-endian."""
    if sys.byteorder == "big":
        entries = array(_ENTRY, entries)
        entries.byteswap()
    return entries.tobytes()


class SparseExtent:
    """One sparse extent under construction in the file ``fd``. Memory: 8 bytes for each table."""

    def __init__(self, fd: int, layout: SparseLayout):
        self.layout = layout
        self.fd = fd
        self._position = layout.overhead
        """Sector at which the next grain goes."""
        self._number = -1
        self._entries = array(_ENTRY)
        self._spare_tables = array(_ENTRY)
        self._tables = array(_ENTRY)
        if not layout.fixed_tables:
            self._spare_tables = array(_ENTRY, bytes(4 * layout.tables))
            self._tables = array(_ENTRY, bytes(4 * layout.tables))

    def place(self, first: int, data: memoryview) -> Iterator[Job]:
        """Writes that put ``data`` behind what there is, as grains from ``first`` on."""
        while data:
            number, slot = divmod(first, TABLE_ENTRIES)
            if number != self._number:
                yield from self._end_table()
                self._number = number
                self._entries = array(_ENTRY, bytes(4 * TABLE_ENTRIES))
            piece = data[: (TABLE_ENTRIES - slot) * GRAIN]
            count = -(-len(piece) // GRAIN)
            end = self._position + count * GRAIN_SECTORS
            require_room(end)
            self._entries[slot : slot + count] = array(
                _ENTRY, range(self._position, end, GRAIN_SECTORS)
            )
            yield Job(self._position * SECTOR, piece, self.fd)
            self._position = end
            first, data = first + count, data[len(piece) :]

    def _end_table(self) -> Iterator[Job]:
        """Writes of the table under way, which is complete: grains arrive in ascending order."""
        if self._number < 0:
            return
        table, layout = table_bytes(self._entries), self.layout
        if layout.fixed_tables:
            for directory in (layout.spare_directory, layout.directory):
                at = layout.table(directory, self._number)
                yield Job(at * SECTOR, table, self.fd)
            return
        at = self._position
        # A whole grain's room, so that grains stay at multiples of one.
        self._position += GRAIN_SECTORS
        require_room(self._position)
        self._spare_tables[self._number] = at
        self._tables[self._number] = at + GRAIN_SECTORS // 2
        yield Job(at * SECTOR, table, self.fd)
        yield Job((at + GRAIN_SECTORS // 2) * SECTOR, table, self.fd)

    def finish(self) -> Iterator[Job]:
        """Writes of what is left but the header, which makes the rest valid."""
        yield from self._end_table()
        os.ftruncate(self.fd, self._position * SECTOR)
        layout = self.layout
        for directory, tables in (
            (layout.spare_directory, self._spare_tables),
            (layout.directory, self._tables),
        ):
            if layout.fixed_tables:
                begin = layout.table(directory, 0)
                step = layout.table(directory, 1) - begin
                entries = array(_ENTRY, range(begin, begin + step * layout.tables, step))
                yield Job(directory * SECTOR, table_bytes(entries), self.fd)
            else:
                yield from self._used(directory * SECTOR, table_bytes(tables))

    def _used(self, offset: int, directory: bytes) -> Iterator[Job]:
        """The pages of a large directory that have an entry; the others stay holes."""
        page = 4096
        for start in range(0, len(directory), page):
            piece = directory[start : start + page]
            if piece.count(0) != len(piece):
                yield Job(offset + start, piece, self.fd)


def put(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; raises :class:`OSError`."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def require_room(end: int) -> None:
    """Raise :class:`UnsupportedError` when an extent would end behind sector 2**32."""
    if end > MAX_SECTORS:
        raise UnsupportedError(
            "a sparse VMDK extent holds at most 2 TiB of data",
            hint="choose -o subformat=monolithicFlat or twoGbMaxExtentSparse, or -O qcow2",
        )


class SparseWriter:
    """An image of one or more sparse extents.

    ``extents`` cover the disk in order, each ``step`` grains but the last; ``close`` writes the
    descriptor and the headers once everything else is in its place.
    """

    unit = GRAIN

    def __init__(
        self,
        extents: Sequence[SparseExtent],
        step: int,
        seed: ContentSeed | None,
        close: Callable[[], None],
    ):
        self.seed = seed
        self._extents = extents
        self._step = step
        self._close = close

    def prepare(self, offset: int, data: bytes) -> object:
        return data_runs(offset, data)

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, list)
        return [job for run in prepared for job in self._place(run)]

    def _place(self, run: Run) -> Iterator[Job]:
        first, data = run
        while data:
            number, grain = divmod(first, self._step)
            piece = data[: (self._step - grain) * GRAIN]
            yield from self._extents[number].place(grain, piece)
            first, data = first + -(-len(piece) // GRAIN), data[len(piece) :]

    def finish(self) -> None:
        for extent in self._extents:
            for job in extent.finish():
                put(extent.fd, job.data, job.offset)
        self._close()
