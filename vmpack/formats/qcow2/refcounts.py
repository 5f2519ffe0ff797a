"""Refcounts: those that the image records, and those that a walk over it counts.

Source: QEMU, docs/interop/qcow2.rst ("Host cluster management"). Profile: specs/qcow2.md,
QCOW2-REFC.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from operator import add

from vmpack.errors import UnsupportedError
from vmpack.extent import Kind
from vmpack.formats.base import Finding
from vmpack.formats.qcow2.header import ImageHeader
from vmpack.formats.qcow2.mapping import load_table
from vmpack.formats.qcow2.structs import L1_OFFSET_MASK
from vmpack.source import ByteSource

_PAGE_BITS = 12
PAGE = 1 << _PAGE_BITS
"""Clusters that are counted together."""
MAX_MEMORY = 256 << 20
"""Bytes of pages: enough for 8 TiB of plain 4 KiB clusters, all that such a disk can have."""
_CACHED_BLOCKS = 8
_WHOLE = {3: "B", 4: "H", 5: "I", 6: "Q"}


class Counts:
    """References counted for each host cluster, in pages: a sparse file costs what it uses.

    A page has one bit for each cluster until one is referenced twice, then a byte, then 32 bits:
    most images hold most clusters once.
    """

    def __init__(self, path: str):
        self._bits: dict[int, bytearray] = {}
        self._wide: dict[int, array[int]] = {}
        self._room = MAX_MEMORY
        self._path = path

    def add(self, first: int, last: int) -> None:
        """One more reference to each cluster from ``first`` to ``last``."""
        for cluster in range(first, last + 1):
            number, slot = cluster >> _PAGE_BITS, cluster & PAGE - 1
            page = self._bits.get(number)
            if page is None:
                page = self._new_bits(number)
            bit = 1 << (slot & 7)
            if page[slot >> 3] & bit:
                self._again(number, slot)
            else:
                page[slot >> 3] |= bit

    def _again(self, number: int, slot: int) -> None:
        """One more reference to a cluster that has one: what is above the first is kept wide."""
        page = self._wide.get(number)
        if page is None:
            self._take(PAGE)
            page = self._wide[number] = array("B", bytes(PAGE))
        elif page[slot] == 0xFF and page.typecode == "B":
            self._take(3 * PAGE)
            page = self._wide[number] = array("I", page)
        page[slot] += 1

    def _new_bits(self, number: int) -> bytearray:
        self._take(PAGE >> 3)
        page = self._bits[number] = bytearray(PAGE >> 3)
        return page

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise UnsupportedError(
                "its clusters lie too far apart to be counted in memory",
                path=self._path,
                hint="compact it first: vmpack convert",
            )

    def get(self, cluster: int) -> int:
        number, slot = cluster >> _PAGE_BITS, cluster & PAGE - 1
        page = self._bits.get(number)
        if page is None or not page[slot >> 3] & 1 << (slot & 7):
            return 0
        more = self._wide.get(number)
        return 1 if more is None else 1 + more[slot]

    def pages(self) -> list[int]:
        """Numbers of the pages that hold any count, ascending."""
        return sorted(self._bits)

    def page(self, number: int) -> array[int]:
        """The counts of the clusters from ``number * PAGE``."""
        bits = self._bits.get(number)
        if bits is None:
            return array("I", bytes(4 * PAGE))
        counts = array("I", list(_unpacked(bits, 0)))
        more = self._wide.get(number)
        if more is not None:
            counts = array("I", map(add, counts, more))
        return counts


class Refcounts:
    """The refcounts that an image records. A block that cannot be read counts as zeros."""

    def __init__(self, source: ByteSource, header: ImageHeader):
        fields = header.fields
        self._source = source
        self._order = fields.refcount_order
        self._cluster = header.cluster_size
        self.per_block = self._cluster * 8 >> self._order
        self._bits = fields.cluster_bits
        self._table_offset = fields.refcount_table_offset
        entries = fields.refcount_table_clusters * self._cluster // 8
        self.table = load_table(source, self._table_offset, entries)
        self._blocks: OrderedDict[int, array[int]] = OrderedDict()
        self._bad: set[int] = set()

    def check_table(self, counts: Counts) -> Iterator[Finding]:
        """Count the refcount blocks; yield what is wrong with the table's entries."""
        end = -(-self._source.size // self._cluster) * self._cluster
        seen: set[int] = set()
        for number, entry in enumerate(self.table):
            if not entry:
                continue
            offset = entry & L1_OFFSET_MASK
            at = self._table_offset + number * 8
            if entry & ~L1_OFFSET_MASK or offset % self._cluster:
                why = "is not aligned or has reserved bits set"
            elif offset + self._cluster > end:
                why = "points past the end of the file"
            elif not offset:
                why = "points at the header"
            elif offset in seen:
                why = "shares its block with another entry"
            else:
                seen.add(offset)
                cluster = offset >> self._bits
                counts.add(cluster, cluster)
                continue
            self._bad.add(number)
            yield Finding(
                "corruption",
                f"refcount table entry {number} (0x{entry:016x}) {why}",
                at,
                clause="QCOW2-REFC-1",
            )

    def get(self, cluster: int) -> int:
        """The recorded refcount of one host cluster."""
        number, slot = divmod(cluster, self.per_block)
        return self.block(number)[slot]

    def block(self, number: int) -> array[int]:
        """The refcounts of the clusters from ``number * per_block``."""
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = self._load(number)
            if len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return block

    def present(self, number: int) -> bool:
        """Whether the table names a usable block ``number``."""
        inside = number < len(self.table) and number not in self._bad
        return inside and bool(self.table[number])

    def has_data(self, number: int) -> bool:
        """Whether block ``number`` may record anything: it is there, and not a hole."""
        if not self.present(number):
            return False
        offset = self.table[number] & L1_OFFSET_MASK
        length = min(self._cluster, self._source.size - offset)
        return any(one.kind is Kind.DATA for one in self._source.extents(offset, length))

    def _load(self, number: int) -> array[int]:
        if not self.present(number):
            return array("I", bytes(4 * self.per_block))
        raw = self._source.pread_padded(self.table[number] & L1_OFFSET_MASK, self._cluster)
        if self._order >= 3:
            block = array(_WHOLE[self._order], raw)
            if sys.byteorder == "little":
                block.byteswap()
            return block
        return array("B", _unpacked(raw, self._order))


def _unpacked(raw: bytes | bytearray, order: int) -> bytes:
    """Numbers of ``1 << order`` bits, several to a byte and the lowest bits first, as bytes."""
    tables = _tables(order)
    out = bytearray(len(raw) * len(tables))
    for place, table in enumerate(tables):
        out[place :: len(tables)] = raw.translate(table)
    return bytes(out)


@cache
def _tables(order: int) -> list[bytes]:
    """For each number of a byte: what it is, by the byte's value."""
    width = 1 << order
    mask = (1 << width) - 1
    return [bytes(byte >> shift & mask for byte in range(256)) for shift in range(0, 8, width)]
