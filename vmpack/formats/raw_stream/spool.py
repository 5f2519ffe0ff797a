"""A file without a name in the temporary folder, with holes for zeros, that grows as it is fed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator

from vmpack.copy import write_all
from vmpack.errors import UnsafeError, from_os_error
from vmpack.formats.base import Job
from vmpack.formats.raw import ZEROS, data_blocks
from vmpack.source import ByteSource
from vmpack.units import GiB, format_size

_BLOCK = len(ZEROS)
FREE_SIZE = 4 * GiB
SIZE_RATIO = 1000
"""Bytes of disk, for each byte of its compressed file, that need no ``--max-size``."""
FREE_DATA = GiB
DATA_RATIO = 100
"""The same for what is not zero, which takes room in the temporary folder."""


class Limits:
    """How much a compressed file of ``stored`` bytes may become.

    ``max_size`` is the caller's word; without one a small file must not become a large disk.
    """

    def __init__(self, path: str, stored: int, max_size: int | None):
        self._path = path
        self._max_size = max_size
        self._size = max(FREE_SIZE, SIZE_RATIO * stored) if max_size is None else max_size
        self._data = max(FREE_DATA, DATA_RATIO * stored) if max_size is None else max_size

    def check(self, size: int, data: int) -> None:
        """Refuse a disk of more than ``size`` bytes, ``data`` of them stored."""
        if self._max_size is not None and size > self._max_size:
            raise UnsafeError(
                f"its disk is larger than the {self._max_size} bytes allowed",
                path=self._path,
                clause="RAW-SIZE-1",
                hint="raise --max-size",
            )
        if size > self._size or data > self._data:
            limit = self._size if size > self._size else self._data
            raise UnsafeError(
                f"decompresses to more than {format_size(limit)}, far beyond its own size",
                path=self._path,
                clause="RAW-STREAM-2",
                hint="if that is right, say how large it may be: convert --max-size SIZE",
            )


def spooled(pieces: Iterable[bytes], *, path: str, limits: Limits) -> ByteSource:
    """``pieces`` one after another as a file that vanishes when the source is closed.

    Raises :class:`UnsafeError` beyond the limits, before more is written, and
    :class:`OutputError` where the temporary folder (``TMPDIR``) has no room.
    """
    try:
        spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed below
    except OSError as exc:
        raise from_os_error(exc, path=tempfile.gettempdir(), writing=True) from exc
    with spool:
        size = _fill(spool.fileno(), pieces, limits)
        kept = os.dup(spool.fileno())
    return ByteSource(kept, path=path, size=size, owns_fd=True)


def _fill(fd: int, pieces: Iterable[bytes], limits: Limits) -> int:
    size = data = 0
    for block in _blocks(pieces):
        limits.check(size + len(block), data)
        data += _write(fd, block, size)
        size += len(block)
        limits.check(size, data)
    try:
        os.ftruncate(fd, size)
    except OSError as exc:
        raise from_os_error(exc, path=tempfile.gettempdir(), writing=True) from exc
    return size


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytearray]:
    """``pieces`` as blocks of 1 MiB, the last one shorter: holes lie at multiples of 4 KiB.

    Each block is the same memory, filled again: fresh memory costs more than filling it.
    """
    block = bytearray(_BLOCK)
    have = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            take = min(_BLOCK - have, len(view))
            block[have : have + take] = view[:take]
            view = view[take:]
            have += take
            if have == _BLOCK:
                yield block
                have = 0
    if have:
        yield block[:have]


def _write(fd: int, block: bytearray, offset: int) -> int:
    """Write what is not zero of ``block``; how many bytes that were."""
    if block == ZEROS:
        return 0
    content = bytes(block)
    written = 0
    for start, end in data_blocks(content):
        write_all(fd, Job(offset + start, memoryview(content)[start:end]), tempfile.gettempdir())
        written += end - start
    return written
