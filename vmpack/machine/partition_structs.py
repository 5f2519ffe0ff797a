"""MBR and GPT on disk: construct definitions, and the dataclasses that they decode to.

Endianness: little. Sources: UEFI Specification 2.10, chapter 5 (5.2 MBR, 5.3 GPT).
"""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass

from construct import Array, Bytes, Const, ConstructError, Int8ul, Int16ul, Int32ul, Int64ul, Struct

__all__ = ["GptEntry", "GptHeader", "Mbr", "MbrEntry"]

MBR_ENTRY = Struct(
    "status" / Int8ul * "0x80 is active, 0 is not",
    "first_chs" / Bytes(3) * "not used",
    "type" / Int8ul * "0 is free, 0xee protective, 0xef EFI system, 0x05/0x0f/0x85 extended",
    "last_chs" / Bytes(3) * "not used",
    "first_lba" / Int32ul * "sectors; in a logical partition relative to its record",
    "sectors" / Int32ul * "sectors",
)
"""One of the four partition records of an MBR: 16 bytes."""

MBR = Struct(
    "code" / Bytes(440) * "x86 boot code",
    "disk_signature" / Int32ul * "unique to the disk; not used",
    "unknown" / Int16ul * "not used",
    "entries" / Array(4, MBR_ENTRY) * "partition records",
    "signature" / Const(b"\x55\xaa") * "boot signature",
)
"""Master boot record: the first 512 bytes of a disk."""

GPT_HEADER = Struct(
    "signature" / Const(b"EFI PART") * "ASCII magic",
    "revision" / Int32ul * "0x00010000",
    "header_size" / Int32ul * "bytes, 92 to the sector size",
    "header_crc" / Int32ul * "CRC-32 of header_size bytes, this field as 0",
    "reserved" / Int32ul * "zero",
    "my_lba" / Int64ul * "sector that this header is in",
    "alternate_lba" / Int64ul * "sector of the other header",
    "first_usable_lba" / Int64ul * "not used",
    "last_usable_lba" / Int64ul * "not used",
    "disk_guid" / Bytes(16) * "not used",
    "entries_lba" / Int64ul * "first sector of the entries",
    "entry_count" / Int32ul * "entries",
    "entry_size" / Int32ul * "bytes, 128 times a power of two",
    "entries_crc" / Int32ul * "CRC-32 of all entries",
)
"""GPT header: 92 bytes, the rest of its sector is reserved."""

GPT_ENTRY = Struct(
    "type_guid" / Bytes(16) * "zero is free",
    "unique_guid" / Bytes(16) * "not used",
    "first_lba" / Int64ul * "first sector",
    "last_lba" / Int64ul * "last sector, included",
    "attributes" / Int64ul * "bit 2: legacy BIOS bootable",
    "name" / Bytes(72) * "UTF-16, ended by zero",
)
"""GPT entry: the first 128 bytes of one."""


@dataclass(frozen=True)
class MbrEntry:
    """A partition record; sizes in sectors of 512 bytes."""

    active: bool
    type: int
    first_lba: int
    sectors: int


@dataclass(frozen=True)
class Mbr:
    """A master (or extended) boot record."""

    code: bytes
    entries: tuple[MbrEntry, ...]

    @classmethod
    def decode(cls, raw: bytes) -> Mbr | None:
        """The record in ``raw``, or ``None`` where its signature is missing."""
        try:
            found = MBR.parse(raw[:512])
        except ConstructError:
            return None
        entries = tuple(
            MbrEntry(one.status == 0x80, one.type, one.first_lba, one.sectors)
            for one in found.entries
        )
        return cls(found.code, entries)


@dataclass(frozen=True)
class GptHeader:
    """A GPT header whose own checksum is right."""

    my_lba: int
    alternate_lba: int
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int

    @classmethod
    def decode(cls, raw: bytes) -> GptHeader | None:
        """The header in the sector ``raw``, or ``None`` where there is no sound one."""
        try:
            found = GPT_HEADER.parse(raw)
        except ConstructError:
            return None
        if not GPT_HEADER.sizeof() <= found.header_size <= len(raw):
            return None
        covered = raw[:16] + bytes(4) + raw[20 : found.header_size]
        if zlib.crc32(covered) != found.header_crc:
            return None
        return cls(
            found.my_lba,
            found.alternate_lba,
            found.entries_lba,
            found.entry_count,
            found.entry_size,
            found.entries_crc,
        )


@dataclass(frozen=True)
class GptEntry:
    """A GPT entry in use; ``type`` is a GUID in lower case."""

    type: str
    first_lba: int
    last_lba: int
    legacy_bootable: bool
    name: str

    @classmethod
    def decode(cls, raw: bytes) -> GptEntry | None:
        """The entry in ``raw`` (128 bytes or more), or ``None`` where it is free."""
        found = GPT_ENTRY.parse(raw)
        if found.type_guid == bytes(16):
            return None
        name = found.name.decode("utf-16-le", errors="replace").split("\0")[0]
        return cls(
            str(uuid.UUID(bytes_le=found.type_guid)),
            found.first_lba,
            found.last_lba,
            bool(found.attributes & 4),
            name,
        )
