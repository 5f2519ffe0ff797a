"""A disk made larger on its way from one image to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vmpack.extent import Extent, Kind
from vmpack.formats.base import Finding, ImageInfo, ImageReader, MapRun
from vmpack.formats.raw import require_inside


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
