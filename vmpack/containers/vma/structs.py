"""The on-disk structures of VMA, and the dataclasses they decode to.

Endianness: big, apart from the lengths of blobs, which are little. Offsets and sizes: bytes.
Source: Proxmox, pve-qemu, vma_spec.txt (format version 1) and vma.h. Profile: specs/vma.md.
A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from construct import Array, Bytes, ConstructError, Int16ub, Int32ub, Int64sb, Int64ub, Struct

from vmpack.errors import DamagedError

MAGIC = b"VMA\0"
EXTENT_MAGIC = b"VMAE"
VERSION = 1
ENTRIES = 256
"""Devices and configs of an archive; device 0 is no device."""
BLOCK = 4096
CLUSTER = 65536
BLOCKS = CLUSTER // BLOCK
EXTENT_HEADER_SIZE = 512
CLUSTERS = 59
"""Clusters of an extent at most."""

DEVICE = Struct(
    "name" / Int32ub * "place of the device's name in the blob buffer; 0: no device",
    "reserved0" / Int32ub * "not looked at",
    "size" / Int64ub * "bytes of the device",
    "reserved1" / Int64ub * "not looked at",
    "reserved2" / Int64ub * "not looked at",
)
"""One device of the header, 32 bytes."""

HEADER = Struct(
    "magic" / Bytes(4) * "ASCII VMA and a zero byte",
    "version" / Int32ub * "1",
    "uuid" / Bytes(16) * "of the archive; every extent repeats it",
    "ctime" / Int64sb * "seconds since 1970; not looked at",
    "md5" / Bytes(16) * "MD5 of the header's bytes, with this field as zeros",
    "blob_offset" / Int32ub * "of the blob buffer, behind this struct",
    "blob_size" / Int32ub * "bytes of the blob buffer",
    "header_size" / Int32ub * "bytes of the header with the blob buffer; extents begin there",
    "reserved1" / Bytes(1984) * "not looked at",
    "config_names" / Array(ENTRIES, Int32ub) * "places of the configs' names in the blob buffer",
    "config_data" / Array(ENTRIES, Int32ub) * "places of the configs' contents",
    "reserved2" / Bytes(4) * "not looked at",
    "devices" / Array(ENTRIES, DEVICE) * "what the archive holds; entry 0 is not used",
)
"""The archive's first 12,288 bytes."""

EXTENT = Struct(
    "magic" / Bytes(4) * "ASCII VMAE",
    "reserved" / Int16ub * "not looked at",
    "block_count" / Int16ub * "blocks of 4,096 bytes that follow this header",
    "uuid" / Bytes(16) * "the archive's",
    "md5" / Bytes(16) * "MD5 of these 512 bytes, with this field as zeros",
    "clusters" / Array(CLUSTERS, Int64ub) * "what follows: see *Clusters*",
)
"""The header of an extent, 512 bytes."""

HEADER_SIZE = HEADER.sizeof()
_EXTENT = struct.Struct(f">4sHH16s16s{CLUSTERS}Q")
_MD5_AT = 32
_EXTENT_MD5_AT = 24


@dataclass(frozen=True, slots=True)
class Header:
    """The header, as far as vmpack looks at it."""

    version: int
    uuid: bytes
    md5: bytes
    blob_offset: int
    blob_size: int
    header_size: int
    configs: tuple[tuple[int, int], ...]
    """Places of name and content in the blob buffer, of the entries that are used."""
    devices: tuple[tuple[int, int, int], ...]
    """``(number, place of the name, size)`` of the entries that are used."""


def parse_header(data: bytes, *, path: str) -> Header:
    """Decode the archive's first :data:`HEADER_SIZE` bytes; nothing is checked but the magic."""
    try:
        raw = HEADER.parse(data)
    except ConstructError as exc:
        raise DamagedError("its VMA header is cut", path=path, clause="VMA-HDR-1") from exc
    if raw.magic != MAGIC:
        raise DamagedError("has no VMA header", path=path, offset=0, clause="VMA-HDR-1")
    pairs = zip(raw.config_names, raw.config_data, strict=True)
    return Header(
        version=raw.version,
        uuid=raw.uuid,
        md5=raw.md5,
        blob_offset=raw.blob_offset,
        blob_size=raw.blob_size,
        header_size=raw.header_size,
        configs=tuple((name, data) for name, data in pairs if name and data),
        devices=tuple(
            (number, one.name, one.size)
            for number, one in enumerate(raw.devices)
            if number and one.name and one.size
        ),
    )


def digest_of_header(data: bytes) -> bytes:
    """The MD5 that a header (all of it, with its blob buffer) should have in it."""
    return _md5(data, _MD5_AT)


def parse_extent(data: bytes) -> tuple[bytes, int, bytes, bool, tuple[int, ...]] | None:
    """``(uuid, blocks, md5, whether the MD5 is right, clusters)`` of an extent's 512 bytes.

    ``None`` where the magic is not there. Hundreds of thousands of these are read in a row, so no
    construct here; a test holds both to the same layout.
    """
    magic, _, count, uuid, md5, *clusters = _EXTENT.unpack(data)
    if magic != EXTENT_MAGIC:
        return None
    return uuid, count, md5, _md5(data, _EXTENT_MD5_AT) == md5, tuple(clusters)


def _md5(data: bytes, at: int) -> bytes:
    """MD5 of ``data`` with the 16 bytes at ``at`` as zeros."""
    digest = hashlib.md5(data[:at], usedforsecurity=False)
    digest.update(bytes(16))
    digest.update(memoryview(data)[at + 16 :])
    return digest.digest()
