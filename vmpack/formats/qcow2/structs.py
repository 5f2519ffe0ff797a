"""The on-disk structures of qcow2, and the dataclasses they decode to.

Endianness: big. Offsets and sizes: bytes from the start of the image, unless said otherwise.
Source: QEMU, docs/interop/qcow2.rst ("Header", "Header extensions"). Profile: specs/qcow2.md.
A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from construct import (
    Bytes,
    Const,
    ConstError,
    ConstructError,
    Int8ub,
    Int32ub,
    Int64ub,
    Struct,
)

from vmpack.errors import DamagedError, UnsupportedError

MAGIC = b"QFI\xfb"

V2_LENGTH = 72
V3_LENGTH = 104
V3_FULL_LENGTH = 112

INCOMPAT_DIRTY = 1 << 0
INCOMPAT_CORRUPT = 1 << 1
INCOMPAT_DATA_FILE = 1 << 2
INCOMPAT_COMPRESSION = 1 << 3
INCOMPAT_EXTENDED_L2 = 1 << 4
COMPAT_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR_BITMAPS = 1 << 0
AUTOCLEAR_RAW_EXTERNAL = 1 << 1

COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1

EXT_END = 0x00000000
EXT_BACKING_FORMAT = 0xE2792ACA
EXT_FEATURE_NAMES = 0x6803F857
EXT_BITMAPS = 0x23852875
EXT_CRYPTO = 0x0537BE77
EXT_DATA_FILE = 0x44415441

L1_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
L2_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
ENTRY_COPIED = 1 << 63
ENTRY_COMPRESSED = 1 << 62
ENTRY_ZERO = 1 << 0

MAX_L1_BYTES = 32 << 20
MAX_REFCOUNT_TABLE_BYTES = 8 << 20

HEADER_V2 = Struct(
    "magic" / Const(MAGIC) * "ASCII QFI, then 0xfb",
    "version" / Int32ub * "2 or 3",
    "backing_file_offset" / Int64ub * "of the backing file's name; 0 without one",
    "backing_file_size" / Int32ub * "bytes of the backing file's name; at most 1,023",
    "cluster_bits" / Int32ub * "a cluster has 1 << cluster_bits bytes; 9 to 21",
    "size" / Int64ub * "bytes of guest disk",
    "crypt_method" / Int32ub * "0 none, 1 AES, 2 LUKS",
    "l1_size" / Int32ub * "entries of the active L1 table",
    "l1_table_offset" / Int64ub * "of the active L1 table; cluster-aligned",
    "refcount_table_offset" / Int64ub * "of the refcount table; cluster-aligned",
    "refcount_table_clusters" / Int32ub * "clusters of the refcount table",
    "nb_snapshots" / Int32ub * "internal snapshots",
    "snapshots_offset" / Int64ub * "of the snapshot table; cluster-aligned",
)
"""The header of version 2, and the first 72 bytes of version 3's."""

HEADER_V3_TAIL = Struct(
    "incompatible_features" / Int64ub * "bit field: a reader that does not know a bit refuses",
    "compatible_features" / Int64ub * "bit field: unknown bits are ignored",
    "autoclear_features" / Int64ub * "bit field: a writer clears what it does not know",
    "refcount_order" / Int32ub * "a refcount has 1 << refcount_order bits; at most 6",
    "header_length" / Int32ub * "bytes of this header; at least 104, a multiple of 8",
)
"""Bytes 72 to 103 of a version 3 header."""

HEADER_V3_COMPRESSION = Struct(
    "compression_type" / Int8ub * "0 zlib, 1 zstd; needs incompatible bit 3 when not 0",
    "padding" / Bytes(7) * "zero",
)
"""Bytes 104 to 111, present when header_length is 112 or more."""

EXTENSION = Struct(
    "type" / Int32ub * "which extension; 0 ends the list",
    "length" / Int32ub * "bytes of data that follow; padded to a multiple of 8",
)
"""The head of a header extension."""

FEATURE_NAME = Struct(
    "type" / Int8ub * "0 incompatible, 1 compatible, 2 autoclear",
    "bit" / Int8ub * "bit number in that feature field",
    "name" / Bytes(46) * "UTF-8, padded with zeros",
)
"""One entry of the feature-name table (extension 0x6803f857)."""


@dataclass(frozen=True, slots=True)
class Header:
    """A qcow2 header, version 2 or 3; version 2 gets version 3's defaults."""

    version: int
    backing_file_offset: int
    backing_file_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    nb_snapshots: int
    snapshots_offset: int
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = 4
    header_length: int = V2_LENGTH
    compression_type: int = COMPRESSION_ZLIB

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None) -> Header:
        """The header at the start of ``raw`` (112 bytes or more, fewer if the file has no more).

        Only the fields' encoding is checked here, not their meaning.

        Raises :class:`DamagedError` when the magic is wrong or the header is cut short, and
        :class:`UnsupportedError` for versions other than 2 and 3.
        """
        try:
            fields = HEADER_V2.parse(raw)
            version = fields.version
            if version in (2, 3):
                values = {key: fields[key] for key in cls.__slots__ if key in fields}
            else:
                raise UnsupportedError(
                    f"qcow2 version {version}",
                    path=path,
                    offset=4,
                    clause="QCOW2-HDR-1",
                    hint="convert the image with the tool that wrote it" if version == 1 else None,
                )
            if version == 3:
                tail = HEADER_V3_TAIL.parse(raw[V2_LENGTH:])
                values |= {key: tail[key] for key in cls.__slots__ if key in tail}
                if tail.header_length >= V3_FULL_LENGTH:
                    more = HEADER_V3_COMPRESSION.parse(raw[V3_LENGTH:])
                    values["compression_type"] = more.compression_type
        except ConstError as exc:
            raise DamagedError("not a qcow2 image: wrong magic", path=path, offset=0) from exc
        except ConstructError as exc:
            raise DamagedError("the qcow2 header is cut short", path=path, offset=0) from exc
        return cls(**values)

    def encode(self) -> bytes:
        """The header's bytes: 72 for version 2, 112 for version 3."""
        fields = asdict(self)
        raw: bytes = HEADER_V2.build(fields)
        if self.version == 3:
            raw += HEADER_V3_TAIL.build({**fields, "header_length": V3_FULL_LENGTH})
            raw += HEADER_V3_COMPRESSION.build({**fields, "padding": bytes(7)})
        return raw


@dataclass(frozen=True, slots=True)
class FeatureName:
    """One entry of the feature-name table. ``kind``: 0 incompatible, 1 compatible, 2 autoclear."""

    kind: int
    bit: int
    name: str

    @classmethod
    def decode_table(cls, raw: bytes) -> list[FeatureName]:
        """Every whole entry of the table; a cut last entry is ignored, as QEMU does."""
        names = []
        for start in range(0, len(raw) - 47, 48):
            entry = FEATURE_NAME.parse(raw[start : start + 48])
            text = entry.name.split(b"\0", 1)[0].decode("utf-8", "replace")
            names.append(cls(entry.type, entry.bit, text))
        return names

    def encode(self) -> bytes:
        """The 48 bytes of this entry."""
        raw: bytes = FEATURE_NAME.build(
            {"type": self.kind, "bit": self.bit, "name": self.name.encode().ljust(46, b"\0")}
        )
        return raw


FEATURE_NAMES = (
    FeatureName(0, 0, "dirty bit"),
    FeatureName(0, 1, "corrupt bit"),
    FeatureName(0, 2, "external data file"),
    FeatureName(0, 3, "compression type"),
    FeatureName(0, 4, "extended L2 entries"),
    FeatureName(1, 0, "lazy refcounts"),
    FeatureName(2, 0, "bitmaps"),
    FeatureName(2, 1, "raw external data"),
)
"""The names that vmpack writes to its feature-name table; the standard ones."""


def encode_extension(kind: int, data: bytes) -> bytes:
    """A header extension: head, data, padding to a multiple of 8."""
    head: bytes = EXTENSION.build({"type": kind, "length": len(data)})
    return head + data + bytes(-len(data) % 8)


def compressed_shift(cluster_bits: int) -> int:
    """The bit of an L2 entry at which a compressed cluster's sector count starts."""
    return 62 - (cluster_bits - 8)


def compressed_entry(offset: int, length: int, cluster_bits: int) -> int:
    """The L2 entry of a compressed cluster of ``length`` bytes at byte ``offset``.

    Source: qcow2.rst, "Compressed Clusters Descriptor": host offset in the low bits, then the
    number of 512-byte sectors beyond the first that the data touches.
    """
    shift = compressed_shift(cluster_bits)
    sectors = ((offset + length - 1) >> 9) - (offset >> 9)
    if offset >> shift or sectors >> (cluster_bits - 8):
        raise ValueError(f"offset {offset} or length {length} does not fit a compressed L2 entry")
    return ENTRY_COMPRESSED | sectors << shift | offset


def compressed_range(entry: int, cluster_bits: int) -> tuple[int, int]:
    """``(offset, length)`` of a compressed cluster's data, ``length`` up to a sector boundary."""
    shift = compressed_shift(cluster_bits)
    offset = entry & ((1 << shift) - 1)
    sectors = (entry & (ENTRY_COMPRESSED - 1)) >> shift
    return offset, (sectors + 1) * 512 - (offset & 511)
