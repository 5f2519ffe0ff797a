"""The on-disk structures of VHDX, and the dataclasses they decode to.

Endianness: little. Offsets and sizes: bytes. GUIDs: in Windows' mixed byte order.
Source: [MS-VHDX] (sections 2.2 to 2.6). Profile: specs/vhdx.md.
A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import google_crc32c
from construct import Bytes, Int16ul, Int32ul, Int64ul, Struct

MiB = 1 << 20
SECTOR = 4096
"""Bytes of a header, of a sector of the log, and what the log's updates are aligned to."""

FILE_MAGIC = b"vhdxfile"
HEADER_MAGIC = b"head"
REGION_MAGIC = b"regi"
METADATA_MAGIC = b"metadata"
LOG_MAGIC = b"loge"
ZERO_MAGIC = b"zero"
DATA_DESCRIPTOR_MAGIC = b"desc"
DATA_SECTOR_MAGIC = b"data"

HEADER_OFFSETS = (64 << 10, 128 << 10)
REGION_OFFSETS = (192 << 10, 256 << 10)
TABLE_BYTES = 64 << 10
"""Bytes of a region table, and of the metadata table."""
MAX_ENTRIES = 2047

BAT_REGION = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

FILE_PARAMETERS_ITEM = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE_ITEM = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID_ITEM = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_ITEM = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_ITEM = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR_ITEM = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
VHDX_LOCATOR = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")

LEAVE_ALLOCATED = 1 << 0
HAS_PARENT = 1 << 1
IS_USER = 1 << 0
IS_VIRTUAL_DISK = 1 << 1
IS_REQUIRED = 1 << 2

MIN_BLOCK, MAX_BLOCK = MiB, 256 * MiB
MAX_DISK = 64 << 40
SECTOR_BITS = 1 << 23
"""Sectors whose bits a sector bitmap block of 1 MiB holds."""

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULLY_PRESENT, PARTIALLY_PRESENT = 0, 1, 2, 3, 6, 7
STATE_MASK = 7
OFFSET_MASK = ~(MiB - 1) & (1 << 64) - 1
RESERVED_MASK = ~(OFFSET_MASK | STATE_MASK) & (1 << 64) - 1

IDENTIFIER = Struct(
    "signature" / Bytes(8) * "ASCII vhdxfile",
    "creator" / Bytes(512) * "who made the file: UTF-16, ended by a zero",
)
"""File type identifier, at the file's start ([MS-VHDX] 2.2.1)."""

HEADER = Struct(
    "signature" / Bytes(4) * "ASCII head",
    "checksum" / Int32ul * "CRC-32C of these 4,096 bytes, itself taken as zero",
    "sequence_number" / Int64ul * "the valid header with the greater number is current",
    "file_write_guid" / Bytes(16) * "changes when the file changes",
    "data_write_guid" / Bytes(16) * "changes when what the guest sees changes",
    "log_guid" / Bytes(16) * "of the log's valid entries; zero: nothing to replay",
    "log_version" / Int16ul * "0",
    "version" / Int16ul * "1",
    "log_length" / Int32ul * "bytes of the log; a multiple of 1 MiB",
    "log_offset" / Int64ul * "of the log; a multiple of 1 MiB",
    "reserved" / Bytes(4016) * "ignored",
)
"""One of two headers, at 64 KiB and at 128 KiB ([MS-VHDX] 2.2.2)."""

REGION_HEADER = Struct(
    "signature" / Bytes(4) * "ASCII regi",
    "checksum" / Int32ul * "CRC-32C of the table's 65,536 bytes, itself taken as zero",
    "entry_count" / Int32ul * "at most 2,047",
    "reserved" / Int32ul * "ignored",
)
"""Head of a region table, at 192 KiB and at 256 KiB ([MS-VHDX] 2.2.3.1)."""

REGION_ENTRY = Struct(
    "guid" / Bytes(16) * "which region",
    "file_offset" / Int64ul * "a multiple of 1 MiB, 1 MiB at least",
    "length" / Int32ul * "bytes; a multiple of 1 MiB",
    "required" / Int32ul * "1: who does not know the region must not open the file",
)
"""One region ([MS-VHDX] 2.2.3.2)."""

METADATA_HEADER = Struct(
    "signature" / Bytes(8) * "ASCII metadata",
    "reserved" / Int16ul * "0",
    "entry_count" / Int16ul * "at most 2,047",
    "reserved2" / Bytes(20) * "0",
)
"""Head of the metadata table ([MS-VHDX] 2.6.1.1)."""

METADATA_ENTRY = Struct(
    "item_id" / Bytes(16) * "which item",
    "offset" / Int32ul * "from the start of the metadata region; 65,536 at least",
    "length" / Int32ul * "bytes; at most 1 MiB",
    "flags" / Int32ul * "bit 0 user's item, bit 1 of the virtual disk, bit 2 required",
    "reserved2" / Int32ul * "0",
)
"""One metadata item ([MS-VHDX] 2.6.1.2)."""

FILE_PARAMETERS = Struct(
    "block_size" / Int32ul * "bytes of a payload block: a power of two, 1 MiB to 256 MiB",
    "flags" / Int32ul * "bit 0 blocks stay allocated (fixed), bit 1 has a parent",
)
"""The file parameters item ([MS-VHDX] 2.6.2.1)."""

LOCATOR_HEADER = Struct(
    "locator_type" / Bytes(16) * "what kind of parent",
    "reserved" / Int16ul * "0",
    "key_value_count" / Int16ul * "entries that follow",
)
"""Head of the parent locator item ([MS-VHDX] 2.6.2.6.1)."""

LOCATOR_ENTRY = Struct(
    "key_offset" / Int32ul * "of the key, from the item's start",
    "value_offset" / Int32ul * "of the value, from the item's start",
    "key_length" / Int16ul * "bytes of UTF-16",
    "value_length" / Int16ul * "bytes of UTF-16",
)
"""One key and its value ([MS-VHDX] 2.6.2.6.2)."""

LOG_HEADER = Struct(
    "signature" / Bytes(4) * "ASCII loge",
    "checksum" / Int32ul * "CRC-32C of the whole entry, itself taken as zero",
    "entry_length" / Int32ul * "bytes; a multiple of 4,096",
    "tail" / Int32ul * "of the oldest entry still needed, from the log's start",
    "sequence_number" / Int64ul * "one more than the entry before",
    "descriptor_count" / Int32ul * "descriptors of 32 bytes that follow",
    "reserved" / Int32ul * "0",
    "log_guid" / Bytes(16) * "the header's log_guid, else the entry is not valid",
    "flushed_file_offset" / Int64ul * "the file has at least so many bytes",
    "last_file_offset" / Int64ul * "after the replay the file has at least so many bytes",
)
"""Head of a log entry ([MS-VHDX] 2.3.1.1)."""

ZERO_DESCRIPTOR = Struct(
    "signature" / Bytes(4) * "ASCII zero",
    "reserved" / Int32ul * "0",
    "zero_length" / Int64ul * "bytes that become zero; a multiple of 4,096",
    "file_offset" / Int64ul * "a multiple of 4,096",
    "sequence_number" / Int64ul * "the entry's",
)
"""A range of the file that becomes zero ([MS-VHDX] 2.3.1.2)."""

DATA_DESCRIPTOR = Struct(
    "signature" / Bytes(4) * "ASCII desc",
    "trailing_bytes" / Bytes(4) * "the update's last 4 bytes",
    "leading_bytes" / Bytes(8) * "the update's first 8 bytes",
    "file_offset" / Int64ul * "a multiple of 4,096",
    "sequence_number" / Int64ul * "the entry's",
)
"""An update of 4,096 bytes of the file ([MS-VHDX] 2.3.1.3)."""

DATA_SECTOR = Struct(
    "signature" / Bytes(4) * "ASCII data",
    "sequence_high" / Int32ul * "of the entry's sequence_number",
    "data" / Bytes(4084) * "the update's bytes 8 to 4,091",
    "sequence_low" / Int32ul * "of the entry's sequence_number",
)
"""The update that a data descriptor is about ([MS-VHDX] 2.3.1.4)."""

LOG_HEADER_BYTES = 64
DESCRIPTOR_BYTES = 32


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header that a reader uses."""

    sequence_number: int
    file_write_guid: UUID
    data_write_guid: UUID
    log_guid: UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int

    @classmethod
    def decode(cls, raw: bytes) -> Header:
        """Of 4,096 bytes whose signature and checksum are right."""
        found = HEADER.parse(raw)
        return cls(
            sequence_number=found.sequence_number,
            file_write_guid=UUID(bytes_le=found.file_write_guid),
            data_write_guid=UUID(bytes_le=found.data_write_guid),
            log_guid=UUID(bytes_le=found.log_guid),
            log_version=found.log_version,
            version=found.version,
            log_length=found.log_length,
            log_offset=found.log_offset,
        )

    def encode(self) -> bytes:
        """4,096 bytes, checksum included."""
        return with_checksum(
            HEADER.build(
                {
                    "signature": HEADER_MAGIC,
                    "checksum": 0,
                    "sequence_number": self.sequence_number,
                    "file_write_guid": self.file_write_guid.bytes_le,
                    "data_write_guid": self.data_write_guid.bytes_le,
                    "log_guid": self.log_guid.bytes_le,
                    "log_version": self.log_version,
                    "version": self.version,
                    "log_length": self.log_length,
                    "log_offset": self.log_offset,
                    "reserved": bytes(4016),
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Region:
    """Where a region lies in the file."""

    guid: UUID
    offset: int
    length: int
    required: bool

    @property
    def end(self) -> int:
        return self.offset + self.length

    @classmethod
    def decode_table(cls, raw: bytes, count: int) -> list[Region]:
        """``count`` entries from the start of ``raw``."""
        found = [REGION_ENTRY.parse(raw[at * 32 : at * 32 + 32]) for at in range(count)]
        return [
            cls(UUID(bytes_le=one.guid), one.file_offset, one.length, one.required & 1 == 1)
            for one in found
        ]


@dataclass(frozen=True, slots=True)
class Item:
    """Where a metadata item lies in the metadata region."""

    guid: UUID
    offset: int
    length: int
    flags: int

    @classmethod
    def decode_table(cls, raw: bytes, count: int) -> list[Item]:
        """``count`` entries from the start of ``raw``."""
        found = [METADATA_ENTRY.parse(raw[at * 32 : at * 32 + 32]) for at in range(count)]
        return [cls(UUID(bytes_le=one.item_id), one.offset, one.length, one.flags) for one in found]


def count_of_regions(raw: bytes) -> int:
    """``entry_count`` of a region table."""
    return int(REGION_HEADER.parse(raw[:16]).entry_count)


def count_of_items(raw: bytes) -> int:
    """``entry_count`` of a metadata table."""
    return int(METADATA_HEADER.parse(raw[:32]).entry_count)


def checksum_is_right(raw: bytes) -> bool:
    """Whether bytes 4 to 7 are the CRC-32C of ``raw`` with these four taken as zero."""
    stored = int.from_bytes(raw[4:8], "little")
    return bool(google_crc32c.value(raw[:4] + bytes(4) + raw[8:]) == stored)


def with_checksum(raw: bytes) -> bytes:
    """``raw`` with the CRC-32C of itself at bytes 4 to 7, which are zero."""
    return raw[:4] + int(google_crc32c.value(raw)).to_bytes(4, "little") + raw[8:]
