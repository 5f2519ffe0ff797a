"""VHD images to read: written by vmpack, by hand where it cannot, and then changed."""

from __future__ import annotations

import os
import random
import uuid
from dataclasses import replace
from pathlib import Path

from tests.support.disks import write_sparse
from vmpack.formats.base import OpenOptions
from vmpack.formats.vhd.reader import FixedReader, SparseReader, open_vhd
from vmpack.formats.vhd.structs import (
    TYPE_DIFFERENCING,
    UNUSED,
    Footer,
    Header,
    Locator,
    bitmap_size,
    checksum,
)
from vmpack.ops.convert import convert
from vmpack.source import ByteSource

SECTOR = 512
FOOTER_FIELDS = {
    "cookie": (0, 8), "features": (8, 4), "version": (12, 4), "data_offset": (16, 8),
    "timestamp": (24, 4), "creator": (28, 4), "creator_version": (32, 4), "creator_os": (36, 4),
    "original_size": (40, 8), "current_size": (48, 8), "geometry": (56, 4), "disk_type": (60, 4),
    "checksum": (64, 4), "unique_id": (68, 16), "saved_state": (84, 1), "reserved": (85, 427),
}  # fmt: skip
HEADER_FIELDS = {
    "cookie": (0, 8), "data_offset": (8, 8), "table_offset": (16, 8), "version": (24, 4),
    "max_table_entries": (28, 4), "block_size": (32, 4), "checksum": (36, 4),
    "parent_unique_id": (40, 16), "parent_timestamp": (56, 4), "reserved": (60, 4),
    "parent_name": (64, 512), "locators": (576, 192), "reserved2": (768, 256),
}  # fmt: skip


def open_image(path: str | os.PathLike[str], **options: object) -> FixedReader | SparseReader:
    """A reader of the image, ``options`` those of :class:`OpenOptions`."""
    return open_vhd(ByteSource.open(path), OpenOptions(**options))  # type: ignore[arg-type]


def write(path: Path, data: bytes, **values: str) -> Path:
    """``data`` as a VHD of vmpack's own writer."""
    raw = write_sparse(path.with_suffix(".raw"), data)
    convert(raw, path, output_format="vhd", options=values, force=True)
    return path


def seal(raw: bytearray, at: int, field: int, length: int) -> None:
    """Make a structure's checksum right again, which lies at ``field`` of it."""
    total = checksum(bytes(raw[at : at + length]), field)
    raw[at + field : at + field + 4] = total.to_bytes(4, "big")


def change_footer(path: Path, name: str, value: bytes, *, copy: bool = True) -> Path:
    """A copy of the image with another value in its footer (and the footer's copy), sealed."""
    raw = bytearray(path.read_bytes())
    offset, length = FOOTER_FIELDS[name]
    places = [len(raw) - 512]
    if copy and raw.startswith(b"conectix"):
        places.append(0)
    for at in places:
        raw[at + offset : at + offset + length] = value.rjust(length, b"\0")
        if name != "checksum":
            seal(raw, at, 64, 512)
    return _changed(path, raw)


def change_header(path: Path, name: str, value: bytes) -> Path:
    """A copy of the image with another value in its dynamic disk header, sealed."""
    raw = bytearray(path.read_bytes())
    offset, length = HEADER_FIELDS[name]
    raw[512 + offset : 512 + offset + length] = value.rjust(length, b"\0")
    if name != "checksum":
        seal(raw, 512, 36, 1024)
    return _changed(path, raw)


def change_bytes(path: Path, offset: int, value: bytes) -> Path:
    """A copy of the image with other bytes at ``offset`` (negative: from the end)."""
    raw = bytearray(path.read_bytes())
    at = offset % len(raw)
    raw[at : at + len(value)] = value
    return _changed(path, raw)


def _changed(path: Path, raw: bytes | bytearray) -> Path:
    target = path.with_name(f"changed-{path.name}")
    target.write_bytes(raw)
    return target


def difference(
    child: Path,
    parent: Path,
    size: int,
    changes: dict[int, bytes],
    *,
    block_size: int = 2 << 20,
    unique_id: bytes | None = None,
    names: dict[bytes, str] | None = None,
    seed: int = 1,
) -> Path:
    """Write a differencing disk by hand: ``changes`` are its own sectors (number -> 512 bytes).

    What lies under the unset bits is noise: nothing may read it.
    """
    with_parent = open_image(parent, metadata_only=True)
    found = with_parent.found.footer
    with_parent.close()
    rng = random.Random(seed)
    blocks = -(-size // block_size)
    per_block = block_size // SECTOR
    table_offset = 512 + 1024 + 8 * 512
    names = {b"W2ru": f".\\{parent.name}"} if names is None else names
    locators, texts = [], {}
    for number, (platform, name) in enumerate(names.items()):
        encoding = "utf-8" if platform == b"MacX" else "utf-16-le"
        text = name.encode(encoding)
        where = 1536 + number * 512
        locators.append(Locator(platform, len(text), where))
        texts[where] = text
    header = Header(
        table_offset,
        blocks,
        block_size,
        parent_unique_id=found.unique_id if unique_id is None else unique_id,
        parent_timestamp=12345,
        parent_name=parent.name.encode("utf-16-be").ljust(512, b"\0"),
        locators=tuple(locators),
    )
    footer = replace(
        found,
        data_offset=512,
        disk_type=TYPE_DIFFERENCING,
        current_size=size,
        original_size=size,
        creator=b"win ",
        unique_id=uuid.UUID(int=rng.getrandbits(128)).bytes,
    )
    out = bytearray(table_offset + -(-4 * blocks // 512) * 512)
    out[:512], out[512:1536] = footer.encode(), header.encode()
    for where, text in texts.items():
        out[where : where + len(text)] = text
    table = [UNUSED] * blocks
    for number in sorted({sector // per_block for sector in changes}):
        table[number] = len(out) // 512
        bitmap, data = bytearray(bitmap_size(block_size)), bytearray(rng.randbytes(block_size))
        for sector, value in changes.items():
            if sector // per_block == number:
                inside = sector % per_block
                bitmap[inside // 8] |= 0x80 >> inside % 8
                data[inside * 512 : inside * 512 + 512] = value
        out += bitmap + data
    for number, entry in enumerate(table):
        out[table_offset + 4 * number : table_offset + 4 * number + 4] = entry.to_bytes(4, "big")
    child.write_bytes(out + footer.encode())
    return child


def reseal(footer: Footer, **changes: object) -> bytes:
    """The bytes of a footer with other values."""
    return replace(footer, **changes).encode()  # type: ignore[arg-type]
