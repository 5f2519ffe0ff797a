"""Which drive of Proxmox each disk becomes, and what it is called there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.proxmox import places

if TYPE_CHECKING:
    from vmpack.hypervisors.account import Account
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk

HARDWARE = {
    "virtio-scsi": ("virtio-scsi-pci", ""),
    "lsilogic": ("lsi", ""),
    "pvscsi": ("pvscsi", ""),
    "lsisas1068": ("lsi", "an LSI 53C895A: Proxmox has no SAS1068"),
    "buslogic": ("lsi", "an LSI 53C895A: Proxmox has no BusLogic"),
    "nvme": ("virtio-scsi-pci", "virtio-scsi: Proxmox has no NVMe disks"),
}
"""Bus -> scsihw, and what is approximated."""


@dataclass(slots=True)
class Drive:
    """A disk of the config as a drive of Proxmox."""

    key: str
    """``scsi0``."""
    index: int
    """Of the disk in the config."""
    disk: Disk
    file: str
    """Name of its image; empty for an empty CD-ROM drive."""
    properties: dict[str, str] = field(default_factory=dict)
    """What stands behind the volume."""


def file_name(disk: Disk) -> str:
    """Name of a disk's image."""
    return f"{disk.id}.iso" if disk.kind == "cdrom" else f"{disk.id}.qcow2"


def scsi_hardware(config: MachineConfig, carried: str) -> str:
    """``scsihw``: there is one for all; the first disk that needs one decides."""
    for disk in config.disks or ():
        if disk.bus in HARDWARE:
            found = HARDWARE[disk.bus][0]
            single = carried == "virtio-scsi-single" and found == "virtio-scsi-pci"
            return carried if single else found
    return carried if carried in places.SCSI_HARDWARE else "virtio-scsi-pci"


def lay_out(config: MachineConfig, account: Account, hardware: str) -> list[Drive]:
    """A drive for each disk, in the config's order. Raises :class:`UnsupportedError`: too many."""
    taken: set[str] = set()
    found = []
    for index, disk in enumerate(config.disks or ()):
        key, how = _key(disk, hardware, taken)
        taken.add(key)
        drive = Drive(key, index, disk, "" if disk.empty else file_name(disk))
        _say(account, drive, how, hardware)
        found.append(drive)
    return found


def _key(disk: Disk, hardware: str, taken: set[str]) -> tuple[str, str]:
    """The drive, and what is approximated."""
    how = ""
    kind, number = "scsi", 0
    if disk.bus == "virtio-blk":
        kind = "virtio"
        number = next((n for n, at in places.VIRTIO.items() if at == disk.address), 0)
    elif disk.bus in ("sata", "ide"):
        kind = disk.bus
        number = (disk.port or 0) * (2 if kind == "ide" else 1) + (disk.unit or 0)
        number += 6 * (disk.controller or 0) if kind == "sata" else 0
    else:
        wanted, how = HARDWARE[disk.bus or "virtio-scsi"]
        if not how and wanted != hardware and hardware != "virtio-scsi-single":
            how = f"on {hardware}: Proxmox has one kind of SCSI controller in a machine"
        most = {"virtio-scsi-single": 1, "lsi": 7}.get(hardware, 256)
        number = (disk.controller or 0) * most + (disk.port or 0)
    for one, count in ((kind, places.DRIVES[kind]), *places.DRIVES.items()):
        numbers = [number, *range(count)] if one == kind else list(range(count))
        for candidate in numbers:
            key = f"{one}{candidate}"
            if (
                candidate < count
                and key not in taken
                and not (one == "virtio" and disk.kind == "cdrom")
            ):
                return key, how if one == kind else f"Proxmox has {places.DRIVES[kind]} on {kind}"
    raise UnsupportedError(
        f"no drive is left for disk {disk.id!r}",
        field="disk",
        hint="Proxmox has 4 IDE, 6 SATA, 31 SCSI and 16 virtio drives",
    )


def _say(account: Account, drive: Drive, how: str, hardware: str) -> None:
    """Fill in the properties, and account for every field of the disk."""
    path, disk, properties = f"disk[{drive.index}]", drive.disk, drive.properties
    account.kept(f"{path}.id", drive.file or drive.key)
    account.kept(f"{path}.kind")
    account.said(f"{path}.bus", how, drive.key)
    for name in ("controller", "port", "unit"):
        account.said(f"{path}.{name}", _moved(drive, hardware), drive.key)
    there = places.VIRTIO.get(int(drive.key[6:])) if drive.key.startswith("virtio") else None
    if disk.address and there != disk.address:
        account.approximated(f"{path}.address", f"Proxmox puts {drive.key} at {there or 'another'}")
    account.kept(f"{path}.address")
    account.kept(f"{path}.boot", "boot")
    account.kept(f"{path}.empty", "none")
    if disk.kind == "cdrom":
        properties["media"] = "cdrom"
        account.kept(f"{path}.read-only")
    elif disk.read_only and drive.key.startswith(("ide", "sata")):
        account.dropped(f"{path}.read-only", "Proxmox' IDE and SATA disks are never read-only")
    elif disk.read_only:
        properties["ro"] = "1"
    account.kept(f"{path}.read-only")
    if disk.serial and len(disk.serial) <= 20:
        properties["serial"] = quote(disk.serial, safe="")
        account.kept(f"{path}.serial")
    account.dropped(f"{path}.serial", "Proxmox takes 20 characters")
    _rare(account, drive, path)


def _rare(account: Account, drive: Drive, path: str) -> None:
    disk = drive.disk
    if disk.wwn and not drive.key.startswith("virtio"):
        drive.properties["wwn"] = disk.wwn
        account.kept(f"{path}.wwn")
    account.dropped(f"{path}.wwn", "virtio disks have none in Proxmox")
    if disk.rotation_rate == 1 and not drive.key.startswith("virtio"):
        drive.properties["ssd"] = "1"
        account.kept(f"{path}.rotation-rate", "ssd")
    account.dropped(f"{path}.rotation-rate", "Proxmox knows only whether a disk is an SSD")
    for name in ("logical-block-size", "physical-block-size"):
        value = getattr(disk, name.replace("-", "_"))
        if value not in (None, 512):
            account.dropped(f"{path}.{name}", "Proxmox' disks have sectors of 512 bytes")
        account.kept(f"{path}.{name}")


def _moved(drive: Drive, hardware: str) -> str:
    """What is approximated about a disk's place; empty: it is where it was."""
    disk, number = drive.disk, int("".join(filter(str.isdigit, drive.key)))
    kind = drive.key.rstrip("0123456789")
    place: tuple[int, int, int]
    if kind == "scsi":
        place = (*places.scsi_place(hardware, number), 0)
    elif kind == "ide":
        place = (0, number // 2, number % 2)
    else:
        place = (0, number, 0)
    same = place == (disk.controller or 0, disk.port or 0, disk.unit or 0)
    return "" if same else f"it is {drive.key}"
