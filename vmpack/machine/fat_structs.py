"""FAT file systems on disk: construct definitions, and the dataclasses that they decode to.

Endianness: little. Source: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03;
the UEFI Specification 2.10, 13.3, names it as the format of EFI system partitions.
Profile: ``specs/fat.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from construct import Bytes, Int8ul, Int16ul, Int32ul, Struct

__all__ = ["BOOT_SECTOR", "ENTRY", "FAT32_BOOT", "LONG_ENTRY", "BootSector", "Entry", "LongEntry"]

BOOT_SECTOR = Struct(
    "jump" / Bytes(3) * "x86 jump; not used",
    "oem" / Bytes(8) * "name of what formatted it; not used",
    "sector_size" / Int16ul * "bytes: 512, 1024, 2048 or 4096",
    "sectors_per_cluster" / Int8ul * "a power of two, 1 to 128",
    "reserved_sectors" / Int16ul * "sectors before the first FAT, at least 1",
    "fats" / Int8ul * "copies of the FAT, 1 or 2; the first is read",
    "root_entries" / Int16ul * "entries of the root folder; 0 in FAT32",
    "sectors_16" / Int16ul * "sectors of the volume; 0: sectors_32 has them",
    "media" / Int8ul * "not used",
    "fat_sectors_16" / Int16ul * "sectors of a FAT; 0 in FAT32",
    "track_sectors" / Int16ul * "not used",
    "heads" / Int16ul * "not used",
    "hidden" / Int32ul * "not used",
    "sectors_32" / Int32ul * "sectors of the volume, where sectors_16 is 0",
)
"""The boot sector's parameters that all kinds of FAT have: 36 bytes."""

FAT32_BOOT = Struct(
    "fat_sectors_32" / Int32ul * "sectors of a FAT",
    "flags" / Int16ul * "bit 7: only the FAT of bits 0 to 3 is kept up to date",
    "version" / Int16ul * "0",
    "root_cluster" / Int32ul * "first cluster of the root folder",
    "info_sector" / Int16ul * "not used",
    "backup_sector" / Int16ul * "not used",
    "reserved" / Bytes(12) * "not used",
)
"""What follows in FAT32: 28 bytes."""

ENTRY = Struct(
    "name" / Bytes(11) * "8.3 in capitals, filled with blanks; e5 first: deleted, 00: the end",
    "attributes" / Int8ul * "bit 3: volume's label, bit 4: folder, 0x0f: part of a long name",
    "case" / Int8ul * "bit 3: the name, bit 4: the suffix is in lower case",
    "times" / Bytes(7) * "not used",
    "cluster_high" / Int16ul * "first cluster, upper half; FAT32 only",
    "written" / Bytes(4) * "not used",
    "cluster_low" / Int16ul * "first cluster, lower half",
    "size" / Int32ul * "bytes; 0 for a folder",
)
"""An entry of a folder: 32 bytes."""

LONG_ENTRY = Struct(
    "order" / Int8ul * "1, 2, ... from the entry backwards; bit 6: the last part",
    "part_1" / Bytes(10) * "UTF-16, five units",
    "attributes" / Int8ul * "0x0f",
    "type" / Int8ul * "0",
    "checksum" / Int8ul * "of the short name that it belongs to",
    "part_2" / Bytes(12) * "six units",
    "cluster" / Int16ul * "0",
    "part_3" / Bytes(4) * "two units",
)
"""A part of a long name, before the entry that it names: 32 bytes."""

END, DELETED = 0x00, 0xE5
LABEL, FOLDER, LONG = 0x08, 0x10, 0x0F


@dataclass(frozen=True, slots=True)
class BootSector:
    """A volume's parameters, not yet held against each other. Sizes in sectors."""

    sector_size: int
    sectors_per_cluster: int
    reserved: int
    fats: int
    root_entries: int
    sectors: int
    fat_sectors: int
    is_fat32: bool
    root_cluster: int
    active_fat: int
    version: int

    @classmethod
    def decode(cls, raw: bytes) -> BootSector:
        """The parameters in ``raw``, at least 64 bytes."""
        common = BOOT_SECTOR.parse(raw)
        more = FAT32_BOOT.parse(raw[BOOT_SECTOR.sizeof() :])
        is_fat32 = common.fat_sectors_16 == 0
        return cls(
            sector_size=common.sector_size,
            sectors_per_cluster=common.sectors_per_cluster,
            reserved=common.reserved_sectors,
            fats=common.fats,
            root_entries=common.root_entries,
            sectors=common.sectors_16 or common.sectors_32,
            fat_sectors=more.fat_sectors_32 if is_fat32 else common.fat_sectors_16,
            is_fat32=is_fat32,
            root_cluster=more.root_cluster if is_fat32 else 0,
            active_fat=more.flags & 15 if is_fat32 and more.flags & 0x80 else 0,
            version=more.version if is_fat32 else 0,
        )


@dataclass(frozen=True, slots=True)
class LongEntry:
    """A part of a long name; ``order`` without its mark of the last part."""

    order: int
    is_last: bool
    checksum: int
    units: bytes

    @classmethod
    def decode(cls, raw: bytes) -> LongEntry:
        """The part in ``raw`` (32 bytes)."""
        found = LONG_ENTRY.parse(raw)
        return cls(
            found.order & 0x3F,
            bool(found.order & 0x40),
            found.checksum,
            found.part_1 + found.part_2 + found.part_3,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a folder: its short name, and where its content begins."""

    short_name: str
    is_folder: bool
    is_label: bool
    cluster: int
    size: int
    checksum: int
    """Of the stored name, by which long names find their entry."""

    @classmethod
    def decode(cls, raw: bytes, *, is_fat32: bool) -> Entry:
        """The entry in ``raw`` (32 bytes), which is neither free nor a long name's part."""
        found = ENTRY.parse(raw)
        is_label = bool(found.attributes & LABEL)
        return cls(
            found.name.decode("cp437").rstrip() if is_label else _short(found.name, found.case),
            bool(found.attributes & FOLDER),
            is_label,
            found.cluster_low | (found.cluster_high << 16 if is_fat32 else 0),
            found.size,
            _checksum(found.name),
        )


def _short(raw: bytes, case: int) -> str:
    # A first byte of 05 stands for e5, which would say that the entry is free.
    whole = (b"\xe5" + raw[1:] if raw[0] == 0x05 else raw).decode("cp437")
    stem, suffix = whole[:8].rstrip(), whole[8:].rstrip()
    stem = stem.lower() if case & 0x08 else stem
    suffix = suffix.lower() if case & 0x10 else suffix
    return f"{stem}.{suffix}" if suffix else stem


def _checksum(name: bytes) -> int:
    found = 0
    for byte in name:
        found = ((found >> 1) + ((found & 1) << 7) + byte) & 0xFF
    return found
