"""The on-disk header of VDI, and the dataclass that it decodes to.

Endianness: little. Offsets and sizes: bytes from the start of the file, unless said otherwise.
Source: VirtualBox, src/VBox/Storage/VDICore.h (VDIPREHEADER, VDIHEADER1PLUS); QEMU, block/vdi.c
(VdiHeader). Profile: specs/vdi.md. A construct ``Container`` never leaves this file.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from construct import Bytes, ConstructError, Int32ul, Int64ul, Struct

from vmpack.errors import DamagedError, UnsupportedError

SIGNATURE = 0xBEDA107F
VERSION = 0x0001_0001

TYPE_DYNAMIC = 1
TYPE_STATIC = 2
TYPE_UNDO = 3
TYPE_DIFFERENCING = 4

FREE = 0xFFFF_FFFF
"""A map entry: the block is not in this image."""
ZERO = 0xFFFF_FFFE
"""A map entry: the block reads as zeros, whatever a parent holds."""

SECTOR = 512
HEADER_END = 512
"""Both structs fit in the first sector."""

PREHEADER = Struct(
    "banner" / Bytes(64) * "text for people, ends with zeros; not looked at",
    "signature" / Int32ul * "0xbeda107f",
    "version" / Int32ul * "major number in the high half, minor in the low one; 1.1",
)
"""Bytes 0 to 71, the same in all versions."""

HEADER = Struct(
    "header_size" / Int32ul * "bytes of this header; 384, or 400 with the second geometry",
    "image_type" / Int32ul * "1 dynamic, 2 static, 3 undo, 4 differencing",
    "image_flags" / Int32ul * "hints for a writer; not looked at",
    "description" / Bytes(256) * "the user's comment, ends with a zero",
    "offset_map" / Int32ul * "of the block map; a multiple of 512",
    "offset_data" / Int32ul * "of block 0; a multiple of 512",
    "cylinders" / Int32ul * "physical geometry; not looked at",
    "heads" / Int32ul * "physical geometry; not looked at",
    "sectors" / Int32ul * "physical geometry; not looked at",
    "sector_size" / Int32ul * "512",
    "unused" / Int32ul * "not looked at",
    "disk_size" / Int64ul * "bytes of guest disk",
    "block_size" / Int32ul * "bytes of a block; 1 MiB as a rule",
    "block_extra" / Int32ul * "bytes before each block's data; 0",
    "blocks" / Int32ul * "entries of the block map",
    "blocks_allocated" / Int32ul * "blocks that the file holds",
    "uuid_image" / Bytes(16) * "of this image",
    "uuid_modification" / Bytes(16) * "of the image's last change",
    "uuid_parent" / Bytes(16) * "the parent's uuid_image; zero without one",
    "uuid_parent_modification" / Bytes(16) * "the parent's uuid_modification; zero without one",
)
"""Bytes 72 to 455, the header of version 1.1."""

MAX_BLOCKS = 0x1FFF_FFFF
"""What QEMU takes: a map below 2 GiB."""
MIN_HEADER_SIZE = 384
WRITTEN_HEADER_SIZE = 400

assert HEADER.sizeof() == MIN_HEADER_SIZE

_BANNER = b"<<< vmpack Virtual Disk Image >>>\n"
NO_UUID = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Header:
    """A VDI header of version 1.1."""

    image_type: int
    offset_map: int
    offset_data: int
    disk_size: int
    block_size: int
    blocks: int
    blocks_allocated: int
    uuid_image: uuid.UUID
    uuid_modification: uuid.UUID
    uuid_parent: uuid.UUID = NO_UUID
    uuid_parent_modification: uuid.UUID = NO_UUID
    header_size: int = WRITTEN_HEADER_SIZE
    image_flags: int = 0
    description: bytes = b""
    sector_size: int = SECTOR
    block_extra: int = 0

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None) -> Header:
        """The header at the start of ``raw``. Only its encoding is checked here, not its meaning.

        Raises :class:`DamagedError` when the signature is wrong or the header is cut short, and
        :class:`UnsupportedError` for versions other than 1.1.
        """
        try:
            pre = PREHEADER.parse(raw)
            if pre.signature != SIGNATURE:
                raise DamagedError(
                    "not a VDI image: wrong signature", path=path, offset=64, clause="VDI-HDR-1"
                )
            if pre.version != VERSION:
                raise UnsupportedError(
                    f"VDI version {pre.version >> 16}.{pre.version & 0xFFFF}",
                    path=path,
                    offset=68,
                    clause="VDI-HDR-2",
                    hint="convert it with VirtualBox: VBoxManage clonemedium OLD NEW.vdi",
                )
            fields = HEADER.parse(raw[PREHEADER.sizeof() :])
        except ConstructError as exc:
            raise DamagedError(
                "the VDI header is cut short", path=path, offset=0, clause="VDI-HDR-1"
            ) from exc
        values = {key: fields[key] for key in cls.__slots__}
        for key in values:
            if key.startswith("uuid_"):
                values[key] = uuid.UUID(bytes_le=values[key])
        values["description"] = values["description"].split(b"\0", 1)[0]
        return cls(**values)

    def encode(self) -> bytes:
        """The file's first sector."""
        values: dict[str, object] = {key: getattr(self, key) for key in self.__slots__}
        for key, value in values.items():
            if isinstance(value, uuid.UUID):
                values[key] = value.bytes_le
        values |= dict.fromkeys(("cylinders", "heads", "sectors", "unused"), 0)
        values["description"] = self.description.ljust(256, b"\0")
        head: bytes = PREHEADER.build(
            {"banner": _BANNER.ljust(64, b"\0"), "signature": SIGNATURE, "version": VERSION}
        )
        head += HEADER.build(values)
        return head.ljust(HEADER_END, b"\0")
