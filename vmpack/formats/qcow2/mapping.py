"""Where the guest's clusters lie in a qcow2 image: L1, L2 and extended L2 tables.

Tables go through ``array``; each is checked before anything it points at is read.
Source: QEMU, docs/interop/qcow2.rst ("Cluster mapping", "Extended L2 Entries"). Profile:
specs/qcow2.md, QCOW2-MAP.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from vmpack.binary import require_range
from vmpack.errors import DamagedError
from vmpack.formats.mapped import COMPRESSED, DATA, HOLE, ZERO, ZERO_ALLOCATED, Run
from vmpack.formats.qcow2.header import ImageHeader
from vmpack.formats.qcow2.structs import (
    ENTRY_COMPRESSED,
    ENTRY_COPIED,
    ENTRY_ZERO,
    L1_OFFSET_MASK,
    L2_OFFSET_MASK,
    compressed_shift,
)
from vmpack.source import ByteSource

CACHE_BYTES = 16 << 20
L1_RESERVED = ~(L1_OFFSET_MASK | ENTRY_COPIED) & (1 << 64) - 1
L2_RESERVED = ~(L2_OFFSET_MASK | ENTRY_COPIED | ENTRY_COMPRESSED | ENTRY_ZERO) & (1 << 64) - 1
ALL_ALLOCATED = 0xFFFF_FFFF
ALL_ZERO = 0xFFFF_FFFF << 32


def load_table(source: ByteSource, offset: int, entries: int) -> array[int]:
    """``entries`` big-endian 64-bit words from ``offset``."""
    table = array("Q", source.pread(offset, entries * 8))
    if sys.byteorder == "little":
        table.byteswap()
    return table


class Mapping:
    """One disk of an image: the active one, or a snapshot's. Safe for threads."""

    def __init__(
        self,
        source: ByteSource,
        header: ImageHeader,
        *,
        l1_offset: int,
        l1_size: int,
        virtual_size: int,
        data_source: ByteSource | None = None,
    ):
        """The L1 table's place and size have been checked; ``data_source`` is an external file."""
        self.source = source
        self.header = header
        self.virtual_size = virtual_size
        self._l1_place = (l1_offset, l1_size)
        self._data = data_source
        self._data_size = (data_source or source).size
        self._cluster = header.cluster_size
        self._bits = header.fields.cluster_bits
        self._unit = self._cluster // 32 if header.extended_l2 else self._cluster
        self._lock = threading.Lock()
        self._l1: array[int] | None = None
        self._cache: OrderedDict[int, array[int]] = OrderedDict()
        self._cache_limit = max(2, CACHE_BYTES // self._cluster)
        self._l2_starts = array("Q")
        self._gap = (0, 0)
        """Bytes between two of the image's tables: most of its data lies in one such gap."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Ascending runs that cover ``[offset, offset + length)``, joined within a table.

        Runs begin and end at cluster (or subcluster) boundaries, so the first may begin earlier
        and the last may end later, also beyond the disk's end.

        Raises :class:`DamagedError` for an entry that breaks the format.
        """
        l1 = self._load_l1()
        coverage = self.header.l2_coverage
        position, end = offset // self._cluster * self._cluster, offset + length
        while position < end:
            number = position // coverage
            stop = min(end, (number + 1) * coverage)
            entry = l1[number]
            if not entry:
                while stop < end and not l1[number + 1]:
                    number += 1
                    stop = min(end, (number + 1) * coverage)
                yield Run(position, stop - position, HOLE)
            else:
                first = (position - number * coverage) >> self._bits
                last = -(-(stop - number * coverage) // self._cluster)
                for run in self._table_runs(self._l2(number, entry), position, first, last):
                    if run.offset < end and run.offset + run.length > offset:
                        yield run
            position = stop

    def _table_runs(self, table: array[int], guest: int, first: int, last: int) -> Iterator[Run]:
        if self.header.extended_l2:
            words = table[2 * first : 2 * last]
            raw = self._extended(words[0::2], words[1::2], guest)
        else:
            raw = self._plain(table[first:last], guest)
        pending: Run | None = None
        for run in raw:
            if pending is not None:
                if run.state == pending.state and (
                    run.state <= ZERO
                    or (run.state != COMPRESSED and run.host == pending.host + pending.length)
                ):
                    pending = Run(
                        pending.offset, pending.length + run.length, run.state, pending.host
                    )
                    continue
                yield self._checked(pending)
            pending = run
        if pending is not None:
            yield self._checked(pending)

    def _plain(self, entries: array[int], guest: int) -> Iterator[Run]:
        """One run for each entry, equal neighbours without a host cluster joined."""
        cluster, shift = self._cluster, compressed_shift(self._bits)
        offset_mask, sector_mask = (1 << shift) - 1, ENTRY_COMPRESSED - 1
        size = self._data_size
        count = len(entries)
        index = 0
        while index < count:
            entry = entries[index]
            at = guest + index * cluster
            index += 1
            if entry & ENTRY_COMPRESSED:
                host = entry & offset_mask
                length = ((entry & sector_mask) >> shift) * 512 + 512 - (host & 511)
                if host + length > size:
                    length = size - host
                if entry & ENTRY_COPIED or length <= 0 or host < cluster or self._data:
                    raise self._bad_entry(entry, at)
                yield Run(at, cluster, COMPRESSED, host, length)
            elif entry <= ENTRY_ZERO:
                begin = index
                while index < count and entries[index] == entry:
                    index += 1
                if entry and self.header.fields.version < 3:
                    raise self._bad_entry(entry, at)
                yield Run(at, (index - begin + 1) * cluster, entry)
            else:
                host = entry & L2_OFFSET_MASK
                if entry & L2_RESERVED or host & (cluster - 1):
                    raise self._bad_entry(entry, at)
                zero = entry & ENTRY_ZERO
                if zero and self.header.fields.version < 3:
                    raise self._bad_entry(entry, at)
                if not host and not self._data:
                    raise self._bad_entry(entry, at)
                yield Run(at, cluster, ZERO_ALLOCATED if zero else DATA, host)

    def _extended(self, entries: array[int], bitmaps: array[int], guest: int) -> Iterator[Run]:
        for index, (entry, bitmap) in enumerate(zip(entries, bitmaps, strict=True)):
            at = guest + index * self._cluster
            if entry & ENTRY_COMPRESSED:
                if bitmap:
                    raise self._bad_entry(entry, at)
                yield from self._plain(entries[index : index + 1], at)
                continue
            host = entry & L2_OFFSET_MASK
            allocated, zero = bitmap & ALL_ALLOCATED, bitmap >> 32
            present = bool(host) or bool(self._data and entry & ENTRY_COPIED)
            if (
                entry & (L2_RESERVED | ENTRY_ZERO)
                or host & (self._cluster - 1)
                or allocated & zero
                or (allocated and not present)
                or (entry and not present)
            ):
                raise self._bad_entry(entry, at)
            zero_state = ZERO_ALLOCATED if present else ZERO
            if bitmap == ALL_ALLOCATED:
                yield Run(at, self._cluster, DATA, host)
            elif bitmap == ALL_ZERO:
                yield Run(at, self._cluster, zero_state, host)
            elif not bitmap:
                yield Run(at, self._cluster, HOLE)
            else:
                for number in range(32):
                    shift = number * self._unit
                    if allocated >> number & 1:
                        yield Run(at + shift, self._unit, DATA, host + shift)
                    elif zero >> number & 1:
                        yield Run(at + shift, self._unit, zero_state, host and host + shift)
                    else:
                        yield Run(at + shift, self._unit, HOLE)

    def _checked(self, run: Run) -> Run:
        """A DATA run's guest-visible bytes lie in the file, and no run lies over metadata."""
        if run.state == DATA:
            visible = min(run.length, self.virtual_size - run.offset)
            if run.host + visible > self._data_size:
                raise DamagedError(
                    f"guest offset {run.offset}: {visible} bytes at {run.host} lie outside the "
                    f"file's {self._data_size} bytes",
                    path=self.source.path,
                    offset=self.source.base + run.host,
                    clause="QCOW2-MAP-4",
                    hint="the file is cut short",
                )
            if self._data is None:
                self.require_no_metadata(run.host, run.length, run.offset)
        elif run.state == COMPRESSED:
            self.require_no_metadata(run.host, run.host_length, run.offset)
        return run

    def require_no_metadata(self, host: int, length: int, guest: int) -> None:
        """Guest data at ``[host, host + length)`` overlaps no table of the image."""
        low, high = self._gap
        end = host + length
        if low <= host and end <= high:
            return
        starts, fixed = self._l2_starts, self._fixed()
        at = bisect_right(starts, host)
        before = starts[at - 1] + self._cluster if at else 0
        after = starts[at] if at < len(starts) else 1 << 64
        if before > host or after < end or any(low < end and host < high for low, high in fixed):
            raise DamagedError(
                f"guest offset {guest} is mapped onto the image's own tables",
                path=self.source.path,
                offset=self.source.base + host,
                clause="QCOW2-MAP-5",
            )
        before = max([before, *(high for _, high in fixed if high <= host)])
        self._gap = before, min([after, *(low for low, _ in fixed if low >= end)])

    def _fixed(self) -> tuple[tuple[int, int], ...]:
        fields = self.header.fields
        table = fields.refcount_table_offset
        l1, entries = self._l1_place
        return (
            (0, self._cluster),
            (l1, l1 + entries * 8),
            (table, table + fields.refcount_table_clusters * self._cluster),
        )

    def _load_l1(self) -> array[int]:
        """The L1 table, read on first use, its entries checked."""
        with self._lock:
            if self._l1 is None:
                offset, size = self._l1_place
                table = load_table(self.source, offset, size)
                self._l2_starts = self._check_l1(table)
                self._l1 = table
            return self._l1

    def _check_l1(self, table: array[int]) -> array[int]:
        """Where the L2 tables lie, ascending; no two L1 entries may share one."""
        offsets = array("Q")
        low_mask = self._cluster - 1
        limit = self.source.size - self._cluster
        for number, entry in enumerate(table):
            if not entry:
                continue
            offset = entry & L1_OFFSET_MASK
            if entry & L1_RESERVED or offset & low_mask or offset < self._cluster:
                raise self._bad_l1(number, entry, "is not an L2 table's place")
            if offset > limit:
                raise self._bad_l1(number, entry, "points past the end of the file")
            offsets.append(offset)
        ordered = array("Q", sorted(offsets))
        if any(a == b for a, b in pairwise(ordered)):
            raise DamagedError(
                "two L1 entries share one L2 table",
                path=self.source.path,
                offset=self._l1_place[0],
                clause="QCOW2-MAP-2",
            )
        for low, high in self._fixed():
            at = bisect_left(ordered, low)
            if at < len(ordered) and ordered[at] < high:
                raise DamagedError(
                    "an L2 table lies over other tables",
                    path=self.source.path,
                    offset=ordered[at],
                    clause="QCOW2-MAP-2",
                )
        return ordered

    def _bad_l1(self, number: int, entry: int, why: str) -> DamagedError:
        return DamagedError(
            f"L1 entry {number} (0x{entry:016x}) {why}",
            path=self.source.path,
            offset=self.source.base + self._l1_place[0] + number * 8,
            clause="QCOW2-MAP-2",
        )

    def _bad_entry(self, entry: int, guest: int) -> DamagedError:
        return DamagedError(
            f"guest offset {guest}: L2 entry 0x{entry:016x} is not valid",
            path=self.source.path,
            clause="QCOW2-MAP-3",
            hint="`vmpack check` lists all that is wrong with the image",
        )

    def _l2(self, number: int, entry: int) -> array[int]:
        offset = entry & L1_OFFSET_MASK
        with self._lock:
            table = self._cache.get(offset)
            if table is not None:
                self._cache.move_to_end(offset)
                return table
        require_range(
            offset,
            self._cluster,
            self.source.size,
            what=f"L2 table {number}",
            align=self._cluster,
            path=self.source.path,
            clause="QCOW2-MAP-2",
        )
        table = load_table(self.source, offset, self._cluster // 8)
        with self._lock:
            self._cache[offset] = table
            while len(self._cache) > self._cache_limit:
                self._cache.popitem(last=False)
        return table
