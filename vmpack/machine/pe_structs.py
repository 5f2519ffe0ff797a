"""PE/COFF as far as starting by UEFI needs it: for which machine, signed or not, which sections.

Endianness: little. Sources: Microsoft, "PE Format"; the Unified Kernel Image specification of the
UAPI group. Profile: ``specs/lint-v1.md``, "Boot loaders".
"""

from __future__ import annotations

from dataclasses import dataclass

from construct import Bytes, Const, ConstructError, Int16ul, Int32ul, Struct

__all__ = ["PeFile"]

DOS_HEADER = Struct(
    "magic" / Const(b"MZ") * "ASCII MZ",
    "stub" / Bytes(58) * "not used",
    "pe_offset" / Int32ul * "where the PE header is",
)
"""First 64 bytes of the file."""

PE_HEADER = Struct(
    "signature" / Const(b"PE\0\0") * "PE and two zeros",
    "machine" / Int16ul * "0x8664 is x86-64",
    "sections" / Int16ul * "section headers",
    "timestamp" / Int32ul * "not used",
    "symbols" / Int32ul * "not used",
    "symbol_count" / Int32ul * "not used",
    "optional_size" / Int16ul * "bytes of the optional header",
    "characteristics" / Int16ul * "not used",
)
"""PE signature and COFF header: 24 bytes."""

SECTION = Struct(
    "name" / Bytes(8) * "filled with zeros",
    "virtual_size" / Int32ul * "bytes in memory",
    "virtual_address" / Int32ul * "not used",
    "raw_size" / Int32ul * "bytes in the file",
    "raw_offset" / Int32ul * "where they are",
    "relocations" / Bytes(16) * "not used",
)
"""Section header: 40 bytes."""

X86_64 = 0x8664
_PE32_PLUS = 0x20B
_CERTIFICATES = 112 + 4 * 8
"""The data directory of signatures, from the start of a PE32+ optional header."""
_MAX_SECTIONS = 96
_SECTION_SIZE = SECTION.sizeof()


@dataclass(frozen=True, slots=True)
class PeFile:
    """A PE file's headers."""

    machine: int
    is_signed: bool
    """It has a table of signatures; whose they are is not looked at."""
    sections: dict[str, tuple[int, int]]
    """Name -> (offset, bytes), those that lie inside the file."""

    @classmethod
    def decode(cls, raw: bytes) -> PeFile | None:
        """The headers of the whole file ``raw``; ``None`` where it is no PE file."""
        try:
            start = DOS_HEADER.parse(raw).pe_offset
            head = PE_HEADER.parse(raw[start : start + PE_HEADER.sizeof()])
        except ConstructError:
            return None
        optional = start + PE_HEADER.sizeof()
        table = optional + head.optional_size
        sections: dict[str, tuple[int, int]] = {}
        for number in range(min(head.sections, _MAX_SECTIONS)):
            at = table + number * _SECTION_SIZE
            if at + _SECTION_SIZE > len(raw):
                break
            one = SECTION.parse(raw[at : at + _SECTION_SIZE])
            size = min(one.raw_size, one.virtual_size or one.raw_size)
            if one.raw_offset + size <= len(raw):
                name = one.name.rstrip(b"\0").decode("ascii", "replace")
                sections.setdefault(name, (one.raw_offset, size))
        magic = int.from_bytes(raw[optional : optional + 2], "little")
        entry = raw[optional + _CERTIFICATES : optional + _CERTIFICATES + 8]
        signed = (
            magic == _PE32_PLUS
            and head.optional_size >= _CERTIFICATES + 8
            and any(entry[:4])
            and any(entry[4:])
        )
        return cls(head.machine, signed, sections)
