"""Where each disk hangs in Hyper-V."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError

if TYPE_CHECKING:
    from vmpack.hypervisors.account import Account
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk

SCSI_CONTROLLERS, SCSI_PLACES = 4, 64
_PLACE = re.compile(r"(IDE|SCSI) ([0-3]) ([0-9]|[1-5][0-9]|6[0-3])")
Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the config, and its place."""

    index: int
    disk: Disk
    place: Place
    file: str
    """Name of its image; empty for an empty DVD drive."""


def file_name(disk: Disk) -> str:
    """Name of a disk's image."""
    return f"{disk.id}.iso" if disk.kind == "cdrom" else f"{disk.id}.vhdx"


def lay_out(config: MachineConfig, account: Account, carried: Mapping[str, str]) -> list[Drive]:
    """A place for each disk, in the config's order.

    Raises :class:`UnsupportedError` for more disks than there are places.
    """
    second = config.hyperv_generation == 2 or config.firmware.kind == "uefi"
    disks = list(enumerate(config.disks or ()))
    wanted: dict[int, Place] = {}
    for index, disk in disks:
        place = _own_place(disk, carried.get(f"{disk.id}.place", ""), second)
        if place is not None and place not in wanted.values():
            wanted[index] = place
    boot = min(
        (one for one in disks if one[1].kind != "cdrom"),
        key=lambda one: (one[1].boot or 99, one[0]),
        default=None,
    )
    if not second and boot is not None and wanted.get(boot[0], ("", 0, 0))[0] != "IDE":
        # A BIOS starts from IDE only, and looks at the first place first.
        wanted = {index: place for index, place in wanted.items() if place != ("IDE", 0, 0)}
        wanted[boot[0]] = ("IDE", 0, 0)
    found = []
    for index, disk in disks:
        if index not in wanted:
            wanted[index] = _free(disk, set(wanted.values()), second)
        drive = Drive(index, disk, wanted[index], "" if disk.empty else file_name(disk))
        _say(account, drive)
        found.append(drive)
    return found


def _own_place(disk: Disk, carried: str, second: bool) -> Place | None:
    """Where it was on Hyper-V, or where its IDE place is the same there."""
    found = _PLACE.fullmatch(carried)
    if found and (found[1] == "SCSI" or not second) and _is_ide_place(found):
        return found[1], int(found[2]), int(found[3])
    if disk.bus == "ide" and not second:
        return "IDE", disk.port or 0, disk.unit or 0
    return None


def _is_ide_place(found: re.Match[str]) -> bool:
    return found[1] == "SCSI" or (int(found[2]) < 2 and int(found[3]) < 2)


def _free(disk: Disk, taken: set[Place], second: bool) -> Place:
    ide = [("IDE", number, place) for number in (1, 0) for place in (0, 1)]
    scsi = [("SCSI", n, place) for n in range(SCSI_CONTROLLERS) for place in range(SCSI_PLACES)]
    # A machine of generation 1 has DVD drives on IDE only.
    cdrom = disk.kind == "cdrom"
    for place in scsi if second else ide if cdrom else [*scsi, *ide]:
        if place not in taken:
            return place
    raise UnsupportedError(
        f"no place is left for disk {disk.id!r}",
        field="disk",
        hint="generation 1 has four places on IDE, and DVD drives and the boot disk need one",
    )


def _say(account: Account, drive: Drive) -> None:
    path, disk = f"disk[{drive.index}]", drive.disk
    kind, controller, location = drive.place
    where = f"{kind} {controller} {location}"
    account.kept(f"{path}.id", drive.file or where)
    account.kept(f"{path}.kind")
    how = "" if kind == "IDE" and disk.bus == "ide" else f"{where} of Hyper-V"
    account.said(f"{path}.bus", how, where)
    same = kind == "IDE" and (disk.port or 0, disk.unit or 0) == (controller, location)
    for name in ("controller", "port", "unit", "address"):
        account.said(f"{path}.{name}", "" if same else where, where)
    account.kept(f"{path}.boot", "the boot order")
    account.kept(f"{path}.empty", "no medium")
    if disk.kind == "cdrom" or not disk.read_only:
        account.kept(f"{path}.read-only")
    account.dropped(f"{path}.read-only", "Hyper-V's disks are written to")
    if disk.logical_block_size == 512:
        account.kept(f"{path}.logical-block-size", "of the VHDX")
        account.approximated(f"{path}.physical-block-size", "4096, as VHDX files have it")
    account.approximated(f"{path}.serial", "Hyper-V gives disks their own")
    for name in ("wwn", "rotation-rate", "logical-block-size", "physical-block-size"):
        account.dropped(f"{path}.{name}", "Hyper-V gives disks their own")
