"""Writes VHDX files, dynamic or fixed: data first, then the BAT, the headers last.

Source: [MS-VHDX] 2. Profile: specs/vhdx.md, VHDX-WRITE.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from vmpack.content_seed import ContentSeed
from vmpack.copy import write_all
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.raw import data_blocks
from vmpack.formats.vhdx.layout import UNIT, Plan, encode_sections
from vmpack.formats.vhdx.structs import FULLY_PRESENT, NOT_PRESENT, ZERO

_GAP = 64 << 10
"""Bytes of zeros that are written along between data; longer runs of them stay holes."""

Prepared = tuple[int, bytes, list[tuple[int, int]]]


class VhdxWriter:
    """A VHDX file under construction. Data arrives in ascending order, a unit or more at a time.

    The blocks of a dynamic disk follow one another in the file as their first data arrives; a
    block is allocated whole, its zeros stay a hole of the file.
    """

    def __init__(self, fd: int, options: CreateOptions):
        """Raises :class:`UsageError` for options that cannot be had."""
        self.unit = UNIT
        self.plan = Plan.of(options)
        self.seed = ContentSeed(options.virtual_size)
        self._fd = fd
        self._path = options.name or "output"
        self._present = array("Q")
        """Numbers of the blocks that have room in a dynamic disk's file, in the file's order."""

    def prepare(self, offset: int, data: bytes) -> object:
        runs: list[tuple[int, int]] = []
        for start, end in data_blocks(data):
            if runs and start - runs[-1][1] < _GAP:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
        return offset, data, runs

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, tuple)
        offset, data, runs = prepared
        view = memoryview(data)
        return [Job(self._place(offset + a, offset + b), view[a:b]) for a, b in runs]

    def _place(self, start: int, end: int) -> int:
        """Where in the file ``[start, end)`` of the guest's disk goes.

        Blocks of one run follow one another, also in the file: only its first can be there yet.
        """
        size = self.plan.block_size
        first, last = start // size, (end - 1) // size
        if self.plan.fixed:
            return self.plan.data_offset + start
        if not self._present or self._present[-1] < first:
            self._present.append(first)
        number = len(self._present) - 1
        self._present.extend(range(first + 1, last + 1))
        return self.plan.data_offset + number * size + start % size

    def finish(self) -> None:
        """Write the BAT and everything else; the file's signature comes last."""
        plan = self.plan
        os.ftruncate(self._fd, plan.file_size(len(self._present)))
        for chunk in range(-(-plan.blocks // plan.chunk_ratio)):
            entries = self._entries(chunk)
            if entries is not None:
                offset = plan.bat_offset + chunk * (plan.chunk_ratio + 1) * 8
                write_all(self._fd, Job(offset, entries), self._path)
        disk_id = self.seed.uuid("vhdx-disk") if plan.disk_id is None else plan.disk_id
        ids = self.seed.uuid("vhdx-data-write"), self.seed.uuid("vhdx-file-write")
        for offset, raw in encode_sections(plan, disk_id, *ids):
            write_all(self._fd, Job(offset, raw), self._path)

    def _entries(self, chunk: int) -> bytes | None:
        """The payload entries of a chunk, as they are stored; ``None`` for zeros only."""
        plan = self.plan
        first = chunk * plan.chunk_ratio
        count = min(plan.chunk_ratio, plan.blocks - first)
        low = bisect_left(self._present, first)
        high = bisect_left(self._present, first + count)
        if plan.fixed:
            start = plan.data_offset + first * plan.block_size
            stop = start + count * plan.block_size
            words = array("Q", range(start | FULLY_PRESENT, stop, plan.block_size))
        elif low == high and not plan.zero_state:
            return None
        else:
            empty = ZERO if plan.zero_state else NOT_PRESENT
            words = array("Q", [empty]) * count
            for number in range(low, high):
                host = plan.data_offset + number * plan.block_size
                words[self._present[number] - first] = host | FULLY_PRESENT
        return _little_endian(words)


def _little_endian(words: array[int]) -> bytes:
    import sys

    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
