"""The digest index: which frame holds which cluster, and a digest for every stored byte.

Packed arrays throughout: a bundle of a terabyte has millions of frames, and a ``dict`` entry costs
more than 250 bytes. Source: specs/vmpack-v1.md, "Digest index".
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from vmpack.bundle.structs import HEADER_SIZE, MAX_SEGMENT, RECORD, RECORD_SIZE
from vmpack.errors import DamagedError

_FIRST_SLOTS = 1 << 12


class Frame(NamedTuple):
    """A stored cluster: ``size`` bytes at ``offset`` that decode to ``1 << cluster_bits`` bytes."""

    offset: int
    size: int
    cluster_bits: int
    sha256: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


class Segment(NamedTuple):
    """``size`` stored bytes at ``offset`` and their SHA-256."""

    offset: int
    size: int
    sha256: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


class FrameIndex:
    """The writer's index: adds frames, and finds one by the digest of its cluster.

    At most 64 bytes a frame: 48 for its record, 2 for :attr:`last_disk`, and an open-addressed
    table of 32-bit slots, at most three quarters full. Lookups may run in other threads than the
    one that adds: they see a frame or miss it, never a wrong one.
    """

    def __init__(self) -> None:
        self.records = bytearray()
        self.last_disk = array("H")
        self._slots = array("I", [0]) * _FIRST_SLOTS

    def __len__(self) -> int:
        return len(self.last_disk)

    def find(self, sha256: bytes) -> int | None:
        """The number of the frame whose cluster has this digest."""
        slots, records = self._slots, self.records
        mask = len(slots) - 1
        slot = int.from_bytes(sha256[:8], "little") & mask
        while number := slots[slot]:
            begin = number * RECORD_SIZE - 32
            if records[begin : begin + 32] == sha256:
                return number - 1
            slot = (slot + 1) & mask
        return None

    def add(self, offset: int, size: int, cluster_bits: int, sha256: bytes) -> int:
        """Append a frame that :meth:`find` does not find; its number."""
        number = len(self.last_disk)
        self.records += RECORD.pack(offset, size, cluster_bits, sha256)
        self.last_disk.append(0)
        if 4 * (number + 1) > 3 * len(self._slots):
            self._grow()
        else:
            self._insert(self._slots, number, sha256)
        return number

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        # The old table goes first, to stay within 64 bytes a frame; a lookup meanwhile just misses.
        self._slots = array("I", [0])
        slots = array("I", [0]) * size
        for number in range(len(self.last_disk)):
            begin = number * RECORD_SIZE + 16
            self._insert(slots, number, bytes(self.records[begin : begin + 32]))
        self._slots = slots

    @staticmethod
    def _insert(slots: array[int], number: int, sha256: bytes) -> None:
        mask = len(slots) - 1
        slot = int.from_bytes(sha256[:8], "little") & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = number + 1

    def frame(self, number: int) -> Frame:
        """The frame with this number."""
        return Frame._make(RECORD.unpack_from(self.records, number * RECORD_SIZE))


class DigestIndex:
    """The reader's index: the whole table as bytes, decoded as it is asked for."""

    def __init__(self, raw: bytes, frames: int, *, path: str, offset: int):
        self._raw = raw
        self.frame_count = frames
        self.segment_count = len(raw) // RECORD_SIZE - frames
        self._path = path
        self._offset = offset
        self._offsets: array[int] | None = None

    def frame(self, number: int) -> Frame:
        """Frame ``number``, ascending by offset."""
        return Frame._make(RECORD.unpack_from(self._raw, number * RECORD_SIZE))

    def frames(self) -> Iterator[Frame]:
        """All frames, ascending by offset."""
        return map(Frame._make, self._frame_records())

    def _frame_records(self) -> Iterator[tuple[int, int, int, bytes]]:
        end = self.frame_count * RECORD_SIZE
        return RECORD.iter_unpack(memoryview(self._raw)[:end])

    def segments(self) -> Iterator[Segment]:
        """All segments, ascending by offset."""
        begin = self.frame_count * RECORD_SIZE
        for offset, size, _, sha256 in RECORD.iter_unpack(memoryview(self._raw)[begin:]):
            yield Segment(offset, size, sha256)

    def offsets(self) -> array[int]:
        """The offset of every frame, ascending; computed once."""
        if self._offsets is None:
            self._offsets = array("Q", [record[0] for record in self._frame_records()])
        return self._offsets

    def at(self, offset: int) -> int | None:
        """The number of the frame that begins at ``offset``."""
        offsets = self.offsets()
        number = bisect_right(offsets, offset) - 1
        return number if number >= 0 and offsets[number] == offset else None

    def overlapping(self, offset: int, end: int) -> Iterator[int]:
        """The numbers of the frames with a byte in ``[offset, end)``."""
        offsets = self.offsets()
        number = max(0, bisect_right(offsets, offset) - 1)
        while number < self.frame_count and offsets[number] < end:
            if self.frame(number).end > offset:
                yield number
            number += 1

    def validate(self, *, pool: tuple[int, int], end: int) -> None:
        """Frames ascend inside ``pool`` (start, end) without overlap; segments tile up to ``end``.

        Raises :class:`DamagedError` with the offset of the record that breaks the rule.
        """
        position, limit = pool
        for number, (offset, size, bits, _) in enumerate(self._frame_records()):
            if offset < position or offset + size > limit or not 12 <= bits <= 21:
                raise self._error(number, "frame outside the pool or out of order", "VMP-IDX-2")
            # What a compressed cluster's descriptor can say, wherever the frame begins.
            if not 0 < size <= (2 << bits) - 512:
                raise self._error(number, f"frame of {size} bytes", "VMP-IDX-4")
            position = offset + size
        position = HEADER_SIZE
        for number, segment in enumerate(self.segments(), self.frame_count):
            if any(self._raw[number * RECORD_SIZE + 12 : number * RECORD_SIZE + 16]):
                raise self._error(number, "reserved bytes are not zero", "VMP-IDX-3")
            if segment.offset != position or not 0 < segment.size <= MAX_SEGMENT:
                raise self._error(number, "segments leave a gap or overlap", "VMP-IDX-3")
            position = segment.end
        if position != end:
            raise self._error(
                self.frame_count + self.segment_count - 1,
                f"segments end at {position}, stored bytes at {end}",
                "VMP-IDX-3",
            )

    def _error(self, number: int, message: str, clause: str) -> DamagedError:
        return DamagedError(
            f"digest index record {number}: {message}",
            path=self._path,
            offset=self._offset + max(0, number) * RECORD_SIZE,
            clause=clause,
        )
