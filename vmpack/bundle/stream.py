"""Stored bytes on their way into the file: written in order, each under a segment's digest."""

from __future__ import annotations

import hashlib
from collections import deque

from vmpack.bundle.index import Segment
from vmpack.bundle.structs import SEGMENT
from vmpack.copy import write_all
from vmpack.formats.base import Job
from vmpack.pipeline import Executor, Future


class StoredStream:
    """Appends bytes to ``fd`` from ``position``; hashing and writing run in ``pool``'s threads.

    Segments are 1 MiB, shorter only where :meth:`end_region` cuts, so that their bounds depend on
    nothing but the bytes.
    """

    def __init__(self, fd: int, position: int, pool: Executor, *, path: str, depth: int):
        self.position = position
        self.segments: list[Segment] = []
        self._fd = fd
        self._path = path
        self._pool = pool
        self._depth = depth
        self._parts: list[bytes] = []
        self._held = 0
        self._pending: deque[Future[Segment]] = deque()

    def append(self, data: bytes) -> None:
        """Add ``data``. Raises :class:`OutputError` when an earlier write failed."""
        self._parts.append(data)
        self._held += len(data)
        self.position += len(data)
        if self._held >= SEGMENT:
            self._cut(whole=False)

    def pad_to(self, position: int) -> None:
        """Add zeros up to ``position``."""
        gap = position - self.position
        while gap > 0:
            piece = min(gap, SEGMENT)
            self.append(bytes(piece))
            gap -= piece

    def end_region(self) -> None:
        """End the current segment here."""
        self._cut(whole=True)

    def _cut(self, *, whole: bool) -> None:
        held = b"".join(self._parts)
        start = self.position - len(held)
        at = 0
        while len(held) - at >= SEGMENT or (whole and at < len(held)):
            self._submit(start + at, held[at : at + SEGMENT])
            at += SEGMENT
        rest = held[at:]
        self._parts = [rest] if rest else []
        self._held = len(rest)

    def _submit(self, offset: int, data: bytes) -> None:
        self._pending.append(self._pool.submit(self._store, offset, data))
        while len(self._pending) > self._depth:
            self.segments.append(self._pending.popleft().result())

    def _store(self, offset: int, data: bytes) -> Segment:
        write_all(self._fd, Job(offset, data), self._path)
        return Segment(offset, len(data), hashlib.sha256(data).digest())

    def finish(self) -> list[Segment]:
        """Wait until everything is written; all segments, ascending."""
        self.end_region()
        while self._pending:
            self.segments.append(self._pending.popleft().result())
        return self.segments
