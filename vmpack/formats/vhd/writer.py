"""Writes VHD images: fixed, into a file or a pipe, and dynamic.

Data first, tables after it, the footer last. Profile: specs/vhd.md, VHD-WRITE.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence

from vmpack.content_seed import ContentSeed
from vmpack.copy import write_all
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.raw import RawStream, RawWriter, data_blocks
from vmpack.formats.vhd.plan import Plan
from vmpack.formats.vhd.structs import SECTOR, UNUSED

PURPOSE = "vhd"
"""What the disk's unique id is derived for."""
_UNIT = 65536
_PATH = "output"


def create(fd: int, options: CreateOptions) -> FixedWriter | DynamicWriter:
    """The registry's writer; raises as :meth:`Plan.of`."""
    plan = Plan.of(options)
    return FixedWriter(fd, plan) if plan.fixed else DynamicWriter(fd, plan)


def stream(options: CreateOptions) -> FixedStream:
    """The registry's writer for a pipe: a fixed disk, unless a dynamic one is asked for.

    Raises :class:`UsageError` for a dynamic one, whose table stands before the data.
    """
    from dataclasses import replace

    from vmpack.errors import UsageError

    if options.values.get("subformat", "fixed") != "fixed":
        raise UsageError(
            "a dynamic VHD cannot be written to a pipe",
            field="subformat",
            hint="drop subformat, or write to a file",
        )
    values = {**options.values, "subformat": "fixed"}
    return FixedStream(Plan.of(replace(options, values=values)))


class FixedWriter:
    """The disk's bytes as they are, zeros left as holes, then the footer."""

    unit = _UNIT

    def __init__(self, fd: int, plan: Plan):
        self._fd = fd
        self._plan = plan
        self._inner = RawWriter(fd, plan.disk_size)
        self._seed = ContentSeed(plan.disk_size)

    @property
    def seed(self) -> ContentSeed:
        """What the unique id derives from."""
        return self._seed

    def prepare(self, offset: int, data: bytes) -> object:
        return self._inner.prepare(offset, data)

    def emit(self, prepared: object) -> Sequence[Job]:
        return self._inner.emit(prepared)

    def finish(self) -> None:
        self._inner.finish()
        footer = self._plan.footer(self._seed.uuid(PURPOSE))
        write_all(self._fd, Job(self._plan.disk_size, footer), _PATH)


class FixedStream:
    """A fixed disk for a pipe. Its id is derived on the way: the footer comes last."""

    unit = _UNIT
    needs_seed = False

    def __init__(self, plan: Plan):
        self._plan = plan
        self._inner = RawStream(plan.disk_size)
        self._seed = ContentSeed(plan.disk_size)

    def prepare(self, offset: int, data: bytes) -> object:
        return self._inner.prepare(offset, data), self._seed.leaves(offset, data)

    def begin(self) -> Iterable[bytes]:
        return ()

    def emit(self, prepared: object) -> Iterator[bytes]:
        assert isinstance(prepared, tuple)
        inner, leaves = prepared
        self._seed.add(leaves)
        return self._inner.emit(inner)

    def finish(self) -> Iterator[bytes]:
        yield from self._inner.finish()
        yield self._plan.footer(self._seed.uuid(PURPOSE))


class DynamicWriter:
    """Blocks in ascending order, each behind its bitmap, none for a block that is all zero."""

    def __init__(self, fd: int, plan: Plan):
        self.unit = _UNIT
        self._fd = fd
        self._plan = plan
        self._seed = ContentSeed(plan.disk_size)
        self._entries = array("I", [UNUSED]) * plan.blocks
        self._bitmap = b"\xff" * plan.bitmap_size
        self._stored = 0

    @property
    def seed(self) -> ContentSeed:
        """What the unique id derives from."""
        return self._seed

    def prepare(self, offset: int, data: bytes) -> object:
        block = self._plan.block_size
        view = memoryview(data)
        pieces: list[tuple[int, memoryview]] = []
        for start, end in data_blocks(data):
            position = start
            while position < end:
                stop = min(end, ((offset + position) // block + 1) * block - offset)
                pieces.append((offset + position, view[position:stop]))
                position = stop
        return pieces

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, list)
        jobs: list[Job] = []
        for offset, data in prepared:
            number, inside = divmod(offset, self._plan.block_size)
            if self._entries[number] == UNUSED:
                start = self._plan.block_offset(self._stored)
                self._entries[number] = start // SECTOR
                self._stored += 1
                jobs.append(Job(start, self._bitmap))
            start = self._entries[number] * SECTOR
            jobs.append(Job(start + self._plan.bitmap_size + inside, data))
        return jobs

    def finish(self) -> None:
        plan = self._plan
        footer = plan.footer(self._seed.uuid(PURPOSE))
        table = array("I", self._entries)
        if sys.byteorder == "little":
            table.byteswap()
        raw = table.tobytes().ljust(plan.table_size, b"\xff")
        end = plan.footer_offset(self._stored)
        os.ftruncate(self._fd, end)
        write_all(self._fd, Job(plan.table_offset, raw), _PATH)
        write_all(self._fd, Job(end, footer), _PATH)
        write_all(self._fd, Job(0, footer + plan.header()), _PATH)
