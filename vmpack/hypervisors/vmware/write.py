"""Writes a VMX for Workstation and Fusion, and says what of the machine is in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.vmware import syntax
from vmpack.hypervisors.vmware.board import write_board
from vmpack.hypervisors.vmware.carry import is_key, why_not
from vmpack.hypervisors.vmware.devices import write_disks, write_nics, write_serials
from vmpack.hypervisors.vmware.naming import file_stem, image_name
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.vmware.places import places
from vmpack.hypervisors.vmware.read import NVRAM_BLOB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = ["plan"]

DEFAULT_HARDWARE = 18
"""Workstation 16, Fusion 12, ESXi 7.0 U1."""
_DEVICE = re.compile(
    r"((?:scsi|sata|ide|nvme)[0-9]{1,3}(?::[0-9]{1,3})?|ethernet[0-9]{1,3}|serial[0-9])\."
)
_DEFAULTS = {
    "virtualHW.productCompatibility": "hosted",
    "pciBridge0.present": "TRUE",
    **{
        f"pciBridge{number}.{key}": value
        for number in range(4, 8)
        for key, value in (
            ("present", "TRUE"),
            ("virtualDev", "pcieRootPort"),
            ("functions", "8"),
        )
    },
    "vmci0.present": "TRUE",
    "hpet0.present": "TRUE",
    "floppy0.present": "FALSE",
    "powerType.powerOff": "soft",
    "powerType.powerOn": "soft",
    "powerType.suspend": "soft",
    "powerType.reset": "soft",
    "tools.syncTime": "FALSE",
    "uuid.action": "keep",
}
_USB = {"usb.present": "TRUE", "ehci.present": "TRUE", "usb_xhci.present": "TRUE"}
"""What every machine has unless its own keys say otherwise; what VMware would set or ask for."""


def plan(machine: Machine) -> Plan:
    """A folder with a VMX and a VMDK for each disk.

    Raises :class:`UnsupportedError` for more disks than VMware has places for.
    """
    config = machine.config
    notes = Notes(config.to_json_dict(), "vmware")
    notes.kept("version", "vmpack's own")
    hardware = hardware_version(config, notes)
    stem = file_stem(config.name or "machine")
    carried = {one.key: one.value for one in config.verbatim.get("vmware", ())}
    guest = guest_os.best(config.guest_os.id, config.guest_os.family)
    at = places(config.disks or (), config.guest_os.family or guest.family, hardware)
    core: dict[str, str] = {"config.version": "8", "virtualHW.version": str(hardware)}
    core |= write_board(machine, notes, hardware, stem, carried)
    core |= write_disks(machine, notes, at)
    core |= write_nics(config, notes, carried)
    core |= write_serials(config, notes, stem)
    entries = _with_carried(core, carried, notes)
    notes.rest("a VMX has no place for it")
    files = [TextFile(f"{stem}.vmx", syntax.encode(entries))]
    if NVRAM_BLOB in machine.blobs:
        files.append(TextFile(f"{stem}.nvram", machine.blobs[NVRAM_BLOB]))

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:  # noqa: ARG001 - fixed
        return files

    quoted = shlex.quote(f"./{stem}.vmx")
    return Plan(
        disks=[
            _disk_file(disk.id, disk.kind == "cdrom", place.bus, hardware)
            for disk, place in zip(config.disks or (), at, strict=True)
            if not disk.empty
        ],
        render=render,
        report=notes.report,
        instructions=[
            f"vmrun -T ws start {quoted}",
            f"vmrun -T fusion start {quoted}",
        ],
    )


def _disk_file(disk_id: str, is_cdrom: bool, bus: str, hardware: int) -> DiskFile:
    if is_cdrom:
        return DiskFile(disk_id, image_name(disk_id, is_cdrom=True), "raw")
    adapter = bus if bus in ("ide", "buslogic") else "lsilogic"
    options = {
        "subformat": "monolithicSparse",
        "adapter_type": adapter,
        "hwversion": str(hardware),
    }
    return DiskFile(disk_id, image_name(disk_id, is_cdrom=False), "vmdk", options)


def hardware_version(config: MachineConfig, notes: Notes) -> int:
    """The virtual hardware version: the config's, or newer where a device needs that."""
    found = re.fullmatch(r"vmx-([0-9]{1,2})", config.ova.hardware or "")
    wanted = int(found[1]) if found else DEFAULT_HARDWARE
    least = 7
    buses = {disk.bus for disk in config.disks or ()}
    models = {nic.model for nic in config.nics or ()}
    for needs, version in (
        (config.firmware.kind == "uefi", 8),
        ("e1000e" in models or "igb" in models, 8),
        ("sata" in buses, 10),
        ("nvme" in buses or config.firmware.secure_boot, 13),
        (config.tpm is not None, 14),
    ):
        least = max(least, version if needs else 0)
    chosen = max(wanted, least) if wanted >= 4 else DEFAULT_HARDWARE
    if found and chosen == wanted:
        notes.kept("ova.hardware", "virtualHW.version")
    else:
        notes.changed("ova.hardware", f"virtualHW.version {chosen}, which its devices need")
    return chosen


def _repeats_old_identity(key: str, value: str, number: str) -> bool:
    """Whether an identifier that VMware derives from ``uuid.bios`` is not of ``number``'s."""
    digits = re.sub(r"[^0-9a-f]", "", number)
    if key.lower().endswith(".saswwid"):
        return re.sub(r"[^0-9a-f]", "", value.lower())[8:12] != digits[8:12]
    if key.lower() == "vmci0.id" and digits and re.fullmatch(r"-?[0-9]{1,10}", value, re.ASCII):
        return int(value) % (1 << 32) != int(digits[-8:], 16)
    return False


def _with_carried(core: dict[str, str], carried: Mapping[str, str], notes: Notes) -> dict[str, str]:
    """The keys that vmpack does not model are given back; the config's own win."""
    entries = dict(core)
    present = {key.lower() for key in core}
    devices = {found[1] for key in core if (found := _DEVICE.match(key.lower()))}
    absent = {
        found[1]
        for key, value in carried.items()
        if (found := _DEVICE.match(key.lower()))
        and key.lower() == f"{found[1]}.present"
        and value.lower() == "false"
    }
    notes.forget("verbatim.vmware")
    for key, value in carried.items():
        device = _DEVICE.match(key.lower())
        why = why_not(key, value) if is_key(key) else "it is no key that a VMX can have"
        if why is not None:
            notes.report.dropped(key, why)
        elif key.lower() in present:
            notes.report.kept(key, "as the config has it")
        elif _repeats_old_identity(key, value, core.get("uuid.bios", "")):
            notes.report.dropped(key, "VMware made it of the UUID that the machine had before")
        elif device and device[1] not in devices | absent:
            notes.report.dropped(key, f"the machine has no {device[1]} now")
        else:
            entries[key] = value
            present.add(key.lower())
            notes.report.kept(key, "given back")
    # A machine that comes from VMware has the USB controllers that it had.
    usual = _DEFAULTS if carried else {**_DEFAULTS, **_USB}
    entries |= {key: value for key, value in usual.items() if key.lower() not in present}
    for path in notes.open():
        if path.startswith("verbatim."):
            notes.dropped(path, "fields of another hypervisor, of no use to VMware")
    return entries
