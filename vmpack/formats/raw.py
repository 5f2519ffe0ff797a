"""Raw disk images: the guest's bytes and nothing else. Profile: specs/raw.md."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from vmpack.errors import UnsupportedError, UsageError
from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats import RAW_SUFFIXES
from vmpack.formats.base import (
    CreateOptions,
    Finding,
    Format,
    ImageInfo,
    Job,
    MapRun,
    OpenOptions,
)
from vmpack.source import ByteSource

BLOCK = 4096
"""Bytes: the finest hole that the writer leaves; what file systems allocate."""
_UNIT = 65536
_ZERO_BLOCK = bytes(BLOCK)
ZEROS = bytes(1 << 20)


class RawReader:
    """A raw image: a regular file, holes and all, or a block device."""

    def __init__(self, source: ByteSource):
        self.format = FORMAT
        self.path = source.path
        self.virtual_size = source.size
        self.cluster_size = BLOCK
        self.source = source

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        end = self.virtual_size if length is None else offset + length
        require_inside(offset, end - offset, self.virtual_size, self.path)
        return coalesce(self.source.extents(offset, end - offset))

    def read(self, offset: int, length: int) -> bytes:
        require_inside(offset, length, self.virtual_size, self.path)
        return self.source.pread(offset, length)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for one in self.extents(offset, length):
            data = one.kind is Kind.DATA
            yield MapRun(one.offset, one.length, 0, data, host=self.source.base + one.offset)

    def info(self) -> ImageInfo:
        return ImageInfo(format=FORMAT.qemu_name, virtual_size=self.virtual_size)

    def check(self) -> Iterator[Finding]:
        raise UnsupportedError("a raw image has no structures to check", path=self.path)

    def close(self) -> None:
        self.source.close()


class RawWriter:
    """Writes a raw image into an open file: exact size, zeros left as holes.

    Order does not matter, so workers write from :meth:`prepare`.
    """

    seed = None

    def __init__(self, fd: int, virtual_size: int):
        self.unit = _UNIT
        self._fd = fd
        self._size = virtual_size
        # The kernel lets one thread at a time write to a file; a second one would spin, not sleep.
        self._writing = threading.Lock()
        os.ftruncate(fd, virtual_size)

    def prepare(self, offset: int, data: bytes) -> object:
        runs = data_blocks(data)
        with self._writing:
            for start, end in runs:
                self._write(offset + start, memoryview(data)[start:end])
        return None

    def _write(self, offset: int, view: memoryview) -> None:
        while view:
            done = os.pwrite(self._fd, view, offset)
            offset += done
            view = view[done:]

    def emit(self, prepared: object) -> Sequence[Job]:  # noqa: ARG002 - written already
        return ()

    def finish(self) -> None:
        os.ftruncate(self._fd, self._size)


class RawStream:
    """A raw image for a pipe: every byte, zeros too."""

    unit = _UNIT
    needs_seed = False

    def __init__(self, virtual_size: int):
        self._size = virtual_size
        self._position = 0

    def prepare(self, offset: int, data: bytes) -> object:
        return offset, data

    def begin(self) -> Iterable[bytes]:
        return ()

    def emit(self, prepared: object) -> Iterator[bytes]:
        assert isinstance(prepared, tuple)
        offset, data = prepared
        yield from zeros(offset - self._position)
        yield data
        self._position = offset + len(data)

    def finish(self) -> Iterator[bytes]:
        return zeros(self._size - self._position)


def zeros(count: int) -> Iterator[bytes]:
    """``count`` zero bytes in pieces of at most 1 MiB."""
    while count:
        take = min(count, len(ZEROS))
        yield ZEROS if take == len(ZEROS) else bytes(take)
        count -= take


class RawMeasurer:
    """Every byte counts: the size of a raw file says nothing of what it occupies."""

    unit = _UNIT

    def __init__(self, virtual_size: int):
        self._size = virtual_size

    def add(self, number: int) -> None:
        """Nothing to add: holes belong to the size as well."""

    def sizes(self) -> tuple[int, int]:
        return self._size, self._size


def data_blocks(data: bytes) -> list[tuple[int, int]]:
    """``(start, end)`` of the runs of 4 KiB blocks in ``data`` that are not all zero, ascending."""
    length = len(data)
    whole = length // BLOCK * BLOCK
    # Each block's first eight bytes, in one call: most blocks with data begin with some.
    heads = memoryview(data)[:whole].cast("Q")[:: BLOCK // 8].tolist() if whole else []
    runs: list[tuple[int, int]] = []
    start = 0
    if 0 in heads:
        for number, head in enumerate(heads):
            at = number * BLOCK
            if head == 0 and data[at : at + BLOCK] == _ZERO_BLOCK:
                if at > start:
                    runs.append((start, at))
                start = at + BLOCK
    tail = data[whole:]
    end = length if tail.count(0) != len(tail) else whole
    if end > start:
        runs.append((start, end))
    return runs


def require_inside(offset: int, length: int, size: int, path: str) -> None:
    """Raise :class:`UsageError` unless the range lies inside a disk of ``size`` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise UsageError(
            f"{length} bytes at {offset} lie outside the disk's {size} bytes", path=path
        )


def _open(source: ByteSource, options: OpenOptions) -> RawReader:
    if options.snapshot is not None:
        source.close()
        raise UsageError("a raw image has no snapshots", path=source.path)
    return RawReader(source)


def _require_plain(options: CreateOptions) -> int:
    """The size of the disk, of options that raw can do."""
    if options.values:
        raise UsageError(f"raw has no option {next(iter(options.values))!r}")
    if options.compressed:
        raise UsageError("raw cannot be compressed", hint="choose -O qcow2 with -c")
    return options.virtual_size


FORMAT = Format(
    name="raw",
    qemu_name="raw",
    suffixes=RAW_SUFFIXES,
    probe=lambda _source: False,
    open=_open,
    create=lambda fd, options: RawWriter(fd, _require_plain(options)),
    stream=lambda options: RawStream(_require_plain(options)),
    measure=lambda options: RawMeasurer(_require_plain(options)),
)
"""Raw never recognises itself: it is taken by name or on request (RAW-PROBE-1)."""
