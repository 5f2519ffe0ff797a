"""Reads a qcow2 image, or one of its snapshots. Profile: specs/qcow2.md."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.formats.base import Finding, ImageInfo, OpenOptions
from vmpack.formats.mapped import COMPRESSED, MappedReader, Run
from vmpack.formats.qcow2 import FORMAT
from vmpack.formats.qcow2.header import load_header
from vmpack.formats.qcow2.inflate import Inflater
from vmpack.formats.qcow2.mapping import Mapping
from vmpack.formats.qcow2.records import find_snapshot
from vmpack.source import ByteSource


class Qcow2Reader(MappedReader):
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
                self.source,
                header.data_file,
                self.options,
                what="external data file",
                clauses="QCOW2-REF",
            )
        if header.backing_name is not None:
            self.backing = open_backing(
                self.source,
                header.backing_name,
                header.backing_format,
                self.options,
                clauses="QCOW2-REF",
            )

    def require_data(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        return self.mapping.runs(offset, length)

    def decode(self, runs: list[Run]) -> list[bytes]:
        return self._inflater.decode(runs)

    def compressed_frames(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """``(guest offset, host offset, host length)`` of the compressed clusters of a range.

        The host length reaches to the end of the last sector that the frame touches, or to the
        file's end: where a frame ends exactly, only its own format or an index can tell.
        """
        for run in self.mapping.runs(offset, length):
            if run.state == COMPRESSED:
                yield run.offset, run.host, run.host_length

    def info(self) -> ImageInfo:
        from vmpack.formats.qcow2.info import image_info

        return image_info(self)

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.qcow2.check import check_image

        return check_image(self)

    def __repr__(self) -> str:
        return f"<qcow2 {escape(self.path)!r}, {self.virtual_size} bytes>"
