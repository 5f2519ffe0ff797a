"""Whether a machine's boot disk could start: read, never run.

Partition table against firmware, boot code and active partition for BIOS, the EFI system partition
and its boot loader for UEFI. What a disk says is looked at within bounds; damage is a finding.
Sources: UEFI Specification 2.10, 3.5.1.1 (removable media's boot path), 5 (GPT), 13.3 (FAT).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import VmpackError
from vmpack.machine.boot_entries import BootEntry, firmware_state
from vmpack.machine.boot_layout import ESP, BootLayout, Partition, Read, read_boot_layout
from vmpack.machine.fat import FatFile, FatVolume
from vmpack.machine.nvram import parse, to_raw
from vmpack.machine.partition_structs import GptHeader
from vmpack.machine.pe_structs import X86_64, PeFile
from vmpack.ops.lint_codes import LintFinding, finding

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk

LOADER = "EFI/BOOT/BOOTX64.EFI"
MAX_LOADER = 128 << 20
"""Bytes of a boot loader that are read; unified kernel images have tens of MiB."""
MAX_VOLUMES = 16
_FAT_TYPES = (
    *("0x01", "0x04", "0x06", "0x0b", "0x0c", "0x0e", "0xef"),
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    ESP,
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
)
"""MBR types, extended boot loader partition, EFI system partition, Microsoft's basic data."""
_EL_TORITO = b"\0CD001\x01EL TORITO SPECIFICATION"


@dataclass(frozen=True, slots=True)
class BootDisk:
    """The disk that a machine starts from, as far as it is known."""

    disk: Disk
    read: Read
    size: int
    layout: BootLayout
    volumes: tuple[tuple[Partition, FatVolume], ...]
    """The FAT volumes on it."""
    damaged: Mapping[int, str]
    """Offset of a partition that ought to be FAT -> what is wrong with it."""


def boot_disk_of(config: MachineConfig) -> Disk | None:
    """First of the boot order; otherwise the first hard disk, otherwise the first medium."""
    disks = [one for one in config.disks or () if not one.empty]
    ordered = sorted((one for one in disks if one.boot is not None), key=lambda one: one.boot or 0)
    plain = [one for one in disks if one.kind != "cdrom"]
    return next(iter([*ordered, *plain, *disks]), None)


def open_boot_disk(disk: Disk, reader: ImageReader) -> BootDisk:
    """Look at the disk's partition table and FAT volumes. Raises what reading it raises."""
    size = reader.virtual_size
    layout = read_boot_layout(reader.read, size)
    volumes: list[tuple[Partition, FatVolume]] = []
    damaged: dict[int, str] = {}
    parts = [one for one in layout.partitions if one.type in _FAT_TYPES]
    if layout.table == "none":
        parts = [Partition(0, size, "")]
    for part in parts[:MAX_VOLUMES]:
        try:
            volumes.append((part, FatVolume(reader.read, part.offset, part.size)))
        except VmpackError as exc:
            damaged[part.offset] = exc.message
    return BootDisk(disk, reader.read, size, layout, tuple(volumes), damaged)


def lint_boot(
    config: MachineConfig, boot: BootDisk, blobs: Mapping[str, bytes]
) -> Iterator[LintFinding]:
    """What keeps the disk from starting by the machine's firmware."""
    if boot.disk.kind == "cdrom":
        start = boot.read(17 * 2048, 32) if boot.size >= 18 * 2048 else b""
        if not start.startswith(_EL_TORITO):
            yield finding("boot-empty", f"CD-ROM {boot.disk.id} has no boot record")
        return
    yield from _table(boot)
    if config.firmware.kind == "uefi":
        yield from _uefi(config, boot, blobs)
    elif config.firmware.kind == "bios":
        yield from _bios(boot)


def _table(boot: BootDisk) -> Iterator[LintFinding]:
    layout = boot.layout
    if layout.protective_mbr and layout.table != "gpt":
        yield finding("boot-table-damaged", "; ".join(layout.problems))
        return
    problem = "; ".join(layout.problems)
    if layout.table == "gpt" and not problem:
        problem = _backup_problem(boot)
    if problem:
        yield finding("boot-table-problem", problem)


def _backup_problem(boot: BootDisk) -> str:
    """What is wrong with the second copy of a sound GPT, which ends the disk."""
    for sector in (512, 4096):
        if boot.size < 3 * sector:
            continue
        first = GptHeader.decode(boot.read(sector, sector))
        if first is None:
            continue
        last = boot.size // sector - 1
        if first.alternate_lba > last:
            return "the backup GPT lies outside the disk"
        second = GptHeader.decode(boot.read(first.alternate_lba * sector, sector))
        if second is None or second.my_lba != first.alternate_lba:
            return "the backup GPT is damaged"
        if first.alternate_lba != last:
            return "the backup GPT is not at the disk's end: the disk has grown"
        return ""
    return ""


def _bios(boot: BootDisk) -> Iterator[LintFinding]:
    layout = boot.layout
    if layout.starts_by_bios:
        yield from _bios_partition(boot)
    elif layout.esp is not None:
        yield finding(
            "boot-firmware",
            f"the machine starts by BIOS, disk {boot.disk.id} by UEFI: it has an EFI system"
            " partition and no boot code",
            "firmware.kind",
        )
    elif layout.table == "none" and not layout.boot_code:
        yield finding("boot-empty", f"disk {boot.disk.id} has no boot code and no partitions")
    else:
        yield finding("boot-no-code", f"disk {boot.disk.id} has partitions and no boot code")


def _bios_partition(boot: BootDisk) -> Iterator[LintFinding]:
    """The partition that the standard boot code hands over to; GRUB's asks for none."""
    layout = boot.layout
    if layout.table != "mbr" or b"GRUB" in boot.read(0, 440):
        return
    active = layout.active
    if active is None:
        yield finding("boot-no-active", f"no partition of disk {boot.disk.id} is active")
    elif boot.read(active.offset, 512)[510:] != b"\x55\xaa":
        yield finding(
            "boot-partition-empty",
            f"the active partition at {active.offset} of disk {boot.disk.id} has no boot sector",
        )


def _uefi(
    config: MachineConfig, boot: BootDisk, blobs: Mapping[str, bytes]
) -> Iterator[LintFinding]:
    layout = boot.layout
    esps = [
        (part, volume)
        for part, volume in boot.volumes
        if layout.table == "none" or layout.esp is None or part.type == layout.esp.type
    ]
    if layout.esp is None and not any(_find(volume, LOADER) for _, volume in esps):
        yield from _no_esp(boot)
        return
    if layout.esp is not None and not esps:
        text = boot.damaged.get(layout.esp.offset, "it was not read")
        yield finding("boot-esp-damaged", f"the EFI system partition of {boot.disk.id}: {text}")
        return
    entries: tuple[BootEntry, ...] = ()
    if "nvram" in blobs:
        try:
            state = firmware_state(parse(to_raw(blobs["nvram"])))
        except VmpackError as exc:
            yield finding("state-nvram-unreadable", f"the NVRAM: {exc.message}")
        else:
            entries = state.entries
            if config.firmware.secure_boot and not state.has_keys:
                yield finding("state-no-keys", field="firmware.secure-boot")
    try:
        yield from _loaders(config, boot, esps, entries)
    except VmpackError as exc:
        yield finding("boot-esp-damaged", f"the EFI system partition: {exc.message}")


def _find(volume: FatVolume, path: str) -> FatFile | None:
    """The file, and nothing where the volume is damaged on the way."""
    try:
        found = volume.find(path)
    except VmpackError:
        return None
    return None if found is None or found.is_folder else found


def _no_esp(boot: BootDisk) -> Iterator[LintFinding]:
    if boot.layout.protective_mbr and boot.layout.table != "gpt":
        return
    if boot.layout.starts_by_bios:
        yield finding(
            "boot-firmware",
            f"the machine starts by UEFI, disk {boot.disk.id} by BIOS: it has boot code and no"
            " EFI system partition",
            "firmware.kind",
        )
    elif boot.layout.table == "none":
        yield finding("boot-empty", f"disk {boot.disk.id} has no boot code and no partitions")
    else:
        yield finding("boot-no-esp", f"disk {boot.disk.id} has no EFI system partition")


def _loaders(
    config: MachineConfig,
    boot: BootDisk,
    esps: list[tuple[Partition, FatVolume]],
    entries: tuple[BootEntry, ...],
) -> Iterator[LintFinding]:
    """The boot loaders that the firmware would find, and whether they are programs."""
    found: list[tuple[FatVolume, FatFile, str]] = []
    for _, volume in esps:
        file = volume.find(LOADER)
        if file is not None and not file.is_folder:
            found.append((volume, file, LOADER))
    by_entry = []
    for entry in entries:
        for part, volume in esps:
            # Sectors of 512 bytes, or of 4096.
            if not entry.file or entry.partition is None:
                continue
            if part.offset not in (entry.partition[0] * 512, entry.partition[0] * 4096):
                continue
            file = volume.find(entry.file)
            if file is None or file.is_folder:
                text = f"{entry.description[:80]!r} names {entry.file[:200]}, which is not there"
                yield finding("boot-entry-stale", text)
            elif entry.active:
                by_entry.append((volume, file, entry.file))
    if not found and not by_entry:
        yield finding("boot-no-loader", f"disk {boot.disk.id} has no {LOADER}")
        return
    if not found:
        yield finding("boot-needs-nvram", f"disk {boot.disk.id} starts by {by_entry[0][2][:200]}")
    for volume, file, path in [*found, *by_entry][:1]:
        if file.size > MAX_LOADER:
            continue
        program = PeFile.decode(volume.read_file(file, limit=MAX_LOADER))
        if program is None or program.machine != X86_64:
            yield finding("boot-loader-bad", f"{escape(path[:200])} is no program for x86-64")
        elif config.firmware.secure_boot and not program.is_signed:
            yield finding(
                "boot-loader-unsigned", f"{escape(path[:200])} is not signed", "firmware.kind"
            )
