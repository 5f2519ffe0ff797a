"""The block allocation table of dynamic and differencing disks.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Block Allocation Table and
Data Blocks". Profile: specs/vhd.md, VHD-BAT.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterator

from vmpack.binary import require_range
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.vhd.footer import Found, disk_size
from vmpack.formats.vhd.structs import (
    FOOTER_SIZE,
    HEADER_SIZE,
    SECTOR,
    UNUSED,
    VERSION,
    Header,
    bitmap_size,
)
from vmpack.source import ByteSource

MAX_BLOCK_SIZE = 256 << 20
MAX_BLOCKS = 1 << 22
"""Blocks of a disk: 2,040 GiB in the smallest blocks that Hyper-V makes, 512 KiB."""
SAME_BITS = re.compile("0+|1+")
"""Runs of equal bits, in a sector bitmap written as text."""
_GROUP = 1024
_NONE = b"\xff" * 4 * _GROUP


def load_header(source: ByteSource, found: Found) -> Header:
    """The dynamic disk header, checked (VHD-DYN-1 to -3, VHD-BAT-1)."""
    offset = found.footer.data_offset
    require_range(
        offset,
        HEADER_SIZE,
        source.size,
        what="the dynamic disk header",
        path=source.path,
        clause="VHD-DYN-1",
    )
    header = Header.decode(source.pread(offset, HEADER_SIZE), path=source.path, offset=offset)
    if header.version >> 16 != VERSION >> 16:
        raise UnsupportedError(
            f"dynamic disk header version {header.version >> 16}.{header.version & 0xFFFF}",
            path=source.path,
            offset=offset + 24,
            clause="VHD-DYN-2",
        )
    block = header.block_size
    if block & (block - 1) or not SECTOR <= block <= MAX_BLOCK_SIZE:
        raise DamagedError(
            f"block size {block} is not a power of two from 512 to 256M",
            path=source.path,
            offset=offset + 32,
            clause="VHD-DYN-3",
        )
    require_range(
        header.table_offset,
        4 * header.max_table_entries,
        source.size,
        what="the block allocation table",
        path=source.path,
        clause="VHD-BAT-1",
    )
    blocks = -(-disk_size(found.footer)[0] // block)
    if blocks > header.max_table_entries:
        raise DamagedError(
            f"its table has {header.max_table_entries} entries, the disk {blocks} blocks",
            path=source.path,
            offset=offset + 28,
            clause="VHD-BAT-1",
        )
    if blocks > MAX_BLOCKS:
        raise UnsupportedError(
            f"a disk of {blocks} blocks of {block} bytes (at most {MAX_BLOCKS})",
            path=source.path,
            clause="VHD-BAT-1",
        )
    return header


class BlockTable:
    """Where each block of the disk lies. The table is read when it is first asked."""

    def __init__(self, source: ByteSource, found: Found, header: Header):
        self.header = header
        self.size, _ = disk_size(found.footer)
        self.block_size = header.block_size
        self.bitmap_size = bitmap_size(header.block_size)
        self.blocks = -(-self.size // header.block_size)
        self._source = source
        self._end = found.end
        self._own = (
            (0, FOOTER_SIZE, "the footer's copy"),
            (found.footer.data_offset, HEADER_SIZE, "the dynamic disk header"),
            (header.table_offset, 4 * header.max_table_entries, "the block allocation table"),
        )
        self._entries: array[int] | None = None
        self._empty: list[bool] = []

    @property
    def entries(self) -> array[int]:
        """One entry for each block of the disk, in sectors; :data:`UNUSED` without a block.

        Raises :class:`DamagedError` when there are more blocks than the file has room for.
        """
        if self._entries is None:
            raw = self._source.pread(self.header.table_offset, 4 * self.blocks)
            empty = [
                raw[at : at + len(_NONE)] == _NONE[: len(raw) - at]
                for at in range(0, len(raw), len(_NONE))
            ]
            entries = array("I", raw)
            if sys.byteorder == "little":
                entries.byteswap()
            stored = len(entries) - entries.count(UNUSED)
            if max(0, stored - 1) * (self.bitmap_size + self.block_size) > self._source.size:
                raise DamagedError(
                    f"its table has {stored} blocks, more than the file can hold",
                    path=self._source.path,
                    offset=self.header.table_offset,
                    clause="VHD-BAT-3",
                )
            self._empty = empty
            self._entries = entries
        return self._entries

    def visible(self, number: int) -> int:
        """Bytes of block ``number`` that belong to the disk: the last may be cut by its end."""
        return min(self.block_size, self.size - number * self.block_size)

    def fault(self, number: int) -> str | None:
        """What is wrong with the place of block ``number``, which has one; ``None``: nothing."""
        start = self.entries[number] * SECTOR
        length = self.bitmap_size + self.visible(number)
        if start + length > self._end:
            return f"ends at {start + length}, behind the file's {self._end} bytes of blocks"
        for low, size, name in self._own:
            if start < low + size and low < start + length:
                return f"at {start} lies over {name}"
        return None

    def bitmap_offset(self, number: int) -> int:
        """Where block ``number`` begins, which has a place: its bitmap, then its data.

        Raises :class:`DamagedError` for a place outside the file or over its tables (VHD-BAT-2).
        """
        fault = self.fault(number)
        if fault is not None:
            raise DamagedError(
                f"block {number} {fault}",
                path=self._source.path,
                offset=self.header.table_offset + 4 * number,
                clause="VHD-BAT-2",
            )
        return self.entries[number] * SECTOR

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """``(block, count, where)`` over blocks ``[first, end)``: blocks without a place joined."""
        entries = self.entries
        number = first
        while number < end:
            if entries[number] != UNUSED:
                yield number, 1, self.bitmap_offset(number)
                number += 1
                continue
            start = number
            number = self._next_used(number, end)
            yield start, number - start, None

    def _next_used(self, number: int, end: int) -> int:
        entries = self.entries
        while number < end:
            if number % _GROUP == 0 and self._empty[number // _GROUP]:
                number += _GROUP
            elif entries[number] == UNUSED:
                number += 1
            else:
                return number
        return min(number, end)
