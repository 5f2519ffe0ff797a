"""One disk of a bundle as an image to read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.extent import Extent
from vmpack.formats.base import Finding, ImageInfo, MapRun
from vmpack.formats.raw import require_inside

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.formats.qcow2.reader import Qcow2Reader


class BundleDisk:
    """One disk of a bundle, of its exact size: the view that QEMU opens is rounded up to 512.

    Closes ``bundle``, where one is given, with itself.
    """

    def __init__(self, view: Qcow2Reader, bundle: Bundle | None, virtual_size: int):
        self.view = view
        self.format = view.format
        self.path = view.path
        self.source = bundle.source if bundle is not None else view.source
        self.virtual_size = virtual_size
        self.cluster_size = view.cluster_size
        self._bundle = bundle

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        require_inside(offset, length, self.virtual_size, self.path)
        return self.view.extents(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        require_inside(offset, length, self.virtual_size, self.path)
        return self.view.read(offset, length)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        return self.view.map_runs(offset, length)

    def info(self) -> ImageInfo:
        return replace(self.view.info(), virtual_size=self.virtual_size)

    def check(self) -> Iterator[Finding]:
        return self.view.check()

    def close(self) -> None:
        self.view.close()
        if self._bundle is not None:
            self._bundle.close()
