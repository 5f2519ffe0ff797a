"""Reads a VDI header and holds it to the profile's clauses (specs/vdi.md, VDI-HDR)."""

from __future__ import annotations

from vmpack.binary import require_range
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.vdi.structs import (
    HEADER_END,
    MAX_BLOCKS,
    MIN_HEADER_SIZE,
    NO_UUID,
    PREHEADER,
    SECTOR,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    TYPE_STATIC,
    TYPE_UNDO,
    Header,
)
from vmpack.source import ByteSource
from vmpack.units import round_up

MIN_BLOCK = 4096
MAX_BLOCK = 256 << 20


def load_header(source: ByteSource) -> Header:
    """The valid header of a VDI file; its ``disk_size`` is rounded up to 512.

    Raises :class:`DamagedError` for what breaks the format, :class:`UnsupportedError` for what
    vmpack lacks.
    """
    header = Header.decode(source.pread_padded(0, HEADER_END), path=source.path)
    if source.size < HEADER_END:
        raise _damaged(source, "the VDI header is cut short", 0, 1)
    _require_type(source, header)
    _require_sizes(source, header)
    _require_places(source, header)
    _require_uuids(source, header)
    return header


def guest_size(header: Header) -> int:
    """Bytes of guest disk, in whole sectors as QEMU has them."""
    return round_up(header.disk_size, SECTOR)


def _damaged(source: ByteSource, message: str, offset: int, clause: int) -> DamagedError:
    return DamagedError(message, path=source.path, offset=offset, clause=f"VDI-HDR-{clause}")


def _lacking(source: ByteSource, message: str, offset: int, clause: int) -> UnsupportedError:
    return UnsupportedError(message, path=source.path, offset=offset, clause=f"VDI-HDR-{clause}")


def _require_type(source: ByteSource, header: Header) -> None:
    if header.image_type == TYPE_UNDO:
        raise _lacking(source, "VDI undo images", 76, 4)
    if header.image_type not in (TYPE_DYNAMIC, TYPE_STATIC, TYPE_DIFFERENCING):
        raise _lacking(source, f"VDI image type {header.image_type}", 76, 4)


def _require_sizes(source: ByteSource, header: Header) -> None:
    size = header.block_size
    if header.sector_size != SECTOR:
        raise _lacking(source, f"VDI sectors of {header.sector_size} bytes", 0x168, 7)
    if header.disk_size >= 1 << 63:
        raise _damaged(source, f"a disk of {header.disk_size} bytes", 0x170, 8)
    if size & (size - 1) or not MIN_BLOCK <= size <= MAX_BLOCK:
        raise _damaged(
            source, f"block size {size} is not a power of two from 4 KiB to 256 MiB", 0x178, 9
        )
    if header.block_extra:
        raise _lacking(source, f"{header.block_extra} extra bytes in each VDI block", 0x17C, 10)
    if header.blocks > MAX_BLOCKS:
        raise _lacking(source, f"{header.blocks} VDI blocks, more than {MAX_BLOCKS}", 0x180, 11)
    if header.blocks * size < header.disk_size:
        raise _damaged(
            source,
            f"{header.blocks} blocks of {size} bytes do not cover {header.disk_size} bytes",
            0x180,
            11,
        )
    if header.blocks_allocated > header.blocks:
        raise _damaged(
            source,
            f"{header.blocks_allocated} blocks allocated, of {header.blocks}",
            0x184,
            12,
        )


def _require_places(source: ByteSource, header: Header) -> None:
    end = PREHEADER.sizeof() + header.header_size
    if header.header_size < MIN_HEADER_SIZE or end > header.offset_map:
        raise _damaged(
            source,
            f"a header of {header.header_size} bytes, before a map at {header.offset_map}",
            72,
            3,
        )
    length = header.blocks * 4
    require_range(
        header.offset_map,
        length,
        source.size,
        what="the block map",
        align=SECTOR,
        path=source.path,
        clause="VDI-HDR-5",
    )
    if header.offset_data % SECTOR or header.offset_data < header.offset_map + length:
        raise _damaged(source, f"data at {header.offset_data} lies over the block map", 0x158, 6)


def _require_uuids(source: ByteSource, header: Header) -> None:
    if header.image_type == TYPE_DIFFERENCING:
        if header.uuid_parent == NO_UUID:
            raise _damaged(source, "a differencing image that names no parent", 0x1A8, 13)
    elif (header.uuid_parent, header.uuid_parent_modification) != (NO_UUID, NO_UUID):
        raise _damaged(source, "names a parent and is no differencing image", 0x1A8, 13)
