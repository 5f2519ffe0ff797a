"""Checks a VHD's structures: footers, every block's place, every sector bitmap.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0. Profile: specs/vhd.md,
VHD-CHECK.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.formats.base import Finding
from vmpack.formats.vhd.footer import Found
from vmpack.formats.vhd.parent import locator_fault
from vmpack.formats.vhd.structs import FOOTER_SIZE, SECTOR, UNUSED
from vmpack.formats.vhd.table import SAME_BITS
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.formats.vhd.reader import FixedReader, SparseReader

_PIECE = 4096
"""Sectors that are read at a time."""


def check_fixed(reader: FixedReader) -> Iterator[Finding]:
    """A fixed disk has its bytes and a footer, and nothing between them."""
    size, end = reader.found.footer.current_size, reader.found.end
    if size > end:
        yield _damage(
            f"the footer says {size} bytes, {end} lie before it", end, clause="VHD-SIZE-2"
        )
    elif size < end:
        yield Finding(
            "leak",
            f"{end - size} bytes between the disk's {size} bytes and its footer",
            size,
            clause="VHD-CHECK-2",
        )


def check_sparse(reader: SparseReader) -> Iterator[Finding]:
    """Everything that is inconsistent in a dynamic or differencing disk."""
    yield from _footers(reader.source, reader.found)
    if reader.differencing:
        for number, locator in enumerate(reader.header.locators):
            fault = locator_fault(reader.source, locator)
            if fault is not None:
                where = reader.found.footer.data_offset + 576 + 24 * number
                yield _damage(f"parent locator {number} {fault}", where, clause="VHD-REF-2")
    yield from _blocks(reader)


def _footers(source: ByteSource, found: Found) -> Iterator[Finding]:
    if found.problem is not None:
        yield _damage(
            f"{found.problem.message}; the copy at the file's start is used",
            found.problem.offset,
            clause="VHD-FTR-3",
        )
        return
    end = source.pread(found.end, min(FOOTER_SIZE, source.size - found.end))
    copy = source.pread(0, FOOTER_SIZE)
    if end.ljust(FOOTER_SIZE, b"\0") != copy:
        different = sum(a != b for a, b in zip(end.ljust(FOOTER_SIZE, b"\0"), copy, strict=True))
        yield _damage(
            f"the footer and its copy at the start differ in {different} bytes",
            0,
            clause="VHD-CHECK-1",
        )


def _blocks(reader: SparseReader) -> Iterator[Finding]:
    table = reader.table
    placed: array[int] = array("I")
    for number, entry in enumerate(table.entries):
        if entry == UNUSED:
            continue
        fault = table.fault(number)
        if fault is not None:
            at = table.header.table_offset + 4 * number
            guest = number * table.block_size
            yield _damage(f"block {number} {fault}", at, guest, "VHD-BAT-2")
            continue
        placed.append(number)
        if not reader.differencing:
            yield from _unset_sectors(reader, number)
    yield from _overlaps(reader, placed)


def _overlaps(reader: SparseReader, placed: array[int]) -> Iterator[Finding]:
    table = reader.table
    entries = table.entries
    span = table.bitmap_size + table.block_size
    end, before = 0, -1
    for number in sorted(placed, key=entries.__getitem__):
        start = entries[number] * SECTOR
        if start < end:
            at = table.header.table_offset + 4 * number
            guest = number * table.block_size
            yield _damage(f"block {number} lies over block {before}", at, guest, "VHD-BAT-3")
        end, before = start + span, number


def _unset_sectors(reader: SparseReader, number: int) -> Iterator[Finding]:
    """Sectors that a dynamic disk's bitmap calls untouched and that are not zero."""
    table = reader.table
    where = table.bitmap_offset(number)
    sectors = -(-table.visible(number) // SECTOR)
    raw = reader.source.pread(where, table.bitmap_size)
    if raw.startswith(b"\xff" * -(-sectors // 8)):
        return
    bits = f"{int.from_bytes(raw, 'big'):0{8 * len(raw)}b}"
    first, count = -1, 0
    for same in SAME_BITS.finditer(bits[:sectors]):
        if bits[same.start()] == "0":
            for sector in _written(reader, where, same.start(), same.end()):
                first, count = (sector if first < 0 else first), count + 1
    if count:
        yield _damage(
            f"block {number}: {count} sectors hold data that its bitmap does not show",
            where,
            number * table.block_size + first * SECTOR,
            "VHD-BMP-2",
        )


def _written(reader: SparseReader, where: int, first: int, end: int) -> Iterator[int]:
    """Those of a block's sectors ``[first, end)`` that are not zero."""
    data = where + reader.table.bitmap_size
    for start in range(first, end, _PIECE):
        count = min(_PIECE, end - start)
        raw = reader.source.pread(data + start * SECTOR, count * SECTOR)
        if raw.count(0) == len(raw):
            continue
        for number in range(count):
            piece = raw[number * SECTOR : (number + 1) * SECTOR]
            if piece.count(0) != len(piece):
                yield start + number


def _damage(
    message: str, offset: int | None, guest: int | None = None, clause: str | None = None
) -> Finding:
    return Finding("corruption", message, offset, guest, clause)
