"""Turns what a config leaves open into pins, from vmpack's own table: no host is asked.

The table is in ``specs/config-v1.md``, section "Pins"; a test checks every row of it against this
module. A pinned config boots on the same virtual hardware wherever it is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from vmpack.errors import UsageError
from vmpack.machine import hardware as hw
from vmpack.machine.boot_layout import BootLayout, guess_family
from vmpack.machine.config import MachineConfig
from vmpack.machine.identity import derive_mac, derive_uuid
from vmpack.machine.names import chipset
from vmpack.machine.placement import give_addresses, give_controllers, give_positions
from vmpack.machine.rules import conflicts
from vmpack.machine.scalars import NAME_PATTERN, Part
from vmpack.units import GiB

__all__ = ["DiskFacts", "Identity", "pin"]

Identity = Literal["keep", "new", "derive"]
_Part = TypeVar("_Part", bound=Part)
_PRODUCTS = {
    "q35": "Standard PC (Q35 + ICH9, 2009)",
    "i440fx": "Standard PC (i440FX + PIIX, 1996)",
}


@dataclass(frozen=True)
class DiskFacts:
    """What pins depend on in a disk: its id, its kind, and how it would start."""

    id: str
    size: int
    """Virtual size in bytes."""
    kind: Literal["disk", "cdrom"] = "disk"
    layout: BootLayout | None = None


def pin(
    config: MachineConfig | None,
    disks: Sequence[DiskFacts],
    *,
    seed: bytes,
    name: str | None = None,
    identity: Identity = "keep",
) -> MachineConfig:
    """A config in which nothing is left open: ``config``'s own values, then the table's.

    ``disks`` are the images at hand, in order; those that ``config`` does not list are added.
    ``seed`` is what UUID and MAC addresses derive from (a digest of the content): ``keep`` derives
    those that ``config`` does not give, ``derive`` all of them, ``new`` makes all of them afresh.
    ``name`` replaces the config's. Raises :class:`UsageError` for a disk without an image, a bad
    name, and devices that do not fit the machine.
    """
    config = config or MachineConfig()
    if name is not None:
        _require_name(name)
        config = config.model_copy(update={"name": name})
    config = _join_disks(config, disks)
    layouts = {one.id: one.layout for one in disks}
    config = _apply_identity(config, os.urandom(32) if identity == "new" else seed, identity)
    family = config.guest_os.family or _family(layouts)
    config = _pin_board(config, family, layouts)
    config = _pin_devices(config, family)
    config = give_addresses(give_controllers(give_positions(config)))
    for found in conflicts(config):
        raise UsageError(found.message, field=found.field, clause=found.clause, hint=found.hint)
    return config


def fill(part: _Part, **values: object) -> _Part:
    """``part`` with each of ``values`` where it has ``None``."""
    absent = {key: value for key, value in values.items() if getattr(part, key) is None}
    return part.model_copy(update=absent) if absent else part


def _require_name(name: str) -> None:
    if len(name) > 128 or not re.fullmatch(NAME_PATTERN[1:-1], name):
        raise UsageError(
            f"name {name[:40]!a} is not one line of 1 to 128 characters without slashes",
            hint="leave out '/', '\\', control characters and a leading dot",
        )


def _join_disks(config: MachineConfig, facts: Sequence[DiskFacts]) -> MachineConfig:
    """The config's disks, each with its image, then the images that it does not list."""
    images = {one.id: one for one in facts}
    if len(images) != len(facts):
        raise UsageError("two disks have the same id", hint="name them with --disk ID=PATH")
    listed = list(config.disks or ())
    for index, disk in enumerate(listed):
        if disk.id not in images and not disk.empty:
            raise UsageError(
                f"disk {disk.id!r} has no image",
                field=f"disk[{index}]",
                hint=f"name it with --disk {disk.id}=PATH",
            )
        if disk.id in images and disk.empty:
            raise UsageError(
                f"drive {disk.id!r} is empty, and has an image", field=f"disk[{index}]"
            )
        if disk.kind is None:
            kind = images[disk.id].kind if disk.id in images else "cdrom"
            listed[index] = disk.model_copy(update={"kind": kind})
    known = {disk.id for disk in listed}
    listed += [hw.Disk(id=one.id, kind=one.kind) for one in facts if one.id not in known]
    return config.model_copy(update={"disks": tuple(listed)})


def with_identity(config: MachineConfig, seed: bytes) -> MachineConfig:
    """A pinned config as another machine: UUID and MAC addresses from ``seed`` (32 bytes).

    Serial numbers and world wide names, which repeat the old identity, are dropped; devices and
    their addresses stay.
    """
    return _apply_identity(config, seed, "derive")


def _apply_identity(config: MachineConfig, seed: bytes, identity: Identity) -> MachineConfig:
    """UUID and MAC addresses; a changed identity drops serial numbers that repeat the old one."""
    nics = (hw.Nic(),) if config.nics is None else config.nics
    if identity != "keep":
        smbios = config.smbios
        parts = {
            part: getattr(smbios, part).model_copy(update={"serial": None})
            for part in ("system", "baseboard", "chassis")
        }
        config = config.model_copy(
            update={
                "uuid": None,
                "smbios": smbios.model_copy(update=parts),
                "disks": tuple(one.model_copy(update={"wwn": None}) for one in config.disks or ()),
            }
        )
        nics = tuple(one.model_copy(update={"mac": None}) for one in nics)
    taken = {one.mac for one in nics}
    given = []
    for index, nic in enumerate(nics):
        mac = nic.mac or derive_mac(seed, index, taken)
        taken.add(mac)
        given.append(nic.model_copy(update={"mac": mac}))
    return fill(config, uuid=derive_uuid(seed)).model_copy(update={"nics": tuple(given)})


def _family(layouts: dict[str, BootLayout | None]) -> str | None:
    found = (guess_family(layout) for layout in layouts.values() if layout is not None)
    return next((family for family in found if family is not None), None)


def _boot_disk(config: MachineConfig) -> hw.Disk | None:
    """First of the boot order; otherwise the first disk, otherwise the first CD-ROM."""
    disks = [one for one in config.disks or () if not one.empty]
    ordered = sorted((one for one in disks if one.boot is not None), key=lambda one: one.boot or 0)
    plain = [one for one in disks if one.kind == "disk"]
    return next(iter([*ordered, *plain, *disks]), None)


def _firmware_kind(config: MachineConfig, layouts: dict[str, BootLayout | None]) -> str:
    """UEFI when an EFI system partition is there and no BIOS boot code; BIOS otherwise."""
    if config.firmware.secure_boot or config.hyperv_generation == 2:
        return "uefi"
    disk = _boot_disk(config)
    layout = layouts.get(disk.id) if disk else None
    if layout is None or layout.esp is None or config.hyperv_generation == 1:
        return "bios"
    return "bios" if layout.starts_by_bios else "uefi"


def _pin_board(
    config: MachineConfig, family: str | None, layouts: dict[str, BootLayout | None]
) -> MachineConfig:
    """Machine type, CPU, memory, firmware and what the chipset brings."""
    windows = family == "windows"
    has_ide = any(one.bus == "ide" for one in config.disks or ())
    config = fill(
        config,
        architecture="x86_64",
        machine="pc-i440fx-7.2" if has_ide else "pc-q35-7.2",
        memory=(4 if windows else 1) * GiB,
        pvpanic=True,
        guest_agent=True,
        watchdog="none",
        input="usb-tablet" if windows else "ps2",
        serials=(hw.SerialPort(port=0),),
    )
    firmware = fill(config.firmware, kind=_firmware_kind(config, layouts))
    if firmware.kind == "uefi":
        firmware = fill(firmware, secure_boot=False)
    cpu = config.cpu
    if cpu.model is None:
        cpu = fill(cpu, model="Nehalem-v1", vendor="GenuineIntel")
    if (cpu.sockets, cpu.dies, cpu.cores, cpu.threads) == (None,) * 4:
        cpu = fill(cpu, cores=2)
    tpm = config.tpm
    if tpm is not None:
        tpm = fill(tpm, version="2.0")
        tpm = fill(tpm, model="tpm-tis" if tpm.version == "1.2" else "tpm-crb")
    board = {
        "firmware": firmware,
        "cpu": fill(cpu, sockets=1, dies=1, cores=1, threads=1),
        "tpm": tpm,
        "rtc": fill(config.rtc, clock="localtime" if windows else "utc"),
        "rng": fill(config.rng, model="virtio-rng"),
        "display": fill(config.display, model="std"),
        "serials": tuple(fill(one, model="isa-serial") for one in config.serials or ()),
        "smbios": _pin_smbios(config),
    }
    generation = 2 if firmware.kind == "uefi" else 1
    return fill(config, hyperv_generation=generation).model_copy(update=board)


def _pin_smbios(config: MachineConfig) -> hw.Smbios:
    smbios = config.smbios
    bios = fill(smbios.bios, vendor="vmpack", version="1", date="01/01/2026", release="1.0")
    system = fill(
        smbios.system,
        manufacturer="QEMU",
        product=_PRODUCTS[chipset(config.machine)],
        version=config.machine,
    )
    return smbios.model_copy(update={"bios": bios, "system": system})


def _pin_devices(config: MachineConfig, family: str | None) -> MachineConfig:
    """Buses of the disks, models of the network cards, the boot order."""
    q35 = chipset(config.machine) == "q35"
    windows = family == "windows"
    legacy_bus = "sata" if q35 else "ide"
    legacy_nic = "e1000e" if q35 else "e1000"
    disks = []
    for disk in config.disks or ():
        cdrom = disk.kind == "cdrom"
        pinned = fill(
            disk,
            bus=legacy_bus if cdrom or windows else "virtio-blk",
            read_only=cdrom,
            serial=_serial(disk.id),
        )
        if not cdrom:
            pinned = fill(pinned, logical_block_size=512)
            pinned = fill(pinned, physical_block_size=pinned.logical_block_size)
        disks.append(pinned)
    nics = tuple(
        fill(nic, id=f"net{index}", model=legacy_nic if windows else "virtio-net", network="user")
        for index, nic in enumerate(config.nics or ())
    )
    config = config.model_copy(update={"disks": tuple(disks), "nics": nics})
    if any(one.boot for one in disks) or any(one.boot for one in nics):
        return config
    first = _boot_disk(config)
    ordered = tuple(
        one.model_copy(update={"boot": 1}) if first is not None and one.id == first.id else one
        for one in disks
    )
    return config.model_copy(update={"disks": ordered})


def _serial(disk_id: str) -> str:
    """The id where a bus with 20 characters takes it, otherwise its start and a digest of it."""
    import hashlib

    if len(disk_id) <= 20:
        return disk_id
    return f"{disk_id[:11]}-{hashlib.sha256(disk_id.encode()).hexdigest()[:8]}"
