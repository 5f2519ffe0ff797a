"""Disks and drives of a VMX: ``scsi0:1.fileName`` and what belongs to it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmpack.binary import escape
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.vmware.carry import names_host, why_not
from vmpack.hypervisors.vmware.read import Reading
from vmpack.machine.names import POSITIONS

__all__ = ["read_disks"]

_DRIVE = re.compile(r"(scsi|sata|ide|nvme)([0-9]{1,2}):([0-9]{1,3})\.")
_DELTA = re.compile(r"-[0-9]{6}$")
MAX_DISKS = 64
_CDROMS = ("cdrom-image", "cdrom-raw", "atapi-cdrom", "cdrom")
_PASSTHROUGH = ("scsi-passthru", "scsi-passthrough", "generic")
_SCSI = {
    "pvscsi": "pvscsi",
    "lsilogic": "lsilogic",
    "lsisas1068": "lsisas1068",
    "buslogic": "buslogic",
}
_EMPTY = ("", "auto detect", "emptybackingstring", "none")


@dataclass(frozen=True, slots=True)
class _Drive:
    """Where a drive is: ``scsi0:1``."""

    kind: str
    controller: int
    unit: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.controller}:{self.unit}"

    @property
    def parent(self) -> str:
        return f"{self.kind}{self.controller}"


def read_disks(reading: Reading) -> None:
    """Every drive that is present, in the file's order; then the boot order among them."""
    reading.draft.data["disk"] = []
    drives: dict[_Drive, None] = {}
    for key, _ in reading.vmx:
        found = _DRIVE.match(key.lower())
        if found:
            drives[_Drive(found[1], int(found[2]), int(found[3]))] = None
    ids: dict[str, str] = {}
    for drive in drives:
        if len(ids) == MAX_DISKS:
            for key in ("fileName", "present", "deviceType"):
                reading.dropped(f"{drive.name}.{key}", f"a machine has {MAX_DISKS} disks here")
            continue
        disk_id = _read_drive(reading, drive)
        if disk_id is not None:
            ids[drive.name] = disk_id
    for name in dict.fromkeys(drive.parent for drive in drives):
        _controller(reading, name, any(one.startswith(f"{name}:") for one in ids))
    _boot_order(reading, ids)


def _controller(reading: Reading, name: str, in_use: bool) -> None:
    """What a controller's keys became; one without drives is carried along as text."""
    if in_use:
        reading.kept(f"{name}.present", "the bus of its disks")
        reading.kept(f"{name}.virtualDev", "the bus of its disks")


def _read_drive(reading: Reading, drive: _Drive) -> str | None:
    """The id of the disk that ``drive`` became; ``None``: it is not present, or no disk."""
    vmx, name = reading.vmx, drive.name
    file = vmx.get(f"{name}.fileName")
    if not vmx.flag(f"{name}.present", default=bool(file)):
        return None
    if drive.kind != "ide" and not vmx.flag(f"{drive.parent}.present", default=True):
        for key in ("fileName", "present"):
            reading.dropped(f"{name}.{key}", f"its controller {drive.parent} is not present")
        return None
    device = vmx.get(f"{name}.deviceType").lower()
    if device in _PASSTHROUGH:
        for key in ("deviceType", "fileName", "present"):
            reading.dropped(f"{name}.{key}", "a device of the host, handed through")
        return None
    is_cdrom = device in _CDROMS or (not device and file.lower().endswith(".iso"))
    values = _place(reading, drive)
    if is_cdrom:
        disk_id = _cdrom(reading, drive, device, file, values)
    elif file.lower() in _EMPTY:
        for key in ("fileName", "present", "deviceType"):
            reading.dropped(f"{name}.{key}", "a disk without a file")
        return None
    else:
        disk_id = _disk(reading, drive, file, values)
    reading.kept(f"{name}.present", f"disk {disk_id}")
    reading.kept(f"{name}.deviceType", f"disk {disk_id}")
    return disk_id


def _disk(reading: Reading, drive: _Drive, file: str, values: dict[str, object]) -> str:
    vmx, name = reading.vmx, drive.name
    if vmx.flag(f"{name}.virtualSSD"):
        values["rotation_rate"] = 1
        reading.kept(f"{name}.virtualSSD", "rotation-rate = 1")
    stem = re.split(r"[/\\]", file)[-1].rpartition(".")[0]
    how = str(values.pop("how", ""))
    reading.used.add(f"{name}.filename".lower())
    return reading.draft.add_disk(
        _DELTA.sub("", stem) or name,
        FileRef(_beside(reading, file), format="vmdk"),
        vmx.spelt(f"{name}.fileName"),
        how=how,
        kind="disk",
        **values,
    )


def _cdrom(
    reading: Reading, drive: _Drive, device: str, file: str, values: dict[str, object]
) -> str:
    """A CD-ROM drive: with the image that lies beside the VMX, otherwise empty."""
    vmx, name = reading.vmx, drive.name
    how = str(values.pop("how", ""))
    source = vmx.spelt(f"{name}.deviceType" if device else f"{name}.fileName")
    reading.used.add(source.lower())
    if values.get("bus") in ("nvme", None):
        values["bus"] = "sata"
    image = _beside(reading, file)
    is_image = device in ("cdrom-image", "") and vmx.flag(f"{name}.startConnected", default=True)
    if is_image and image in reading.source.members:
        stem = image.rpartition(".")[0]
        reading.kept(f"{name}.fileName", "the image beside the VMX")
        return reading.draft.add_disk(
            stem, FileRef(image, format="raw"), source, how=how, kind="cdrom", **values
        )
    reading.kept(f"{name}.startConnected", "an empty drive")
    found = reading.draft.add_disk(f"cdrom-{name}", None, source, how=how, **values)
    if is_image and file.lower() not in _EMPTY:
        reading.dropped(f"{name}.fileName", "no image of that name beside the VMX: an empty drive")
    elif names_host(file) or why_not("fileName", file):
        reading.dropped(f"{name}.fileName", "not connected, or a drive of the host: an empty drive")
    else:
        reading.kept(f"{name}.fileName", "an empty drive")
    return found


def _beside(reading: Reading, file: str) -> str:
    """The name by which the file lies beside the VMX, otherwise the name as it is."""
    plain = file.replace("\\", "/")
    base = plain.rpartition("/")[2]
    members = reading.source.members
    return base if plain not in members and base in members else plain


def _place(reading: Reading, drive: _Drive) -> dict[str, object]:
    """Bus, controller, port and unit; ``how`` where they differ from the VMX's."""
    if drive.kind == "ide":
        return _ide(reading, drive)
    if drive.kind == "nvme":
        return {"bus": "nvme"}
    if drive.kind == "sata":
        return _on_bus("sata", drive)
    word = reading.vmx.get(f"{drive.parent}.virtualDev").lower()
    if word in _SCSI:
        return _on_bus(_SCSI[word], drive)
    if word:
        found = _on_bus("lsilogic", drive)
        found["how"] = f"on lsilogic, since {escape(word[:40])} is no controller that vmpack knows"
        return found
    guest = reading.vmx.get("guestOS").lower()
    default = "lsilogic" if "64" in guest else "buslogic"
    found = _on_bus(default, drive)
    found.setdefault("how", f"on {default}, VMware's default for this guest")
    return found


def _ide(reading: Reading, drive: _Drive) -> dict[str, object]:
    if reading.vmx.flag("uefi.secureBoot.enabled") and reading.vmx.get("firmware") == "efi":
        return {"bus": "sata", "how": "on SATA: Secure Boot needs a machine without IDE"}
    if drive.controller > 1 or drive.unit > 1:
        return {"bus": "ide", "how": "at another place: there is no such IDE channel or device"}
    return {"bus": "ide", "controller": 0, "port": drive.controller, "unit": drive.unit}


def _on_bus(bus: str, drive: _Drive) -> dict[str, object]:
    ports = POSITIONS[bus][0]
    if drive.unit >= ports or drive.controller > 31:
        how = f"at another place: one {bus} controller has {ports} of them here"
        return {"bus": bus, "how": how}
    return {"bus": bus, "controller": drive.controller, "port": drive.unit, "unit": 0}


def _boot_order(reading: Reading, ids: dict[str, str]) -> None:
    """``bios.bootOrder`` names kinds of devices, ``bios.hddOrder`` disks among themselves."""
    key = "bios.bootOrder" if "bios.bootOrder" in reading.vmx else "bios.bootDeviceClasses"
    words = re.split(r"[,\s]+", reading.vmx.get(key).lower().removeprefix("allow:").strip())
    if not any(words):
        return
    if reading.vmx.get("firmware").lower() == "efi":
        reading.changed(key, "EFI keeps its own order in its NVRAM: the first disk first")
        reading.changed("bios.hddOrder", "EFI keeps its own order in its NVRAM")
        return
    by_id = {one["id"]: one for one in reading.draft.data["disk"]}
    first = [
        ids[name] for name in re.split(r"[,\s]+", reading.vmx.get("bios.hddOrder")) if name in ids
    ]
    hard = [one for one in by_id if by_id[one]["kind"] != "cdrom"]
    optical = [one for one in by_id if by_id[one]["kind"] == "cdrom"]
    order: list[str] = []
    for word in words:
        if word in ("hdd", "hd", "harddisk"):
            order += [one for one in dict.fromkeys([*first, *hard]) if one in hard]
        elif word in ("cdrom", "cd"):
            order += optical
    for number, disk_id in enumerate(dict.fromkeys(order), 1):
        by_id[disk_id]["boot"] = number
    if order:
        how = [word for word in words if word not in ("hdd", "hd", "harddisk", "cdrom", "cd")]
        if how:
            reading.changed(key, f"disks and drives alone, not {escape(', '.join(how)[:80])}")
        reading.kept(key, "boot of disks")
        reading.kept("bios.hddOrder", "boot of disks")
