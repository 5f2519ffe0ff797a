"""A qcow2 image's first cluster, validated: header, extensions, backing file name.

Everything else of the image is reached through what this checks, so that later code may trust
every offset and size that it finds here. Source: QEMU, docs/interop/qcow2.rst ("Header", "Header
extensions"). Profile: specs/qcow2.md, QCOW2-HDR and QCOW2-EXT.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmpack.binary import reject_unknown, require_range
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.qcow2 import structs
from vmpack.formats.qcow2.structs import FeatureName, Header
from vmpack.source import ByteSource

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MIN_EXTENDED_L2_BITS = 14
MAX_SNAPSHOTS = 65536
MAX_BACKING_NAME = 1023
MAX_BITMAPS = 65535
MAX_BITMAP_DIRECTORY_BYTES = MAX_BITMAPS * 1024

SUPPORTED_INCOMPAT = (
    structs.INCOMPAT_DIRTY
    | structs.INCOMPAT_CORRUPT
    | structs.INCOMPAT_DATA_FILE
    | structs.INCOMPAT_COMPRESSION
    | structs.INCOMPAT_EXTENDED_L2
)
CRYPT_METHODS = {0: None, 1: "aes", 2: "luks"}
_EXTENSION_HEAD = struct.Struct(">II")
_BITMAPS = struct.Struct(">IIQQ")
_CRYPTO = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class BitmapDirectory:
    """Where the bitmaps are listed: extension 0x23852875."""

    count: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A header whose every offset and size has been checked, and what its extensions say."""

    fields: Header
    file_size: int
    backing_name: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    bitmaps: BitmapDirectory | None = None
    crypto: tuple[int, int] | None = None
    """Offset and length of the LUKS header."""
    unknown_extensions: tuple[int, ...] = field(default=())

    @property
    def cluster_size(self) -> int:
        return 1 << self.fields.cluster_bits

    @property
    def extended_l2(self) -> bool:
        return bool(self.fields.incompatible_features & structs.INCOMPAT_EXTENDED_L2)

    @property
    def dirty(self) -> bool:
        return bool(self.fields.incompatible_features & structs.INCOMPAT_DIRTY)

    @property
    def corrupt(self) -> bool:
        return bool(self.fields.incompatible_features & structs.INCOMPAT_CORRUPT)

    @property
    def external_data(self) -> bool:
        return bool(self.fields.incompatible_features & structs.INCOMPAT_DATA_FILE)

    @property
    def encryption(self) -> str | None:
        return CRYPT_METHODS[self.fields.crypt_method]

    @property
    def l2_entry_bytes(self) -> int:
        return 16 if self.extended_l2 else 8

    @property
    def l2_coverage(self) -> int:
        """Guest bytes that one L2 table maps."""
        return self.cluster_size // self.l2_entry_bytes * self.cluster_size


def load_header(source: ByteSource) -> ImageHeader:
    """Read and validate the first cluster of ``source``.

    Raises :class:`DamagedError` and :class:`UnsupportedError`, with offset, field and clause.
    """
    header = Header.decode(source.pread(0, min(source.size, 112)), path=source.path)
    _check_numbers(header, source.path)
    cluster = source.pread_padded(0, header.cluster_size)
    try:
        found = _extensions(header, cluster, source.path)
    except DamagedError:
        _check_features(header, [], source.path)
        raise
    _check_features(header, found.names, source.path)
    _check_tables(header, source)
    name = _backing_name(header, cluster, source.path)
    return ImageHeader(
        fields=header,
        file_size=source.size,
        backing_name=name,
        backing_format=found.backing_format if name is not None else None,
        data_file=found.data_file,
        bitmaps=_bitmaps(header, found.bitmaps, source),
        crypto=_crypto(header, found.crypto, source),
        unknown_extensions=tuple(found.unknown),
    )


def _damaged(message: str, path: str, field_name: str, offset: int, clause: str) -> DamagedError:
    return DamagedError(message, path=path, field=field_name, offset=offset, clause=clause)


def _check_numbers(header: Header, path: str) -> None:
    bits = header.cluster_bits
    if not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
        raise _damaged(f"{bits}, not 9 to 21", path, "cluster_bits", 20, "QCOW2-HDR-3")
    if header.size >= 1 << 63:
        raise _damaged(f"{header.size} bytes of disk", path, "size", 24, "QCOW2-HDR-4")
    if header.crypt_method not in CRYPT_METHODS:
        raise UnsupportedError(
            f"encryption method {header.crypt_method}", path=path, offset=32, clause="QCOW2-HDR-5"
        )
    if header.refcount_order > 6:
        raise _damaged(
            f"{header.refcount_order}, more than 6", path, "refcount_order", 96, "QCOW2-HDR-11"
        )
    length = header.header_length
    low = structs.V3_LENGTH if header.version == 3 else structs.V2_LENGTH
    if not low <= length <= header.cluster_size or length % 8:
        raise _damaged(f"{length} bytes", path, "header_length", 100, "QCOW2-HDR-12")


def _check_features(header: Header, names: list[FeatureName], path: str) -> None:
    known = {name.bit: name.name for name in names if name.kind == 0}
    reject_unknown(
        header.incompatible_features,
        SUPPORTED_INCOMPAT,
        known,
        what="qcow2 incompatible features",
        path=path,
        offset=72,
        clause="QCOW2-HDR-10",
    )
    flagged = bool(header.incompatible_features & structs.INCOMPAT_COMPRESSION)
    kind = header.compression_type
    if kind not in (structs.COMPRESSION_ZLIB, structs.COMPRESSION_ZSTD):
        raise UnsupportedError(
            f"compression type {kind}", path=path, offset=104, clause="QCOW2-HDR-13"
        )
    if flagged != (kind != structs.COMPRESSION_ZLIB):
        raise _damaged(
            f"{kind}, which the compression bit contradicts",
            path,
            "compression_type",
            104,
            "QCOW2-HDR-13",
        )
    extended = header.incompatible_features & structs.INCOMPAT_EXTENDED_L2
    if extended and header.cluster_bits < MIN_EXTENDED_L2_BITS:
        raise _damaged(
            f"{header.cluster_bits} with extended L2 entries, which need 14",
            path,
            "cluster_bits",
            20,
            "QCOW2-HDR-3",
        )


def _check_tables(header: Header, source: ByteSource) -> None:
    path, cluster = source.path, header.cluster_size
    l1_bytes = header.l1_size * 8
    if l1_bytes > structs.MAX_L1_BYTES:
        raise _damaged(f"{header.l1_size} entries", path, "l1_size", 36, "QCOW2-HDR-6")
    entry = 16 if header.incompatible_features & structs.INCOMPAT_EXTENDED_L2 else 8
    needed = -(-header.size // (cluster // entry * cluster))
    if header.l1_size < needed:
        raise _damaged(
            f"{header.l1_size} entries, a disk of {header.size} bytes needs {needed}",
            path,
            "l1_size",
            36,
            "QCOW2-HDR-6",
        )
    require_range(
        header.l1_table_offset,
        l1_bytes,
        source.size,
        what="L1 table",
        align=cluster,
        path=path,
        clause="QCOW2-HDR-7",
    )
    table_bytes = header.refcount_table_clusters * cluster
    if not 0 < table_bytes <= structs.MAX_REFCOUNT_TABLE_BYTES:
        raise _damaged(
            f"{table_bytes} bytes of refcount table",
            path,
            "refcount_table_clusters",
            56,
            "QCOW2-HDR-8",
        )
    require_range(
        header.refcount_table_offset,
        table_bytes,
        source.size,
        what="refcount table",
        align=cluster,
        path=path,
        clause="QCOW2-HDR-8",
    )
    if l1_bytes and header.l1_table_offset < cluster:
        raise _damaged("lies over the header", path, "l1_table_offset", 40, "QCOW2-HDR-7")
    if header.refcount_table_offset < cluster:
        raise _damaged("lies over the header", path, "refcount_table_offset", 48, "QCOW2-HDR-8")
    if header.nb_snapshots > MAX_SNAPSHOTS:
        raise _damaged(f"{header.nb_snapshots}", path, "nb_snapshots", 60, "QCOW2-HDR-9")
    if header.nb_snapshots:
        # 40 bytes is the least that one entry takes.
        require_range(
            header.snapshots_offset,
            header.nb_snapshots * 40,
            source.size,
            what="snapshot table",
            align=cluster,
            path=path,
            clause="QCOW2-HDR-9",
        )
        if header.snapshots_offset < cluster:
            raise _damaged("lies over the header", path, "snapshots_offset", 64, "QCOW2-HDR-9")


@dataclass(slots=True)
class _Extensions:
    names: list[FeatureName] = field(default_factory=list)
    backing_format: str | None = None
    data_file: str | None = None
    bitmaps: bytes | None = None
    crypto: bytes | None = None
    unknown: list[int] = field(default_factory=list)


def _extensions(header: Header, cluster: bytes, path: str) -> _Extensions:
    found = _Extensions()
    for kind, data in _walk(header, cluster, path):
        if kind == structs.EXT_FEATURE_NAMES:
            found.names = FeatureName.decode_table(data)
        elif kind == structs.EXT_BACKING_FORMAT:
            found.backing_format = _text(data)
        elif kind == structs.EXT_DATA_FILE:
            found.data_file = _text(data)
        elif kind == structs.EXT_BITMAPS:
            found.bitmaps = data
        elif kind == structs.EXT_CRYPTO:
            found.crypto = data
        else:
            found.unknown.append(kind)
    return found


def _walk(header: Header, cluster: bytes, path: str) -> Iterator[tuple[int, bytes]]:
    """Each extension's type and data. The list ends at type 0, the backing name or the cluster."""
    position = header.header_length
    end = header.backing_file_offset or len(cluster)
    end = min(end, len(cluster))
    while position + 8 <= end:
        kind, length = _EXTENSION_HEAD.unpack_from(cluster, position)
        if kind == structs.EXT_END:
            return
        if length > end - position - 8:
            raise _damaged(
                f"extension 0x{kind:08x} has {length} bytes, {end - position - 8} are left",
                path,
                "header extension",
                position,
                "QCOW2-EXT-1",
            )
        yield kind, cluster[position + 8 : position + 8 + length]
        position += 8 + -(-length // 8) * 8


def _text(data: bytes) -> str:
    """A name from the image: surrogates stand for bytes that are not UTF-8, as in file names."""
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _backing_name(header: Header, cluster: bytes, path: str) -> str | None:
    offset, size = header.backing_file_offset, header.backing_file_size
    if not offset and not size:
        return None
    if not offset or not size:
        raise _damaged(
            f"offset {offset} and size {size}: one without the other",
            path,
            "backing_file_offset",
            8,
            "QCOW2-HDR-2",
        )
    inside = header.header_length <= offset and offset + size <= len(cluster)
    if not inside or size > MAX_BACKING_NAME:
        raise _damaged(
            f"{size} bytes at {offset} are not between the header and its cluster's end",
            path,
            "backing_file_offset",
            8,
            "QCOW2-HDR-2",
        )
    return _text(cluster[offset : offset + size])


def _bitmaps(header: Header, data: bytes | None, source: ByteSource) -> BitmapDirectory | None:
    """The bitmap directory; ignored where its autoclear bit is off, as the format asks."""
    if data is None or not header.autoclear_features & structs.AUTOCLEAR_BITMAPS:
        return None
    if len(data) != _BITMAPS.size:
        raise DamagedError(
            f"the bitmaps extension has {len(data)} bytes, not 24",
            path=source.path,
            clause="QCOW2-EXT-4",
        )
    count, reserved, size, offset = _BITMAPS.unpack(data)
    # 24 bytes is the least that one directory entry takes.
    fits = count * 24 <= size <= MAX_BITMAP_DIRECTORY_BYTES
    if reserved or not 0 < count <= MAX_BITMAPS or not fits:
        raise DamagedError(
            f"the bitmaps extension lists {count} bitmaps in {size} bytes",
            path=source.path,
            clause="QCOW2-EXT-4",
        )
    require_range(
        offset,
        size,
        source.size,
        what="bitmap directory",
        align=header.cluster_size,
        path=source.path,
        clause="QCOW2-EXT-4",
    )
    return BitmapDirectory(count, size, offset)


def _crypto(header: Header, data: bytes | None, source: ByteSource) -> tuple[int, int] | None:
    if header.crypt_method != 2:
        return None
    if data is None or len(data) != _CRYPTO.size:
        raise DamagedError(
            "a LUKS image without its encryption header", path=source.path, clause="QCOW2-EXT-5"
        )
    offset, length = _CRYPTO.unpack(data)
    require_range(
        offset,
        length,
        source.size,
        what="encryption header",
        align=header.cluster_size,
        path=source.path,
        clause="QCOW2-EXT-5",
    )
    return offset, length
