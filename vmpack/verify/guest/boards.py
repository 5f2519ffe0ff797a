"""The board as the guest sees it: CPU, memory map, PCI, disks, ACPI and DMI."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from vmpack.verify.guest.found import Found
from vmpack.verify.model import Json

Lines = Sequence[str]

STABLE_TABLES = ("FACS", "HPET", "MCFG", "WAET")
"""ACPI tables that were the same under every QEMU version; the others (DSDT, APIC) change with it.
FACP is one of them once the addresses in it are masked."""

FACP_ADDRESSES = ((9, 1), (36, 8), (132, 16))
"""Offset and length in bytes of what the firmware fills in: checksum; FIRMWARE_CTRL and DSDT; both
as 64 bit. Source: ACPI 6.5, 5.2.9 "Fixed ACPI Description Table"."""

HOLES = ("0xfd00000000-0xffffffffff",)
"""Ranges of the memory map that only some hosts have: AMD's HyperTransport."""

SECTOR = 512
DIGEST = re.compile(r"([0-9a-f]{64}) [ *](/sys/firmware/(acpi|dmi)/tables/([A-Za-z0-9_]{1,32}))")
CPUID = re.compile(
    r"\s*0x([0-9a-f]{8}) 0x([0-9a-f]{2,8}): "
    r"eax=0x([0-9a-f]{8}) ebx=0x([0-9a-f]{8}) ecx=0x([0-9a-f]{8}) edx=0x([0-9a-f]{8})"
)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def efi(found: Found, lines: Lines) -> None:
    """How it was started: by UEFI or a BIOS, and whether Secure Boot was on."""
    found.uefi = "uefi" in lines
    found.fact("boot-mode", "uefi" if found.uefi else "bios")
    for line in lines:
        # Four bytes of attributes, then the variable's one.
        octets = line.split()
        if len(octets) == 5:
            found.fact("secure-boot", octets[4] == "01")


def memory(found: Found, lines: Lines) -> None:
    """MemTotal in KiB. How much of it a UEFI keeps for itself is a matter of its build."""
    for line in lines[:1]:
        kib = _number(line.removeprefix("MemTotal:").removesuffix("kB").strip())
        if kib is not None:
            (found.table if found.uefi else found.fact)("memory", kib)


def memory_map(found: Found, lines: Lines) -> None:
    """The firmware's map (E820), which is the firmware's own under UEFI."""
    for line in lines:
        _, *cells = line.split("\t")
        if len(cells) == 3:
            name = f"{cells[0]}-{cells[1]}"
            if name not in HOLES:
                (found.table if found.uefi else found.fact)(f"memory-map:{name}", cells[2])


def rtc(found: Found, lines: Lines) -> None:
    """The real-time clock's driver."""
    for line in lines[:1]:
        found.fact("rtc", line)


def tpm(found: Found, lines: Lines) -> None:
    """The TPM's major version."""
    for line in lines[:1]:
        found.fact("tpm", line)


CPU_FIELDS = {
    "vendor_id": "vendor",
    "cpu family": "family",
    "model": "model",
    "stepping": "stepping",
    "model name": "name",
    "address sizes": "address-sizes",
}


def cpu(found: Found, lines: Lines) -> None:
    """The first CPU: what it is, each flag of it, and how CPUs are grouped."""
    fields = {name.strip(): text.strip() for name, _, text in (one.partition(":") for one in lines)}
    known: dict[str, Json] = {
        key: fields[name] for name, key in CPU_FIELDS.items() if name in fields
    }
    if known:
        found.fact("cpu", known)
    for flag in fields.get("flags", "").split():
        found.fact(f"cpu-flag:{flag}", True)
    if "siblings" in fields and "cpu cores" in fields:
        found.fact("cpu-socket", {"threads": fields["siblings"], "cores": fields["cpu cores"]})


def cpus(found: Found, lines: Lines) -> None:
    """How many there are."""
    for line in lines[:1]:
        found.fact("cpus", _number(line))


def vulnerabilities(found: Found, lines: Lines) -> None:
    """What the kernel says of each known one."""
    for line in lines:
        path, _, text = line.partition(":")
        found.fact(f"vulnerability:{path.rpartition('/')[2]}", text.strip())


def dmi(found: Found, lines: Lines) -> None:
    """SMBIOS strings; those of the BIOS are the firmware's."""
    for line in lines:
        path, _, text = line.partition(":")
        name = path.rpartition("/")[2]
        if fnmatchcase(name, "bios_*"):
            found.table(f"dmi:{name}", text.strip())
        elif fnmatchcase(name, "*_*"):
            found.fact(f"dmi:{name}", text.strip())


def digests(found: Found, lines: Lines) -> None:
    """SHA-256 of ACPI's and SMBIOS's tables."""
    for line in lines:
        match = DIGEST.fullmatch(line)
        if not match:
            continue
        digest, _, kind, name = match.groups()
        stable = kind == "acpi" and name in STABLE_TABLES
        # Where PCI's configuration space lies is SeaBIOS's constant, and each OVMF's own choice.
        stable = stable and not (found.uefi and name == "MCFG")
        put = found.fact if stable else found.table
        put(f"{'acpi' if kind == 'acpi' else 'smbios'}:{name}", f"sha256:{digest}")


def facp(found: Found, lines: Lines) -> None:
    """FACP without the addresses that the firmware chose."""
    octets = " ".join(lines).split()
    if not 116 <= len(octets) <= 1024 or not all(
        re.fullmatch("[0-9a-f]{2}", one) for one in octets
    ):
        return
    table = bytearray.fromhex("".join(octets))
    for offset, length in FACP_ADDRESSES:
        part = table[offset : offset + length]
        table[offset : offset + length] = bytes(len(part))
    found.fact("acpi:FACP", f"sha256:{hashlib.sha256(table).hexdigest()}")


def pci(found: Found, lines: Lines) -> None:
    """Each PCI function, with the driver that has it."""
    for line in lines:
        cells = line.split("\t")
        if len(cells) == 7:
            address, vendor, device, kind, sub_vendor, sub_device, driver = cells
            found.fact(
                f"pci-driver:{address}",
                {
                    "device": f"{vendor[2:]}:{device[2:]}",
                    "subsystem": f"{sub_vendor[2:]}:{sub_device[2:]}",
                    "class": kind[2:],
                    "driver": driver,
                },
            )


def virtio(found: Found, lines: Lines) -> None:
    """Each virtio device with the features that were negotiated."""
    for line in lines:
        cells = line.split("\t")
        if len(cells) == 4:
            name, device, features, driver = cells
            bits: list[Json] = [place for place, bit in enumerate(features[:256]) if bit == "1"]
            found.fact(f"virtio:{name}", {"device": device, "driver": driver, "features": bits})


def usb(found: Found, lines: Lines) -> None:
    """Each USB device."""
    for line in lines:
        cells = line.split("\t")
        if len(cells) == 4:
            found.fact(f"usb:{cells[0]}", {"id": f"{cells[1]}:{cells[2]}", "product": cells[3]})


def framebuffers(found: Found, lines: Lines) -> None:
    """The drivers that draw on the screen."""
    for line in lines:
        number, _, driver = line.partition(" ")
        if driver:
            found.fact(f"framebuffer:{number}", driver)


def disks(found: Found, lines: Lines) -> None:
    """Disks and their partitions; sizes in bytes."""
    for line in lines:
        name, *cells = line.split("\t")
        if len(cells) == 2:
            start, size = (_number(one) for one in cells)
            if start is not None and size is not None:
                found.fact(f"partition:{name}", {"start": start * SECTOR, "size": size * SECTOR})
        elif len(cells) == 7:
            size = _number(cells[0])
            found.fact(
                f"disk:{name}",
                {
                    "size": None if size is None else size * SECTOR,
                    "read-only": cells[1] == "1",
                    "sector": _number(cells[2]),
                    "model": f"{cells[3].strip()} {cells[4].strip()}".strip(),
                    "serial": (cells[5] or cells[6]).strip(),
                },
            )


def links(found: Found, lines: Lines) -> None:
    """Names by which disks and partitions can be found: label, UUID, serial."""
    folder = ""
    for line in lines:
        if line.startswith("/dev/disk/") and line.endswith(":"):
            folder = line.removesuffix(":").rpartition("/")[2]
        name, arrow, target = line.partition(" -> ")
        if arrow and folder:
            found.fact(f"link:{folder}/{name.rpartition(' ')[2]}", target.rpartition("/")[2])


def cpuid(found: Found, lines: Lines) -> None:
    """Raw leaves, without which CPU it was that was asked."""
    for line in lines:
        match = CPUID.match(line)
        if match:
            leaf, sub, eax, ebx, ecx, edx = match.groups()
            if leaf == "00000001":
                ebx = f"--{ebx[2:]}"
            if leaf in ("0000000b", "0000001f"):
                edx = "-" * 8
            found.table(f"cpuid:{leaf}:{int(sub, 16):02x}", f"{eax} {ebx} {ecx} {edx}")
