"""Images on standard input and output, where the format is one that a stream can carry."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vmpack.batches import BATCH, LEAF, Spans
from vmpack.copy import CopyResult
from vmpack.digest import ContentDigest, leaf_digests
from vmpack.errors import from_os_error
from vmpack.formats.base import ImageReader
from vmpack.formats.raw import data_blocks
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


def spool_stdin(fd: int | None = None) -> ByteSource:
    """Standard input (or ``fd``), read to its end into an unlinked file with holes for zeros.

    The file lies in the temporary folder (``TMPDIR``) and vanishes with its descriptor.
    """
    import tempfile

    stdin = sys.stdin.fileno() if fd is None else fd
    try:
        with tempfile.TemporaryFile(buffering=0) as spool:
            size = 0
            while piece := os.read(stdin, _PIECE):
                for start, end in data_blocks(piece):
                    _write_at(spool.fileno(), memoryview(piece)[start:end], size + start)
                size += len(piece)
            os.ftruncate(spool.fileno(), size)
            kept = os.dup(spool.fileno())
    except OSError as exc:
        raise from_os_error(exc, path="standard input") from exc
    return ByteSource(kept, path="-", size=size, owns_fd=True)


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a disk's bytes go in order: data, and how many zeros to put between."""

    write: Callable[[memoryview], None]
    zeros: Callable[[int], None]


def stream_sink(fd: int, path: str) -> Sink:
    """A sink that writes everything, zeros as well, to a pipe, a device or a file in place."""

    def write(view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as exc:
            raise from_os_error(exc, path=path, writing=True) from exc

    def zeros(count: int) -> None:
        while count:
            take = min(count, _PIECE)
            write(memoryview(_ZEROS)[:take])
            count -= take

    return Sink(write, zeros)


def pump(
    reader: ImageReader,
    sink: Sink,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    label: str = "converting",
) -> CopyResult:
    """Give the whole disk to ``sink``, front to back, as raw bytes; hashed on the way."""
    content = ContentDigest(reader.virtual_size)
    count = worker_count(workers)
    position = total = 0

    def work(batch: tuple[int, int]) -> tuple[int, bytes, list[tuple[int, bytes]]]:
        offset, length = batch
        data = reader.read(offset, length)
        return offset, data, leaf_digests(offset, data)

    spans = Spans(reader, LEAF)
    progress.stage(label, spans.total)
    with executor(count) as pool:
        for offset, data, leaves in ordered(pool, work, spans.batches(), 2 * count):
            sink.zeros(offset - position)
            sink.write(memoryview(data))
            content.add(leaves)
            position = offset + len(data)
            total += len(data)
            progress.advance(len(data))
    sink.zeros(reader.virtual_size - position)
    return CopyResult(content.result(), total)


def pieces(ranges: Iterator[tuple[int, int]], size: int = BATCH) -> Iterator[tuple[int, int]]:
    """Each range cut into pieces of at most ``size`` bytes."""
    for offset, length in ranges:
        for start in range(offset, offset + length, size):
            yield start, min(size, offset + length - start)
