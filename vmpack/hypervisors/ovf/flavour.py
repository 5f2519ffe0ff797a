"""For whom an OVF is written: any importer, ESXi and vCenter, or VirtualBox."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.vmware import places as vmware
from vmpack.machine import MachineConfig
from vmpack.machine.hardware import Disk
from vmpack.machine.names import chipset
from vmpack.units import GiB

VIRTUALBOX = "virtualbox-2.2"
_SCSI = {
    "lsilogic": "lsilogic",
    "lsisas1068": "lsilogicsas",
    "pvscsi": "VirtualSCSI",
    "buslogic": "buslogic",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a drive hangs: a controller, and the place on it."""

    bus: str
    controller: int
    """Number among the controllers of this kind; on IDE the channel."""
    unit: int

    @property
    def place(self) -> str:
        """What carried fields call the controller."""
        return f"controller:{self.bus}:{self.controller}"


@dataclass(frozen=True, slots=True)
class Flavour:
    """What one kind of importer goes by."""

    name: str
    """What messages call the importer."""
    network: str
    """What the user network is called there."""
    controllers: Mapping[str, str] = field(default_factory=dict)
    """Bus -> ResourceSubType of its controller; empty: none is stated."""
    nics: Mapping[str, str] = field(default_factory=dict)
    """Model of a card -> its ResourceSubType."""
    spare_nic: str = "e1000"
    """What a card becomes that is not among them."""
    virtio_nic: str = "e1000"
    """The same for virtio-net."""
    linux_bus: str = "lsilogic"
    """What a virtio disk is on, but for Windows."""
    is_virtualbox: bool = False

    def slots(self, config: MachineConfig, hardware: str) -> list[Slot]:
        """A place for each drive, in their order. Raises :class:`UnsupportedError` for too many."""
        disks = config.disks or ()
        if self.is_virtualbox:
            return _virtualbox_slots(disks, 8 if chipset(config.machine) == "q35" else 1)
        buses = [self.bus(one, config.guest_os.family) for one in disks]
        moved = [
            one if one.bus == bus else one.model_copy(update={"bus": bus, "port": None})
            for one, bus in zip(disks, buses, strict=True)
        ]
        version = int(hardware.partition("-")[2])
        found = vmware.places(moved, config.guest_os.family, version)
        return _counted([(one.bus, one.controller, one.unit) for one in found])

    def bus(self, disk: Disk, family: str | None) -> str:
        """The bus that a drive is on there."""
        bus = disk.bus or "sata"
        if bus in self.controllers:
            return bus
        if disk.kind == "cdrom" or self.is_virtualbox:
            return "sata"
        # Windows has a driver for SATA on its own disk, and starts from it without another one.
        return "sata" if family == "windows" else self.linux_bus


ANY = Flavour(
    "the importer",
    "NAT",
    {**_SCSI, "sata": "AHCI", "ide": "", "nvme": "vmware.nvme.controller"},
    {"e1000": "E1000", "e1000e": "E1000e", "vmxnet3": "VmxNet3", "pcnet": "PCNet32"},
)
ESXI = Flavour(
    "ESXi",
    "VM Network",
    {**_SCSI, "sata": "vmware.sata.ahci", "ide": "", "nvme": "vmware.nvme.controller"},
    {"e1000": "E1000", "e1000e": "E1000e", "vmxnet3": "VmxNet3", "pcnet": "PCNet32"},
    spare_nic="e1000e",
    virtio_nic="vmxnet3",
    linux_bus="pvscsi",
)
BOX = Flavour(
    "VirtualBox",
    "NAT",
    {
        "lsilogic": "lsilogic",
        "lsisas1068": "lsilogicsas",
        "buslogic": "buslogic",
        "sata": "AHCI",
        "ide": "PIIX4",
        "nvme": "NVMe",
        "virtio-scsi": "VirtioSCSI",
    },
    {"e1000": "E1000", "pcnet": "PCNet32", "virtio-net": "virtio"},
    is_virtualbox=True,
)


def _counted(found: Sequence[tuple[str, int, int]]) -> list[Slot]:
    """VMware numbers all SCSI controllers together; here each kind counts for itself."""
    numbers: dict[str, list[int]] = {}
    for bus, controller, _ in found:
        numbers.setdefault(bus, []).append(controller)
    return [
        Slot(
            bus,
            controller if bus == "ide" else sorted(set(numbers[bus])).index(controller),
            unit,
        )
        for bus, controller, unit in found
    ]


_BOX_UNITS = {
    "ide": 2,
    "sata": 30,
    "lsilogic": 16,
    "lsisas1068": 255,
    "buslogic": 16,
    "nvme": 255,
    "virtio-scsi": 256,
}


def _virtualbox_slots(disks: Sequence[Disk], most: int) -> list[Slot]:
    """At most ``most`` controllers of each kind: one beside PIIX3, eight beside ICH9."""
    found: dict[int, Slot] = {}
    order = sorted(range(len(disks)), key=lambda number: (disks[number].port is None, number))
    for number in order:
        disk = disks[number]
        bus = BOX.bus(disk, None)
        wanted: list[Slot] = []
        if bus == disk.bus and disk.port is not None:
            is_ide = bus == "ide"
            controller = disk.port if is_ide else disk.controller or 0
            wanted.append(Slot(bus, controller, (disk.unit or 0) if is_ide else disk.port))
        count = 2 if bus == "ide" else most
        wanted = [one for one in wanted if one.controller < count and one.unit < _BOX_UNITS[bus]]
        wanted += [Slot(bus, one, unit) for one in range(count) for unit in range(_BOX_UNITS[bus])]
        free = next((slot for slot in wanted if slot not in found.values()), None)
        if free is None:
            raise UnsupportedError(
                f"VirtualBox has no place left on {bus} for disk {disk.id!r}",
                field=f"disk[{number}]",
                hint="put it on another bus",
            )
        found[number] = free
    return [found[number] for number in range(len(disks))]


def hardware_family(flavour: Flavour, config: MachineConfig, slots: Sequence[str]) -> str:
    """``vmx-NN`` that has every device: the config's own where it is new enough."""
    if flavour.is_virtualbox:
        return VIRTUALBOX
    given = re.fullmatch(r"vmx-([0-9]{1,2})", config.ova.hardware or "")
    lowest = 13 if flavour is ESXI else 10
    needed = [int(given[1]) if given else lowest]
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    needed += [
        8 if config.firmware.kind == "uefi" else 4,
        10 if "sata" in slots else 4,
        13 if "nvme" in slots or config.firmware.secure_boot else 4,
        14 if config.tpm is not None else 4,
        10 if count > 32 or (config.memory or 0) > 255 * GiB else 4,
        11 if count > 64 else 4,
        13 if count > 128 or (config.memory or 0) > 4080 * GiB else 4,
    ]
    return f"vmx-{max(needed):02d}"
