"""How large a qcow2 image would be. qemu-img's figure is larger where it sets tables aside."""

from __future__ import annotations

from vmpack.formats.base import CreateOptions
from vmpack.formats.qcow2.request import requested
from vmpack.units import round_up


class Qcow2Measurer:
    """Counts clusters with data and the tables that they need."""

    def __init__(self, options: CreateOptions):
        wanted = requested(options)
        self.unit = 1 << wanted.cluster_bits
        self._order = 4 if wanted.refcount_order is None else wanted.refcount_order
        self._guest = round_up(options.virtual_size, 512)
        self._clusters = self._tables = 0
        self._last_table = -1

    def add(self, number: int) -> None:
        self._clusters += 1
        table = number // (self.unit // 8)
        if table != self._last_table:
            self._last_table = table
            self._tables += 1

    def sizes(self) -> tuple[int, int]:
        every = -(-self._guest // self.unit)
        every_table = -(-every // (self.unit // 8))
        return self._size(self._clusters, self._tables), self._size(every, every_table)

    def _size(self, data: int, tables: int) -> int:
        """Bytes of the file with ``data`` uncompressed clusters and ``tables`` L2 tables."""
        cluster = self.unit
        per_block = cluster * 8 >> self._order
        l1_entries = -(-self._guest // (cluster // 8 * cluster))
        fixed = 1 + data + tables + -(-l1_entries * 8 // cluster)
        blocks = table = 1
        while True:
            total = fixed + blocks + table
            need = -(-total // per_block)
            need_table = -(-need * 8 // cluster)
            if (need, need_table) == (blocks, table):
                return total * cluster
            blocks, table = need, need_table
