"""Checks a qcow2 image's structures: every entry, every reference, every refcount.

Unlike the reader, which stops at the first fault, the walk goes on and reports all of them.
Source: QEMU, docs/interop/qcow2.rst. Profile: specs/qcow2.md, QCOW2-REFC.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from vmpack.errors import DamagedError
from vmpack.formats.base import Finding
from vmpack.formats.qcow2.header import MAX_BITMAPS
from vmpack.formats.qcow2.mapping import (
    ALL_ALLOCATED,
    L1_RESERVED,
    L2_RESERVED,
    load_table,
)
from vmpack.formats.qcow2.records import bitmaps, check_snapshot_l1, snapshots
from vmpack.formats.qcow2.refcounts import PAGE, Counts, Refcounts
from vmpack.formats.qcow2.structs import (
    ENTRY_COMPRESSED,
    ENTRY_COPIED,
    ENTRY_ZERO,
    L1_OFFSET_MASK,
    L2_OFFSET_MASK,
    compressed_range,
)

if TYPE_CHECKING:
    from vmpack.formats.qcow2.reader import Qcow2Reader

_BITMAP_RESERVED = ~(L2_OFFSET_MASK | 1) & (1 << 64) - 1


def check_image(reader: Qcow2Reader) -> Iterator[Finding]:
    """Everything that is inconsistent in the image, in the order in which it is found.

    Raises :class:`UnsupportedError` for a file whose clusters lie too far apart to be counted.
    """
    return _Check(reader).run()


class _Check:
    def __init__(self, reader: Qcow2Reader):
        self.source = reader.source
        self.header = reader.header
        self.cluster = self.header.cluster_size
        self.bits = self.header.fields.cluster_bits
        self.external = self.header.external_data
        self.counts = Counts(reader.path)
        self.metadata: set[int] = set()
        self.l2_tables = Counts(reader.path)
        self.end = -(-self.source.size // self.cluster) * self.cluster

    def run(self) -> Iterator[Finding]:
        if self.header.corrupt:
            yield self._corruption("the image is marked corrupt", 72, clause="QCOW2-HDR-15")
        fields = self.header.fields
        self.refcounts = Refcounts(self.source, self.header)
        self._own(0, self.cluster)
        self._own(fields.l1_table_offset, fields.l1_size * 8)
        self._own(fields.refcount_table_offset, fields.refcount_table_clusters * self.cluster)
        if self.header.crypto is not None:
            self._own(*self.header.crypto)
        yield from self.refcounts.check_table(self.counts)
        tables = [(fields.l1_table_offset, fields.l1_size, fields.size, True)]
        yield from self._snapshots(tables)
        l1s = [load_table(self.source, offset, entries) for offset, entries, _, _ in tables]
        for l1, (offset, _, _, active) in zip(l1s, tables, strict=True):
            yield from self._l1(l1, offset, active)
        for l1, (_, _, size, active) in zip(l1s, tables, strict=True):
            yield from self._l2s(l1, size, active)
        yield from self._bitmaps()
        yield from self._overlaps()
        yield from self._compare()

    def _corruption(
        self,
        message: str,
        offset: int | None = None,
        guest: int | None = None,
        clause: str = "QCOW2-MAP-3",
    ) -> Finding:
        return Finding("corruption", message, offset, guest, clause)

    def _own(self, offset: int, length: int) -> None:
        """The image's own tables lie at ``[offset, offset + length)``, which was checked."""
        if length:
            first, last = offset >> self.bits, (offset + length - 1) >> self.bits
            self.counts.add(first, last)
            self.metadata.update(range(first, last + 1))

    def _snapshots(self, tables: list[tuple[int, int, int, bool]]) -> Iterator[Finding]:
        if not self.header.fields.nb_snapshots:
            return
        start = end = self.header.fields.snapshots_offset
        try:
            for snapshot in snapshots(self.source, self.header):
                end = snapshot.end_offset
                check_snapshot_l1(snapshot, self.source, self.header)
                self._own(snapshot.l1_offset, snapshot.l1_size * 8)
                tables.append((snapshot.l1_offset, snapshot.l1_size, snapshot.virtual_size, False))
        except DamagedError as exc:
            yield self._corruption(exc.message, exc.offset, clause=exc.clause or "QCOW2-SNAP-1")
        self._own(start, min(end, self.source.size) - start)

    def _l1(self, l1: array[int], where: int, active: bool) -> Iterator[Finding]:
        """Count the L2 tables of one L1 table; an entry that cannot be followed becomes zero."""
        for number, entry in enumerate(l1):
            if not entry:
                continue
            offset = entry & L1_OFFSET_MASK
            at = where + number * 8
            if entry & L1_RESERVED or offset & (self.cluster - 1) or not offset:
                yield self._corruption(
                    f"L1 entry {number} (0x{entry:016x}) is not valid", at, clause="QCOW2-MAP-2"
                )
                l1[number] = 0
            elif offset + self.cluster > self.source.size:
                yield self._corruption(
                    f"L1 entry {number} points past the end of the file", at, clause="QCOW2-MAP-2"
                )
                l1[number] = 0
            else:
                self.counts.add(offset >> self.bits, offset >> self.bits)
                self.l2_tables.add(offset >> self.bits, offset >> self.bits)
                if active:
                    yield from self._copied(entry, offset, f"L1 entry {number}", at)

    def _copied(
        self, entry: int, offset: int, what: str, at: int | None, guest: int | None = None
    ) -> Iterator[Finding]:
        if (self.refcounts.get(offset >> self.bits) == 1) != bool(entry & ENTRY_COPIED):
            yield self._corruption(
                f"{what}: the copied flag disagrees with the refcount", at, guest, "QCOW2-REFC-3"
            )

    def _l2s(self, l1: array[int], size: int, active: bool) -> Iterator[Finding]:
        coverage = self.header.l2_coverage
        for number, entry in enumerate(l1):
            if not entry:
                continue
            offset = entry & L1_OFFSET_MASK
            table = load_table(self.source, offset, self.cluster // 8)
            guest = number * coverage
            if self.header.extended_l2:
                pairs = zip(table[0::2], table[1::2], strict=True)
                for index, (word, bitmap) in enumerate(pairs):
                    if word or bitmap:
                        at, here = offset + index * 16, guest + index * self.cluster
                        yield from self._bitmap_word(word, bitmap, at, here)
                        yield from self._entry(word & ~ENTRY_ZERO, at, here, size, active)
                continue
            for index, word in enumerate(table):
                if word:
                    at, here = offset + index * 8, guest + index * self.cluster
                    yield from self._entry(word, at, here, size, active)

    def _bitmap_word(self, word: int, bitmap: int, at: int, guest: int) -> Iterator[Finding]:
        allocated, zero = bitmap & ALL_ALLOCATED, bitmap >> 32
        present = word & L2_OFFSET_MASK or (self.external and word & ENTRY_COPIED)
        if word & ENTRY_COMPRESSED:
            wrong = bool(bitmap)
        else:
            wrong = bool(allocated & zero or word & ENTRY_ZERO or (allocated and not present))
        if wrong:
            yield self._corruption(
                f"subcluster bitmap 0x{bitmap:016x} is not valid", at + 8, guest, "QCOW2-MAP-6"
            )

    def _entry(self, entry: int, at: int, guest: int, size: int, active: bool) -> Iterator[Finding]:
        if entry & ENTRY_COMPRESSED:
            yield from self._compressed(entry, at, guest)
            return
        host = entry & L2_OFFSET_MASK
        old_zero = entry & ENTRY_ZERO and self.header.fields.version < 3
        if entry & L2_RESERVED or old_zero:
            yield self._corruption(f"L2 entry 0x{entry:016x} is not valid", at, guest)
        if host & (self.cluster - 1):
            yield self._corruption(f"data at {host} is not aligned", at, guest)
            return
        if self.external or not host:
            if entry & ENTRY_COPIED and not self.external:
                yield self._corruption(f"L2 entry 0x{entry:016x} is not valid", at, guest)
            return
        visible = max(0, min(self.cluster, size - guest)) if not entry & ENTRY_ZERO else 0
        if host + visible > self.source.size or host >= self.end:
            yield self._corruption(
                f"data at {host} lies past the end of the file", at, guest, "QCOW2-MAP-4"
            )
        if host < self.end:
            cluster = host >> self.bits
            self.counts.add(cluster, cluster)
            if self.l2_tables.get(cluster):
                yield self._corruption("data lies over an L2 table", at, guest, "QCOW2-MAP-5")
            if active:
                yield from self._copied(entry, host, "L2 entry", at, guest)

    def _compressed(self, entry: int, at: int, guest: int) -> Iterator[Finding]:
        host, length = compressed_range(entry, self.bits)
        if entry & ENTRY_COPIED or self.external:
            yield self._corruption("a compressed cluster that may not be one", at, guest)
        if host < self.cluster or host >= self.source.size:
            yield self._corruption(
                f"compressed data at {host} lies outside the file", at, guest, "QCOW2-MAP-4"
            )
            return
        last = min(host + length, self.end) - 1
        self.counts.add(host >> self.bits, last >> self.bits)

    def _bitmaps(self) -> Iterator[Finding]:
        directory = self.header.bitmaps
        if directory is None:
            return
        self._own(directory.offset, directory.size)
        try:
            for bitmap in islice(bitmaps(self.source, directory), MAX_BITMAPS):
                length = bitmap.table_entries * 8
                inside = bitmap.table_offset + length <= self.source.size
                if not inside or bitmap.table_offset & (self.cluster - 1):
                    yield self._corruption(
                        "a bitmap's table lies outside the file", clause="QCOW2-BMP-2"
                    )
                    continue
                self._own(bitmap.table_offset, length)
                table = load_table(self.source, bitmap.table_offset, bitmap.table_entries)
                yield from self._bitmap_table(table, bitmap.table_offset)
        except DamagedError as exc:
            yield self._corruption(exc.message, exc.offset, clause=exc.clause or "QCOW2-BMP-1")

    def _bitmap_table(self, table: array[int], where: int) -> Iterator[Finding]:
        for number, entry in enumerate(table):
            host = entry & L2_OFFSET_MASK
            both = host and entry & 1
            outside = host & (self.cluster - 1) or host >= self.end
            if entry & _BITMAP_RESERVED or both or outside:
                yield self._corruption(
                    f"bitmap table entry 0x{entry:016x} is not valid",
                    where + number * 8,
                    clause="QCOW2-BMP-2",
                )
            elif host:
                self.counts.add(host >> self.bits, host >> self.bits)

    def _overlaps(self) -> Iterator[Finding]:
        for cluster in sorted(self.metadata):
            if self.counts.get(cluster) > 1:
                yield self._corruption(
                    "more than one structure lies here", cluster << self.bits, clause="QCOW2-MAP-5"
                )

    def _compare(self) -> Iterator[Finding]:
        """Recorded refcounts against counted ones, in pages where either has any."""
        total = self.end >> self.bits
        per_block = self.refcounts.per_block
        pages = set(self.counts.pages())
        for number in range(min(len(self.refcounts.table), -(-total // per_block))):
            if self.refcounts.has_data(number):
                first = number * per_block
                pages.update(range(first // PAGE, -(-(first + per_block) // PAGE)))
        for page in sorted(pages):
            first, last = page * PAGE, min((page + 1) * PAGE, total)
            if first < last:
                yield from self._compare_page(first, last, self.counts.page(page))

    def _compare_page(self, first: int, last: int, counted: array[int]) -> Iterator[Finding]:
        recorded = self._recorded(first, last)
        if recorded == list(counted[: last - first]):
            return
        for cluster, (is_, should) in enumerate(zip(recorded, counted, strict=False), first):
            if is_ != should:
                kind = "leak" if is_ > should else "corruption"
                yield Finding(
                    kind,
                    f"refcount {is_}, referenced {should} times",
                    cluster << self.bits,
                    clause="QCOW2-REFC-2",
                )

    def _recorded(self, first: int, last: int) -> list[int]:
        per_block = self.refcounts.per_block
        found: list[int] = []
        position = first
        while position < last:
            number, slot = divmod(position, per_block)
            take = min(per_block - slot, last - position)
            found.extend(self.refcounts.block(number)[slot : slot + take])
            position += take
        return found
