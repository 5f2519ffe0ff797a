"""A device of a VMA archive as a disk, read where its clusters lie."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.containers.vma.archive import FULL, PAGE, DeviceMap
from vmpack.containers.vma.structs import BLOCK, BLOCKS, CLUSTER, EXTENT_HEADER_SIZE
from vmpack.errors import UnsafeError, UnsupportedError, UsageError
from vmpack.formats.base import Finding, Format, ImageInfo, ImageReader, OpenOptions
from vmpack.formats.mapped import DATA, ZERO, MappedReader, Run
from vmpack.source import ByteSource


def _not_alone(source: ByteSource, _: OpenOptions) -> ImageReader:
    source.close()
    raise UnsupportedError(
        "a VMA archive is a machine, not a disk image",
        path=source.path,
        hint="pack it: vmpack pack FILE.vma -o NAME.vmpack",
    )


FORMAT = Format("vma", "raw", (), lambda _source: False, _not_alone)
"""What a device's reader says that it is; in no registry, for no file is one."""


class DeviceReader(MappedReader):
    """The disk that ``found`` maps; the archive in ``source`` stays the caller's."""

    def __init__(self, source: ByteSource, found: DeviceMap, options: OpenOptions):
        self.format = FORMAT
        self.path = f"{source.path}:{found.name}"
        self.virtual_size = found.size
        self.cluster_size = CLUSTER
        self.source = source.slice(0, source.size)
        self._map = found
        if options.snapshot is not None:
            raise UsageError("a VMA archive has no snapshots", path=self.path)
        if options.max_size is not None and found.size > options.max_size:
            raise UnsafeError(
                f"a disk of {found.size} bytes, {options.max_size} are allowed",
                path=self.path,
                clause="RAW-SIZE-1",
                hint="raise --max-size",
            )

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        start, state, host, size = -1, ZERO, 0, 0
        end = offset + length
        for at, long, kind, place in self._pieces(offset, end):
            if at + long <= offset or at >= end:
                # Blocks of the first and the last cluster that nobody asked for.
                continue
            if size and kind == state and (kind == ZERO or place == host + size):
                size += long
                continue
            if size:
                yield Run(start, size, state, host)
            start, size, state, host = at, long, kind, place
        if size:
            yield Run(start, min(size, self.virtual_size - start), state, host)

    def _pieces(self, offset: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """``(offset, length, DATA or ZERO, place)``, ascending; the last may end behind it."""
        number = offset // CLUSTER
        while number * CLUSTER < end:
            page = self._map.pages.get(number // PAGE)
            if page is None:
                following = (number // PAGE + 1) * PAGE
                yield number * CLUSTER, (following - number) * CLUSTER, ZERO, 0
                number = following
                continue
            entry = page[number % PAGE]
            place, mask = (entry >> 16) * EXTENT_HEADER_SIZE, entry & FULL
            if mask in (0, FULL):
                yield number * CLUSTER, CLUSTER, DATA if mask else ZERO, place
            else:
                yield from _blocks(number * CLUSTER, place, mask)
            number += 1

    def info(self) -> ImageInfo:
        return ImageInfo(format="raw", virtual_size=self.virtual_size, cluster_size=CLUSTER)

    def check(self) -> Iterator[Finding]:
        # Everything that can be wrong was looked at when the archive was scanned.
        return iter(())


def _blocks(offset: int, place: int, mask: int) -> Iterator[tuple[int, int, int, int]]:
    for index in range(BLOCKS):
        stored = mask >> index & 1
        yield offset + index * BLOCK, BLOCK, DATA if stored else ZERO, place if stored else 0
        place += stored * BLOCK
