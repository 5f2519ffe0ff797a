"""Reads a VDI image: dynamic, static, or differencing over its parent. Profile: specs/vdi.md."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.errors import UnsafeError, UsageError, VmpackError
from vmpack.extent import Kind
from vmpack.formats.base import Finding, ImageInfo, MapRun, OpenOptions
from vmpack.formats.mapped import DATA, ZERO_ALLOCATED, MappedReader, Run
from vmpack.formats.vdi.blockmap import BlockMap
from vmpack.formats.vdi.format import FORMAT
from vmpack.formats.vdi.header import guest_size, load_header
from vmpack.formats.vdi.structs import (
    NO_UUID,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    TYPE_STATIC,
)
from vmpack.source import ByteSource

_TYPES = {TYPE_DYNAMIC: "dynamic", TYPE_STATIC: "static", TYPE_DIFFERENCING: "differencing"}


class VdiReader(MappedReader):
    """A VDI image. Opening reads the first sector only, and the parent's where there is one.

    Raises :class:`DamagedError`, :class:`UnsupportedError` or :class:`UnsafeError` for an image
    that breaks the format, uses what vmpack lacks, or needs a parent that the caller did not give.
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
        if self.options.snapshot is not None:
            raise UsageError(
                "a VDI image has no snapshots inside it",
                path=self.path,
                hint="VirtualBox keeps each in a file of its own: name that, with --parent",
            )
        self.header = load_header(self.source)
        self.cluster_size = self.header.block_size
        self.virtual_size = guest_size(self.header)
        self.map = BlockMap(self.source, self.header, self.virtual_size)
        self._sparse = self.header.image_type == TYPE_STATIC
        if self.header.image_type != TYPE_DIFFERENCING:
            return
        try:
            self._open_parent()
        except VmpackError as exc:
            if not self.options.metadata_only:
                raise
            self._refusal = exc

    def _open_parent(self) -> None:
        """The image that this one changes: it is known by its UUIDs, never by a name."""
        from vmpack.formats.backing import open_parent

        wanted = self.header.uuid_parent
        # VirtualBox names a snapshot's file after its UUID; a machine's first disk has any name.
        parent = open_parent(
            self.source, [f"{{{wanted}}}.vdi"], FORMAT, self.options, clauses="VDI-REF"
        )
        self.backing = parent
        assert isinstance(parent, VdiReader)
        if parent.header.uuid_image != wanted:
            raise UnsafeError(
                f"its parent has the UUID {wanted}, and {escape(parent.path)} has "
                f"{parent.header.uuid_image}",
                path=self.path,
                offset=0x1A8,
                clause="VDI-REF-6",
                hint="name the image with that UUID: --parent FILE",
            )
        changed = self.header.uuid_parent_modification
        if changed not in (NO_UUID, parent.header.uuid_modification):
            raise UnsafeError(
                f"its parent {escape(parent.path)} was changed after this image was made",
                path=self.path,
                offset=0x1B8,
                clause="VDI-REF-7",
                hint="what the two hold together is no state that the disk ever had",
            )

    def require_data(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        for run in self.map.runs(offset, length):
            if self._sparse and run.state == DATA:
                yield from self._holes(run, offset, offset + length)
            else:
                yield run

    def _holes(self, run: Run, low: int, high: int) -> Iterator[Run]:
        """A static image's stored room, with the holes of its file told from data."""
        first, end = max(run.offset, low), min(run.offset + run.length, high)
        shift = run.offset - run.host
        for one in self.source.extents(first - shift, end - first):
            state = DATA if one.kind is Kind.DATA else ZERO_ALLOCATED
            yield Run(one.offset + shift, one.length, state, one.offset)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for run in super().map_runs(offset, length):
            hole = not run.data and run.host is not None
            yield run._replace(data=True, file_hole=True) if hole else run

    def info(self) -> ImageInfo:
        header = self.header
        facts: dict[str, object] = {
            "image-type": _TYPES[header.image_type],
            "uuid": str(header.uuid_image),
        }
        if header.image_type == TYPE_DIFFERENCING:
            facts["parent-uuid"] = str(header.uuid_parent)
        return ImageInfo(
            format=FORMAT.qemu_name,
            virtual_size=self.virtual_size,
            cluster_size=header.block_size,
            specific=facts,
        )

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.vdi.check import check_image

        return check_image(self)

    def __repr__(self) -> str:
        return f"<VDI {escape(self.path)!r}, {self.virtual_size} bytes>"
