"""Converts one disk image into another format, and proves that the content is the same."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vmpack import formats
from vmpack.batches import data_bytes
from vmpack.copy import CopyResult, writing
from vmpack.errors import OutputError, UsageError, from_os_error
from vmpack.formats.base import CreateOptions, Format, ImageReader, OpenOptions
from vmpack.ops.create import require_options, writable
from vmpack.ops.fitting import fit
from vmpack.ops.grown import GrownDisk
from vmpack.ops.opening import Path, open_image, require_idle, require_max_size, sources_of
from vmpack.ops.streams import content_seed, fill, stream, stream_sink
from vmpack.ops.writing import NewImage, require_same, source_date_epoch
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
    """Where it was asked for, or is known anyway (a pipe, an existing target)."""
    verified: bool
    """What was written was read back and is what the source holds."""
    dry_run: bool = False
    sync_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    """How the disk differs from its source, where the format's options ask for that."""

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
            "notes": list(self.notes),
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
    parents: Sequence[str] = (),
    max_size: int | None = None,
    verify: bool = True,
    digest: bool = False,
    dry_run: bool = False,
    target_exists: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> ConvertResult:
    """Convert ``src`` into ``dst``; ``-`` is standard input or output.

    The output's format is ``output_format``, else what its suffix says. ``options`` are the
    format's, and ``size``, which grows the disk. ``verify`` reads the output back and compares it
    with what the source held, by digests of 64 KiB leaves: a difference leaves no output.
    ``digest`` computes the content digest as well. ``target_exists`` writes raw
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
        digest=digest,
        force=force,
        progress=progress,
    )
    size = _grown_size(job)
    allowed = OpenOptions(
        allow_backing=allow_backing,
        backing_dirs=tuple(backing_dirs),
        parents=tuple(parents),
        snapshot=snapshot,
        max_size=max_size,
    )
    reader = open_image(src, format=source_format, options=allowed)
    try:
        require_idle(reader)
        require_max_size(reader, max_size)
        disk = _grown(reader, size)
        disk, notes = fit(job.target, disk, _options(job, disk))
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
            notes=notes,
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
    digest: bool
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
    wanted = _options(job, disk)
    with NewImage(job.target, job.path, wanted, force=job.force, inputs=inputs) as new:
        copied = new.copy(
            disk,
            workers=job.workers,
            progress=job.progress,
            verify=job.verify,
            digest=job.digest,
        )
        size = new.size
        if job.verify:
            new.verify(copied, workers=job.workers, progress=job.progress)
        new.commit()
        return _Written(copied, size, job.verify, new.sync_seconds)


def _options(job: _Job, disk: ImageReader) -> CreateOptions:
    return CreateOptions(
        virtual_size=disk.virtual_size,
        values=job.values,
        compressed=job.compressed,
        level=job.level,
    )


def _verify_raw(job: _Job, fd: int, size: int, expected: str | None) -> None:
    from vmpack.digest import content_digest

    reader = job.target.open(ByteSource(fd, path=job.path, size=size), OpenOptions())
    job.progress.stage("verifying", data_bytes(reader))
    require_same(
        content_digest(reader, workers=job.workers, progress=job.progress), expected, job.path
    )


def _require_raw(job: _Job, why: str) -> None:
    if job.target.name != "raw":
        raise UsageError(
            f"{job.target.name} cannot be written to {why}", path=job.path, hint="choose -O raw"
        )
    if job.compressed:
        raise UsageError("raw cannot be compressed", path=job.path, hint="drop -c")


def _to_stream(job: _Job, disk: ImageReader) -> _Written:
    if job.target.stream is None:
        raise UsageError(
            f"{job.target.name} cannot be written to a pipe",
            path=job.path,
            hint=f"choose one of {', '.join(_stream_formats())}, or write to a file",
        )
    # Refused options are refused before a byte is written or read.
    options = replace(_options(job, disk), timestamp=source_date_epoch())
    writer = job.target.stream(options)
    try:
        sys.stdout.flush()
        fd = sys.stdout.fileno()
    except (OSError, ValueError) as exc:
        raise OutputError("standard output is not a file or pipe", path=job.path) from exc
    if writer.needs_seed:
        seed = content_seed(disk, workers=job.workers, progress=job.progress)
        writer = job.target.stream(replace(options, seed=seed))
    sink = stream_sink(fd, "standard output")
    copied = stream(disk, writer, sink, workers=job.workers, progress=job.progress)
    return _Written(copied, None, False)


def _stream_formats() -> list[str]:
    return [name for name in formats.names() if formats.get(name).stream is not None]


def _into_existing(job: _Job, disk: ImageReader, inputs: list[ByteSource]) -> _Written:
    """Write every byte, zeros too, into what is there: a device has no holes to leave."""
    _require_raw(job, "a target that exists")
    fd = _open_existing(job, disk.virtual_size, inputs)
    try:
        copied = fill(disk, fd, job.path, workers=job.workers, progress=job.progress)
        writing(job.path, os.fsync, fd)
        if job.verify:
            _verify_raw(job, fd, disk.virtual_size, copied.content_digest)
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
