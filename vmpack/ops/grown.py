"""A disk made larger, or changed in a few sectors, on its way from one image to another."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats.base import Finding, ImageInfo, ImageReader, MapRun
from vmpack.formats.raw import require_inside

_SECTOR = 512


class GrownDisk:
    """A disk that goes on with nothing after its image's end."""

    def __init__(self, reader: ImageReader, size: int):
        self.format = reader.format
        self.path = reader.path
        self.virtual_size = size
        self.cluster_size = reader.cluster_size
        self._reader = reader

    def _inside(self, offset: int, length: int) -> int:
        require_inside(offset, length, self.virtual_size, self.path)
        return max(0, min(length, self._reader.virtual_size - offset))

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        inside = self._inside(offset, length)
        if inside:
            yield from self._reader.extents(offset, inside)
        if length > inside:
            yield Extent(offset + inside, length - inside, Kind.HOLE)

    def read(self, offset: int, length: int) -> bytes:
        inside = self._inside(offset, length)
        data = self._reader.read(offset, inside) if inside else b""
        return data + bytes(length - inside)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        inside = self._inside(offset, length)
        if inside:
            yield from self._reader.map_runs(offset, inside)
        if length > inside:
            yield MapRun(offset + inside, length - inside, 0, data=False)

    def info(self) -> ImageInfo:
        return replace(self._reader.info(), virtual_size=self.virtual_size)

    def check(self) -> Iterator[Finding]:
        return self._reader.check()

    def close(self) -> None:
        self._reader.close()


class PatchedDisk:
    """A disk with other bytes in some of its sectors: ``patches`` are sector -> 512 bytes."""

    def __init__(self, reader: ImageReader, patches: Mapping[int, bytes]):
        self.format = reader.format
        self.path = reader.path
        self.virtual_size = reader.virtual_size
        self.cluster_size = reader.cluster_size
        self._reader = reader
        self._patches = patches
        self._sectors = sorted(patches)

    def _patched(self, offset: int, length: int) -> Iterator[int]:
        """The patched sectors of a range, ascending."""
        sectors = self._sectors
        for at in range(bisect_left(sectors, offset // _SECTOR), len(sectors)):
            if sectors[at] * _SECTOR >= offset + length:
                return
            yield sectors[at]

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        return coalesce(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for extent in self._reader.extents(offset, length):
            position = extent.offset
            for sector in self._patched(extent.offset, extent.length):
                start = max(position, sector * _SECTOR)
                end = min(extent.end, (sector + 1) * _SECTOR)
                yield Extent(position, start - position, extent.kind)
                yield Extent(start, end - start, Kind.DATA)
                position = end
            yield Extent(position, extent.end - position, extent.kind)

    def read(self, offset: int, length: int) -> bytes:
        data = self._reader.read(offset, length)
        sectors = list(self._patched(offset, length))
        if not sectors:
            return data
        out = bytearray(data)
        for sector in sectors:
            start = sector * _SECTOR
            low, high = max(start, offset), min(start + _SECTOR, offset + length)
            out[low - offset : high - offset] = self._patches[sector][low - start : high - start]
        return bytes(out)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for extent in self.extents(offset, length):
            yield MapRun(extent.offset, extent.length, 0, data=extent.kind is Kind.DATA)

    def info(self) -> ImageInfo:
        return self._reader.info()

    def check(self) -> Iterator[Finding]:
        return self._reader.check()

    def close(self) -> None:
        self._reader.close()
