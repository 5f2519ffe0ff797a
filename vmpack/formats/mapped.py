"""What readers of all formats with an allocation table share.

A format says which runs a range of the disk consists of; reading them, asking the backing image
for what is not there, extents and the map follow from that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats.base import Finding, Format, ImageInfo, ImageReader, MapRun
from vmpack.formats.raw import require_inside
from vmpack.source import ByteSource

HOLE, ZERO, ZERO_ALLOCATED, DATA, COMPRESSED = range(5)
"""What a run is: not in this image; zeros; zeros with stored room kept; data; compressed."""

_KINDS = (Kind.HOLE, Kind.ZERO, Kind.ZERO, Kind.DATA, Kind.DATA)


class Run(NamedTuple):
    """``length`` guest bytes from ``offset``, all in one state.

    ``host`` is where DATA, ZERO_ALLOCATED and COMPRESSED bytes begin in the image; a COMPRESSED
    run is one whole cluster of ``host_length`` stored bytes (an upper bound where the format does
    not state it exactly).
    """

    offset: int
    length: int
    state: int
    host: int = 0
    host_length: int = 0


class MappedReader(ABC):
    """A reader whose format maps ranges of the guest's disk to ranges of one file.

    A subclass sets the attributes and gives :meth:`lookup`, and :meth:`decode` where the format
    has compressed clusters.
    """

    format: Format
    path: str
    virtual_size: int
    cluster_size: int
    source: ByteSource
    data_source: ByteSource | None = None
    """The file with the data, where that is not ``source``."""
    backing: ImageReader | None = None

    @abstractmethod
    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        """Runs, ascending and contiguous, that cover the range, inside the disk.

        The first may begin before it, the last may end behind it: runs need no clipping.
        """

    def decode(self, runs: list[Run]) -> list[bytes]:
        """The ``length`` guest bytes of each of these COMPRESSED runs."""
        raise AssertionError(f"{self.format.name} has no compressed clusters: {runs[0]}")

    def require_data(self) -> None:  # noqa: B027 - most formats can read what they can open
        """Raise where the image can be described but not read (``metadata_only``)."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Mapping by this image alone of ``[offset, offset + length)``, clipped to it.

        A COMPRESSED run's ``host`` is where its whole cluster is stored, also where it is clipped.
        """
        end = offset + length
        for run in self.lookup(offset, length):
            low, high = max(run.offset, offset), min(run.offset + run.length, end)
            host = run.host
            if run.state in (DATA, ZERO_ALLOCATED):
                host += low - run.offset
            yield Run(low, high - low, run.state, host, run.host_length)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        self.require_data()
        length = self.virtual_size - offset if length is None else length
        require_inside(offset, length, self.virtual_size, self.path)
        return coalesce(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        # Neighbours of one kind, cluster after cluster in a compressed image, become one extent.
        start, kind = offset, Kind.HOLE
        position, end = offset, offset + length
        for first, size, state, _, _ in self.lookup(offset, length):
            if state == HOLE and self.backing is not None:
                yield Extent(start, position - start, kind)
                inside, start = max(first, offset), min(first + size, end)
                yield from self._backing_extents(inside, start - inside)
                position = start
                continue
            if _KINDS[state] is not kind:
                yield Extent(start, position - start, kind)
                start, kind = position, _KINDS[state]
            position = first + size
        yield Extent(start, min(position, end) - start, kind)

    def _backing_extents(self, offset: int, length: int) -> Iterator[Extent]:
        assert self.backing is not None
        inside = max(0, min(length, self.backing.virtual_size - offset))
        if inside:
            yield from self.backing.extents(offset, inside)
        yield Extent(offset + inside, length - inside, Kind.HOLE)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        self.require_data()
        base = 0 if self.data_source else self.source.base
        for start, size, state, host, _ in self.runs(offset, length):
            if state == HOLE and self.backing is not None:
                yield from self._backing_map(start, size)
            elif state == HOLE:
                yield MapRun(start, size, 0, data=False, present=False)
            elif state == COMPRESSED:
                yield MapRun(start, size, 0, data=True, compressed=True)
            else:
                place = None if state == ZERO else base + host
                yield MapRun(start, size, 0, data=state == DATA, host=place)

    def _backing_map(self, offset: int, length: int) -> Iterator[MapRun]:
        assert self.backing is not None
        inside = max(0, min(length, self.backing.virtual_size - offset))
        if inside:
            for run in self.backing.map_runs(offset, inside):
                yield run._replace(depth=run.depth + 1)
        if length > inside:
            yield MapRun(offset + inside, length - inside, 0, data=False)

    def read(self, offset: int, length: int) -> bytes:
        self.require_data()
        require_inside(offset, length, self.virtual_size, self.path)
        parts: list[bytes] = []
        compressed: list[Run] = []
        end = offset + length
        for run in self.lookup(offset, length):
            if run.state == COMPRESSED:
                compressed.append(run)
                continue
            if compressed:
                parts += self._decoded(compressed, offset, end)
                compressed = []
            low, high = max(run.offset, offset), min(run.offset + run.length, end)
            if run.state == DATA:
                host = run.host + low - run.offset
                parts.append((self.data_source or self.source).pread(host, high - low))
            elif run.state == HOLE and self.backing is not None:
                parts.append(self._backing_bytes(low, high - low))
            else:
                parts.append(bytes(high - low))
        if compressed:
            parts += self._decoded(compressed, offset, end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decoded(self, runs: list[Run], offset: int, end: int) -> list[bytes]:
        clusters = self.decode(runs)
        last = runs[-1]
        if last.offset + last.length > end:
            clusters[-1] = clusters[-1][: end - last.offset]
        if runs[0].offset < offset:
            clusters[0] = clusters[0][offset - runs[0].offset :]
        return clusters

    def _backing_bytes(self, offset: int, length: int) -> bytes:
        assert self.backing is not None
        inside = max(0, min(length, self.backing.virtual_size - offset))
        data = self.backing.read(offset, inside) if inside else b""
        return data + bytes(length - inside) if inside < length else data

    @abstractmethod
    def info(self) -> ImageInfo:
        """As :meth:`ImageReader.info`."""

    @abstractmethod
    def check(self) -> Iterator[Finding]:
        """As :meth:`ImageReader.check`."""

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        if self.data_source is not None:
            self.data_source.close()
        self.source.close()
