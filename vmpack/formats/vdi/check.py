"""Checks a VDI image's block map: every entry, each block once, the count of them.

Source: QEMU, block/vdi.c (vdi_co_check). Profile: specs/vdi.md, VDI-CHECK.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.formats.base import Finding
from vmpack.formats.vdi.structs import ZERO

if TYPE_CHECKING:
    from vmpack.formats.vdi.reader import VdiReader


def check_image(reader: VdiReader) -> Iterator[Finding]:
    """Everything that is inconsistent in the map, in its order. Reads no data."""
    header, source = reader.header, reader.source
    taken = bytearray(-(-header.blocks // 8))
    block = allocated = 0
    for chunk in reader.map.chunks():
        for block, entry in enumerate(chunk, block):  # noqa: B020 - goes on where it stands
            if entry >= ZERO:
                continue
            allocated += 1
            at = header.offset_map + 4 * block
            guest = block * header.block_size
            if entry >= header.blocks_allocated:
                yield Finding(
                    "corruption",
                    f"block {block} is said to be number {entry} of {header.blocks_allocated}",
                    at,
                    guest,
                    "VDI-CHECK-1",
                )
            if entry >= header.blocks:
                continue
            visible = max(0, min(header.block_size, reader.virtual_size - guest))
            if reader.map.host(entry) + visible > source.size:
                yield Finding(
                    "corruption",
                    f"block {block} lies past the end of the file",
                    at,
                    guest,
                    "VDI-MAP-2",
                )
            if taken[entry >> 3] & 1 << (entry & 7):
                yield Finding(
                    "corruption",
                    f"block {block} lies where another one does",
                    at,
                    guest,
                    "VDI-MAP-3",
                )
            taken[entry >> 3] |= 1 << (entry & 7)
    if allocated != header.blocks_allocated:
        yield Finding(
            "corruption",
            f"{header.blocks_allocated} blocks are said to be allocated, {allocated} are",
            0x184,
            clause="VDI-CHECK-2",
        )
