"""Variable stores for tests: variables written the way that UEFI firmware stores them."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

from fixtures.build.small import BOOT_MIB, ESP_UUID

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
KEPT = 7
"""Attributes: kept, seen at boot and at run time."""
FIRST = 100
"""Offset of the first variable in an OVMF store: after the headers of volume and store."""


def variable(name: str, data: bytes, *, state: int = 0x3F, vendor: UUID = GLOBAL) -> bytes:
    """One stored variable with its padding."""
    text = name.encode("utf-16-le") + b"\0\0"
    head = struct.pack(
        "<HBBIQ16sIII", 0x55AA, state, 0, KEPT, 0, bytes(16), 0, len(text), len(data)
    )
    raw = head + vendor.bytes_le + text + data
    return raw + b"\xff" * (-len(raw) % 4)


def with_variables(template: bytes, *variables: bytes) -> bytes:
    """An empty store with these variables in it."""
    body = b"".join(variables)
    assert template[FIRST : FIRST + len(body)] == b"\xff" * len(body), "the template has variables"
    return template[:FIRST] + body + template[FIRST + len(body) :]


def boot_entry(name: str, *, path: str = r"\EFI\BOOT\BOOTX64.EFI") -> bytes:
    """Data of a Boot#### variable that starts ``path`` on the small guest's ESP."""
    lba = (1 << 20) // 512
    disk = struct.pack(
        "<BBHIQQ16sBB", 4, 1, 42, 1, lba, BOOT_MIB * 2048, UUID(ESP_UUID).bytes_le, 2, 2
    )
    text = path.encode("utf-16-le") + b"\0\0"
    file = struct.pack("<BBH", 4, 4, 4 + len(text)) + text
    nodes = disk + file + b"\x7f\xff\x04\x00"
    return struct.pack("<IH", 1, len(nodes)) + name.encode("utf-16-le") + b"\0\0" + nodes


def with_boot_entry(template: bytes, name: str) -> bytes:
    """A store whose firmware boots the small guest by an entry of this name."""
    order = struct.pack("<H", 0x42)
    entry = variable("Boot0042", boot_entry(name))
    return with_variables(template, variable("BootOrder", order), entry)


def ovmf(name: str) -> bytes:
    """A file of this machine's OVMF."""
    return Path("/usr/share/OVMF", name).read_bytes()
