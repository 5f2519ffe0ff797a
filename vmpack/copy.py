"""The one engine that moves a disk's data from a reader to a writer. It knows no formats.

Data is read, hashed and prepared (compressed) on worker threads in batches of a few MiB, and
emitted in order from the calling thread, so that the output does not depend on the number of
workers.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from vmpack.batches import Spans
from vmpack.content_seed import ContentSeed
from vmpack.digest import LEAF, ContentDigest, leaf_digests
from vmpack.errors import from_os_error
from vmpack.formats.base import ImageReader, ImageWriter, Job
from vmpack.pipeline import Future, executor, ordered, worker_count
from vmpack.progress import SILENT, Progress

Leaves = list[tuple[int, bytes]]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What was copied."""

    content_digest: str | None
    data_bytes: int
    """Bytes of guest disk that were read; holes are not."""
    mark: bytes | None = None
    """:meth:`ContentSeed.digest` of what was given to the writer: what reading back is held to."""


def copy_image(
    reader: ImageReader,
    writer: ImageWriter,
    fd: int,
    *,
    path: str = "output",
    workers: int | None = None,
    progress: Progress = SILENT,
    label: str = "copying",
    digest: bool = True,
    mark: bool = False,
) -> CopyResult:
    """Give all data of ``reader`` to ``writer``, whose output is ``fd`` (``path`` names it).

    ``digest`` computes the content digest on the way, ``mark`` the mark. Calls ``writer.finish``
    at the end. Raises whatever the reader and writer raise, and :class:`OutputError` for writes
    that fail.
    """
    seed = writer.seed
    seeds = [ContentSeed(reader.virtual_size)] if mark else []
    if seed is not None:
        seeds.append(seed)
    unit = math.lcm(writer.unit, LEAF) if digest or seeds else writer.unit
    content = ContentDigest(reader.virtual_size)
    count = worker_count(workers)
    total = 0

    def work(batch: tuple[int, int]) -> tuple[int, object, Leaves, Leaves]:
        offset, length = batch
        data = reader.read(offset, length)
        leaves = leaf_digests(offset, data) if digest else []
        marks = ContentSeed.leaves(offset, data) if seeds else []
        return length, writing(path, writer.prepare, offset, data), leaves, marks

    spans = Spans(reader, unit)
    progress.stage(label, spans.total)
    with executor(count) as pool:
        writes: deque[Future[None]] = deque()
        try:
            for length, prepared, leaves, marks in ordered(pool, work, spans.batches(), 2 * count):
                content.add(leaves)
                for each in seeds:
                    each.add(marks)
                total += length
                for job in writer.emit(prepared):
                    writes.append(pool.submit(write_all, fd, job, path))
                while len(writes) > 4 * count:
                    writes.popleft().result()
                progress.advance(length)
            while writes:
                writes.popleft().result()
        finally:
            for future in writes:
                future.cancel()
        writing(path, writer.finish)
    return CopyResult(
        content.result() if digest else None, total, seeds[0].digest() if mark else None
    )


def writing(path: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``call(*args, **kwargs)``, an ``OSError`` of it as :class:`OutputError` about ``path``."""
    try:
        return call(*args, **kwargs)
    except OSError as exc:
        raise from_os_error(exc, path=path, writing=True) from exc


def write_all(fd: int, job: Job, path: str) -> None:
    """Write all of ``job.data`` at ``job.offset`` of ``fd``; raises :class:`OutputError`."""
    view = memoryview(job.data)
    offset = job.offset
    target = fd if job.fd is None else job.fd
    try:
        while view:
            done = os.pwrite(target, view, offset)
            view = view[done:]
            offset += done
    except OSError as exc:
        raise from_os_error(exc, path=path, writing=True) from exc
