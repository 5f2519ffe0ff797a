"""Reads a VHDX file: fixed, dynamic or differencing. Profile: specs/vhdx.md."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.errors import DamagedError, UsageError, VmpackError
from vmpack.extent import Extent, Kind
from vmpack.formats.base import Finding, ImageInfo, MapRun, OpenOptions
from vmpack.formats.mapped import DATA, MappedReader, Run
from vmpack.formats.vhdx import FORMAT
from vmpack.formats.vhdx.bat import Bat
from vmpack.formats.vhdx.image import Image, load_image
from vmpack.formats.vhdx.metadata import Locator
from vmpack.formats.vhdx.replay import ReplayedSource
from vmpack.source import ByteSource


class VhdxReader(MappedReader):
    """A VHDX file. Opening reads headers and metadata, and the log where it has to be replayed.

    Raises :class:`DamagedError`, :class:`UnsupportedError` or :class:`UnsafeError` for a file that
    breaks the format, uses what vmpack lacks, or needs a parent that the caller did not allow.
    """

    def __init__(self, source: ByteSource, options: OpenOptions | None = None):
        """Takes ownership of ``source``, also when it raises."""
        self.format = FORMAT
        self.path = source.path
        self.source = source
        self._refusal: VmpackError | None = None
        try:
            self._open(options or OpenOptions())
        except BaseException:
            self.close()
            raise

    def _open(self, options: OpenOptions) -> None:
        if options.snapshot is not None:
            raise UsageError("a VHDX image has no snapshots", path=self.path)
        self.image: Image = load_image(self.source)
        self.source = self.image.source
        meta = self.image.metadata
        self.virtual_size = meta.virtual_size
        self.cluster_size = meta.block_size
        self.bat = Bat(self.image)
        if meta.locator is None:
            return
        try:
            self._open_parent(meta.locator, options)
        except VmpackError as exc:
            if not options.metadata_only:
                raise
            self._refusal = exc

    def _open_parent(self, locator: Locator, options: OpenOptions) -> None:
        from vmpack.formats.backing import open_parent

        names = [path for path in locator.paths.values() if path]
        parent = open_parent(self.source, names, FORMAT, options, clauses="VHDX-REF")
        assert isinstance(parent, VhdxReader)
        # Kept before it is checked: closing this image closes it.
        self.backing = parent
        found = parent.image.header.data_write_guid
        if found not in locator.linkage:
            raise DamagedError(
                f"its parent has the DataWriteGuid {found}, it wants {locator.linkage[0]}",
                path=self.path,
                clause="VHDX-REF-7",
                hint="the parent was changed since, or it is another disk: name the right one",
            )
        if parent.image.metadata.logical_sector != self.image.metadata.logical_sector:
            raise DamagedError(
                "its parent has sectors of another size", path=self.path, clause="VHDX-REF-8"
            )

    def require_data(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        return self.bat.runs(offset, length)

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        # Blocks are allocated whole, and large: what the file itself has as a hole is not read.
        for extent in super()._extents(offset, length):
            if extent.kind is not Kind.DATA or isinstance(self.source, ReplayedSource):
                yield extent
                continue
            for run in self.runs(extent.offset, extent.length):
                yield from self._stored(run)

    def _stored(self, run: Run) -> Iterator[Extent]:
        if run.state != DATA:
            yield Extent(run.offset, run.length, Kind.DATA)
            return
        for part in self.source.extents(run.host, run.length):
            kind = Kind.DATA if part.kind is Kind.DATA else Kind.ZERO
            yield Extent(run.offset + part.offset - run.host, part.length, kind)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        runs = super().map_runs(offset, length)
        if not isinstance(self.source, ReplayedSource):
            return runs
        return map(self._without_replayed, runs)

    def _without_replayed(self, run: MapRun) -> MapRun:
        """The guest's bytes do not lie where the log changes the file."""
        assert isinstance(self.source, ReplayedSource)
        host = run.host
        if run.depth or host is None:
            return run
        inside = host - self.source.base
        if inside + run.length <= self.source.stored and not self.source.changes(
            inside, run.length
        ):
            return run
        return run._replace(host=None)

    def info(self) -> ImageInfo:
        """As :meth:`ImageReader.info`; ``format-specific`` is vmpack's own: QEMU has none."""
        meta, header = self.image.metadata, self.image.header
        subformat = "fixed" if meta.leave_allocated else "dynamic"
        facts: dict[str, object] = {
            "subformat": "differencing" if meta.locator else subformat,
            "block-size": meta.block_size,
            "logical-sector-size": meta.logical_sector,
            "physical-sector-size": meta.physical_sector,
            "virtual-disk-id": str(meta.disk_id),
            "data-write-guid": str(header.data_write_guid),
            "file-write-guid": str(header.file_write_guid),
            "log-size": header.log_length,
            "log-replayed": self.image.dirty,
            "creator": self.image.creator,
        }
        paths: dict[str, str] = {}
        if meta.locator is not None:
            paths = dict(meta.locator.paths)
            facts["parent-linkage"] = [str(one) for one in meta.locator.linkage]
            facts["parent-paths"] = {key.replace("_", "-"): paths[key] for key in paths}
        return ImageInfo(
            format=FORMAT.qemu_name,
            virtual_size=meta.virtual_size,
            cluster_size=meta.block_size,
            backing_filename=next(iter(paths.values()), None),
            backing_format=FORMAT.qemu_name if meta.locator is not None else None,
            dirty=self.image.dirty,
            specific=facts,
        )

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.vhdx.check import check_image

        return check_image(self.image, self.bat)

    def __repr__(self) -> str:
        return f"<vhdx {escape(self.path)!r}, {self.virtual_size} bytes>"
