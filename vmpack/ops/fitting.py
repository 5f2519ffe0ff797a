"""Makes a disk fit what it is converted into: grown where the format asks for it, its GPT with it.

An importer that wants whole MiB (Azure) gets a disk with room behind its end. A GPT keeps a copy
of itself in the disk's last sectors: it is moved to the new end, or a note says why not.
Source: UEFI Specification 2.10, chapter 5.3.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from vmpack.formats.base import CreateOptions, Format, ImageReader
from vmpack.ops.grown import GrownDisk, PatchedDisk
from vmpack.units import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTOR = 512
MAX_ENTRIES = 1 << 20
"""Bytes of partition entries that are moved."""
_MAX_MBR_SECTORS = 0xFFFF_FFFF
_PROTECTIVE = 0xEE
_MBR_ENTRIES = 446


def fit(
    target: Format, disk: ImageReader, options: CreateOptions
) -> tuple[ImageReader, tuple[str, ...]]:
    """The disk as ``target`` stores it, and what the user should know of the difference."""
    if target.disk_size is None:
        return disk, ()
    size = target.disk_size(options)
    if size <= round_up(disk.virtual_size, SECTOR):
        return disk, ()
    grown = GrownDisk(disk, size)
    added = f"the disk is {size - disk.virtual_size} bytes larger than its source"
    patches, note = moved_gpt(grown, disk.virtual_size)
    notes = (added,) if note is None else (added, note)
    return (PatchedDisk(grown, patches) if patches else grown), notes


def moved_gpt(disk: ImageReader, old_size: int) -> tuple[Mapping[int, bytes], str | None]:
    """What to write where (sector -> its bytes) so that the backup GPT is at the disk's end.

    ``disk`` has grown from ``old_size`` bytes. Nothing where there is no GPT; nothing and a note
    where it is not in the state that its own header describes.
    """
    from vmpack.machine.partition_structs import GPT_HEADER, GptHeader

    if old_size % SECTOR or old_size < 3 * SECTOR:
        return {}, None
    raw = disk.read(SECTOR, SECTOR)
    if not raw.startswith(b"EFI PART"):
        return {}, None
    header = GptHeader.decode(raw)
    if header is None or header.my_lba != 1:
        return {}, _left("its header is damaged")
    length = header.entry_count * header.entry_size
    if not 0 < length <= MAX_ENTRIES or header.entries_lba * SECTOR + length > old_size:
        return {}, _left("its table of partitions is not where it could be")
    entries = disk.read(header.entries_lba * SECTOR, length)
    if zlib.crc32(entries) != header.entries_crc:
        return {}, _left("its table of partitions is damaged")
    old_last, last = old_size // SECTOR - 1, disk.virtual_size // SECTOR - 1
    if header.alternate_lba != old_last:
        return {}, _left("its backup was not at the disk's end before")
    fields = GPT_HEADER.parse(raw)
    first = last - -(-length // SECTOR)
    if first <= fields.last_usable_lba:
        return {}, _left("there is no room for its backup at the new end")
    patches = {old_last: bytes(SECTOR)}
    stored = entries.ljust((last - first) * SECTOR, b"\0")
    for number in range(last - first):
        patches[first + number] = stored[number * SECTOR : (number + 1) * SECTOR]
    fields.last_usable_lba = first - 1
    fields.alternate_lba = last
    patches[1] = _sealed(GPT_HEADER, fields, raw)
    fields.my_lba, fields.alternate_lba, fields.entries_lba = last, 1, first
    patches[last] = _sealed(GPT_HEADER, fields, raw)
    patches[0] = _protective(disk.read(0, SECTOR), old_last, last)
    return patches, "its GPT's backup was moved to the new end"


def _left(why: str) -> str:
    return f"its GPT was left as it is: {why}"


def _sealed(struct: Any, fields: Any, raw: bytes) -> bytes:
    """The header's sector, with its checksum."""
    built: bytes = struct.build(fields)
    size = fields.header_size
    whole = built + raw[len(built) :]
    crc = zlib.crc32(whole[:16] + bytes(4) + whole[20:size])
    return whole[:16] + crc.to_bytes(4, "little") + whole[20:]


def _protective(mbr: bytes, old_last: int, last: int) -> bytes:
    """The MBR, its protective record as long as the disk where it was before."""
    out = bytearray(mbr)
    for at in range(_MBR_ENTRIES, _MBR_ENTRIES + 64, 16):
        first, count = (int.from_bytes(mbr[at + n : at + n + 4], "little") for n in (8, 12))
        if mbr[at + 4] == _PROTECTIVE and first == 1 and count == min(old_last, _MAX_MBR_SECTORS):
            out[at + 12 : at + 16] = min(last, _MAX_MBR_SECTORS).to_bytes(4, "little")
    return bytes(out)
