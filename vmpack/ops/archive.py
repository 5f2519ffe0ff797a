"""Archives written in one pass: their disks are streamed into place, with no scratch copy.

A config that stands before the disks names their sizes and digests: room is left for it, and it
is written last. Source of the layout: DSP0243 (OVF), "OVF package as a single file".
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import IO

from vmpack import formats
from vmpack.copy import copy_image, write_all, writing
from vmpack.errors import OperationError, from_os_error
from vmpack.formats.base import CreateOptions, ImageReader, Job
from vmpack.hypervisors.base import DiskFile, Plan, TextFile, WrittenDisk
from vmpack.ops.streams import content_seed, stream
from vmpack.ops.writing import new_writer, source_date_epoch
from vmpack.output import Output
from vmpack.progress import SILENT, Progress

BLOCK = 512
USTAR_MOST = 8 << 30
"""Bytes: what an octal size field of a ustar header holds ends here; vSphere reads no PAX."""


def header(name: str, size: int, *, executable: bool = False) -> bytes:
    """A member's header: ustar, or GNU's form for sizes and names that ustar has no room for."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if executable else 0o644
    info.mtime = source_date_epoch() or 0
    large = size >= USTAR_MOST or len(name.encode()) > 100
    return info.tobuf(tarfile.GNU_FORMAT if large else tarfile.USTAR_FORMAT, "utf-8", "strict")


def write_tar(
    out: Output,
    plan: Plan,
    options: Mapping[str, CreateOptions],
    readers: Mapping[str, ImageReader],
    unwritten: Mapping[str, WrittenDisk],
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Sequence[TextFile]:
    """Write the archive: the members in the plan's order; the texts once the disks are known.

    Raises :class:`OutputError` when the file cannot be written.
    """
    room = {one.name: one for one in plan.render(unwritten)}
    disks = {one.name: one for one in plan.disks}
    position = 0
    places: dict[str, int] = {}
    written: dict[str, WrittenDisk] = {}
    for name in plan.order:
        places[name] = position
        if name in room:
            length = len(header(name, len(room[name].data))) + len(room[name].data)
        else:
            file = disks[name]
            length, written[file.disk] = _stream_disk(
                out, position, file, plan, options[file.disk], readers[file.disk], workers, progress
            )
        position += -(-length // BLOCK) * BLOCK
    texts = plan.render(written)
    for one in texts:
        if len(one.data) != len(room[one.name].data):
            raise OperationError(
                f"{one.name} has {len(one.data)} bytes, {len(room[one.name].data)} were set aside",
                path=out.name,
            )
        data = header(one.name, len(one.data), executable=one.executable) + one.data
        write_all(out.fd, Job(places[one.name], data), out.name)
    # Two zero blocks end an archive; tar rounds up to 20 of them.
    end = -(-(position + 2 * BLOCK) // (20 * BLOCK)) * 20 * BLOCK
    try:
        os.ftruncate(out.fd, end)
    except OSError as exc:
        raise from_os_error(exc, path=out.name, writing=True) from exc
    return texts


def _stream_disk(
    out: Output,
    position: int,
    file: DiskFile,
    plan: Plan,
    options: CreateOptions,
    reader: ImageReader,
    workers: int | None,
    progress: Progress,
) -> tuple[int, WrittenDisk]:
    """Stream one image behind a header that is written when its size is known."""
    target = formats.get(file.format)
    if target.stream is None:
        raise OperationError(f"{file.format} cannot be written into an archive", path=out.name)
    # The longest header that the name and any size may need leaves its place.
    before = len(header(file.name, 0))
    options = replace(options, timestamp=source_date_epoch())
    writer = target.stream(options)
    if writer.needs_seed:
        seed = content_seed(reader, workers=workers, progress=progress)
        writer = target.stream(replace(options, seed=seed))
    digests = {name: hashlib.new(name) for name in plan.digests}
    done = 0

    def sink(data: bytes | memoryview) -> None:
        nonlocal done
        for one in digests.values():
            one.update(data)
        write_all(out.fd, Job(position + before + done, data), out.name)
        done += len(data)

    stream(reader, writer, sink, workers=workers, progress=progress, label=f"writing {file.disk}")
    head = header(file.name, done)
    assert len(head) == before
    write_all(out.fd, Job(position, head), out.name)
    found = {name: one.hexdigest() for name, one in digests.items()}
    return before + done, WrittenDisk(done, found, (file.name,))


def write_gzipped(
    out: Output,
    plan: Plan,
    options: Mapping[str, CreateOptions],
    readers: Mapping[str, ImageReader],
    unwritten: Mapping[str, WrittenDisk],  # noqa: ARG001 - as write_tar
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Sequence[TextFile]:
    """Write a gzip'd archive. A header needs its image's size first: images go through a file.

    That file has no name, lies beside the output, and is gone when the next one is written.
    """
    images: dict[str, IO[bytes]] = {}
    written: dict[str, WrittenDisk] = {}
    with ExitStack() as stack:
        for file in plan.disks:
            scratch: IO[bytes] = stack.enter_context(_scratch(out))
            size = _to_scratch(
                scratch.fileno(), out.name, file, options, readers, workers, progress
            )
            images[file.name] = scratch
            written[file.disk] = WrittenDisk(size, {}, (file.name,))
        texts = {one.name: one for one in plan.render(written)}
        writing(out.name, _pack, out.fd, plan.order, texts, images)
    return list(texts.values())


def _pack(
    fd: int, order: Sequence[str], texts: Mapping[str, TextFile], images: Mapping[str, IO[bytes]]
) -> None:
    when = source_date_epoch() or 0
    with os.fdopen(os.dup(fd), "wb") as raw:
        with gzip.GzipFile("", "wb", 6, raw, mtime=when) as packed:
            for name in order:
                if name in texts:
                    one = texts[name]
                    head = header(name, len(one.data), executable=one.executable)
                    packed.write(head + one.data + bytes(-len(one.data) % BLOCK))
                    continue
                size = os.fstat(images[name].fileno()).st_size
                packed.write(header(name, size))
                images[name].seek(0)
                shutil.copyfileobj(images[name], packed, 1 << 20)
                packed.write(bytes(-size % BLOCK))
            packed.write(bytes(2 * BLOCK))
        raw.flush()


def _scratch(out: Output) -> IO[bytes]:
    """A file without a name on the output's file system."""
    try:
        return tempfile.TemporaryFile(dir=os.path.dirname(out.path))
    except OSError as exc:
        raise from_os_error(exc, path=out.name, writing=True) from exc


def _to_scratch(
    fd: int,
    path: str,
    file: DiskFile,
    options: Mapping[str, CreateOptions],
    readers: Mapping[str, ImageReader],
    workers: int | None,
    progress: Progress,
) -> int:
    """Write the image into an unnamed file; its size."""
    copy_image(
        readers[file.disk],
        new_writer(formats.get(file.format), fd, options[file.disk], path),
        fd,
        path=path,
        workers=workers,
        progress=progress,
        label=f"writing {file.disk}",
        digest=False,
    )
    return os.fstat(fd).st_size
