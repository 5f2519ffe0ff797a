"""The on-disk structures of VHD, and the dataclasses they decode to.

Endianness: big. Offsets and sizes: bytes from the start of the file, unless said otherwise.
Source: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0 (11 October 2006).
Profile: specs/vhd.md. A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from construct import (
    Array,
    Bytes,
    Const,
    ConstError,
    ConstructError,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Struct,
)

from vmpack.errors import DamagedError

COOKIE = b"conectix"
SECTOR = 512
FOOTER_SIZE = 512
OLD_FOOTER_SIZE = 511
"""What Virtual PC before 2004 wrote."""
HEADER_SIZE = 1024
VERSION = 0x0001_0000
NO_OFFSET = (1 << 64) - 1
UNUSED = 0xFFFF_FFFF
"""A BAT entry without a block."""

TYPE_FIXED = 2
TYPE_DYNAMIC = 3
TYPE_DIFFERENCING = 4
TYPE_NAMES = {TYPE_FIXED: "fixed", TYPE_DYNAMIC: "dynamic", TYPE_DIFFERENCING: "differencing"}

FEATURES_RESERVED = 2
"""The bit of ``features`` that is always set."""
EPOCH = 946_684_800
"""2000-01-01 00:00 UTC, where VHD's times begin, in seconds since 1970."""

FOOTER = Struct(
    "cookie" / Const(COOKIE) * "ASCII magic",
    "features" / Int32ub * "bit 0 temporary disk; bit 1 reserved, set",
    "version" / Int32ub * "16.16 fixed point; 1.0",
    "data_offset" / Int64ub * "of the dynamic disk header; all ones in a fixed disk",
    "timestamp" / Int32ub * "of creation, in seconds since 2000-01-01 UTC",
    "creator" / Bytes(4) * "application that wrote the disk; decides which size counts",
    "creator_version" / Int32ub * "16.16 fixed point",
    "creator_os" / Bytes(4) * "Wi2k Windows, Mac Macintosh",
    "original_size" / Int64ub * "bytes of disk at creation",
    "current_size" / Int64ub * "bytes of disk now",
    "cylinders" / Int16ub * "of the geometry",
    "heads" / Int8ub * "of the geometry",
    "sectors" / Int8ub * "of the geometry, for each track",
    "disk_type" / Int32ub * "2 fixed, 3 dynamic, 4 differencing",
    "checksum" / Int32ub * "ones' complement of the sum of the footer's bytes, this field as 0",
    "unique_id" / Bytes(16) * "UUID, by which a child knows its parent",
    "saved_state" / Int8ub * "1: the machine was saved, not shut down",
    "reserved" / Bytes(427) * "zero",
)
"""The hard disk footer: the last 512 bytes of the file, and a copy at 0 unless the disk is fixed.

Source: "Hard Disk Footer Format". Profile: VHD-FTR-1 to VHD-FTR-6.
"""

LOCATOR = Struct(
    "platform" / Bytes(4) * "how the name is written; zero: the entry is not used",
    "data_space" / Int32ub * "sectors (or bytes, by some writers) set aside for the name",
    "data_length" / Int32ub * "bytes of the name",
    "reserved" / Int32ub * "zero",
    "data_offset" / Int64ub * "of the name",
)
"""A parent locator: where a differencing disk keeps one form of its parent's name."""

HEADER = Struct(
    "cookie" / Const(b"cxsparse") * "ASCII magic",
    "data_offset" / Int64ub * "all ones",
    "table_offset" / Int64ub * "of the block allocation table",
    "version" / Int32ub * "16.16 fixed point; 1.0",
    "max_table_entries" / Int32ub * "entries of the table; at least the disk's blocks",
    "block_size" / Int32ub * "bytes of a block, its bitmap not counted; a power of two",
    "checksum" / Int32ub * "ones' complement of the sum of the header's bytes, this field as 0",
    "parent_unique_id" / Bytes(16) * "UUID of the parent; zero without one",
    "parent_timestamp" / Int32ub * "of the parent's last change, in seconds since 2000-01-01 UTC",
    "reserved" / Int32ub * "zero",
    "parent_name" / Bytes(512) * "UTF-16 (big-endian) base name of the parent",
    "locators" / Array(8, LOCATOR) * "parent locators, of 24 bytes each",
    "reserved2" / Bytes(256) * "zero",
)
"""The dynamic disk header, of dynamic and differencing disks.

Source: "Dynamic Disk Header Format". Profile: VHD-DYN-1 to VHD-DYN-3.
"""

_FOOTER_CHECKSUM = 64
_HEADER_CHECKSUM = 36


def checksum(raw: bytes, field: int) -> int:
    """The checksum of a structure whose own checksum lies at ``field``."""
    return ~(sum(raw) - sum(raw[field : field + 4])) & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Footer:
    """A hard disk footer; ``timestamp`` in seconds since 2000."""

    data_offset: int
    timestamp: int
    current_size: int
    original_size: int
    cylinders: int
    heads: int
    sectors: int
    disk_type: int
    unique_id: bytes
    creator: bytes
    creator_version: int
    creator_os: bytes = b"Wi2k"
    features: int = FEATURES_RESERVED
    version: int = VERSION
    saved_state: int = 0
    checksum: int = 0

    @property
    def uuid(self) -> str:
        """The unique id, as text."""
        return str(uuid.UUID(bytes=self.unique_id))

    @classmethod
    def decode(cls, raw: bytes, *, path: str, offset: int) -> Footer:
        """The footer in ``raw`` (512 bytes, 511 of an old one), which lies at ``offset``.

        Raises :class:`DamagedError` where the cookie or the checksum is wrong (VHD-FTR-1, -2).
        """
        whole = raw.ljust(FOOTER_SIZE, b"\0")
        try:
            fields = FOOTER.parse(whole)
        except ConstructError as exc:
            what = "no VHD footer" if isinstance(exc, ConstError) else "footer cut short"
            raise DamagedError(what, path=path, offset=offset, clause="VHD-FTR-1") from exc
        found = checksum(whole, _FOOTER_CHECKSUM)
        if found != fields.checksum:
            raise DamagedError(
                f"footer checksum is 0x{fields.checksum:08x}, its bytes give 0x{found:08x}",
                path=path,
                offset=offset + _FOOTER_CHECKSUM,
                clause="VHD-FTR-2",
            )
        return cls(**{name: fields[name] for name in cls.__slots__})

    def encode(self) -> bytes:
        """The footer's 512 bytes, with their checksum."""
        return _build(FOOTER, self, _FOOTER_CHECKSUM, reserved=bytes(427))


@dataclass(frozen=True, slots=True)
class Locator:
    """A parent locator that is used."""

    platform: bytes
    data_length: int
    data_offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A dynamic disk header."""

    table_offset: int
    max_table_entries: int
    block_size: int
    parent_unique_id: bytes = bytes(16)
    parent_timestamp: int = 0
    parent_name: bytes = bytes(512)
    locators: tuple[Locator, ...] = ()
    version: int = VERSION

    @classmethod
    def decode(cls, raw: bytes, *, path: str, offset: int) -> Header:
        """The header in ``raw`` (1,024 bytes), which lies at ``offset``.

        Raises :class:`DamagedError` where the cookie or the checksum is wrong (VHD-DYN-1).
        """
        try:
            fields = HEADER.parse(raw)
        except ConstructError as exc:
            raise DamagedError(
                "no dynamic disk header", path=path, offset=offset, clause="VHD-DYN-1"
            ) from exc
        found = checksum(raw, _HEADER_CHECKSUM)
        if found != fields.checksum:
            raise DamagedError(
                f"header checksum is 0x{fields.checksum:08x}, its bytes give 0x{found:08x}",
                path=path,
                offset=offset + _HEADER_CHECKSUM,
                clause="VHD-DYN-1",
            )
        values = {name: fields[name] for name in cls.__slots__ if name != "locators"}
        used = tuple(
            Locator(one.platform, one.data_length, one.data_offset)
            for one in fields.locators
            if any(one.platform)
        )
        return cls(**values, locators=used)

    def encode(self) -> bytes:
        """The header's 1,024 bytes, with their checksum."""
        locators = [
            {
                "platform": one.platform,
                "data_space": -(-one.data_length // SECTOR) * SECTOR,
                "data_length": one.data_length,
                "reserved": 0,
                "data_offset": one.data_offset,
            }
            for one in self.locators
        ]
        none = dict.fromkeys(("data_space", "data_length", "reserved", "data_offset"), 0)
        locators += [{"platform": bytes(4), **none}] * (8 - len(locators))
        return _build(
            HEADER,
            self,
            _HEADER_CHECKSUM,
            data_offset=NO_OFFSET,
            checksum=0,
            reserved=0,
            reserved2=bytes(256),
            locators=locators,
        )


def _build(struct: Struct, values: Footer | Header, field: int, **more: object) -> bytes:
    fields = {name: getattr(values, name) for name in values.__slots__} | more
    raw: bytes = struct.build(fields)
    unsummed = raw[:field] + bytes(4) + raw[field + 4 :]
    return raw[:field] + checksum(unsummed, field).to_bytes(4, "big") + raw[field + 4 :]


def bitmap_size(block_size: int) -> int:
    """Bytes of the sector bitmap before each block: one bit for each sector, whole sectors."""
    return -(-block_size // (SECTOR * 8 * SECTOR)) * SECTOR
