"""UEFI variable stores on flash, and what boot entries in them are made of.

Endianness: little. Sources: UEFI Platform Initialization 1.8, volume 3, 3.2.1 (firmware volume
header); EDK II, ``Guid/VariableFormat.h`` (store, variables), ``Guid/FaultTolerantWrite.h`` and
``Guid/SystemNvDataGuid.h`` (interrupted writes); UEFI Specification 2.10, 3.1.3 (load options) and
10.2 (device paths). Profile: ``specs/nvram.md``.
"""

from __future__ import annotations

from typing import Any

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Padding, Struct

__all__ = [
    "HARD_DRIVE",
    "LOAD_OPTION",
    "NODE",
    "STORE",
    "VARIABLE",
    "VOLUME",
    "WORKSPACE",
    "WRITE",
    "decode",
]

VOLUME = Struct(
    "zeros" / Bytes(16) * "not used",
    "guid" / Bytes(16) * "fff12b8d-7696-4c8b-a985-2747075b4f50: variables",
    "length" / Int64ul * "bytes of the volume",
    "signature" / Bytes(4) * "ASCII _FVH",
    "attributes" / Int32ul * "not used",
    "header_length" / Int16ul * "bytes of this header with its block map",
    "checksum" / Int16ul * "makes the 16-bit sum of the header zero",
    "extended" / Int16ul * "not used",
    "reserved" / Int8ul * "not used",
    "revision" / Int8ul * "not used",
)
"""Firmware volume header: 56 bytes, then the block map."""

STORE = Struct(
    "guid" / Bytes(16) * "aaf32c78-947b-439a-a180-2e144ec37792: authenticated variables",
    "size" / Int32ul * "bytes, this header included",
    "format" / Int8ul * "0x5a: formatted",
    "state" / Int8ul * "0xfe: healthy",
    "reserved" / Int16ul * "not used",
    "reserved_2" / Int32ul * "not used",
)
"""Variable store header: 28 bytes."""

VARIABLE = Struct(
    "start" / Int16ul * "0x55aa",
    "state" / Int8ul * "0x3f added, 0x3e until its successor is complete; other: not live",
    "reserved" / Int8ul * "not used",
    "attributes" / Int32ul * "of the UEFI specification",
    "count" / Int64ul * "kept",
    "time" / Bytes(16) * "kept",
    "key" / Int32ul * "kept",
    "name_size" / Int32ul * "bytes of the name in UTF-16, its zero included",
    "data_size" / Int32ul * "bytes of data",
    "vendor" / Bytes(16) * "GUID of whose variable it is",
)
"""Variable header: 60 bytes, then name and data, then up to a multiple of 4."""

WORKSPACE = Struct(
    "guid" / Bytes(16) * "9e58292b-7c68-497d-a0ce-6500fd9f1b95",
    "crc" / Int32ul * "not used",
    "flags" / Int8ul * "not used",
    "reserved" / Padding(3) * "not used",
    "queue_size" / Int64ul * "bytes of the queue of writes that follows",
)
"""Working space of interrupted writes: 32 bytes."""

WRITE = Struct(
    "flags" / Int8ul * "cleared bits: 0 allocated, 1 records written, 2 complete",
    "reserved" / Padding(3) * "not used",
    "caller" / Bytes(16) * "not used",
    "reserved_2" / Padding(4) * "not used",
    "records" / Int64ul * "records of 40 bytes and private data each",
    "private_size" / Int64ul * "bytes of private data in each record",
)
"""One write of the queue: 40 bytes."""

LOAD_OPTION = Struct(
    "attributes" / Int32ul * "bit 0: active, bit 3: hidden",
    "path_size" / Int16ul * "bytes of the device paths after the description",
)
"""Start of a ``Boot####`` variable: 6 bytes, then the description in UTF-16, ended by zero."""

NODE = Struct(
    "type" / Int8ul * "1 hardware, 2 ACPI, 3 messaging, 4 media, 5 BIOS, 0x7f the end",
    "subtype" / Int8ul * "by type",
    "length" / Int16ul * "bytes, these 4 included",
)
"""Start of a device path's node: 4 bytes."""

HARD_DRIVE = Struct(
    "partition" / Int32ul * "number, from 1",
    "start" / Int64ul * "first sector",
    "size" / Int64ul * "sectors",
    "signature" / Bytes(16) * "the partition's GUID, or the MBR's signature",
    "table" / Int8ul * "1 MBR, 2 GPT",
    "signature_type" / Int8ul * "0 none, 1 MBR's, 2 GUID",
)
"""A partition in a device path (type 4, subtype 1), after the node's start: 38 bytes."""


def decode(struct: Any, raw: bytes, offset: int = 0) -> Any:
    """``struct`` at ``offset`` of ``raw``, which must hold it."""
    return struct.parse(raw[offset : offset + struct.sizeof()])
