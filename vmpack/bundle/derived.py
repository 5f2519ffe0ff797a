"""A bundle's disk with changes on top, on its way into a new bundle.

What did not change moves as it is: its frames are copied and their digests reused. Only changed
clusters are read, hashed and compressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.bundle.index import DigestIndex, FrameIndex
from vmpack.bundle.pool import Batch, Cluster, prepare
from vmpack.bundle.reader import Bundle
from vmpack.digest import LEAF, leaf_digests
from vmpack.errors import DamagedError
from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats.base import MapRun
from vmpack.formats.qcow2 import FORMAT

if TYPE_CHECKING:
    from vmpack.codecs import Compressor
    from vmpack.formats.base import Finding, ImageInfo
    from vmpack.formats.qcow2.reader import Qcow2Reader


class DerivedDisk:
    """Disk ``disk_id`` of ``bundle`` as a guest left it: ``overlay`` holds what it wrote.

    An image reader for :meth:`BundleWriter.add_disk`, which has to be given the disk's own cluster
    size. Without an overlay the disk is what it was.
    """

    def __init__(self, bundle: Bundle, disk_id: str, overlay: Qcow2Reader | None = None):
        entry = bundle.disk_entry(disk_id)
        self.format = FORMAT
        self.path = f"{bundle.path}#{disk_id}"
        self.cluster_size = entry.cluster_size
        self._bundle = bundle
        self._base = bundle.disk(disk_id)
        self._overlay = overlay
        self._window = entry.window_offset
        self._index: DigestIndex = bundle.index()
        # A guest sees whole sectors; an unchanged disk keeps the size of its source.
        changed = overlay is not None and any(
            one.kind is not Kind.HOLE for one in overlay.extents()
        )
        self.virtual_size = entry.virtual_size if changed else entry.exact_size
        if overlay is not None and overlay.virtual_size != entry.virtual_size:
            raise DamagedError(
                f"an overlay of {overlay.virtual_size} bytes over a disk of {entry.virtual_size}",
                path=overlay.path,
                hint="the overlay belongs to another bundle",
            )

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        length = self.virtual_size - offset if length is None else length
        return coalesce(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        if self._overlay is None:
            yield from self._base.extents(offset, length)
            return
        for extent in self._overlay.extents(offset, length):
            if extent.kind is Kind.HOLE:
                yield from self._base.extents(extent.offset, extent.length)
            else:
                yield extent

    def read(self, offset: int, length: int) -> bytes:
        if self._overlay is None:
            return self._base.read(offset, length)
        parts = []
        for extent in self._overlay.extents(offset, length):
            reader = self._base if extent.kind is Kind.HOLE else self._overlay
            parts.append(reader.read(extent.offset, extent.length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for one in self.extents(offset, length):
            yield MapRun(one.offset, one.length, 0, one.kind is Kind.DATA)

    def prepare_batch(
        self, offset: int, length: int, index: FrameIndex, compress: Compressor
    ) -> Batch:
        """The clusters of a range: frames as they are where nothing changed."""
        size = self.cluster_size
        kept = self._kept(offset, length)
        clusters: list[Cluster] = []
        leaves: list[tuple[int, bytes]] = []
        for start in range(offset, offset + length, size):
            if start in kept:
                clusters.append(self._keep(start // size, kept[start], index))
                continue
            take = min(size, offset + length - start)
            if self._changed(start, take):
                batch = prepare(start, self.read(start, take), size, index, compress)
                clusters += batch.clusters
        if size == LEAF:
            leaves = [(cluster.index, cluster.sha256) for cluster in clusters]
        else:
            leaves = leaf_digests(offset, self.read(offset, length))
        return Batch(length, clusters, leaves)

    def _kept(self, offset: int, length: int) -> dict[int, int]:
        """Guest offset -> frame number of the stored clusters that no write touched."""
        kept = {}
        for guest, host, _ in self._base.compressed_frames(offset, length):
            if self._changed(guest, min(self.cluster_size, self.virtual_size - guest)):
                continue
            number = self._index.at(host + self._window)
            if number is None:
                raise DamagedError(
                    "a cluster maps to no frame of the index",
                    path=self.path,
                    offset=host + self._window,
                    clause="VMP-VIEW-5",
                    hint="vmpack check says what is damaged",
                )
            kept[guest] = number
        return kept

    def _changed(self, offset: int, length: int) -> bool:
        return self._overlay is not None and any(
            one.kind is not Kind.HOLE for one in self._overlay.extents(offset, length)
        )

    def _keep(self, number: int, frame_number: int, index: FrameIndex) -> Cluster:
        frame = self._index.frame(frame_number)
        raw = None
        if index.find(frame.sha256) is None:
            raw = self._bundle.source.pread(frame.offset, frame.size)
        return Cluster(number, frame.sha256, raw)

    def info(self) -> ImageInfo:
        return self._base.info()

    def check(self) -> Iterator[Finding]:
        return self._base.check()

    def close(self) -> None:
        self._base.close()
        if self._overlay is not None:
            self._overlay.close()
