"""Images on standard input and output, where the format is one that a stream can carry."""

from __future__ import annotations

import fcntl
import math
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator

from vmpack.batches import BATCH, LEAF, Spans
from vmpack.content_seed import ContentSeed
from vmpack.copy import CopyResult
from vmpack.digest import ContentDigest, leaf_digests
from vmpack.errors import UnsafeError, from_os_error
from vmpack.formats.base import ImageReader, StreamWriter
from vmpack.formats.raw import ZEROS, RawStream, data_blocks
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

_PIECE = 1 << 20
_BLKZEROOUT = 0x127F
"""Linux, include/uapi/linux/fs.h: zeros a range of a block device, freeing it where it can."""


def spool_stdin(fd: int | None = None, *, max_size: int | None = None) -> ByteSource:
    """Standard input (or ``fd``), read to its end into an unlinked file with holes for zeros.

    The file lies in the temporary folder (``TMPDIR``) and vanishes with its descriptor.
    Raises :class:`UnsafeError` as soon as there are more than ``max_size`` bytes.
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
                if max_size is not None and size > max_size:
                    raise UnsafeError(
                        f"its disk is larger than the {max_size} bytes allowed",
                        path="standard input",
                        clause="RAW-SIZE-1",
                        hint="raise --max-size",
                    )
            os.ftruncate(spool.fileno(), size)
            kept = os.dup(spool.fileno())
    except OSError as exc:
        raise from_os_error(exc, path="standard input") from exc
    return ByteSource(kept, path="-", size=size, owns_fd=True)


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


Sink = Callable[[bytes | memoryview], None]
"""Where the bytes of a stream go, in order."""


def stream_sink(fd: int, path: str) -> Sink:
    """A sink that writes to a pipe, a device or a file in place."""

    def write(data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as exc:
            raise from_os_error(exc, path=path, writing=True) from exc

    return write


def stream(
    reader: ImageReader,
    writer: StreamWriter,
    sink: Sink,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    label: str = "converting",
) -> CopyResult:
    """Give the whole disk to ``sink`` in the writer's format, front to back; hashed on the way."""
    content = ContentDigest(reader.virtual_size)
    count = worker_count(workers)
    total = 0

    def work(batch: tuple[int, int]) -> tuple[int, object, list[tuple[int, bytes]]]:
        offset, length = batch
        data = reader.read(offset, length)
        return length, writer.prepare(offset, data), leaf_digests(offset, data)

    spans = Spans(reader, math.lcm(writer.unit, LEAF))
    progress.stage(label, spans.total)
    for piece in writer.begin():
        sink(piece)
    with executor(count) as pool:
        for length, prepared, leaves in ordered(pool, work, spans.batches(), 2 * count):
            for piece in writer.emit(prepared):
                sink(piece)
            content.add(leaves)
            total += length
            progress.advance(length)
    for piece in writer.finish():
        sink(piece)
    return CopyResult(content.result(), total)


def content_seed(
    reader: ImageReader,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    label: str = "reading",
) -> ContentSeed:
    """What the identifiers of a stream derive from: the disk is read once for it, beforehand."""
    seed = ContentSeed(reader.virtual_size)
    count = worker_count(workers)

    def work(batch: tuple[int, int]) -> tuple[int, list[tuple[int, bytes]]]:
        offset, length = batch
        return length, seed.leaves(offset, reader.read(offset, length))

    spans = Spans(reader, LEAF)
    progress.stage(label, spans.total)
    with executor(count) as pool:
        for length, leaves in ordered(pool, work, spans.batches(), 2 * count):
            seed.add(leaves)
            progress.advance(length)
    return seed


def fill(
    reader: ImageReader,
    fd: int,
    path: str,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> CopyResult:
    """Write every byte of the disk into the file or device ``fd``, front to back.

    What the disk lacks is zeroed: a device by its own command where it has one, which frees the
    room as well.
    """
    return stream(
        reader,
        _InPlace(RawStream(reader.virtual_size), fd),
        stream_sink(fd, path),
        workers=workers,
        progress=progress,
    )


class _InPlace:
    """A raw stream into a block device: gaps are zeroed by the device itself where it can."""

    needs_seed = False

    def __init__(self, inner: RawStream, fd: int):
        self.unit = inner.unit
        self._inner = inner
        self._fd = fd
        self._device = stat.S_ISBLK(os.fstat(fd).st_mode)

    def prepare(self, offset: int, data: bytes) -> object:
        return self._inner.prepare(offset, data)

    def begin(self) -> Iterable[bytes]:
        return ()

    def emit(self, prepared: object) -> Iterator[bytes]:
        return self._zeroed(self._inner.emit(prepared))

    def finish(self) -> Iterator[bytes]:
        return self._zeroed(self._inner.finish())

    def _zeroed(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            if self._device and part is ZEROS and self._discard(len(part)):
                continue
            yield part

    def _discard(self, length: int) -> bool:
        """Zero the next ``length`` bytes and step over them; ``False`` where that is refused."""
        position = os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            fcntl.ioctl(self._fd, _BLKZEROOUT, struct.pack("QQ", position, length))
        except OSError:
            self._device = False
            return False
        os.lseek(self._fd, length, os.SEEK_CUR)
        return True


def pieces(ranges: Iterator[tuple[int, int]], size: int = BATCH) -> Iterator[tuple[int, int]]:
    """Each range cut into pieces of at most ``size`` bytes."""
    for offset, length in ranges:
        for start in range(offset, offset + length, size):
            yield start, min(size, offset + length - start)
