"""Where the guest's blocks lie: the BAT, and sector bitmaps of differencing disks.

The table is read by chunks, the payload entries between two sector bitmap entries; each entry is
checked before anything it points at is read.
Source: [MS-VHDX] 2.4 and 2.5. Profile: specs/vhdx.md, VHDX-BAT.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator

from vmpack.errors import DamagedError
from vmpack.formats.mapped import DATA, HOLE, ZERO, Run
from vmpack.formats.vhdx.image import Image
from vmpack.formats.vhdx.structs import (
    FULLY_PRESENT,
    NOT_PRESENT,
    OFFSET_MASK,
    PARTIALLY_PRESENT,
    RESERVED_MASK,
    SECTOR_BITS,
    STATE_MASK,
    UNMAPPED,
    MiB,
)

CACHE_BYTES = 8 * MiB
_BITS = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]
_SLICE = 1 << 20
"""Sectors whose bits are looked at together."""


class Bat:
    """The block allocation table of one file. Safe for threads."""

    def __init__(self, image: Image):
        meta = image.metadata
        self._image = image
        self.block_size = meta.block_size
        self.chunk_ratio = SECTOR_BITS * meta.logical_sector // meta.block_size
        self.blocks = -(-meta.virtual_size // meta.block_size)
        self._differencing = meta.locator is not None
        self._starts = [start for start, _ in image.reserved]
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._limit = max(2, CACHE_BYTES // (self.chunk_ratio * 8))
        self._lock = threading.Lock()
        needed = (self.blocks + max(0, self.blocks - 1) // self.chunk_ratio) * 8
        if needed > image.bat.length:
            raise DamagedError(
                f"its BAT has {image.bat.length} bytes, its disk of {meta.virtual_size} bytes "
                f"needs {needed}",
                path=image.source.path,
                offset=image.bat.offset,
                clause="VHDX-BAT-1",
            )

    def entry_offset(self, block: int) -> int:
        """Where in the file the entry of payload block ``block`` lies."""
        return self._image.bat.offset + (block + block // self.chunk_ratio) * 8

    def entries(self, chunk: int) -> bytes:
        """The payload entries of a chunk, as they are stored; fewer in the disk's last."""
        with self._lock:
            found = self._chunks.get(chunk)
            if found is not None:
                self._chunks.move_to_end(chunk)
                return found
        first = chunk * self.chunk_ratio
        count = min(self.chunk_ratio, self.blocks - first)
        found = self._image.source.pread(self.entry_offset(first), count * 8)
        with self._lock:
            self._chunks[chunk] = found
            while len(self._chunks) > self._limit:
                self._chunks.popitem(last=False)
        return found

    def bitmap_entry(self, chunk: int) -> int | None:
        """The sector bitmap entry of a chunk; ``None`` where the table ends before it."""
        at = ((chunk + 1) * (self.chunk_ratio + 1) - 1) * 8
        if at + 8 > self._image.bat.length:
            return None
        return int.from_bytes(self._image.source.pread(self._image.bat.offset + at, 8), "little")

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Runs that cover the range, as :meth:`MappedReader.lookup` gives them."""
        pending: Run | None = None
        for run in self._runs(offset, offset + length) if length else ():
            if pending is not None:
                joined = run.state == pending.state
                if joined and (run.state != DATA or run.host == pending.host + pending.length):
                    pending = Run(pending[0], pending.length + run.length, *pending[2:])
                    continue
                yield pending
            pending = run
        if pending is not None:
            yield pending

    def _runs(self, offset: int, end: int) -> Iterator[Run]:
        first, last = offset // self.block_size, (end - 1) // self.block_size
        for chunk in range(first // self.chunk_ratio, last // self.chunk_ratio + 1):
            begin = chunk * self.chunk_ratio
            low, high = max(first, begin), min(last + 1, begin + self.chunk_ratio)
            raw = self.entries(chunk)[(low - begin) * 8 : (high - begin) * 8]
            word = int.from_bytes(raw[:8], "little")
            if word & STATE_MASK <= UNMAPPED and raw == raw[:8] * (high - low):
                state = self.state(word, low)
                yield Run(low * self.block_size, (high - low) * self.block_size, state)
                continue
            words = struct.unpack(f"<{high - low}Q", raw)
            for block, word in enumerate(words, low):
                yield from self._block(block, word, offset, end)

    def _block(self, block: int, word: int, offset: int, end: int) -> Iterator[Run]:
        start = block * self.block_size
        state = word & STATE_MASK
        if state == PARTIALLY_PRESENT and self._differencing:
            yield from self._partial(block, word, offset, end)
            return
        kind = self.state(word, block)
        host = self.host(word, block) if kind == DATA else 0
        yield Run(start, self.block_size, kind, host)

    def state(self, word: int, block: int) -> int:
        """What a whole block's entry says of it; raises :class:`DamagedError` for none."""
        state = word & STATE_MASK
        if word & RESERVED_MASK or (state > UNMAPPED and state != FULLY_PRESENT):
            raise DamagedError(
                f"BAT entry 0x{word:016x} of block {block} is not valid",
                path=self._image.source.path,
                offset=self.entry_offset(block),
                clause="VHDX-BAT-2",
            )
        if state == NOT_PRESENT:
            return HOLE
        return DATA if state == FULLY_PRESENT else ZERO

    def host(self, word: int, block: int) -> int:
        """Where a block's bytes lie; raises :class:`DamagedError` unless its place is its own."""
        host = word & OFFSET_MASK
        visible = min(self.block_size, self._image.metadata.virtual_size - block * self.block_size)
        self._require_place(host, visible, f"block {block}", self.entry_offset(block))
        return host

    def _require_place(self, host: int, length: int, what: str, where: int) -> None:
        if host + length > self._image.source.size:
            text = f"{what} at {host} lies past the end of the file"
            raise self._damaged(text, where, "VHDX-BAT-3")
        number = bisect_left(self._starts, host + length) - 1
        if self._image.reserved[number][1] > host:
            text = f"{what} at {host} lies over the header section, the log or a region"
            raise self._damaged(text, where, "VHDX-BAT-4")

    def bitmap(self, chunk: int) -> int:
        """Where the sector bitmap of a chunk lies; raises :class:`DamagedError` without one."""
        word = self.bitmap_entry(chunk)
        where = self._image.bat.offset
        if word is None or word & STATE_MASK != FULLY_PRESENT or word & RESERVED_MASK:
            text = f"chunk {chunk} has blocks that are partially present, and no sector bitmap"
            raise self._damaged(text, where, "VHDX-BAT-5")
        host = word & OFFSET_MASK
        self._require_place(host, MiB, f"sector bitmap {chunk}", where)
        return host

    def _partial(self, block: int, word: int, offset: int, end: int) -> Iterator[Run]:
        """A block of which some sectors are here and the others in the parent."""
        if word & RESERVED_MASK:
            self.state(word, block)
        host = self.host(word, block)
        chunk, number = divmod(block, self.chunk_ratio)
        sector = self._image.metadata.logical_sector
        start = block * self.block_size
        per_block = self.block_size // sector
        bits = self.bitmap(chunk) + number * per_block // 8
        low = max(0, offset - start) // sector
        high = min(per_block, -(-(end - start) // sector))
        for begin in range(low, high, _SLICE):
            count = min(_SLICE, high - begin)
            skip = begin % 8
            raw = self._image.source.pread(bits + begin // 8, -(-(skip + count) // 8))
            flags = b"".join(map(_BITS.__getitem__, raw))[skip : skip + count]
            for at, length, present in _flag_runs(flags):
                place = (begin + at) * sector
                state = DATA if present else HOLE
                yield Run(start + place, length * sector, state, host + place if present else 0)

    def _damaged(self, text: str, where: int, clause: str) -> DamagedError:
        return DamagedError(text, path=self._image.source.path, offset=where, clause=clause)


def _flag_runs(flags: bytes) -> Iterator[tuple[int, int, bool]]:
    """``(start, length, set)`` of the runs of equal flags, each a byte of 0 or 1."""
    at = 0
    while at < len(flags):
        value = flags[at]
        found = flags.find(b"\0" if value else b"\1", at)
        end = len(flags) if found < 0 else found
        yield at, end - at, bool(value)
        at = end
