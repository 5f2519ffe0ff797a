"""Writes a qcow2 image's tables: L1, L2, refcount table and refcount blocks.

The same code lays out a standalone image and a disk's view inside a bundle: it is told which guest
cluster lies where, and where the tables begin. Refcounts are counted, never assumed.
Source: QEMU, docs/interop/qcow2.rst ("Host cluster management", "Cluster mapping").
"""

from __future__ import annotations

import sys
import weakref
from array import array
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

from vmpack.errors import UnsupportedError
from vmpack.formats.qcow2.layout import Layout, l1_entries
from vmpack.formats.qcow2.structs import (
    ENTRY_COMPRESSED,
    ENTRY_COPIED,
    L2_OFFSET_MASK,
    MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
    compressed_range,
)
from vmpack.units import round_up

_SPOOL_IN_MEMORY = 4 << 20
_PIECE = 1 << 20


class TableWriter:
    """Collects the map of one disk, guest clusters ascending, then lays out and yields its tables.

    Memory: one L2 table, and 4 bytes for each host cluster that holds data; finished L2 tables
    wait in an unlinked temporary file.
    """

    def __init__(self, *, cluster_bits: int, virtual_size: int, spool_dir: str | None = None):
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits
        self.virtual_size = virtual_size
        self._entries_per_l2 = self.cluster_size // 8
        self._l1_entries = l1_entries(virtual_size, cluster_bits)
        if self._l1_entries * 8 > MAX_L1_BYTES:
            raise UnsupportedError(
                f"a disk of {virtual_size} bytes is too large for clusters of "
                f"{self.cluster_size} bytes",
                hint="choose a larger cluster size",
            )
        self._l2_numbers = array("Q")
        self._table = array("Q")
        self._spool = SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY, dir=spool_dir)  # noqa: SIM115 - lives as long as the object
        # Whoever gives up half-way need not close it.
        weakref.finalize(self, self._spool.close)
        self._counts: dict[int, array[int]] = {}
        self._chunk = self.cluster_size // 4
        self._layout: Layout | None = None

    def set(self, index: int, entry: int) -> None:
        """Map guest cluster ``index`` (greater than every one before) to the L2 entry ``entry``."""
        number, slot = divmod(index, self._entries_per_l2)
        if not self._l2_numbers or self._l2_numbers[-1] != number:
            self._flush()
            self._l2_numbers.append(number)
            self._table = array("Q", bytes(self.cluster_size))
        self._table[slot] = entry
        if entry & ENTRY_COMPRESSED:
            offset, length = compressed_range(entry, self.cluster_bits)
            self._count(offset, length)
        elif entry & L2_OFFSET_MASK:
            self._count(entry & L2_OFFSET_MASK, self.cluster_size)

    def _flush(self) -> None:
        if self._table:
            self._spool.write(_big_endian(self._table))
            self._table = array("Q")

    def _count(self, offset: int, length: int) -> None:
        chunk_size = self._chunk
        for cluster in range(
            offset >> self.cluster_bits, ((offset + length - 1) >> self.cluster_bits) + 1
        ):
            chunk, slot = divmod(cluster, chunk_size)
            counts = self._counts.get(chunk)
            if counts is None:
                counts = self._counts[chunk] = array("I", bytes(4 * chunk_size))
            counts[slot] += 1

    def layout(self, start: int, *, refcount_order: int | None = None) -> Layout:
        """Place the tables from ``start`` (cluster-aligned, after all data) and count them.

        ``refcount_order`` 0 to 6, wide enough for every refcount; by default 4 where all of them
        fit 16 bits, else 5.
        Call once, before :meth:`pieces`.

        Raises :class:`UnsupportedError` when the refcount table would exceed qcow2's limit.
        """
        assert self._layout is None
        assert start % self.cluster_size == 0
        assert start >= self.cluster_size
        self._flush()
        order = self._narrowest_order() if refcount_order is None else refcount_order
        per_block = self.cluster_size * 8 >> order
        table_offset = (
            start
            + round_up(self._l1_entries * 8, self.cluster_size)
            + len(self._l2_numbers) * self.cluster_size
        )
        held = {0} | self._held_blocks(per_block)
        blocks, table_clusters = len(held), 1
        while True:
            end = table_offset + (table_clusters + blocks) * self.cluster_size
            first, last = (
                (start >> self.cluster_bits) // per_block,
                ((end >> self.cluster_bits) - 1) // per_block,
            )
            need = held | set(range(first, last + 1))
            clusters = round_up((max(need) + 1) * 8, self.cluster_size) >> self.cluster_bits
            if len(need) == blocks and clusters == table_clusters:
                break
            blocks, table_clusters = len(need), clusters
        if table_clusters * self.cluster_size > MAX_REFCOUNT_TABLE_BYTES:
            raise UnsupportedError(
                f"{end} bytes are too many for clusters of {self.cluster_size} bytes",
                hint="choose a larger cluster size",
            )
        self._count(0, self.cluster_size)
        self._count(start, end - start)
        self._blocks = sorted(need)
        self._layout = Layout(
            cluster_bits=self.cluster_bits,
            virtual_size=self.virtual_size,
            l1_offset=start,
            l1_entries=self._l1_entries,
            refcount_table_offset=table_offset,
            refcount_table_clusters=table_clusters,
            refcount_order=order,
            end=end,
        )
        return self._layout

    def _held_blocks(self, per_block: int) -> frozenset[int]:
        """Numbers of the refcount blocks that count any cluster so far."""
        if per_block >= self._chunk:
            return frozenset(chunk * self._chunk // per_block for chunk in self._counts)
        held = set()
        for chunk, counts in self._counts.items():
            first = chunk * self._chunk
            for start in range(0, self._chunk, per_block):
                if any(counts[start : start + per_block]):
                    held.add((first + start) // per_block)
        return frozenset(held)

    def _narrowest_order(self) -> int:
        return 5 if any(max(counts) > 0xFFFF for counts in self._counts.values()) else 4

    def pieces(self) -> Iterator[bytes]:
        """The bytes from ``layout.l1_offset`` to ``layout.end``, in pieces of about 1 MiB."""
        layout = self._layout
        assert layout is not None
        yield from self._l1_pieces(layout)
        self._spool.seek(0)
        while piece := self._spool.read(_PIECE):
            yield piece
        yield self._refcount_table(layout)
        for number in self._blocks:
            yield self._refcount_block(number, layout.refcount_order)

    def _l1_pieces(self, layout: Layout) -> Iterator[bytes]:
        table = array("Q", bytes(8 * layout.l1_entries))
        first = layout.l1_offset + round_up(layout.l1_entries * 8, self.cluster_size)
        for position, number in enumerate(self._l2_numbers):
            table[number] = ENTRY_COPIED | (first + position * self.cluster_size)
        raw = _big_endian(table)
        raw += bytes(-len(raw) % self.cluster_size)
        for begin in range(0, len(raw), _PIECE):
            yield raw[begin : begin + _PIECE]

    def _refcount_table(self, layout: Layout) -> bytes:
        table = array("Q", bytes(layout.refcount_table_clusters * self.cluster_size))
        first = layout.refcount_table_offset + layout.refcount_table_clusters * self.cluster_size
        for position, number in enumerate(self._blocks):
            table[number] = first + position * self.cluster_size
        return _big_endian(table)

    def _refcount_block(self, number: int, order: int) -> bytes:
        per_block = self.cluster_size * 8 >> order
        first, end = number * per_block, (number + 1) * per_block
        parts = []
        for chunk in range(first // self._chunk, -(-end // self._chunk)):
            counts = self._counts.get(chunk)
            begin = chunk * self._chunk
            low, high = max(first, begin) - begin, min(end - begin, self._chunk)
            if counts is None:
                parts.append(bytes((high - low) << order >> 3))
            else:
                parts.append(_packed(counts[low:high], order))
        return b"".join(parts)

    def close(self) -> None:
        """Drop the temporary file."""
        self._spool.close()


def _big_endian(table: array[int]) -> bytes:
    if sys.byteorder == "little":
        table = array(table.typecode, table)
        table.byteswap()
    return table.tobytes()


_WHOLE = {4: "H", 5: "I", 6: "Q"}


def _packed(counts: array[int], order: int) -> bytes:
    """Refcounts of ``1 << order`` bits: big-endian, or several to a byte, the lowest bits first."""
    if order > 3:
        return _big_endian(array(_WHOLE[order], counts))
    each = bytes(counts.tolist())
    per_byte = 8 >> order
    # One number of all bytes: no count reaches into its neighbour's byte.
    total = 0
    for place in range(per_byte):
        total |= int.from_bytes(each[place::per_byte], "big") << (place << order)
    return total.to_bytes(len(each) // per_byte, "big")
