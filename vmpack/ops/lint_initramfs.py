"""Whether the initramfs has the driver of the boot disk as the target will show it.

Looked for where it can be read, on the FAT and ext4 volumes of the boot disk: as a unified kernel
image (``EFI/Linux``), as an entry of systemd-boot (``loader/entries``), or under its usual names.
Sources: UAPI group, "Boot Loader Specification" and "Unified Kernel Image".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vmpack.errors import VmpackError
from vmpack.machine.boot_layout import guess_family
from vmpack.machine.ext import ExtVolume
from vmpack.machine.initramfs import Initramfs, read_initramfs
from vmpack.machine.pe_structs import PeFile
from vmpack.ops.lint_codes import LintFinding, finding

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Hypervisor
    from vmpack.machine import MachineConfig
    from vmpack.ops.lint_boot import BootDisk

MAX_INITRAMFS = 128 << 20
MAX_ENTRY = 64 << 10
MAX_FILES = 12
MAX_VOLUMES = 16
LINUX_TYPES = (
    "0x83",
    "0fc63daf-8483-4772-8e79-3d69d8477de4",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",
)
"""Linux's of MBR, of GPT, root for x86-64, and the extended boot loader partition."""
DRIVERS: dict[str, tuple[str, ...]] = {
    "virtio-blk": ("virtio_blk",),
    "virtio-scsi": ("virtio_scsi",),
    "sata": ("ahci",),
    "ide": ("ata_piix", "ata_generic", "pata_acpi"),
    "nvme": ("nvme",),
    "lsilogic": ("mptspi", "sym53c8xx"),
    "lsisas1068": ("mptsas",),
    "pvscsi": ("vmw_pvscsi",),
    "buslogic": ("BusLogic",),
}
"""Bus -> Linux's drivers for it, any of which will do."""
OWN_DRIVERS: dict[str, tuple[str, ...]] = {
    "hyperv": ("hv_storvsc",),
    "azure": ("hv_storvsc",),
    "xen": ("xen_blkfront",),
}
"""Targets whose disks are on a bus of their own, whatever the config calls it."""


def lint_initramfs(
    target: Hypervisor | None, config: MachineConfig, boot: BootDisk
) -> Iterator[LintFinding]:
    """Whether Linux finds its disk on the target; nothing for other systems."""
    family = config.guest_os.family or guess_family(boot.layout)
    if boot.disk.kind == "cdrom" or boot.disk.bus is None:
        return
    if family == "windows":
        limits = target.limits if target is not None else None
        replaced = (
            limits is not None and limits.disk_buses and boot.disk.bus not in (limits.disk_buses)
        )
        if replaced:
            yield finding("windows-boot-bus", f"disk {boot.disk.id} is on {boot.disk.bus}")
        return
    if family != "linux":
        return
    where, wanted = _wanted(target, config, boot)
    found = list(_initramfs_of(boot))
    problem = next((one.problem for one in found if one.problem), "")
    if any(one.has(driver) for one in found for driver in wanted):
        return
    if not any(one.modules for one in found):
        why = problem or "it is on no FAT or ext4 of the boot disk, or has no modules"
        yield finding("initramfs-unknown", f"the initramfs was not read: {why}")
        return
    names = " or ".join(wanted)
    text = f"the initramfs of disk {boot.disk.id} has no {names}, which {where} needs"
    if problem:
        yield finding("initramfs-driver-unseen", f"{text}; it is {problem}")
    elif any(one.builtin is None for one in found if one.modules):
        yield finding("initramfs-driver-unseen", text)
    else:
        yield finding("initramfs-no-driver", text)


def _wanted(
    target: Hypervisor | None, config: MachineConfig, boot: BootDisk
) -> tuple[str, tuple[str, ...]]:
    """Where the disk will be, and the drivers any of which will do."""
    bus = boot.disk.bus
    assert bus is not None
    if target is not None and target.name in OWN_DRIVERS:
        # A machine that starts by BIOS there has an emulated IDE disk as well.
        emulated = DRIVERS["ide"] if config.firmware.kind == "bios" else ()
        return target.name, (*OWN_DRIVERS[target.name], *emulated)
    buses = target.limits.disk_buses if target is not None and target.limits is not None else ()
    if not buses or bus in buses:
        return f"a disk on {bus}", DRIVERS[bus]
    drivers = [driver for one in buses for driver in DRIVERS.get(one, ())]
    return f"a disk of {target.name if target is not None else bus}", tuple(dict.fromkeys(drivers))


def _initramfs_of(boot: BootDisk) -> Iterator[Initramfs]:
    """Every initramfs that is found on the disk's volumes, a few at most."""
    left = MAX_FILES
    volumes: list[Any] = [*(volume for _, volume in boot.volumes), *_ext_volumes(boot)]
    for volume in volumes:
        try:
            for file in _candidates(volume):
                if left == 0:
                    return
                left -= 1
                if file.size > MAX_INITRAMFS:
                    yield Initramfs(problem=f"of {file.size} bytes, too large to read")
                    continue
                data = volume.read_file(file, limit=MAX_INITRAMFS)
                if file.name.lower().endswith(".efi"):
                    program = PeFile.decode(data)
                    place = program.sections.get(".initrd") if program is not None else None
                    if place is None:
                        continue
                    data = data[place[0] : place[0] + place[1]]
                yield read_initramfs(data)
        except VmpackError as exc:
            yield Initramfs(problem=f"on a damaged file system: {exc.message}")


def _ext_volumes(boot: BootDisk) -> Iterator[ExtVolume]:
    parts = [one for one in boot.layout.partitions if one.type in LINUX_TYPES]
    for part in parts[:MAX_VOLUMES]:
        try:
            yield ExtVolume(boot.read, part.offset, part.size)
        except VmpackError:
            # Another file system, or one that is damaged: nothing is determined by it.
            continue


def _candidates(volume: Any) -> Iterator[Any]:
    seen = set()
    for file in _named(volume):
        if not file.is_folder and file.size and file.key not in seen:
            seen.add(file.key)
            yield file


def _named(volume: Any) -> Iterator[Any]:
    yield from (one for one in volume.list("EFI/Linux") if one.name.lower().endswith(".efi"))
    for entry in volume.list("loader/entries")[:64]:
        if entry.name.lower().endswith(".conf") and entry.size <= MAX_ENTRY:
            text = volume.read_file(entry, limit=MAX_ENTRY).decode("utf-8", "replace")
            for line in text.splitlines():
                key, _, value = line.strip().partition(" ")
                found = volume.find(value.strip()) if key in ("initrd", "uki", "efi") else None
                if found is not None:
                    yield found
    for folder in ("", "boot"):
        for one in volume.list(folder):
            if one.name.lower().startswith(("initrd", "initramfs")):
                yield one
