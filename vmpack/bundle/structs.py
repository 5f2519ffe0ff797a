"""The on-disk structures of a bundle, and the dataclasses they decode to.

Endianness: little. Offsets and sizes: bytes from the start of the file.
Source: specs/vmpack-v1.md, "Header" and "Digest index". A construct ``Container`` never leaves
this file.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from construct import (
    Bytes,
    Const,
    ConstError,
    ConstructError,
    Int32ul,
    Int64ul,
    Struct,
)

from vmpack.binary import reject_unknown
from vmpack.errors import DamagedError, RefusedError, UnsupportedError

MAGIC = b"\x89VMPACK\n"
VERSION = 1
HEADER_SIZE = 4096
MAX_MANIFEST = 16 << 20
MAX_SEGMENT = 4 << 20
SEGMENT = 1 << 20
"""Bytes of stored data that a writer puts under one digest, at most."""

HEADER = Struct(
    "magic" / Const(MAGIC) * "0x89, ASCII VMPACK, line feed",
    "version" / Int32ul * "1",
    "header_size" / Int32ul * "4096",
    "incompat" / Int64ul * "feature bits: a reader that does not know one refuses",
    "ro_compat"
    / Int64ul
    * "feature bits: a program that does not know one makes no new bundle of this one",
    "compat"
    / Int64ul
    * "feature bits: unknown ones are ignored, and kept when a bundle is rewritten",
    "total_size" / Int64ul * "bytes of the whole bundle",
    "index_offset" / Int64ul * "of the digest index; every window ends here",
    "index_size" / Int64ul * "bytes of the digest index",
    "manifest_offset" / Int64ul * "of the manifest; where the index ends",
    "manifest_size" / Int64ul * "bytes of the manifest; at most 16 MiB",
    "manifest_sha256" / Bytes(32) * "SHA-256 of the manifest; the bundle's id",
    "reserved" / Bytes(3952) * "zero",
    "header_sha256" / Bytes(32) * "SHA-256 of the 4064 bytes before this field",
)
"""The first 4096 bytes of a bundle."""

FRAME_RECORD = Struct(
    "offset" / Int64ul * "of the frame",
    "size" / Int32ul * "bytes of the frame",
    "cluster_bits" / Int32ul * "the frame decodes to 1 << cluster_bits bytes; 12 to 21",
    "sha256" / Bytes(32) * "SHA-256 of the decoded cluster",
)
"""One stored cluster in the digest index; records ascend by offset."""

SEGMENT_RECORD = Struct(
    "offset" / Int64ul * "of the segment; the end of the one before",
    "size" / Int32ul * "bytes of the segment; 1 to 4 MiB",
    "reserved" / Int32ul * "zero",
    "sha256" / Bytes(32) * "SHA-256 of the stored bytes",
)
"""One segment of stored bytes; together they tile the file from byte 4096 to the index."""

RECORD = struct.Struct("<QII32s")
"""Both records for bulk work (a construct parse costs a hundred times as much)."""
RECORD_SIZE = 48

_DIGESTED = HEADER_SIZE - 32
_REPACK = "the file is damaged: fetch it again, or restore it from a copy"


@dataclass(frozen=True, slots=True)
class Header:
    """A bundle's header, magic, version and digests checked."""

    total_size: int
    index_offset: int
    index_size: int
    manifest_offset: int
    manifest_size: int
    manifest_sha256: bytes
    incompat: int = 0
    ro_compat: int = 0
    compat: int = 0

    @classmethod
    def decode(cls, raw: bytes, *, path: str | None = None) -> Header:
        """The header in the first 4096 bytes ``raw``.

        Raises :class:`RefusedError` when it is no bundle at all, :class:`DamagedError` for a wrong
        digest or a field outside its range, :class:`UnsupportedError` for a newer version or
        feature.
        """
        try:
            fields = HEADER.parse(raw)
        except ConstError as exc:
            raise RefusedError(
                "not a vmpack bundle",
                path=path,
                offset=0,
                clause="VMP-HDR-1",
                hint="vmpack pack makes one from a disk image",
            ) from exc
        except ConstructError as exc:
            raise DamagedError(
                f"cut short in the header: {len(raw)} bytes",
                path=path,
                offset=len(raw),
                clause="VMP-HDR-1",
                hint=_REPACK,
            ) from exc
        if hashlib.sha256(raw[:_DIGESTED]).digest() != fields.header_sha256:
            raise DamagedError(
                "the header's digest is wrong",
                path=path,
                offset=_DIGESTED,
                field="header_sha256",
                clause="VMP-HDR-3",
                hint=_REPACK,
            )
        if fields.version != VERSION or fields.header_size != HEADER_SIZE:
            raise UnsupportedError(
                f"bundle version {fields.version} with a header of {fields.header_size} bytes",
                path=path,
                offset=8,
                field="version",
                clause="VMP-HDR-2",
                hint="a newer version of vmpack may read it",
            )
        reject_unknown(
            fields.incompat, 0, {}, what="bundle feature", path=path, offset=16, clause="VMP-HDR-4"
        )
        if any(fields.reserved):
            raise DamagedError(
                "reserved bytes of the header are not zero",
                path=path,
                offset=128,
                field="reserved",
                clause="VMP-HDR-5",
                hint=_REPACK,
            )
        header = cls(**{name: fields[name] for name in cls.__slots__})
        header._check_layout(path)
        return header

    def _check_layout(self, path: str | None) -> None:
        index_end = self.index_offset + self.index_size
        ok = (
            self.index_offset >= HEADER_SIZE
            and self.index_size % RECORD_SIZE == 0
            and self.manifest_offset == index_end
            and 0 < self.manifest_size <= MAX_MANIFEST
            and self.total_size == index_end + self.manifest_size
        )
        if not ok:
            raise DamagedError(
                "index and manifest do not follow each other to the file's end",
                path=path,
                offset=40,
                field="total_size",
                clause="VMP-HDR-6",
                hint=_REPACK,
            )

    def encode(self) -> bytes:
        """The 4096 bytes, digest included."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        raw: bytes = HEADER.build(
            {
                **fields,
                "version": VERSION,
                "header_size": HEADER_SIZE,
                "reserved": bytes(3952),
                "header_sha256": bytes(32),
            }
        )
        return raw[:_DIGESTED] + hashlib.sha256(raw[:_DIGESTED]).digest()
