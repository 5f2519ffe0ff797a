"""The metadata region: what kind of disk a VHDX file holds, and who its parent is.

Source: [MS-VHDX] 2.6. Profile: specs/vhdx.md, VHDX-META and VHDX-REF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from vmpack.binary import require_range
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.vhdx.structs import (
    DISK_ID_ITEM,
    DISK_SIZE_ITEM,
    FILE_PARAMETERS,
    FILE_PARAMETERS_ITEM,
    HAS_PARENT,
    IS_REQUIRED,
    IS_USER,
    LEAVE_ALLOCATED,
    LOCATOR_ENTRY,
    LOCATOR_HEADER,
    LOGICAL_SECTOR_ITEM,
    MAX_BLOCK,
    MAX_DISK,
    MAX_ENTRIES,
    METADATA_MAGIC,
    MIN_BLOCK,
    PARENT_LOCATOR_ITEM,
    PHYSICAL_SECTOR_ITEM,
    TABLE_BYTES,
    VHDX_LOCATOR,
    Item,
    MiB,
    Region,
    count_of_items,
)
from vmpack.source import ByteSource

_LENGTHS = {
    FILE_PARAMETERS_ITEM: 8,
    DISK_SIZE_ITEM: 8,
    DISK_ID_ITEM: 16,
    LOGICAL_SECTOR_ITEM: 4,
    PHYSICAL_SECTOR_ITEM: 4,
}
"""Items that each file has, and their bytes."""
_NAMES = {
    FILE_PARAMETERS_ITEM: "file parameters",
    DISK_SIZE_ITEM: "virtual disk size",
    DISK_ID_ITEM: "virtual disk id",
    LOGICAL_SECTOR_ITEM: "logical sector size",
    PHYSICAL_SECTOR_ITEM: "physical sector size",
    PARENT_LOCATOR_ITEM: "parent locator",
}
MAX_USER_ITEMS = 1024
_PATH_KEYS = ("relative_path", "volume_path", "absolute_win32_path")
_LINK_KEYS = ("parent_linkage", "parent_linkage2")
_LONGEST_KEY = 2 * max(len(key) for key in (*_PATH_KEYS, *_LINK_KEYS))


@dataclass(frozen=True, slots=True)
class Locator:
    """What a differencing disk says of its parent."""

    linkage: Sequence[UUID]
    """The parent's DataWriteGuid is one of these."""
    paths: Mapping[str, str]
    """Where it was, in the order to try; Windows' paths, never followed as such."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The items that vmpack knows."""

    block_size: int
    leave_allocated: bool
    virtual_size: int
    disk_id: UUID
    logical_sector: int
    physical_sector: int
    locator: Locator | None
    """``None`` for a disk without parent."""


def load_metadata(source: ByteSource, region: Region) -> Metadata:
    """Read the metadata table and the items that vmpack knows.

    Raises :class:`DamagedError` where they break the format, :class:`UnsupportedError` for a
    required item that vmpack does not know.
    """
    items = _items(source, region)
    values = {}
    for guid, length in _LENGTHS.items():
        item = items.get(guid)
        if item is None or item.length != length:
            what = "no" if item is None else f"{item.length} bytes of"
            raise _damaged(source, f"has {what} {_NAMES[guid]}", region.offset, "VHDX-META-4")
        values[guid] = source.pread(region.offset + item.offset, length)
    parameters = FILE_PARAMETERS.parse(values[FILE_PARAMETERS_ITEM])
    numbers = {guid: int.from_bytes(raw, "little") for guid, raw in values.items()}
    found = Metadata(
        block_size=parameters.block_size,
        leave_allocated=bool(parameters.flags & LEAVE_ALLOCATED),
        virtual_size=numbers[DISK_SIZE_ITEM],
        disk_id=UUID(bytes_le=values[DISK_ID_ITEM]),
        logical_sector=numbers[LOGICAL_SECTOR_ITEM],
        physical_sector=numbers[PHYSICAL_SECTOR_ITEM],
        locator=_locator(source, region, items) if parameters.flags & HAS_PARENT else None,
    )
    _check_values(source, found, parameters.flags, region.offset)
    return found


def _check_values(source: ByteSource, found: Metadata, flags: int, where: int) -> None:
    size = found.block_size
    if size & (size - 1) or not MIN_BLOCK <= size <= MAX_BLOCK:
        raise _damaged(source, f"has blocks of {size} bytes", where, "VHDX-META-5")
    for name, sector in (("logical", found.logical_sector), ("physical", found.physical_sector)):
        if sector not in (512, 4096):
            text = f"has {name} sectors of {sector} bytes"
            raise _damaged(source, text, where, "VHDX-META-6")
    if found.virtual_size > MAX_DISK or found.virtual_size % found.logical_sector:
        raise _damaged(
            source,
            f"has a virtual disk of {found.virtual_size} bytes: not whole sectors, or over 64 TiB",
            where,
            "VHDX-META-7",
        )
    if flags & ~(LEAVE_ALLOCATED | HAS_PARENT):
        text = f"has unknown file parameters 0x{flags:x}"
        raise UnsupportedError(text, path=source.path, offset=where, clause="VHDX-META-8")


def _items(source: ByteSource, region: Region) -> dict[UUID, Item]:
    """The system's items, all entries of the table having been checked."""
    table = source.pread(region.offset, TABLE_BYTES)
    if table[:8] != METADATA_MAGIC:
        text = "its metadata table has no metadata signature"
        raise _damaged(source, text, region.offset, "VHDX-META-1")
    count = count_of_items(table)
    if count > MAX_ENTRIES:
        text = f"its metadata table counts {count} items, at most {MAX_ENTRIES} fit"
        raise _damaged(source, text, region.offset + 10, "VHDX-META-1")
    items = Item.decode_table(table[32:], count)
    for number, item in enumerate(items):
        _check_item(source, region, item, region.offset + 32 + number * 32)
    if sum(item.flags & IS_USER for item in items) > MAX_USER_ITEMS:
        text = f"has more than {MAX_USER_ITEMS} metadata items of the user"
        raise _damaged(source, text, region.offset, "VHDX-META-1")
    if len({(item.guid, item.flags & IS_USER) for item in items}) < len(items):
        text = "its metadata table has one item twice"
        raise _damaged(source, text, region.offset, "VHDX-META-1")
    placed = sorted((item.offset, item.offset + item.length) for item in items if item.length)
    for (_, end), (start, _) in pairwise(placed):
        if start < end:
            text = "two of its metadata items overlap"
            raise _damaged(source, text, region.offset + start, "VHDX-META-2")
    return {item.guid: item for item in items if not item.flags & IS_USER}


def _check_item(source: ByteSource, region: Region, item: Item, where: int) -> None:
    known = item.guid in _NAMES and not item.flags & IS_USER
    if item.flags & IS_REQUIRED and not known:
        raise UnsupportedError(
            f"required metadata item {item.guid}",
            path=source.path,
            offset=where,
            clause="VHDX-META-3",
            hint="the tool that wrote the file may read it",
        )
    inside = TABLE_BYTES <= item.offset <= region.length - item.length and item.length <= MiB
    if not inside if item.length else item.offset:
        text = f"metadata item {item.guid} ({item.length} bytes at {item.offset}) is out of bounds"
        raise _damaged(source, text, where, "VHDX-META-2")


def _locator(source: ByteSource, region: Region, items: Mapping[UUID, Item]) -> Locator:
    item = items.get(PARENT_LOCATOR_ITEM)
    if item is None or item.length < 20:
        text = "is a differencing disk without a parent locator"
        raise _damaged(source, text, region.offset, "VHDX-REF-6")
    where = region.offset + item.offset
    raw = source.pread(where, item.length)
    head = LOCATOR_HEADER.parse(raw[:20])
    kind = UUID(bytes_le=head.locator_type)
    if kind != VHDX_LOCATOR:
        text = f"parent of type {kind}, not a VHDX file"
        raise UnsupportedError(text, path=source.path, offset=where, clause="VHDX-REF-6")
    require_range(
        20,
        head.key_value_count * 12,
        item.length,
        what="the parent locator's table",
        path=source.path,
        clause="VHDX-REF-6",
    )
    values = _pairs(source, raw, head.key_value_count, where)
    linkage = [_guid(source, values[key], where) for key in _LINK_KEYS if key in values]
    if "parent_linkage" not in values:
        text = "its parent locator does not identify the parent (parent_linkage)"
        raise _damaged(source, text, where, "VHDX-REF-6")
    return Locator(linkage, {key: values[key] for key in _PATH_KEYS if key in values})


def _pairs(source: ByteSource, raw: bytes, count: int, where: int) -> dict[str, str]:
    """Values of the keys that are known. A key's length is looked at first: work is bounded."""
    values: dict[str, str] = {}
    for number in range(count):
        at = 20 + number * 12
        entry = LOCATOR_ENTRY.parse(raw[at : at + 12])
        if entry.key_length > _LONGEST_KEY:
            continue
        key = _text(raw, entry.key_offset, entry.key_length)
        if key not in _PATH_KEYS and key not in _LINK_KEYS:
            continue
        value = _text(raw, entry.value_offset, entry.value_length)
        if key in values or value is None:
            text = f"its parent locator's {key} is there twice, or out of bounds"
            raise _damaged(source, text, where + at, "VHDX-REF-6")
        values[key] = value
    return values


def _text(raw: bytes, offset: int, length: int) -> str | None:
    """UTF-16 of the item's ``raw`` bytes, without what follows a zero; ``None`` out of bounds."""
    if not 0 < offset <= offset + length <= len(raw):
        return None
    return raw[offset : offset + length].decode("utf-16-le", "replace").split("\0", 1)[0]


def _guid(source: ByteSource, text: str, where: int) -> UUID:
    try:
        return UUID(text)
    except ValueError as exc:
        message = "its parent locator's parent_linkage is not a GUID"
        raise _damaged(source, message, where, "VHDX-REF-6") from exc


def _damaged(source: ByteSource, text: str, offset: int, clause: str) -> DamagedError:
    return DamagedError(text, path=source.path, offset=offset, clause=clause)
