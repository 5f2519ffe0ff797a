"""The file as it is once its log is replayed, without writing to it.

Source: [MS-VHDX] 2.3.3. Profile: specs/vhdx.md, VHDX-LOG.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise

from vmpack.errors import DamagedError
from vmpack.formats.vhdx.log import Entry, Update
from vmpack.formats.vhdx.structs import REGION_OFFSETS, SECTOR, Header
from vmpack.source import ByteSource

_LAST_OFFSET = 1 << 62


class ReplayedSource(ByteSource):
    """A file with the updates of its log laid over it. Safe for threads.

    What is past the file's end, up to ``size``, reads as zeros.
    """

    def __init__(self, file: ByteSource, pieces: Sequence[tuple[int, int, Update]], size: int):
        """``pieces`` are ``(start, end, update)``, ascending and disjoint."""
        super().__init__(file.fd, path=file.path, base=file.base, size=size)
        self._file = file
        self.stored = file.size
        """Bytes that the file has now."""
        self._pieces = pieces
        self._ends = [end for _, end, _ in pieces]

    def pread(self, offset: int, length: int) -> bytes:
        number = bisect_right(self._ends, offset)
        end = offset + length
        clear = number == len(self._pieces) or self._pieces[number][0] >= end
        if clear and end <= self._file.size:
            return self._file.pread(offset, length)
        if offset < 0 or length < 0 or end > self.size:
            return super().pread(offset, length)
        return b"".join(self._parts(number, offset, end))

    def _parts(self, number: int, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            start, stop, update = end, end, None
            if number < len(self._pieces):
                start, stop, update = self._pieces[number]
            if offset < start:
                take = min(start, end) - offset
                yield self._file.pread_padded(offset, take)
                offset += take
            elif update is not None:
                take = min(stop, end) - offset
                yield self._updated(update, offset, take)
                offset += take
                number += 1

    def _updated(self, update: Update, offset: int, length: int) -> bytes:
        if update.sector < 0:
            return bytes(length)
        middle = self._file.pread(update.sector, SECTOR - 12)
        begin = offset - update.start
        return (update.leading + middle + update.trailing)[begin : begin + length]

    def changes(self, offset: int, length: int) -> bool:
        """Whether the log has an update of any byte of the range."""
        number = bisect_right(self._ends, offset)
        return number < len(self._pieces) and self._pieces[number][0] < offset + length

    def slice(self, offset: int, size: int) -> ByteSource:
        # A window would share the descriptor, and lose the updates.
        raise AssertionError(f"a window of {size} bytes at {offset} of a replayed file")

    def close(self) -> None:
        self._file.close()


def replayed(
    file: ByteSource, header: Header, sequence: tuple[Entry, list[Update]]
) -> ReplayedSource:
    """``file`` with the active sequence replayed.

    Raises :class:`DamagedError` for updates of the headers or of the log itself.
    """
    head, updates = sequence
    log_end = header.log_offset + header.log_length
    for update in updates:
        over_log = update.start < log_end and update.end > header.log_offset
        if update.start < REGION_OFFSETS[0] or over_log or update.end > _LAST_OFFSET:
            raise DamagedError(
                f"its log has an update of bytes {update.start} to {update.end}: outside what a "
                "log may change",
                path=file.path,
                offset=header.log_offset + head.offset,
                clause="VHDX-LOG-7",
            )
    size = max([file.size, min(head.last, _LAST_OFFSET), *(one.end for one in updates)])
    return ReplayedSource(file, list(_newest_pieces(updates)), size)


def _newest_pieces(updates: Sequence[Update]) -> Iterator[tuple[int, int, Update]]:
    """For each part of the file that is updated, the last update of it."""
    bounds = sorted({one.start for one in updates} | {one.end for one in updates})
    waiting = sorted(range(len(updates)), key=lambda number: updates[number].start)
    waiting.reverse()
    covering: list[int] = []
    for low, high in pairwise(bounds):
        while waiting and updates[waiting[-1]].start <= low:
            heappush(covering, -waiting.pop())
        while covering and updates[-covering[0]].end <= low:
            heappop(covering)
        if covering:
            yield low, high, updates[-covering[0]]
