"""VDI images to read: qemu-img's, and blocks placed by hand."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vmpack.formats.base import OpenOptions
from vmpack.formats.vdi.reader import VdiReader
from vmpack.formats.vdi.structs import FREE, TYPE_DIFFERENCING, TYPE_DYNAMIC, ZERO, Header
from vmpack.source import ByteSource

MIB = 1 << 20
FIELDS = {
    "header_size": (0x48, 4),
    "image_type": (0x4C, 4),
    "offset_map": (0x154, 4),
    "offset_data": (0x158, 4),
    "sector_size": (0x168, 4),
    "disk_size": (0x170, 8),
    "block_size": (0x178, 4),
    "block_extra": (0x17C, 4),
    "blocks": (0x180, 4),
    "blocks_allocated": (0x184, 4),
}
"""Offset and width of the fields that a reader looks at."""


def open_vdi(path: str | os.PathLike[str], **options: object) -> VdiReader:
    """A reader of the image, ``options`` those of :class:`OpenOptions`."""
    return VdiReader(ByteSource.open(path), OpenOptions(**options))  # type: ignore[arg-type]


def le(value: int, width: int = 4) -> bytes:
    return value.to_bytes(width, "little")


def field(name: str, value: int) -> dict[int, bytes]:
    """The change that gives a header field another value."""
    offset, width = FIELDS[name]
    return {offset: le(value, width)}


def write_vdi(
    path: Path,
    entries: Sequence[int],
    stored: Mapping[int, bytes],
    *,
    block: int = MIB,
    size: int | None = None,
    parent: Header | None = None,
    number: int = 1,
) -> Header:
    """An image with this block map and these blocks of the file; its header.

    ``number`` makes its UUIDs; ``parent`` makes it a differencing image.
    """
    data = -(-(512 + 4 * len(entries)) // 512) * 512
    header = Header(
        image_type=TYPE_DYNAMIC,
        offset_map=512,
        offset_data=data,
        disk_size=len(entries) * block if size is None else size,
        block_size=block,
        blocks=len(entries),
        blocks_allocated=sum(entry < ZERO for entry in entries),
        uuid_image=uuid.UUID(int=number),
        uuid_modification=uuid.UUID(int=number << 64),
    )
    if parent is not None:
        header = replace(
            header,
            image_type=TYPE_DIFFERENCING,
            uuid_parent=parent.uuid_image,
            uuid_parent_modification=parent.uuid_modification,
        )
    with path.open("wb") as out:
        out.write(header.encode() + struct.pack(f"<{len(entries)}I", *entries))
        for entry, content in stored.items():
            out.seek(data + entry * block)
            out.write(content)
        highest = max([entry + 1 for entry in entries if entry < ZERO], default=0)
        out.truncate(max(data + highest * block, out.tell()))
    return header


__all__ = ["FIELDS", "FREE", "MIB", "ZERO", "field", "le", "open_vdi", "write_vdi"]
