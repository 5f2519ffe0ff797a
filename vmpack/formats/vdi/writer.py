"""Writes VDI images, dynamic and static. Profile: specs/vdi.md, VDI-WRITE."""

from __future__ import annotations

import os
import sys
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from vmpack.content_seed import ContentSeed
from vmpack.copy import write_all
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.raw import data_blocks
from vmpack.formats.vdi.structs import (
    FREE,
    HEADER_END,
    MAX_BLOCKS,
    SECTOR,
    TYPE_DYNAMIC,
    TYPE_STATIC,
    Header,
)
from vmpack.units import MiB, round_up

BLOCK = MiB
"""Bytes of a block: the one size that QEMU reads."""
_ALIGN = MiB
"""Where data begins, as VirtualBox has it: the guest's alignment is the file's."""
_GAP = 64 << 10
"""Bytes of zeros inside a block that are worth a hole."""
_ENTRIES = 1 << 16
"""Map entries that are held and written at a time."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the options ask for, checked."""

    size: int
    static: bool
    uuid: uuid.UUID | None

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK)

    @property
    def data_offset(self) -> int:
        return round_up(HEADER_END + 4 * self.blocks, _ALIGN)


def _chosen(options: CreateOptions) -> _Choice:
    """Raises :class:`UsageError` for a value that an option does not take."""
    if options.compressed:
        raise UsageError("vdi cannot be compressed", hint="choose -O qcow2 with -c")
    size = round_up(options.virtual_size, SECTOR)
    if -(-size // BLOCK) > MAX_BLOCKS:
        raise UnsupportedError(
            f"a disk of {options.virtual_size} bytes: VDI holds {MAX_BLOCKS * BLOCK}",
            clause="VDI-WRITE-6",
            hint="choose -O qcow2",
        )
    static = options.values.get("static", "off")
    if static not in ("on", "off"):
        raise UsageError(f"static: {static!r} is neither on nor off", field="static")
    text = options.values.get("uuid")
    return _Choice(size, static == "on", None if text is None else _parse_uuid(text))


def _parse_uuid(text: str) -> uuid.UUID:
    try:
        found = uuid.UUID(text)
    except ValueError:
        found = uuid.UUID(int=0)
    if found.int == 0 or not text.isascii():
        raise UsageError(
            f"uuid: {text!r} is no UUID",
            field="uuid",
            hint="write it as 01234567-89ab-cdef-0123-456789abcdef",
        )
    return found


class VdiWriter:
    """An image under construction on a file descriptor.

    Blocks are stored in the order of the disk. The map is written as it fills, the header last:
    memory does not grow with the disk.
    """

    unit = BLOCK

    def __init__(self, fd: int, choice: _Choice, *, path: str = "output"):
        self.seed = ContentSeed(choice.size)
        self._fd = fd
        self._path = path
        self._choice = choice
        self._allocated = 0
        self._last = -1
        """The block that was stored last."""
        self._window = 0
        """Number of the first block that ``_entries`` stands for."""
        self._entries = self._empty_window()

    def prepare(self, offset: int, data: bytes) -> object:
        """The first block's number, where data lies (gaps below 64 KiB are closed), the bytes."""
        runs: list[tuple[int, int]] = []
        for start, end in data_blocks(data):
            if runs and start - runs[-1][1] < _GAP:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
        return offset // BLOCK, runs, data

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, tuple)
        first, runs, data = prepared
        view = memoryview(data)
        jobs = []
        for start, end in runs:
            place = self._place(first + start // BLOCK, first + (end - 1) // BLOCK)
            jobs.append(Job(place + start % BLOCK, view[start:end]))
        return jobs

    def _place(self, first: int, last: int) -> int:
        """Where block ``first`` lies in the file; those up to ``last`` follow it there."""
        if self._choice.static:
            return self._choice.data_offset + first * BLOCK
        for block in range(max(first, self._last + 1), last + 1):
            self._map(block)
        return self._choice.data_offset + (self._allocated - 1 - last + first) * BLOCK

    def _map(self, block: int) -> None:
        """Block ``block`` is the next one in the file."""
        while block >= self._window + len(self._entries):
            self._write_window()
        self._entries[block - self._window] = self._allocated
        self._allocated += 1
        self._last = block

    def _write_window(self) -> None:
        table = self._entries
        if sys.byteorder == "big":
            table = table[:]
            table.byteswap()
        job = Job(HEADER_END + 4 * self._window, table.tobytes())
        write_all(self._fd, job, self._path)
        self._window += len(table)
        self._entries = self._empty_window()

    def _empty_window(self) -> array[int]:
        count = min(_ENTRIES, self._choice.blocks - self._window)
        if self._choice.static:
            return array("I", range(self._window, self._window + count))
        return array("I", [FREE]) * count

    def finish(self) -> None:
        choice = self._choice
        while self._entries:
            self._write_window()
        stored = choice.blocks if choice.static else self._allocated
        os.ftruncate(self._fd, choice.data_offset + stored * BLOCK)
        header = Header(
            image_type=TYPE_STATIC if choice.static else TYPE_DYNAMIC,
            offset_map=HEADER_END,
            offset_data=choice.data_offset,
            disk_size=choice.size,
            block_size=BLOCK,
            blocks=choice.blocks,
            blocks_allocated=stored,
            uuid_image=choice.uuid or self.seed.uuid("vdi image"),
            uuid_modification=self.seed.uuid("vdi modification"),
        )
        write_all(self._fd, Job(0, header.encode()), self._path)


class VdiMeasurer:
    """Counts blocks with data."""

    unit = BLOCK

    def __init__(self, options: CreateOptions):
        self._choice = _chosen(options)
        self._stored = 0

    def add(self, number: int) -> None:  # noqa: ARG002 - each block costs the same
        self._stored += 1

    def sizes(self) -> tuple[int, int]:
        choice = self._choice
        every = choice.data_offset + choice.blocks * BLOCK
        if choice.static:
            return every, every
        return choice.data_offset + self._stored * BLOCK, every


def create(fd: int, options: CreateOptions) -> VdiWriter:
    """The registry's writer.

    Raises :class:`UsageError` for a value that an option does not take, and
    :class:`UnsupportedError` for a disk beyond 512 TiB.
    """
    return VdiWriter(fd, _chosen(options))
