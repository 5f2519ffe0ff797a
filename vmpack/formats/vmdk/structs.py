"""The on-disk structures of VMDK extents, and the dataclasses they decode to.

Endianness: little. Places and sizes: sectors of 512 bytes from the start of the file, unless said
otherwise. Sources: VMware, Virtual Disk Format 1.1 ("Hosted Sparse Extents", "ESX Server Sparse
Extents", "Stream-Optimized Compressed Sparse Extents") and 5.0 (zeroed grains); seSparse, which
VMware does not document, from QEMU's block/vmdk.c. Profile: specs/vmdk.md.
A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from construct import (
    Bytes,
    Const,
    ConstError,
    ConstructError,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Struct,
)

from vmpack.errors import DamagedError

SECTOR = 512
"""Bytes: the unit of every place and size in a VMDK."""

SPARSE_MAGIC = b"KDMV"
COWD_MAGIC = b"COWD"
SESPARSE_MAGIC = b"\xbe\xba\xfe\xca\0\0\0\0"
SESPARSE_VOLATILE_MAGIC = b"\xfe\xca\xfe\xca\0\0\0\0"

FLAG_NEWLINES = 1 << 0
FLAG_REDUNDANT = 1 << 1
FLAG_ZERO_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
INCOMPATIBLE_FLAGS = 0xFFFF_0000
"""The flags that a reader has to know; it may ignore unknown ones of the lower half."""

COMPRESSION_NONE = 0
COMPRESSION_DEFLATE = 1
GD_AT_END = (1 << 64) - 1
"""As ``gd_offset`` of a stream's header: the footer has it."""
NEWLINES = b"\n \r\n"

MARKER_END = 0
MARKER_TABLE = 1
MARKER_DIRECTORY = 2
MARKER_FOOTER = 3

GTE_HOLE = 0
GTE_ZERO = 1
"""Grain table entries that are no place: not in this extent; all zeros (FLAG_ZERO_GRAINS)."""

COWD_ENTRIES = 4096
COWD_ROOT = 1 << 0
SESPARSE_VERSION = 0x0000_0002_0000_0001

SPARSE_HEADER = Struct(
    "magic" / Const(SPARSE_MAGIC) * "ASCII KDMV",
    "version" / Int32ul * "1, 2 (zeroed grains) or 3 (changed block tracking, larger files)",
    "flags" / Int32ul * "bit field; the upper half is for readers that know the bits only",
    "capacity" / Int64ul * "sectors of the disk that the extent holds",
    "grain_size" / Int64ul * "sectors of a grain; a power of two",
    "descriptor_offset" / Int64ul * "of the embedded descriptor; 0 without one",
    "descriptor_size" / Int64ul * "sectors of the embedded descriptor",
    "num_gtes_per_gt" / Int32ul * "entries of a grain table; 512",
    "rgd_offset" / Int64ul * "of the redundant grain directory",
    "gd_offset" / Int64ul * "of the grain directory; all ones: the footer has it",
    "overhead" / Int64ul * "sectors of metadata before the first grain",
    "unclean_shutdown" / Int8ul * "1 while the extent is open for writing",
    "newlines" / Bytes(4) * "LF, space, CR, LF: wrong after a transfer as text",
    "compress_algorithm" / Int16ul * "0 none, 1 deflate",
    "pad" / Bytes(433) * "zero",
)
"""The header of a hosted sparse or stream-optimized extent, and a stream's footer."""

MARKER = Struct(
    "value" / Int64ul * "sectors of metadata that follow",
    "size" / Int32ul * "0: not a grain",
    "type" / Int32ul * "0 end of stream, 1 grain table, 2 grain directory, 3 footer",
    "pad" / Bytes(496) * "zero",
)
"""What stands before the metadata of a stream-optimized extent."""

GRAIN_MARKER = Struct(
    "lba" / Int64ul * "sector of the extent's disk where the grain belongs",
    "size" / Int32ul * "bytes of zlib data that follow, then zeros to the next sector",
)
"""What stands before a compressed grain."""

GRAIN_MARKER_BYTES = 12

COWD_HEADER = Struct(
    "magic" / Const(COWD_MAGIC) * "ASCII COWD",
    "version" / Int32ul * "1",
    "flags" / Int32ul * "bit 0: no parent, bit 1: can be checked, bit 2: inconsistent",
    "capacity" / Int32ul * "sectors of the disk that the extent holds",
    "grain_size" / Int32ul * "sectors of a grain",
    "gd_offset" / Int32ul * "of the grain directory; 4",
    "gd_entries" / Int32ul * "entries of the grain directory",
    "free_sector" / Int32ul * "the next sector to allocate",
    "parent"
    / Bytes(1024)
    * "of a child its parent's name, of a root the geometry (3 times 4 bytes)",
    "parent_generation" / Int32ul * "of a child",
    "generation" / Int32ul * "changes with each write",
    "name" / Bytes(60) * "of the virtual machine",
    "description" / Bytes(512) * "text",
    "saved_generation" / Int32ul * "generation at the last clean shutdown",
    "reserved" / Bytes(8) * "zero",
    "unclean_shutdown" / Int32ul * "1 while the extent is open for writing",
    "pad" / Bytes(396) * "zero",
)
"""The header of an ESX Server sparse extent (copy-on-write disk)."""

SESPARSE_HEADER = Struct(
    "magic" / Const(SESPARSE_MAGIC) * "0xcafebabe",
    "version" / Int64ul * "0x0000000200000001",
    "capacity" / Int64ul * "sectors of the disk that the extent holds",
    "grain_size" / Int64ul * "sectors of a grain; 8",
    "grain_table_size" / Int64ul * "sectors of a grain table; 64",
    "flags" / Int64ul * "0",
    "reserved" / Bytes(32) * "zero",
    "volatile_offset" / Int64ul * "of the volatile header",
    "volatile_size" / Int64ul * "sectors of the volatile header",
    "journal_header_offset" / Int64ul * "of the journal's header",
    "journal_header_size" / Int64ul * "sectors of the journal's header",
    "journal_offset" / Int64ul * "of the journal",
    "journal_size" / Int64ul * "sectors of the journal",
    "gd_offset" / Int64ul * "of the grain directory",
    "gd_size" / Int64ul * "sectors of the grain directory",
    "tables_offset" / Int64ul * "of the grain tables",
    "tables_size" / Int64ul * "sectors of all grain tables",
    "bitmap_offset" / Int64ul * "of the map of free grains",
    "bitmap_size" / Int64ul * "sectors of the map of free grains",
    "backmap_offset" / Int64ul * "of the map from grains to their place on the disk",
    "backmap_size" / Int64ul * "sectors of that map",
    "grains_offset" / Int64ul * "of the grains",
    "grains_size" / Int64ul * "sectors of all grains",
    "pad" / Bytes(304) * "zero",
)
"""The constant header of a space-efficient sparse extent."""

SESPARSE_VOLATILE = Struct(
    "magic" / Const(SESPARSE_VOLATILE_MAGIC) * "0xcafecafe",
    "free_table" / Int64ul * "number of the next grain table to use",
    "next_transaction" / Int64ul * "number of the journal's next transaction",
    "replay_journal" / Int64ul * "not 0: the journal holds changes that the tables lack",
    "pad" / Bytes(480) * "zero",
)
"""The header of a space-efficient sparse extent that changes while it is written."""


def _parse(struct: Any, raw: bytes, what: str, path: str | None, offset: int) -> dict[str, Any]:
    """The fields of ``struct`` at the start of ``raw``; ``what`` names it in errors."""
    try:
        fields = struct.parse(raw)
    except ConstError as exc:
        raise DamagedError(f"not {what}: wrong magic", path=path, offset=offset) from exc
    except ConstructError as exc:
        raise DamagedError(f"{what} is cut short", path=path, offset=offset) from exc
    return {key: value for key, value in fields.items() if key not in ("_io", "magic")}


@dataclass(frozen=True, slots=True)
class SparseHeader:
    """A hosted sparse extent's header, or a stream's footer. Defaults are what most files have."""

    capacity: int
    flags: int
    version: int = 1
    grain_size: int = 128
    descriptor_offset: int = 0
    descriptor_size: int = 0
    num_gtes_per_gt: int = 512
    rgd_offset: int = 0
    gd_offset: int = 0
    overhead: int = 0
    unclean_shutdown: int = 0
    newlines: bytes = NEWLINES
    compress_algorithm: int = COMPRESSION_NONE

    @property
    def grain_bytes(self) -> int:
        """Bytes of a grain."""
        return self.grain_size * SECTOR

    @property
    def table_sectors(self) -> int:
        """Sectors that a grain table occupies."""
        return -(-self.num_gtes_per_gt * 4 // SECTOR)

    @property
    def directory_entries(self) -> int:
        """Entries of the grain directory."""
        return -(-self.capacity // (self.num_gtes_per_gt * self.grain_size))

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None, offset: int = 0) -> Self:
        """The header at the start of ``raw``; 512 bytes. Only its encoding is checked.

        Raises :class:`DamagedError` when the magic is wrong or the header is cut short.
        """
        fields = _parse(SPARSE_HEADER, raw, "a sparse extent's header", path, offset)
        return cls(**{key: fields[key] for key in cls.__slots__})

    def encode(self) -> bytes:
        """The 512 bytes of this header."""
        raw: bytes = SPARSE_HEADER.build({**asdict(self), "pad": bytes(433)})
        return raw


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker before metadata: ``value`` sectors of it follow."""

    value: int
    type: int
    size: int = 0

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None, offset: int = 0) -> Self:
        """The marker at the start of ``raw``; 512 bytes."""
        fields = _parse(MARKER, raw, "a marker", path, offset)
        return cls(fields["value"], fields["type"], fields["size"])

    def encode(self) -> bytes:
        """The 512 bytes of this marker."""
        raw: bytes = MARKER.build({**asdict(self), "pad": bytes(496)})
        return raw


@dataclass(frozen=True, slots=True)
class CowdHeader:
    """The header of an ESX Server sparse extent, as far as reading needs it."""

    version: int
    flags: int
    capacity: int
    grain_size: int
    gd_offset: int
    gd_entries: int
    free_sector: int
    unclean_shutdown: int

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None) -> Self:
        """The header at the start of ``raw``; 2,048 bytes. Only its encoding is checked."""
        fields = _parse(COWD_HEADER, raw, "a copy-on-write extent's header", path, 0)
        return cls(**{key: fields[key] for key in cls.__slots__})


@dataclass(frozen=True, slots=True)
class SeSparseHeader:
    """The constant header of a space-efficient sparse extent."""

    version: int
    capacity: int
    grain_size: int
    grain_table_size: int
    flags: int
    reserved: bytes
    volatile_offset: int
    volatile_size: int
    journal_header_offset: int
    journal_header_size: int
    journal_offset: int
    journal_size: int
    gd_offset: int
    gd_size: int
    tables_offset: int
    tables_size: int
    bitmap_offset: int
    bitmap_size: int
    backmap_offset: int
    backmap_size: int
    grains_offset: int
    grains_size: int
    pad: bytes

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None) -> Self:
        """The header at the start of ``raw``; 512 bytes. Only its encoding is checked."""
        return cls(**_parse(SESPARSE_HEADER, raw, "a seSparse extent's header", path, 0))


@dataclass(frozen=True, slots=True)
class SeSparseVolatile:
    """The volatile header of a space-efficient sparse extent."""

    free_table: int
    next_transaction: int
    replay_journal: int
    pad: bytes

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None, offset: int = 0) -> Self:
        """The header at the start of ``raw``; 512 bytes. Only its encoding is checked."""
        what = "a seSparse extent's volatile header"
        return cls(**_parse(SESPARSE_VOLATILE, raw, what, path, offset))
