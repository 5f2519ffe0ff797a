"""Disks, network cards and serial ports of a VMX that is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.vmware.naming import image_name
from vmpack.hypervisors.vmware.nics import CONNECTIONS, MODELS, plain_network
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.vmware.places import SCSI, Place

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Machine
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk, Nic

__all__ = ["write_disks", "write_nics", "write_serials"]

MAX_NICS = 10
_VIRTUAL_DEVS = {model: word for word, model in MODELS.items()}
_NEAREST = {"rtl8139": "e1000", "tulip": "e1000", "ne2k": "e1000", "igb": "e1000e"}
_CHECKED_MAC = re.compile(r"00:50:56:[0-3][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}")
"""VMware takes static addresses from this range without being told not to check them."""


def write_disks(machine: Machine, notes: Notes, at: Sequence[Place]) -> dict[str, str]:
    """Controllers, disks and drives; ``at`` is each disk's place."""
    config = machine.config
    found: dict[str, str] = {}
    disks = config.disks or ()
    for place in sorted(set(at), key=lambda one: (one.parent, one.unit)):
        if place.bus != "ide":
            found[f"{place.parent}.present"] = "TRUE"
        if place.bus in SCSI:
            found[f"{place.parent}.virtualDev"] = place.bus
    for number, (disk, place) in enumerate(zip(disks, at, strict=True)):
        found |= _disk(disk, place)
        _say_disk(disk, place, notes, f"disk[{number}]")
    found |= _boot_order(config, notes, at)
    return found


def _disk(disk: Disk, place: Place) -> dict[str, str]:
    name = place.name
    found = {f"{name}.present": "TRUE"}
    if disk.kind == "cdrom":
        if disk.empty:
            found[f"{name}.deviceType"] = "cdrom-raw"
            found[f"{name}.fileName"] = "auto detect"
            found[f"{name}.startConnected"] = "FALSE"
        else:
            found[f"{name}.deviceType"] = "cdrom-image"
            found[f"{name}.fileName"] = image_name(disk.id, is_cdrom=True)
        return found
    if place.bus in SCSI:
        found[f"{name}.deviceType"] = "scsi-hardDisk"
    found[f"{name}.fileName"] = image_name(disk.id, is_cdrom=False)
    if disk.rotation_rate == 1:
        found[f"{name}.virtualSSD"] = "1"
    if disk.read_only:
        found[f"{name}.mode"] = "independent-nonpersistent"
    return found


def _say_disk(disk: Disk, place: Place, notes: Notes, path: str) -> None:
    notes.kept(f"{path}.id", "the file's name")
    notes.kept(f"{path}.kind", f"{place.name}.deviceType")
    notes.kept(f"{path}.empty", f"{place.name}.fileName")
    if disk.bus == place.bus:
        notes.kept(f"{path}.bus", place.parent)
    else:
        notes.changed(
            f"{path}.bus", f"{place.bus}, which the guest can start from: VMware has no {disk.bus}"
        )
    for member in ("controller", "port", "unit"):
        if disk.bus != place.bus or place.moved:
            notes.changed(f"{path}.{member}", f"at {place.name}")
        else:
            notes.kept(f"{path}.{member}", place.name)
    notes.changed(f"{path}.address", "VMware chooses it")
    notes.changed(f"{path}.serial", "VMware makes its own of the disk's UUID")
    notes.dropped(f"{path}.wwn", "VMware makes its own")
    if disk.rotation_rate == 1:
        notes.kept(f"{path}.rotation-rate", f"{place.name}.virtualSSD")
    else:
        notes.dropped(f"{path}.rotation-rate", "VMware knows SSDs and other disks")
    for member, size in (
        ("logical-block-size", disk.logical_block_size),
        ("physical-block-size", disk.physical_block_size),
    ):
        if size == 4096:
            notes.dropped(f"{path}.{member}", "sectors of a VMware disk have 512 bytes")
        else:
            notes.kept(f"{path}.{member}", "512")
    if disk.kind != "cdrom" and disk.read_only:
        notes.changed(
            f"{path}.read-only", "independent-nonpersistent: writes are lost at power-off"
        )
    else:
        notes.kept(f"{path}.read-only", place.name)


def _boot_order(config: MachineConfig, notes: Notes, at: Sequence[Place]) -> dict[str, str]:
    """``bios.bootOrder``, unless it is VMware's own: disks first, in their places' order."""
    booting: list[tuple[int, str, str, str]] = []
    for number, (disk, place) in enumerate(zip(config.disks or (), at, strict=True)):
        kind = "cdrom" if disk.kind == "cdrom" else "hdd"
        if disk.boot is not None:
            booting.append((disk.boot, kind, place.name, f"disk[{number}].boot"))
    for number, nic in enumerate(config.nics or ()):
        if nic.boot is not None:
            booting.append((nic.boot, f"ethernet{number}", "", f"nic[{number}].boot"))
    booting.sort()
    kinds = list(dict.fromkeys(kind for _, kind, _, _ in booting))
    hard = [name for _, kind, name, _ in booting if kind == "hdd"]
    if config.firmware.kind == "uefi":
        for position, (_, _, _, path) in enumerate(booting):
            if position:
                notes.changed(path, "EFI tries what is bootable in its own order")
            notes.kept(path, "first")
        return {}
    is_mixed = len(kinds) != len(
        [one for index, one in enumerate(booting) if not index or booting[index - 1][1] != one[1]]
    )
    for _, kind, _, path in booting:
        if is_mixed:
            notes.changed(path, "kinds of devices in turn: " + ", ".join(kinds))
        notes.kept(path, f"bios.bootOrder: {kind}")
    found: dict[str, str] = {}
    first = next(
        (
            place.name
            for disk, place in zip(config.disks or (), at, strict=True)
            if disk.kind != "cdrom"
        ),
        "",
    )
    if kinds not in ([], ["hdd"]):
        found["bios.bootOrder"] = ",".join(kinds)
    if len(hard) > 1 or (hard and hard[0] != first):
        found.setdefault("bios.bootOrder", ",".join(kinds))
        found["bios.hddOrder"] = ",".join(hard)
    return found


def write_nics(config: MachineConfig, notes: Notes, carried: Mapping[str, str]) -> dict[str, str]:
    """Network cards, with fixed addresses.

    Raises :class:`UnsupportedError` for more than ten.
    """
    found: dict[str, str] = {}
    nics = config.nics or ()
    if len(nics) > MAX_NICS:
        raise UnsupportedError(
            f"{len(nics)} network cards, VMware has {MAX_NICS}",
            field=f"nic[{MAX_NICS}]",
            hint="take the others out of the config",
        )
    for number, nic in enumerate(nics):
        path, name = f"nic[{number}]", f"ethernet{number}"
        found[f"{name}.present"] = "TRUE"
        model = _model(nic, config.guest_os.family)
        found[f"{name}.virtualDev"] = _VIRTUAL_DEVS[model]
        if model == nic.model:
            notes.kept(f"{path}.model", f"{name}.virtualDev")
        else:
            notes.changed(f"{path}.model", f"{model}: VMware has no {nic.model}")
        if nic.mac:
            found |= {f"{name}.addressType": "static", f"{name}.address": nic.mac}
            if not _CHECKED_MAC.fullmatch(nic.mac):
                found[f"{name}.checkMACAddress"] = "FALSE"
            notes.kept(f"{path}.mac", f"{name}.address")
        else:
            found[f"{name}.addressType"] = "generated"
        found |= _network(nic, name, notes, path, carried)
        notes.kept(f"{path}.id", name)
        if f"{name}.pciSlotNumber" in carried:
            notes.changed(f"{path}.address", f"{name}.pciSlotNumber, which it had in VMware")
        notes.changed(f"{path}.address", "VMware chooses it: the guest may call the card otherwise")
        notes.dropped(f"{path}.mtu", "VMware tells guests none")
    return found


def _model(nic: Nic, family: str | None) -> str:
    model = nic.model or "e1000e"
    if model in _VIRTUAL_DEVS:
        return model
    if model == "virtio-net":
        return {"linux": "vmxnet3", "windows": "e1000e"}.get(family or "", "e1000")
    return _NEAREST[model]


def _network(
    nic: Nic, name: str, notes: Notes, path: str, carried: Mapping[str, str]
) -> dict[str, str]:
    words = {network: kind for kind, network in CONNECTIONS.items()}
    network = nic.network or "user"
    if network == "none":
        notes.kept(f"{path}.network", f"{name}.startConnected")
        kind = carried.get(f"{name}.connectionType", "nat")
        return {f"{name}.connectionType": kind, f"{name}.startConnected": "FALSE"}
    if network in words:
        notes.kept(f"{path}.network", f"{name}.connectionType")
        return {f"{name}.connectionType": words[network]}
    if re.fullmatch(r"vmnet[0-9]{1,3}", network, re.IGNORECASE):
        notes.kept(f"{path}.network", f"{name}.vnet")
        return {f"{name}.connectionType": "custom", f"{name}.vnet": network}
    notes.changed(f"{path}.network", f"{name}.networkName on ESXi, nat on Workstation and Fusion")
    label = carried.get(f"{name}.networkName", "")
    return {
        f"{name}.networkName": label if plain_network(label) == network else network,
        f"{name}.connectionType": carried.get(f"{name}.connectionType", "nat"),
    }


def write_serials(config: MachineConfig, notes: Notes, stem: str) -> dict[str, str]:
    """Serial ports, each into a file beside the VMX."""
    found: dict[str, str] = {}
    for number, one in enumerate(config.serials or ()):
        name = f"serial{one.port}"
        found[f"{name}.present"] = "TRUE"
        found[f"{name}.fileType"] = "file"
        found[f"{name}.fileName"] = f"{stem}-{name}.log"
        found[f"{name}.yieldOnMsrRead"] = "TRUE"
        notes.kept(f"serial[{number}]", f"{name}.fileName")
    return found
