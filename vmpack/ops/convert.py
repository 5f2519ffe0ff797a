"""Converts one disk image into another format, and proves that the content is the same."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vmpack import formats
from vmpack.batches import data_bytes
from vmpack.copy import CopyResult, copy_image, writing
from vmpack.errors import DifferError, OutputError, UsageError, from_os_error
from vmpack.extent import Extent, Kind
from vmpack.formats.base import CreateOptions, Finding, Format, ImageInfo, ImageReader, OpenOptions
from vmpack.formats.raw import require_inside
from vmpack.ops.create import new_writer, require_options, writable
from vmpack.ops.opening import Path, open_image, require_idle, require_max_size, sources_of
from vmpack.ops.streams import pump, stream_sink
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written, or would be (``dry_run``). Sizes in bytes."""

    source: str
    source_format: str
    target: str
    target_format: str
    virtual_size: int
    data_bytes: int
    """Bytes of guest disk that were read; holes are not."""
    size: int | None
    """Bytes of the file that was written; ``None`` for a dry run or a pipe."""
    content_digest: str | None
    verified: bool
    """What was written was read back and had the source's content digest."""
    dry_run: bool = False
    sync_seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "source": self.source,
            "source-format": self.source_format,
            "filename": self.target,
            "format": self.target_format,
            "virtual-size": self.virtual_size,
            "data-bytes": self.data_bytes,
            "size": self.size,
            "content-digest": self.content_digest,
            "verified": self.verified,
            "dry-run": self.dry_run,
            "sync-milliseconds": round(self.sync_seconds * 1000),
        }


def convert(
    src: Path,
    dst: Path,
    *,
    source_format: str | None = None,
    output_format: str | None = None,
    options: Mapping[str, str] | None = None,
    compressed: bool = False,
    level: int | None = None,
    workers: int | None = None,
    snapshot: str | None = None,
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    max_size: int | None = None,
    verify: bool = True,
    dry_run: bool = False,
    target_exists: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> ConvertResult:
    """Convert ``src`` into ``dst``; ``-`` is standard input or output.

    The output's format is ``output_format``, else what its suffix says. ``options`` are the
    format's, and ``size``, which grows the disk. ``verify`` reads the output back and compares its
    content digest with the source's: a difference leaves no output. ``target_exists`` writes raw
    data into a file or block device that is there already.

    Raises :class:`UsageError` when input and output are one file, :class:`OutputError` when the
    output exists and ``force`` is not set, :class:`DifferError` when the read-back differs, and
    whatever opening and reading raise.
    """
    job = _Job(
        target=_target(os.fspath(dst), output_format),
        path=os.fspath(dst),
        values=dict(options or {}),
        compressed=compressed,
        level=level,
        workers=workers,
        verify=verify,
        force=force,
        progress=progress,
    )
    size = _grown_size(job)
    allowed = OpenOptions(
        allow_backing=allow_backing, backing_dirs=tuple(backing_dirs), snapshot=snapshot
    )
    reader = open_image(src, format=source_format, options=allowed)
    try:
        require_idle(reader)
        require_max_size(reader, max_size)
        disk = _grown(reader, size)
        if dry_run:
            found = _Written(CopyResult(None, data_bytes(disk)), None, False)
        elif job.path == STDOUT:
            found = _to_stream(job, disk)
        elif target_exists:
            found = _into_existing(job, disk, sources_of(reader))
        else:
            found = _to_file(job, disk, sources_of(reader))
        return ConvertResult(
            source=os.fspath(src),
            source_format=reader.format.qemu_name,
            target=job.path,
            target_format=job.target.qemu_name,
            virtual_size=disk.virtual_size,
            data_bytes=found.copied.data_bytes,
            size=found.size,
            content_digest=found.copied.content_digest,
            verified=found.verified,
            dry_run=dry_run,
            sync_seconds=found.sync_seconds,
        )
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class _Job:
    """The output that is asked for."""

    target: Format
    path: str
    values: dict[str, str]
    compressed: bool
    level: int | None
    workers: int | None
    verify: bool
    force: bool
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Written:
    copied: CopyResult
    size: int | None
    verified: bool
    sync_seconds: float = 0.0


def _target(path: str, output_format: str | None) -> Format:
    if output_format is not None:
        return writable(output_format)
    found = formats.by_suffix(path) if path != STDOUT else None
    if found is None:
        raise UsageError(
            "the output's name does not tell its format", path=path, hint="say which with -O"
        )
    return writable(found.name)


def _grown_size(job: _Job) -> int | None:
    """The ``size`` option, taken out of the format's own; the rest are the format's."""
    from vmpack.units import parse_size

    text = job.values.pop("size", None)
    require_options(job.target, job.values)
    return None if text is None else parse_size(text, name="-o size")


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

    def info(self) -> ImageInfo:
        return replace(self._reader.info(), virtual_size=self.virtual_size)

    def check(self) -> Iterator[Finding]:
        return self._reader.check()

    def close(self) -> None:
        self._reader.close()


def _grown(reader: ImageReader, size: int | None) -> ImageReader:
    if size is None or size == reader.virtual_size:
        return reader
    if size < reader.virtual_size:
        raise UsageError(
            f"{size} bytes are less than the disk's {reader.virtual_size}",
            field="-o size",
            hint="convert grows a disk, it never cuts one",
        )
    return GrownDisk(reader, size)


def _to_file(job: _Job, disk: ImageReader, inputs: list[ByteSource]) -> _Written:
    from vmpack.output import Output

    with Output(job.path, force=job.force, inputs=inputs) as out:
        if out.device_size is not None:
            raise UsageError(
                "is a block device", path=job.path, hint="-n writes raw data into a device"
            )
        wanted = CreateOptions(
            virtual_size=disk.virtual_size,
            values=job.values,
            compressed=job.compressed,
            level=job.level,
        )
        writer = new_writer(job.target, out.fd, wanted, job.path)
        copied = copy_image(
            disk,
            writer,
            out.fd,
            path=job.path,
            workers=job.workers,
            progress=job.progress,
            label="converting",
            digest=job.verify,
        )
        size = os.lseek(out.fd, 0, os.SEEK_END)
        if job.verify:
            _verify(job, out.fd, size, copied.content_digest)
        out.commit()
        return _Written(copied, size, job.verify, out.sync_seconds)


def _verify(job: _Job, fd: int, size: int, expected: str | None) -> None:
    """Read the output back through its own reader, before it gets its name."""
    from vmpack.digest import content_digest

    reader = job.target.open(ByteSource(fd, path=job.path, size=size), OpenOptions())
    job.progress.stage("verifying", data_bytes(reader))
    found = content_digest(reader, workers=job.workers, progress=job.progress)
    if found != expected:
        raise DifferError(
            f"what was written reads back as {found}, the source is {expected}",
            path=job.path,
            hint="the disk or memory of this machine may be faulty; nothing was kept",
        )


def _require_raw(job: _Job, why: str) -> None:
    if job.target.name != "raw":
        raise UsageError(
            f"{job.target.name} cannot be written to {why}", path=job.path, hint="choose -O raw"
        )
    if job.compressed:
        raise UsageError("raw cannot be compressed", path=job.path, hint="drop -c")


def _to_stream(job: _Job, disk: ImageReader) -> _Written:
    _require_raw(job, "a pipe")
    try:
        sys.stdout.flush()
        fd = sys.stdout.fileno()
    except (OSError, ValueError) as exc:
        raise OutputError("standard output is not a file or pipe", path=job.path) from exc
    sink = stream_sink(fd, "standard output")
    copied = pump(disk, sink, workers=job.workers, progress=job.progress)
    return _Written(copied, None, False)


def _into_existing(job: _Job, disk: ImageReader, inputs: list[ByteSource]) -> _Written:
    """Write every byte, zeros too, into what is there: a device has no holes to leave."""
    _require_raw(job, "a target that exists")
    fd = _open_existing(job, disk.virtual_size, inputs)
    try:
        sink = stream_sink(fd, job.path)
        copied = pump(disk, sink, workers=job.workers, progress=job.progress)
        writing(job.path, os.fsync, fd)
        if job.verify:
            _verify(job, fd, disk.virtual_size, copied.content_digest)
    finally:
        os.close(fd)
    return _Written(copied, disk.virtual_size, job.verify)


def _open_existing(job: _Job, size: int, inputs: list[ByteSource]) -> int:
    try:
        fd = os.open(job.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise from_os_error(exc, path=job.path, writing=True) from exc
    try:
        state = os.fstat(fd)
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISBLK(state.st_mode)):
            raise OutputError("is not a regular file or block device", path=job.path)
        if any(_same_file(os.fstat(one.fd), state) for one in inputs):
            raise UsageError("input and output are the same file", path=job.path)
        if not job.force:
            raise OutputError("exists already", path=job.path, hint="--force overwrites it")
        room = os.lseek(fd, 0, os.SEEK_END)
        if room < size:
            raise OutputError(f"has {room} bytes, the disk needs {size}", path=job.path)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _same_file(a: os.stat_result, b: os.stat_result) -> bool:
    if stat.S_ISBLK(a.st_mode) and stat.S_ISBLK(b.st_mode):
        return a.st_rdev == b.st_rdev
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
