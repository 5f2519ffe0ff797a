"""The one vocabulary for what a range of a guest disk is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a range holds, as its image says (data may still turn out to be zeros)."""

    DATA = "data"
    ZERO = "zero"
    """Reads as zeros, and the image says so explicitly (it hides a backing file)."""
    HOLE = "hole"
    """Not present in this image: reads as zeros, or from the backing file where there is one."""


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes of guest disk from ``offset``, all of one kind."""

    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.offset + self.length


def coalesce(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of one kind; drop empty extents. Input ascending and contiguous."""
    current: Extent | None = None
    for extent in extents:
        if extent.length == 0:
            continue
        if current is not None and current.kind is extent.kind and current.end == extent.offset:
            current = Extent(current.offset, current.length + extent.length, extent.kind)
            continue
        if current is not None:
            yield current
        current = extent
    if current is not None:
        yield current


def data_ranges(extents: Iterable[Extent], unit: int, limit: int) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` of the data, widened to multiples of ``unit`` and merged.

    Ranges ascend, do not touch, and end at ``limit`` at the latest.
    """
    start = end = -1
    for extent in extents:
        if extent.kind is not Kind.DATA or extent.length == 0:
            continue
        low = extent.offset // unit * unit
        high = min(limit, -(-extent.end // unit) * unit)
        if low <= end and start >= 0:
            end = max(end, high)
            continue
        if start >= 0:
            yield start, end - start
        start, end = low, high
    if start >= 0:
        yield start, end - start
