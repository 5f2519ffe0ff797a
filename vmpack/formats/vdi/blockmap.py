"""The block map of a VDI image: which block of the file holds which block of the disk.

Read in chunks, as they are needed: a map is 4 MiB for each TiB of disk.
Source: VirtualBox, VDICore.h (VDI_IMAGE_BLOCK_*). Profile: specs/vdi.md, VDI-MAP.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from vmpack.errors import DamagedError
from vmpack.formats.mapped import DATA, HOLE, Run
from vmpack.formats.mapped import ZERO as ZERO_RUN
from vmpack.formats.vdi.structs import FREE, ZERO, Header
from vmpack.source import ByteSource

CHUNK = 1 << 14
"""Entries that are read at a time."""
_CACHED = 64
_FREE_BYTES = b"\xff" * (4 * CHUNK)
_NONE: array[int] = array("I")
"""Stands for a chunk whose blocks are all free."""

assert array("I").itemsize == 4


class BlockMap:
    """Lookups in one image's map. Safe for threads."""

    def __init__(self, source: ByteSource, header: Header, virtual_size: int):
        self._source = source
        self._header = header
        self._virtual_size = virtual_size
        self._chunks: OrderedDict[int, array[int]] = OrderedDict()
        self._checked: set[int] = set()
        # One bit for each block of the file that an entry names. Zeroed lazily by the system.
        self._taken = bytearray(-(-header.blocks // 8))
        self._lock = threading.Lock()

    def chunks(self) -> Iterator[array[int]]:
        """The whole map as it stands, unchecked, :data:`CHUNK` entries at a time."""
        for number in range(-(-self._header.blocks // CHUNK)):
            yield self._load(number)

    def _load(self, number: int) -> array[int]:
        first = number * CHUNK
        count = min(CHUNK, self._header.blocks - first)
        raw = self._source.pread(self._header.offset_map + 4 * first, 4 * count)
        if raw == _FREE_BYTES[: len(raw)]:
            return _NONE
        chunk = array("I", raw)
        if sys.byteorder == "big":
            chunk.byteswap()
        return chunk

    def _chunk(self, number: int) -> array[int]:
        with self._lock:
            found = self._chunks.get(number)
            if found is not None:
                self._chunks.move_to_end(number)
                return found
            found = self._load(number)
            if number not in self._checked:
                self._require_sound(number, found)
            self._chunks[number] = found
            if len(self._chunks) > _CACHED:
                self._chunks.popitem(last=False)
            return found

    def _require_sound(self, number: int, chunk: array[int]) -> None:
        """Every block that the chunk names lies in the file, and no other entry names it.

        Without the second rule a map of a few MiB would stand for terabytes of data.
        """
        stored = [one for one in enumerate(chunk, number * CHUNK) if one[1] < ZERO]
        for block, entry in stored:
            if not self._inside(block, entry):
                raise self._damaged(block, f"block {block} lies past the end of the file", 2)
        for done, (block, entry) in enumerate(stored):
            byte, bit = entry >> 3, 1 << (entry & 7)
            if self._taken[byte] & bit:
                # Whoever asks again gets the same answer.
                for _, other in stored[:done]:
                    self._taken[other >> 3] ^= 1 << (other & 7)
                raise self._damaged(block, f"block {block} lies where another one does", 3)
            self._taken[byte] |= bit
        self._checked.add(number)

    def _inside(self, block: int, entry: int) -> bool:
        header = self._header
        if entry >= header.blocks:
            return False
        # What lies behind the disk's end may be missing.
        visible = min(header.block_size, self._virtual_size - block * header.block_size)
        return visible <= 0 or self.host(entry) + visible <= self._source.size

    def host(self, entry: int) -> int:
        """Where the block that an entry names begins in the file."""
        return self._header.offset_data + entry * self._header.block_size

    def _damaged(self, block: int, message: str, clause: int) -> DamagedError:
        return DamagedError(
            message,
            path=self._source.path,
            offset=self._header.offset_map + 4 * block,
            clause=f"VDI-MAP-{clause}",
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Runs of whole blocks that cover the range, neighbours joined within a chunk."""
        size = self._header.block_size
        block, end = offset // size, -(-(offset + length) // size)
        while block < end:
            number, slot = divmod(block, CHUNK)
            take = min(CHUNK - slot, end - block)
            chunk = self._chunk(number)
            if not chunk:
                yield Run(block * size, take * size, HOLE)
            else:
                yield from self._joined(block, chunk[slot : slot + take])
            block += take

    def _joined(self, block: int, entries: array[int]) -> Iterator[Run]:
        size = self._header.block_size
        first, start, following = block, entries[0], _following(entries[0])
        for here, entry in enumerate(entries, block):
            if here > first and entry != following:
                yield self._run(first * size, (here - first) * size, start)
                first, start = here, entry
            following = _following(entry)
        yield self._run(first * size, (block + len(entries) - first) * size, start)

    def _run(self, offset: int, length: int, entry: int) -> Run:
        if entry >= ZERO:
            return Run(offset, length, HOLE if entry == FREE else ZERO_RUN)
        return Run(offset, length, DATA, self.host(entry))


def _following(entry: int) -> int:
    """The entry of the next block that would lengthen a run."""
    return entry if entry >= ZERO else entry + 1
