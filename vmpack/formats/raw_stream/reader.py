"""A raw disk out of a compressed file: decoded once, when it is opened."""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.errors import UnsafeError, UnsupportedError, UsageError
from vmpack.extent import Extent
from vmpack.formats.base import Finding, ImageInfo, MapRun, OpenOptions
from vmpack.formats.probe import footer_matches, matches
from vmpack.formats.raw import BLOCK, RawReader
from vmpack.formats.raw_stream import stream_format
from vmpack.formats.raw_stream.codecs import decoded
from vmpack.formats.raw_stream.spool import Limits, spooled
from vmpack.source import ByteSource


class RawStreamReader:
    """The disk in ``source``, which stays open: it is what the disk came from.

    Raises :class:`DamagedError` for a file that does not decode to its end, and
    :class:`UnsafeError` for one that is larger than allowed or, if only its ``named`` says that
    it holds a raw disk, begins as another format does.
    """

    def __init__(self, source: ByteSource, codec: str, options: OpenOptions, *, named: bool):
        """Takes ownership of ``source``, also when it raises."""
        self.format = stream_format(codec, named=named)
        self.path = source.path
        self.source = source
        self.cluster_size = BLOCK
        self._codec = codec
        self._disk: RawReader | None = None
        try:
            self._open(options, named)
        except BaseException:
            self.close()
            raise

    def _open(self, options: OpenOptions, named: bool) -> None:
        if options.snapshot is not None:
            raise UsageError("a raw image has no snapshots", path=self.path)
        limits = Limits(self.path, self.source.size, options.max_size)
        spool = spooled(decoded(self.source, self._codec), path=self.path, limits=limits)
        self._disk = RawReader(spool)
        self.virtual_size = spool.size
        found = [*matches(spool), *footer_matches(spool)]
        if named and found:
            raise UnsafeError(
                f"is named as a compressed raw disk is, but holds the magic of {found[0]}",
                path=self.path,
                clause="RAW-STREAM-4",
                hint=f"if it is raw, say so: -f {self.format.name}; else decompress it first",
            )

    @property
    def disk(self) -> RawReader:
        """The decoded disk."""
        assert self._disk is not None
        return self._disk

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        return self.disk.extents(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        return self.disk.read(offset, length)

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        for run in self.disk.map_runs(offset, length):
            yield run._replace(host=None, compressed=run.data)

    def info(self) -> ImageInfo:
        return ImageInfo(
            format=self.format.qemu_name,
            virtual_size=self.virtual_size,
            specific={"compression": self._codec},
        )

    def check(self) -> Iterator[Finding]:
        raise UnsupportedError("a raw image has no structures to check", path=self.path)

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()
        self.source.close()
