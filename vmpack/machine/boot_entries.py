"""What a UEFI firmware was told to start: boot entries and Secure Boot, from its variables.

Source: UEFI Specification 2.10, 3.1.3 (load options), 3.3 (globally defined variables), 10.2 and
10.6 (device paths and their text). Profile: ``specs/nvram.md``, "Boot entries".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from vmpack.machine.nvram import VariableStore
from vmpack.machine.nvram_structs import HARD_DRIVE, LOAD_OPTION, NODE, decode

__all__ = ["BootEntry", "FirmwareState", "firmware_state"]

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
"""EDK II's own variable: 1 is on."""
MAX_ENTRIES = 256
MAX_NODES = 32
MAX_TEXT = 512
_ACTIVE = 1
_HARDWARE, _ACPI, _MESSAGING, _MEDIA, _END = 1, 2, 3, 4, 0x7F
_PNP0A03 = 0x0A0341D0


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One ``Boot####``. ``description`` and ``path`` are the guest's: escape them."""

    number: int
    description: str
    active: bool
    path: str
    """The device path as the UEFI specification writes it."""
    file: str = ""
    """The file on the partition that it starts, or nothing."""
    partition: tuple[int, int] | None = None
    """First sector and number of sectors of the partition, where it names one."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``vmpack info``."""
        return {
            "name": f"Boot{self.number:04X}",
            "description": self.description,
            "active": self.active,
            "path": self.path,
        }


@dataclass(frozen=True, slots=True)
class FirmwareState:
    """What the variables say about starting."""

    entries: tuple[BootEntry, ...]
    """Those of ``BootOrder`` in its order, then the others by number."""
    order: tuple[int, ...]
    secure_boot: bool
    """A platform key is enrolled, and Secure Boot is not switched off."""
    has_keys: bool
    """A platform key is enrolled."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``vmpack info``."""
        return {
            "boot-order": [f"Boot{number:04X}" for number in self.order],
            "boot-entries": [entry.as_dict() for entry in self.entries],
            "secure-boot": self.secure_boot,
            "platform-key": self.has_keys,
        }


def firmware_state(store: VariableStore) -> FirmwareState:
    """The boot entries and Secure Boot state; entries that are no load options are left out."""
    ours = {one.name: one.data for one in store.variables if one.vendor == GLOBAL}
    switch = [one for one in store.variables if one.vendor == SECURE_BOOT_ENABLE]
    off = any(one.name == "SecureBootEnable" and one.data == b"\0" for one in switch)
    order = _order(ours.get("BootOrder", b""))
    found: dict[int, BootEntry] = {}
    for name in sorted(ours):
        if re.fullmatch("Boot[0-9A-F]{4}", name) and len(found) < MAX_ENTRIES:
            entry = _entry(int(name[4:], 16), ours[name])
            if entry is not None:
                found[entry.number] = entry
    listed = [found[number] for number in order if number in found]
    others = [entry for number, entry in found.items() if number not in order]
    has_keys = bool(ours.get("PK"))
    return FirmwareState((*listed, *others), order, has_keys and not off, has_keys)


def _order(raw: bytes) -> tuple[int, ...]:
    numbers = [int.from_bytes(raw[at : at + 2], "little") for at in range(0, len(raw) - 1, 2)]
    return tuple(dict.fromkeys(numbers[:MAX_ENTRIES]))


def _entry(number: int, raw: bytes) -> BootEntry | None:
    if len(raw) < LOAD_OPTION.sizeof():
        return None
    head = decode(LOAD_OPTION, raw)
    begin = LOAD_OPTION.sizeof()
    end = begin
    while raw[end : end + 2] not in (b"\0\0", b"", raw[-1:]):
        end += 2
    paths = raw[end + 2 : end + 2 + head.path_size]
    if raw[end : end + 2] != b"\0\0" or len(paths) < head.path_size:
        return None
    nodes = list(_nodes(paths))
    files = [_utf16(body) for kind, sub, body in nodes if (kind, sub) == (_MEDIA, 4)]
    drives = [body for kind, sub, body in nodes if (kind, sub) == (_MEDIA, 1)]
    place = None
    if drives and len(drives[0]) >= HARD_DRIVE.sizeof():
        drive = decode(HARD_DRIVE, drives[0])
        place = (drive.start, drive.size)
    return BootEntry(
        number,
        raw[begin:end].decode("utf-16-le", "replace")[:MAX_TEXT],
        bool(head.attributes & _ACTIVE),
        "/".join(_text(*node) for node in nodes)[: 4 * MAX_TEXT],
        "\\".join(files)[:MAX_TEXT],
        place,
    )


def _nodes(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, subtype and data of the nodes of the first device path."""
    at = 0
    for _ in range(MAX_NODES):
        if at + NODE.sizeof() > len(raw):
            return
        head = decode(NODE, raw, at)
        if head.type & 0x7F == _END or not NODE.sizeof() <= head.length <= len(raw) - at:
            return
        yield head.type, head.subtype, raw[at + NODE.sizeof() : at + head.length]
        at += head.length


def _utf16(raw: bytes) -> str:
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0][:MAX_TEXT]


def _number(raw: bytes, at: int, size: int) -> int:
    return int.from_bytes(raw[at : at + size], "little")


def _text(kind: int, sub: int, body: bytes) -> str:
    known = _TEXTS.get((kind, sub))
    if known is not None and len(body) >= known[0]:
        return known[1](body)
    return f"Path({kind},{sub},{body[:64].hex().upper()})"


def _guid(raw: bytes) -> str:
    return str(UUID(bytes_le=raw[:16])).upper()


def _acpi(body: bytes) -> str:
    hid, uid = _number(body, 0, 4), _number(body, 4, 4)
    if hid == _PNP0A03:
        return f"PciRoot(0x{uid:X})"
    return f"Acpi(0x{hid:08X},0x{uid:X})"


def _hard_drive(body: bytes) -> str:
    one = decode(HARD_DRIVE, body)
    tables = {1: "MBR", 2: "GPT"}
    sign = (
        _guid(one.signature) if one.signature_type == 2 else f"0x{_number(one.signature, 0, 4):08X}"
    )
    table = tables.get(one.table, str(one.table))
    return f"HD({one.partition},{table},{sign},0x{one.start:X},0x{one.size:X})"


def _nvme(body: bytes) -> str:
    eui = "-".join(f"{byte:02X}" for byte in reversed(body[4:12]))
    return f"NVMe(0x{_number(body, 0, 4):X},{eui})"


_TEXTS: Mapping[tuple[int, int], tuple[int, Callable[[bytes], str]]] = {
    (_HARDWARE, 1): (2, lambda b: f"Pci(0x{b[1]:X},0x{b[0]:X})"),
    (_HARDWARE, 4): (16, lambda b: f"VenHw({_guid(b)})"),
    (_ACPI, 1): (8, _acpi),
    (_MESSAGING, 1): (4, lambda b: f"Ata({_number(b, 0, 1)},{_number(b, 1, 1)})"),
    (_MESSAGING, 2): (4, lambda b: f"Scsi(0x{_number(b, 0, 2):X},0x{_number(b, 2, 2):X})"),
    (_MESSAGING, 5): (2, lambda b: f"USB(0x{b[0]:X},0x{b[1]:X})"),
    (_MESSAGING, 11): (33, lambda b: f"MAC({b[:6].hex().upper()},0x{b[32]:X})"),
    (_MESSAGING, 12): (23, lambda _: "IPv4(0.0.0.0)"),
    (_MESSAGING, 13): (56, lambda _: "IPv6(::)"),
    (_MESSAGING, 18): (
        6,
        lambda b: f"Sata(0x{_number(b, 0, 2):X},0x{_number(b, 2, 2):X},0x{_number(b, 4, 2):X})",
    ),
    (_MESSAGING, 23): (12, _nvme),
    (_MESSAGING, 24): (0, lambda b: f"Uri({b.decode('ascii', 'replace')[:MAX_TEXT]})"),
    (_MEDIA, 1): (38, _hard_drive),
    (_MEDIA, 2): (
        20,
        lambda b: f"CDROM(0x{_number(b, 0, 4):X},0x{_number(b, 4, 8):X},0x{_number(b, 12, 8):X})",
    ),
    (_MEDIA, 3): (16, lambda b: f"VenMedia({_guid(b)})"),
    (_MEDIA, 4): (0, _utf16),
    (_MEDIA, 6): (16, lambda b: f"FvFile({_guid(b)})"),
    (_MEDIA, 7): (16, lambda b: f"Fv({_guid(b)})"),
}
"""(Type, subtype) -> least bytes of data, and the text of the node."""
