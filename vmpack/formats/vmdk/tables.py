"""What extents with a grain directory share: two levels of tables that say where grains lie.

Tables are read when they are needed and go through ``array``; each entry is checked before what it
points at is read. Source: VMware, Virtual Disk Format 1.1, "Grain Directory", "Grain Table".
Profile: specs/vmdk.md, VMDK-MAP.
"""

from __future__ import annotations

import sys
import threading
from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from vmpack.errors import DamagedError
from vmpack.extent import Kind
from vmpack.formats.base import Finding, ImageInfo
from vmpack.formats.mapped import COMPRESSED, DATA, HOLE, ZERO, MappedReader, Run
from vmpack.formats.vmdk import FORMAT
from vmpack.formats.vmdk.structs import GRAIN_MARKER_BYTES, SECTOR
from vmpack.source import ByteSource

MAX_TABLES = 1 << 22
"""What a directory may name: a disk of 128 TiB in grains of 64 KiB, or a seSparse one of 64 TiB."""
MAX_GRAIN = 4096
"""Sectors."""
CACHE_BYTES = 16 << 20
Span = tuple[int, int]
"""Bytes of a file, from and to."""


def load_words(source: ByteSource, offset: int, count: int, code: str) -> array[int]:
    """``count`` little-endian words from ``offset``, of 4 bytes (``I``) or 8 (``Q``)."""
    words: array[int] = array(code, source.pread(offset, count * array(code).itemsize))
    if sys.byteorder == "big":
        words.byteswap()
    return words


class TableExtent(MappedReader):
    """An extent whose grains are found through a directory and tables. Safe for threads.

    A subclass reads its header, then calls :meth:`set_up`, and says what entries mean.
    """

    word = "I"
    """Type code of a table's entries."""
    dirty = False
    compressed = False
    kind = ""
    """The type that the extent has in a descriptor."""

    def __init__(self, source: ByteSource):
        """The source becomes the extent's own."""
        self.format = FORMAT
        self.path = source.path
        self.source = source

    def set_up(self, *, capacity: int, grain: int, entries: int, spans: Sequence[Span]) -> None:
        """Take what the header says: ``capacity`` and ``grain`` in sectors, ``entries`` of a table.

        ``spans`` is what no grain and no table may touch.
        """
        if not 0 < grain <= MAX_GRAIN or grain & (grain - 1):
            raise self.damaged(f"a grain of {grain} sectors", "MAP-1")
        if capacity * SECTOR >= 1 << 63:
            raise self.damaged(f"a disk of {capacity} sectors", "MAP-1")
        self.capacity = self.virtual_size = capacity * SECTOR
        self.cluster_size = grain * SECTOR
        self.entries = entries
        self.coverage = entries * self.cluster_size
        self.spans = spans
        self.table_bytes = entries * array(self.word).itemsize
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, array[int] | None] = OrderedDict()
        self._cache_limit = max(2, CACHE_BYTES // self.table_bytes)
        self._directory: array[int] | None = None
        self._present = array("Q")
        self._hole: Span = (0, 0)

    @property
    def directory_entries(self) -> int:
        """Entries of the directory that the disk needs."""
        return -(-self.capacity // self.coverage)

    def damaged(self, what: str, clause: str, offset: int | None = None) -> DamagedError:
        """The error about ``what``; ``clause`` without its ``VMDK-``."""
        return DamagedError(
            what,
            path=self.path,
            offset=None if offset is None else self.source.base + offset,
            clause=f"VMDK-{clause}",
            hint="`vmpack check` lists all that is wrong with the image",
        )

    @abstractmethod
    def load_directory(self) -> array[int]:
        """Where each table begins, in bytes of the file; 0 for one that is not there."""

    @abstractmethod
    def table_runs(self, table: array[int], guest: int) -> Iterator[Run]:
        """What consecutive entries say, the first being for ``guest``; neighbours joined.

        Raises :class:`DamagedError` at an entry that breaks the format.
        """

    def info(self) -> ImageInfo:
        return ImageInfo("vmdk", self.virtual_size, self.cluster_size)

    def check(self) -> Iterator[Finding]:
        from vmpack.formats.vmdk.check import check_extent

        return check_extent(self)

    def check_more(self) -> Iterator[Finding]:
        """What this kind of extent has to check beside its grains."""
        return iter(())

    def stored_length(self, run: Run) -> int:
        """Bytes of the file that a DATA or COMPRESSED run occupies; checks what stands there."""
        return run.length

    def directory_spans(self) -> Sequence[Span]:
        """What the checker counts as the directory's own place."""
        return self.spans

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        directory, coverage, grain = self.directory(), self.coverage, self.cluster_size
        position, end = offset // grain * grain, offset + length
        while position < end:
            number = position // coverage
            table = self.table(number, directory[number])
            if table is None:
                stop = self._next_table(directory, number + 1, -(-end // coverage)) * coverage
                yield Run(position, min(stop, -(-end // grain) * grain) - position, HOLE)
            else:
                base = number * coverage
                stop = min(end, base + coverage)
                first, last = (position - base) // grain, -(-(stop - base) // grain)
                yield from self.table_runs(table[first:last], position)
            position = stop

    def _next_table(self, directory: array[int], number: int, limit: int) -> int:
        """The first table from ``number`` on that may map something; at most ``limit``."""
        at = bisect_left(self._present, number)
        while at < len(self._present):
            number = self._present[at]
            if number >= limit or not self._known_empty(directory[number]):
                return min(number, limit)
            at += 1
        return limit

    def directory(self) -> array[int]:
        """Where each table begins (bytes, 0: not there), read on first use."""
        with self._lock:
            if self._directory is None:
                found = self.load_directory() if self.directory_entries else array("Q")
                present = array("Q", (number for number, place in enumerate(found) if place))
                self._require_apart(found, present)
                self._present, self._directory = present, found
            return self._directory

    def _require_apart(self, directory: array[int], present: array[int]) -> None:
        size = -(-self.table_bytes // SECTOR) * SECTOR
        if all(directory[b] - directory[a] >= size for a, b in pairwise(present)):
            return
        ordered = sorted([directory[number] for number in present])
        if any(after - before < size for before, after in pairwise(ordered)):
            raise self.damaged("two grain tables share their place", "MAP-3")

    def table(self, number: int, place: int) -> array[int] | None:
        """Table ``number``, which begins at byte ``place``; ``None`` where it maps nothing."""
        if not place or self._known_empty(place):
            return None
        with self._lock:
            if place in self._cache:
                self._cache.move_to_end(place)
                return self._cache[place]
        self.require_free(place, self.table_bytes, f"grain table {number}", "MAP-3")
        if self._in_hole(place):
            return None
        words = load_words(self.source, place, self.entries, self.word)
        table = words if any(words) else None
        with self._lock:
            self._cache[place] = table
            while len(self._cache) > self._cache_limit:
                self._cache.popitem(last=False)
        return table

    def _known_empty(self, place: int) -> bool:
        low, high = self._hole
        return low <= place and place + self.table_bytes <= high

    def _in_hole(self, place: int) -> bool:
        """Whether the file has nothing there: tables of a large, nearly empty disk are holes."""
        for extent in self.source.extents(place, self.source.size - place):
            if extent.kind is Kind.HOLE:
                self._hole = (place, extent.end)
            break
        return self._known_empty(place)

    def require_free(self, place: int, length: int, what: str, clause: str) -> None:
        """``[place, place + length)`` lies in the file and touches no header."""
        if place + length > self.source.size:
            raise self.damaged(
                f"{what} ({length} bytes at {place}) lies outside the file's "
                f"{self.source.size} bytes",
                clause,
                place,
            )
        for low, high in self.spans:
            if place < high and low < place + length:
                raise self.damaged(f"{what} at {place} lies over the headers", clause, place)

    def checked(self, run: Run) -> Run:
        """A DATA run whose bytes that the guest sees lie in the file, over no header."""
        visible = min(run.length, self.capacity - run.offset)
        if visible > 0:
            what = f"guest offset {run.offset}: data"
            self.require_free(run.host, visible, what, "MAP-4")
        return run


def word_runs(
    extent: TableExtent, table: array[int], guest: int, *, zero: bool, compressed: bool
) -> Iterator[Run]:
    """Runs of entries that are sectors of the file: hosted sparse and ESX Server extents.

    ``zero``: the entry 1 is a grain of zeros. A COMPRESSED run is one grain, its length unknown.
    """
    size = extent.cluster_size
    step = size // SECTOR
    count, index = len(table), 0
    while index < count:
        entry, begin = table[index], index
        index += 1
        at = guest + begin * size
        if entry == 0 or (zero and entry == 1):
            while index < count and table[index] == entry:
                index += 1
            yield Run(at, (index - begin) * size, ZERO if entry else HOLE)
        elif compressed:
            what = f"guest offset {at}: grain"
            extent.require_free(entry * SECTOR, GRAIN_MARKER_BYTES, what, "MAP-4")
            yield Run(at, size, COMPRESSED, entry * SECTOR, extent.source.size - entry * SECTOR)
        else:
            follows = entry + step
            while index < count and table[index] == follows:
                index, follows = index + 1, follows + step
            yield extent.checked(Run(at, (index - begin) * size, DATA, entry * SECTOR))
