"""VirtualBox's words in settings, and what they are here.

Sources: VirtualBox-settings.xsd of VirtualBox 7.1; "Oracle VirtualBox User Manual" 7.1, chapters 3
("Configuring Virtual Machines") and 5 ("Virtual Storage"); settings that 4.3 to 7.0 wrote.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from vmpack.hypervisors.carry import Prefixes
from vmpack.hypervisors.xmlsafe import local

SPACE = "http://www.virtualbox.org/"
PREFIXES = Prefixes({}, (SPACE,))
ROOT = "vbox:Machine"
"""The place of the machine's settings, in a .vbox and in an OVF alike."""

CONTROLLERS = {
    "AHCI": "sata",
    "PIIX3": "ide",
    "PIIX4": "ide",
    "ICH6": "ide",
    "LsiLogic": "lsilogic",
    "LsiLogicSas": "lsisas1068",
    "BusLogic": "buslogic",
    "NVMe": "nvme",
    "VirtioSCSI": "virtio-scsi",
}
ADAPTERS = {
    "82540EM": "e1000",
    "82543GC": "e1000",
    "82545EM": "e1000",
    "Am79C970A": "pcnet",
    "Am79C973": "pcnet",
    "Am79C960": "pcnet",
    "virtio": "virtio-net",
}
EXACT_ADAPTERS = ("82540EM", "Am79C973", "virtio")
"""Those that are what QEMU has; the others are near."""
WRITTEN_ADAPTERS = {"e1000": "82540EM", "pcnet": "Am79C973", "virtio-net": "virtio"}
WRITTEN_CONTROLLERS = {
    "sata": ("SATA", "AHCI"),
    "ide": ("IDE", "PIIX4"),
    "lsilogic": ("SCSI", "LsiLogic"),
    "lsisas1068": ("SAS", "LsiLogicSas"),
    "buslogic": ("BusLogic", "BusLogic"),
    "nvme": ("NVMe", "NVMe"),
    "virtio-scsi": ("VirtIO", "VirtioSCSI"),
}
MODES = {
    "NAT": "user",
    "BridgedInterface": "bridged",
    "HostInterface": "bridged",
    "HostOnlyInterface": "hostonly",
    "HostOnlyNetwork": "hostonly",
    "NATNetwork": "",
    "InternalNetwork": "",
}
"""How a card is attached -> network; empty: the network's own name."""
FORMATS = {"VDI": "vdi", "VMDK": "vmdk", "VHD": "vhd", "QCOW": "qcow2", "RAW": "raw"}
SERIAL_PORTS = {0x3F8: 0, 0x2F8: 1, 0x3E8: 2, 0x2E8: 3}
SERIAL_WORDS = (("0x3f8", "4"), ("0x2f8", "3"), ("0x3e8", "4"), ("0x2e8", "3"))
"""I/O address and interrupt of COM1 to COM4."""
DEVICES = {"HardDisk": "disk", "DVD": "cdrom", "Network": "nic"}
"""Words of the boot order."""

_HOST_NAMES = frozenset({"BridgedInterface", "HostInterface", "HostOnlyInterface"})
_HOST_VALUES = frozenset({"hostPath", "src", "path", "tracefile", "imagePath", "password"})


def secret(element: Element, attribute: str, value: str) -> str | None:
    """Why a setting must not leave the host that it comes from; ``None`` where it may."""
    tag, name = local(element.tag), local(attribute)
    if tag in _HOST_NAMES and name == "name" and value:
        return "it names a network card of the host"
    if name in _HOST_VALUES and value:
        return "it names a file, device or socket of the host, or a password"
    if tag == "Property" and "password" in element.get("name", "").lower() and name == "value":
        return "a password"
    return None


def disk_place(disk_id: str) -> str:
    """The place of an AttachedDevice."""
    return f"vbox:disk:{disk_id}"


def controller_place(bus: str, index: int) -> str:
    """The place of a StorageController."""
    return f"vbox:controller:{bus}:{index}"
