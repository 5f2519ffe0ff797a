"""Reads a qcow2 image, or one of its snapshots. Profile: specs/qcow2.md."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.extent import Extent, Kind, coalesce
from vmpack.formats.base import Finding, ImageInfo, ImageReader, OpenOptions
from vmpack.formats.qcow2 import FORMAT
from vmpack.formats.qcow2 import mapping as m
from vmpack.formats.qcow2.header import load_header
from vmpack.formats.qcow2.inflate import Inflater
from vmpack.formats.qcow2.mapping import Mapping, Run
from vmpack.formats.qcow2.records import find_snapshot
from vmpack.formats.raw import require_inside
from vmpack.source import ByteSource

_KINDS = (Kind.HOLE, Kind.ZERO, Kind.ZERO, Kind.DATA, Kind.DATA)


class Qcow2Reader:
    """A qcow2 image over a file or a window of one. Opening reads the first cluster only.

    Raises :class:`DamagedError`, :class:`UnsupportedError` or :class:`UnsafeError` for an image
    that breaks the format, uses what vmpack lacks, or needs a file that the caller did not allow.
    """

    def __init__(self, source: ByteSource, options: OpenOptions | None = None):
        """Takes ownership of ``source``, also when it raises."""
        self.format = FORMAT
        self.path = source.path
        self.source = source
        self.options = options or OpenOptions()
        self.backing: ImageReader | None = None
        self.data_source: ByteSource | None = None
        self._refusal: VmpackError | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self.header = load_header(self.source)
        fields = self.header.fields
        self.cluster_size = self.header.cluster_size
        l1_offset, l1_size, size = fields.l1_table_offset, fields.l1_size, fields.size
        if self.options.snapshot is not None:
            found = find_snapshot(self.source, self.header, self.options.snapshot)
            l1_offset, l1_size, size = found.l1_offset, found.l1_size, found.virtual_size
        self.virtual_size = size
        try:
            self._open_data()
        except VmpackError as exc:
            if not self.options.metadata_only:
                raise
            self._refusal = exc
        self.mapping = Mapping(
            self.source,
            self.header,
            l1_offset=l1_offset,
            l1_size=l1_size,
            virtual_size=size,
            data_source=self.data_source,
        )
        self._inflater = Inflater(self.source, self.cluster_size, fields.compression_type)

    def _open_data(self) -> None:
        """What reading guest data needs: no refusal, and the other files that are allowed."""
        from vmpack.formats.backing import open_backing, open_named

        header = self.header
        if header.encryption is not None:
            raise UnsupportedError(
                f"{header.encryption.upper()} encryption",
                path=self.path,
                clause="QCOW2-HDR-5",
                hint="decrypt it with qemu-img convert first",
            )
        if header.corrupt:
            raise DamagedError(
                "is marked corrupt",
                path=self.path,
                offset=72,
                clause="QCOW2-HDR-15",
                hint="repair a copy: qemu-img check -r all COPY",
            )
        if header.external_data:
            if header.data_file is None:
                raise DamagedError(
                    "keeps its data in another file and does not name it",
                    path=self.path,
                    clause="QCOW2-EXT-3",
                )
            self.data_source = open_named(
                self.source, header.data_file, self.options, what="external data file"
            )
        if header.backing_name is not None:
            self.backing = open_backing(
                self.source, header.backing_name, header.backing_format, self.options
            )

    def _require_data(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Mapping by this image alone of ``[offset, offset + length)``, clipped to it.

        A COMPRESSED run's ``host`` is where its whole cluster is stored, also where it is clipped.
        """
        end = offset + length
        for run in self.mapping.runs(offset, length):
            low, high = max(run.offset, offset), min(run.offset + run.length, end)
            host = run.host
            if run.state in (m.DATA, m.ZERO_ALLOCATED):
                host += low - run.offset
            yield Run(low, high - low, run.state, host, run.host_length)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        self._require_data()
        length = self.virtual_size - offset if length is None else length
        require_inside(offset, length, self.virtual_size, self.path)
        return coalesce(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        # Neighbours of one kind, cluster after cluster in a compressed image, become one extent.
        start, kind = offset, Kind.HOLE
        position, end = offset, offset + length
        for first, size, state, _, _ in self.mapping.runs(offset, length):
            if state == m.HOLE and self.backing is not None:
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

    def read(self, offset: int, length: int) -> bytes:
        self._require_data()
        require_inside(offset, length, self.virtual_size, self.path)
        parts: list[bytes] = []
        compressed: list[Run] = []
        end = offset + length
        for run in self.mapping.runs(offset, length):
            if run.state == m.COMPRESSED:
                compressed.append(run)
                continue
            if compressed:
                parts += self._decoded(compressed, offset, end)
                compressed = []
            low, high = max(run.offset, offset), min(run.offset + run.length, end)
            if run.state == m.DATA:
                host = run.host + low - run.offset
                parts.append((self.data_source or self.source).pread(host, high - low))
            elif run.state == m.HOLE and self.backing is not None:
                parts.append(self._backing_bytes(low, high - low))
            else:
                parts.append(bytes(high - low))
        if compressed:
            parts += self._decoded(compressed, offset, end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decoded(self, runs: list[Run], offset: int, end: int) -> list[bytes]:
        clusters = self._inflater.decode(runs)
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

    def compressed_frames(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """``(guest offset, host offset, host length)`` of the compressed clusters of a range.

        The host length reaches to the end of the last sector that the frame touches, or to the
        file's end: where a frame ends exactly, only its own format or an index can tell.
        """
        for run in self.mapping.runs(offset, length):
            if run.state == m.COMPRESSED:
                yield run.offset, run.host, run.host_length

    def info(self) -> ImageInfo:
        from vmpack.formats.qcow2.info import image_info

        return image_info(self)

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.qcow2.check import check_image

        return check_image(self)

    def close(self) -> None:
        if self.backing is not None:
            self.backing.close()
        if self.data_source is not None:
            self.data_source.close()
        self.source.close()

    def __repr__(self) -> str:
        return f"<qcow2 {escape(self.path)!r}, {self.virtual_size} bytes>"
