"""A disk's data cut into the pieces that workers take at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from vmpack.extent import data_ranges
from vmpack.formats.base import ImageReader

LEAF = 65536
"""Bytes of a leaf of the content digest; what reads are aligned to where nothing else asks."""
BATCH = 2 << 20
"""Bytes of guest disk that one worker takes at a time."""


class Spans:
    """Where a disk has data, widened to multiples of ``unit``: 16 bytes a range.

    The image is asked once, for the total and for the pieces.
    """

    def __init__(self, reader: ImageReader, unit: int):
        self._unit = unit
        self._bounds = array("Q")
        self.total = 0
        """Bytes that the pieces have together, for a progress bar."""
        for offset, length in data_ranges(reader.extents(), unit, reader.virtual_size):
            self._bounds.append(offset)
            self._bounds.append(offset + length)
            self.total += length

    def batches(self, size: int = BATCH) -> Iterator[tuple[int, int]]:
        """The data as ``(offset, length)`` pieces of at most ``size`` bytes.

        Each begins at a multiple of the unit and ends at one, or at the disk's end.
        """
        step = max(size, self._unit) // self._unit * self._unit
        bounds = iter(self._bounds)
        for position, end in zip(bounds, bounds, strict=True):
            while position < end:
                take = min(end, (position // step + 1) * step) - position
                yield position, take
                position += take  # noqa: PLW2901 - walks the range


def batches(reader: ImageReader, unit: int, size: int = BATCH) -> Iterator[tuple[int, int]]:
    """The pieces of a disk whose total nobody asks for."""
    return Spans(reader, unit).batches(size)


def data_bytes(reader: ImageReader, unit: int = LEAF) -> int:
    """Bytes of a disk's data, in whole units."""
    return Spans(reader, unit).total
