"""Whether two disks hold the same bytes, whatever holds them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from vmpack.extent import data_ranges
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.opening import Path, open_image
from vmpack.ops.streams import pieces
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress

_UNIT = 65536


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The verdict; sizes and the ``offset`` of the first difference in bytes of guest disk."""

    identical: bool
    offset: int | None
    size_a: int
    size_b: int

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "identical": self.identical,
            "offset": self.offset,
            "virtual-size-a": self.size_a,
            "virtual-size-b": self.size_b,
            "sizes-differ": self.size_a != self.size_b,
        }


def compare(
    a: Path,
    b: Path,
    *,
    format_a: str | None = None,
    format_b: str | None = None,
    strict: bool = False,
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> CompareResult:
    """Compare two disks. A longer one is the same if it goes on with zeros, unless ``strict``.

    ``parents`` are the backing images of ``a``.
    """
    options = OpenOptions(allow_backing=allow_backing, backing_dirs=tuple(backing_dirs))
    first = open_image(a, format=format_a, options=replace(options, parents=tuple(parents)))
    try:
        second = open_image(b, format=format_b, options=options)
        try:
            return compare_readers(first, second, strict=strict, workers=workers, progress=progress)
        finally:
            second.close()
    finally:
        first.close()


def compare_readers(
    a: ImageReader,
    b: ImageReader,
    *,
    strict: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> CompareResult:
    """Compare two open disks; what both call empty is not read."""
    sizes = a.virtual_size, b.virtual_size
    if strict and sizes[0] != sizes[1]:
        return CompareResult(False, min(sizes), *sizes)
    longest = max(sizes)

    def ranges() -> list[tuple[int, int]]:
        merged = heapq.merge(a.extents(), b.extents(), key=attrgetter("offset"))
        return list(data_ranges(merged, _UNIT, longest))

    def work(piece: tuple[int, int]) -> tuple[int, int | None]:
        offset, length = piece
        left, right = _read(a, offset, length), _read(b, offset, length)
        same = left == right
        return length, None if same else offset + first_difference(left, right)

    found = ranges()
    progress.stage("comparing", sum(length for _, length in found))
    count = worker_count(workers)
    with executor(count) as pool:
        for length, difference in ordered(pool, work, pieces(iter(found)), 2 * count):
            if difference is not None:
                return CompareResult(False, difference, *sizes)
            progress.advance(length)
    return CompareResult(True, None, *sizes)


def _read(reader: ImageReader, offset: int, length: int) -> bytes:
    """As ``read``, zeros after the disk's end."""
    inside = max(0, min(length, reader.virtual_size - offset))
    data = reader.read(offset, inside) if inside else b""
    return data if inside == length else data + bytes(length - inside)


def first_difference(a: bytes, b: bytes) -> int:
    """The first index at which two strings of one length, which are not equal, differ."""
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
