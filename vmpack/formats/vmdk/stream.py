"""Writes streamOptimized images, front to back: to a pipe, or into a file with the same bytes.

Compressed grains behind their markers, each grain table behind its grains, then the directory, the
footer and the end of the stream. Profile: specs/vmdk.md, VMDK-WRITE-*.
Source: VMware Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vmpack.codecs import zlib_compressor
from vmpack.content_seed import ContentSeed
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.vmdk.describe import describe
from vmpack.formats.vmdk.layout import (
    DESCRIPTOR_OFFSET,
    DESCRIPTOR_SECTORS,
    GRAIN,
    GRAIN_SECTORS,
    MAX_SECTORS,
    SECTOR,
    TABLE_ENTRIES,
    TABLE_SECTORS,
    SparseLayout,
)
from vmpack.formats.vmdk.request import STREAM_OPTIMIZED, Request, read_request
from vmpack.formats.vmdk.sparse_writer import data_runs, put, table_bytes
from vmpack.formats.vmdk.structs import (
    COMPRESSION_DEFLATE,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    GD_AT_END,
    MARKER_DIRECTORY,
    MARKER_END,
    MARKER_FOOTER,
    MARKER_TABLE,
    Marker,
    SparseHeader,
)

VERSION = 3
"""Of the header: what VMware's exporter, open-vmdk and QEMU write into a stream."""
HEAD_SECTORS = GRAIN_SECTORS
"""Header, descriptor and zeros, as VMware's exporter has it: the first grain follows."""
MAX_GRAIN_SECTORS = GRAIN_SECTORS + 1
"""Sectors of a grain that does not compress, marker included."""
_MARKER = struct.Struct("<QI")
_ROOM = MAX_GRAIN_SECTORS * SECTOR - _MARKER.size


@dataclass(frozen=True, slots=True)
class _Piece:
    """Compressed grains of one grain table, in order."""

    table: int
    slots: list[int]
    sectors: list[int]
    """Where each grain begins, from the piece's start."""
    data: bytes


class _Grains:
    """What file and pipe have in common: compresses grains and says what follows what."""

    def __init__(self, request: Request):
        self.request = request
        self._layout = SparseLayout(request.capacity, descriptor=True)
        self._compress = zlib_compressor(request.level)
        self.position = HEAD_SECTORS
        """Sector at which the next bytes go."""
        self._directory = array("I", bytes(4 * self._layout.tables))
        self._number = -1
        self._entries = array("I")

    def prepare(self, offset: int, data: bytes) -> object:
        """Compress the grains that are not all zero; for any thread."""
        pieces: list[_Piece] = []
        for first, run in data_runs(offset, data):
            done = 0
            while done < len(run):
                table, slot = divmod(first + done // GRAIN, TABLE_ENTRIES)
                part = run[done : done + (TABLE_ENTRIES - slot) * GRAIN]
                pieces.append(self._piece(table, slot, part))
                done += len(part)
        return pieces

    def _piece(self, table: int, slot: int, data: memoryview) -> _Piece:
        parts: list[bytes] = []
        sectors: list[int] = []
        lba = (table * TABLE_ENTRIES + slot) * GRAIN_SECTORS
        position = 0
        for begin in range(0, len(data), GRAIN):
            small = self._deflated(data[begin : begin + GRAIN])
            size = _MARKER.size + len(small)
            parts += (_MARKER.pack(lba, len(small)), small, bytes(-size % SECTOR))
            sectors.append(position)
            position += -(-size // SECTOR)
            lba += GRAIN_SECTORS
        slots = list(range(slot, slot + len(sectors)))
        return _Piece(table, slots, sectors, b"".join(parts))

    def _deflated(self, grain: memoryview) -> bytes:
        """One whole grain, compressed: some importers take nothing but whole ones."""
        whole = grain if len(grain) == GRAIN else grain.tobytes() + bytes(GRAIN - len(grain))
        small = self._compress(whole)
        return small if len(small) <= _ROOM else zlib.compress(whole, 0)

    def head(self, seed: ContentSeed | None) -> bytes:
        """What stands before all grains."""
        request = self.request
        extents = [(request.capacity, request.embedded_name)]
        text = describe(request, request.identity(seed), extents)
        head = self._header(GD_AT_END).encode() + text
        return head + bytes(HEAD_SECTORS * SECTOR - len(head))

    def _header(self, directory: int) -> SparseHeader:
        return SparseHeader(
            version=VERSION,
            flags=FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity=self.request.capacity,
            # QEMU takes an extent without capacity but with a descriptor for a descriptor file.
            descriptor_offset=DESCRIPTOR_OFFSET if self.request.capacity else 0,
            descriptor_size=DESCRIPTOR_SECTORS if self.request.capacity else 0,
            gd_offset=directory,
            overhead=HEAD_SECTORS,
            compress_algorithm=COMPRESSION_DEFLATE,
        )

    def add(self, prepared: object) -> Iterator[bytes]:
        """What follows once these grains, behind all before them, are added."""
        assert isinstance(prepared, list)
        for piece in prepared:
            if piece.table != self._number:
                yield from self._end_table()
                self._number = piece.table
                self._entries = array("I", bytes(4 * TABLE_ENTRIES))
            base = self.position
            self._advance(piece.data)
            for slot, sector in zip(piece.slots, piece.sectors, strict=True):
                self._entries[slot] = base + sector
            yield piece.data

    def _end_table(self) -> Iterator[bytes]:
        if self._number < 0:
            return
        self._directory[self._number] = self.position + 1
        yield self._advance(
            Marker(TABLE_SECTORS, MARKER_TABLE).encode() + table_bytes(self._entries)
        )

    def tail(self) -> Iterator[bytes]:
        """What stands behind all grains."""
        yield from self._end_table()
        directory = table_bytes(self._directory)
        directory += bytes(-len(directory) % SECTOR)
        marker = Marker(len(directory) // SECTOR, MARKER_DIRECTORY).encode()
        footer = self._header(self.position + 1).encode()
        yield self._advance(marker + directory)
        yield self._advance(
            Marker(1, MARKER_FOOTER).encode() + footer + Marker(0, MARKER_END).encode()
        )

    def _advance(self, data: bytes) -> bytes:
        self.position += len(data) // SECTOR
        if self.position > MAX_SECTORS:
            raise UnsupportedError(
                "a streamOptimized VMDK cannot be larger than 2 TiB",
                hint="choose -O qcow2, or split the disk",
            )
        return data


class VmdkStream:
    """A streamOptimized image for a pipe."""

    unit = GRAIN

    def __init__(self, request: Request, seed: ContentSeed | None):
        self.needs_seed = request.cid is None
        self._seed = seed
        self._grains = _Grains(request)

    def prepare(self, offset: int, data: bytes) -> object:
        return self._grains.prepare(offset, data)

    def begin(self) -> Iterable[bytes]:
        return (self._grains.head(self._seed),)

    def emit(self, prepared: object) -> Iterator[bytes]:
        return self._grains.add(prepared)

    def finish(self) -> Iterator[bytes]:
        return self._grains.tail()


class StreamFile:
    """A streamOptimized image in a file: its head, which makes it one, is written last."""

    unit = GRAIN

    def __init__(self, fd: int, request: Request):
        self.seed = request.new_seed()
        self._fd = fd
        self._grains = _Grains(request)

    def prepare(self, offset: int, data: bytes) -> object:
        return self._grains.prepare(offset, data)

    def emit(self, prepared: object) -> Sequence[Job]:
        return self._jobs(self._grains.add(prepared))

    def _jobs(self, pieces: Iterable[bytes]) -> list[Job]:
        jobs: list[Job] = []
        for piece in pieces:
            end = self._grains.position * SECTOR
            jobs.append(Job(end - len(piece), piece))
        return jobs

    def finish(self) -> None:
        for job in self._jobs(self._grains.tail()):
            put(self._fd, job.data, job.offset)
        put(self._fd, self._grains.head(self.seed), 0)


def create(options: CreateOptions) -> VmdkStream:
    """The registry's writer for a pipe.

    Raises :class:`UsageError` for a subformat that is not written front to back, and as
    :func:`read_request` does.
    """
    if not options.compressed and "subformat" not in options.values:
        raise UsageError(
            "a VMDK goes to a pipe as streamOptimized only",
            field="subformat",
            hint="add -o subformat=streamOptimized",
        )
    request = read_request(options)
    if request.subformat != STREAM_OPTIMIZED:
        raise UsageError(
            f"subformat {request.subformat} cannot be written to a pipe",
            field="subformat",
            hint="choose -o subformat=streamOptimized, or write to a file",
        )
    return VmdkStream(request, options.seed)
