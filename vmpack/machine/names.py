"""The names that a config may use for machine types, CPU models and devices.

Lists, not free text: a bundle comes from a stranger, and what is named here ends up on a command
line (hostile-input rule: enumerations for machine, CPU, bus and NIC model).
"""

from __future__ import annotations

import re
from typing import Literal

MACHINE_PATTERN = r"^pc-(q35|i440fx)-[1-9][0-9]?\.[0-9]{1,2}(\.[0-9])?$"

CPU_FAMILIES = (
    "486",
    "Broadwell",
    "Broadwell-IBRS",
    "Broadwell-noTSX",
    "Broadwell-noTSX-IBRS",
    "Cascadelake-Server",
    "Cascadelake-Server-noTSX",
    "ClearwaterForest",
    "Conroe",
    "Cooperlake",
    "Denverton",
    "Dhyana",
    "EPYC",
    "EPYC-Genoa",
    "EPYC-IBPB",
    "EPYC-Milan",
    "EPYC-Rome",
    "EPYC-Turin",
    "GraniteRapids",
    "Haswell",
    "Haswell-IBRS",
    "Haswell-noTSX",
    "Haswell-noTSX-IBRS",
    "Icelake-Server",
    "Icelake-Server-noTSX",
    "IvyBridge",
    "IvyBridge-IBRS",
    "KnightsMill",
    "Nehalem",
    "Nehalem-IBRS",
    "Opteron_G1",
    "Opteron_G2",
    "Opteron_G3",
    "Opteron_G4",
    "Opteron_G5",
    "Penryn",
    "SandyBridge",
    "SandyBridge-IBRS",
    "SapphireRapids",
    "SierraForest",
    "Skylake-Client",
    "Skylake-Client-IBRS",
    "Skylake-Client-noTSX-IBRS",
    "Skylake-Server",
    "Skylake-Server-IBRS",
    "Skylake-Server-noTSX-IBRS",
    "Snowridge",
    "Westmere",
    "Westmere-IBRS",
    "YongFeng",
    "athlon",
    "core2duo",
    "coreduo",
    "kvm32",
    "kvm64",
    "n270",
    "pentium",
    "pentium2",
    "pentium3",
    "phenom",
    "qemu32",
    "qemu64",
)
"""CPU models of QEMU 7.2 to 11.1 that have versions. ``host`` and ``max`` are no pins."""

CPU_PATTERN = rf"^({'|'.join(CPU_FAMILIES)})-v[1-9][0-9]?$"

Architecture = Literal["x86_64"]
DiskBus = Literal[
    "virtio-blk",
    "virtio-scsi",
    "sata",
    "ide",
    "nvme",
    "lsilogic",
    "lsisas1068",
    "pvscsi",
    "buslogic",
]
ControllerBus = Literal[
    "virtio-scsi",
    "sata",
    "ide",
    "lsilogic",
    "lsisas1068",
    "pvscsi",
    "buslogic",
    "virtio-serial",
    "usb-xhci",
]
NicModel = Literal[
    "virtio-net", "e1000", "e1000e", "igb", "vmxnet3", "rtl8139", "pcnet", "tulip", "ne2k"
]
Display = Literal["std", "virtio-vga", "qxl", "vmware", "cirrus", "bochs", "none"]
Ending = Literal["running", "power-off", "reset", "panic", "hang"]
Hypervisor = Literal[
    "ovf",
    "vmware",
    "libvirt",
    "virtualbox",
    "vagrant",
    "proxmox",
    "utm",
    "hyperv",
    "azure",
    "incus",
    "xen",
    "kubevirt",
]

POSITIONS: dict[str, tuple[int, int]] = {
    "ide": (2, 2),
    "sata": (6, 1),
    "virtio-scsi": (256, 1),
    "lsilogic": (7, 1),
    "lsisas1068": (8, 1),
    "pvscsi": (64, 1),
    "buslogic": (7, 1),
}
"""Ports and units of one controller of each bus; a bus that is not here has no controllers."""

BUILT_IN_CONTROLLERS = {("q35", "sata", 0): "00:1f.2", ("i440fx", "ide", 0): "00:01.1"}
"""Controllers that are part of the chipset: (chipset, bus, index) -> their only PCI address."""

CHIPSET_SLOTS = {"q35": (0x1F,), "i440fx": (0x01,)}
"""Slots of bus 0 that the chipset takes, besides slot 0."""


def chipset(machine: str | None) -> str:
    """``q35`` or ``i440fx``; an unpinned machine type becomes q35."""
    return "i440fx" if machine is not None and machine.startswith("pc-i440fx-") else "q35"


def safe_id(text: str) -> str:
    """An id made of any text, such as a file's stem: ``My Disk (1)`` becomes ``my-disk-1``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].rstrip("-") or "disk"


def safe_name(text: str) -> str:
    """A machine's name made of any text: what a name cannot hold becomes ``-``."""
    name = re.sub(r"[/\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "-", text)
    return name.lstrip(".")[:128] or "machine"
