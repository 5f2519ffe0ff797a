"""What is no device in a VMX: names, processors, memory, firmware, clock."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.vmware.read import NVRAM_BLOB, SMBIOS_27, guess_family
from vmpack.machine.names import safe_name
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Machine
    from vmpack.machine import MachineConfig

__all__ = ["write_board"]

MEMORY_UNIT = 4
"""MiB; VMware takes multiples of it."""


def write_board(
    machine: Machine, notes: Notes, hardware: int, stem: str, carried: Mapping[str, str]
) -> dict[str, str]:
    """Keys of the VMX; each field of the config that they stand for is reported."""
    config = machine.config
    if config.input == "usb-tablet":
        notes.changed("input", "VMware's own pointing device beside a PS/2 mouse")
    return {
        **_identity(config, notes, hardware, carried),
        **_processor(config, notes),
        **_firmware(machine, notes, stem),
        **_clock(config, notes),
        **_own(config, notes),
    }


def _identity(
    config: MachineConfig, notes: Notes, hardware: int, carried: Mapping[str, str]
) -> dict[str, str]:
    name = config.name or "machine"
    before = carried.get("displayName")
    found = {"displayName": before if before and safe_name(before) == config.name else name}
    notes.kept("name", "displayName")
    if config.description:
        found["annotation"] = config.description
        notes.kept("description", "annotation")
    found["guestOS"] = _guest(config, notes, carried)
    if config.uuid:
        number = uuid.UUID(config.uuid)
        raw = number.bytes_le if hardware >= SMBIOS_27 else number.bytes
        digits = [f"{byte:02x}" for byte in raw]
        found["uuid.bios"] = " ".join(digits[:8]) + "-" + " ".join(digits[8:])
        notes.kept("uuid", "uuid.bios")
    return found


def _guest(config: MachineConfig, notes: Notes, carried: Mapping[str, str]) -> str:
    wanted = config.guest_os
    row = guest_os.best(wanted.id, wanted.family)
    before = carried.get("guestOS")
    if before is not None:
        known = guest_os.by_vmware(before)
        is_same = known is not None and known.family == wanted.family
        if known is None and wanted.id is None and guess_family(before) == wanted.family:
            notes.kept("guest-os", "guestOS")
            return before
        if known is not None and is_same and wanted.id in (known.id, None):
            notes.kept("guest-os", "guestOS")
            return before
    notes.kept("guest-os.family", f"guestOS {row.vmware}")
    if wanted.id == row.id or (wanted.id and row.id == "ubuntu"):
        notes.kept("guest-os.id", f"guestOS {row.vmware}")
    else:
        notes.changed(
            "guest-os.id", f"guestOS {row.vmware}, the nearest that VMware has a name for"
        )
    return row.vmware


def _processor(config: MachineConfig, notes: Notes) -> dict[str, str]:
    cpu = config.cpu
    sockets, dies = cpu.sockets or 1, cpu.dies or 1
    cores, threads = cpu.cores or 1, cpu.threads or 1
    per_socket = dies * cores * threads
    notes.kept("cpu.sockets", "numvcpus, cpuid.coresPerSocket")
    notes.kept("cpu.cores", "numvcpus, cpuid.coresPerSocket")
    for path, number in (("cpu.dies", dies), ("cpu.threads", threads)):
        if number == 1:
            notes.kept(path, "one")
        else:
            notes.changed(
                path, f"{per_socket} cores in a socket: VMware has neither dies nor threads"
            )
    for path in ("cpu.model", "cpu.vendor"):
        notes.changed(path, "the host's CPU: a VMX names none")
    notes.dropped("cpu.flags", "a VMX has no names for CPU features")
    found = {"numvcpus": str(sockets * per_socket), "cpuid.coresPerSocket": str(per_socket)}
    if config.memory is not None:
        size = config.memory // MiB
        rounded = -(-size // MEMORY_UNIT) * MEMORY_UNIT
        found["memsize"] = str(rounded)
        if rounded == size:
            notes.kept("memory", "memsize")
        else:
            notes.changed("memory", f"{rounded} MiB: VMware takes multiples of {MEMORY_UNIT}")
    return found


def _firmware(machine: Machine, notes: Notes, stem: str) -> dict[str, str]:
    config = machine.config
    firmware = config.firmware
    found = {"nvram": f"{stem}.nvram"}
    if firmware.kind == "uefi":
        found["firmware"] = "efi"
        found["uefi.secureBoot.enabled"] = "TRUE" if firmware.secure_boot else "FALSE"
        notes.kept("firmware.secure-boot", "uefi.secureBoot.enabled")
    else:
        notes.kept("firmware.secure-boot", "off")
    notes.kept("firmware.kind", "firmware")
    for path in ("firmware.digest", "firmware.blob"):
        notes.dropped(path, "VMware starts machines with its own firmware")
    notes.kept("hyperv-generation", "the firmware says it")
    if "nvram" in machine.blobs and NVRAM_BLOB not in machine.blobs:
        if firmware.kind == "uefi":
            notes.report.dropped(
                "nvram",
                "OVMF's variables are not VMware's: boot entries and Secure Boot keys are made "
                "anew, and the disk starts from EFI/BOOT/BOOTX64.EFI",
            )
        else:
            notes.report.approximated("nvram", "a BIOS needs none")
    if NVRAM_BLOB in machine.blobs:
        notes.report.kept(NVRAM_BLOB, f"{stem}.nvram")
    if config.tpm is not None:
        found["managedVM.autoAddVTPM"] = "software"
        if config.tpm.version == "2.0":
            notes.changed("tpm", "an empty TPM 2.0, which VMware adds when the machine starts")
        else:
            notes.changed("tpm", "an empty TPM 2.0: VMware has no other")
        if "tpm-state" in machine.blobs:
            notes.report.dropped("tpm-state", "a TPM's state cannot be brought into VMware")
    return found


def _clock(config: MachineConfig, notes: Notes) -> dict[str, str]:
    """VMware's clock keeps UTC or local time as the guest's operating system expects it."""
    found = {}
    rtc = config.rtc
    is_windows = config.guest_os.family == "windows"
    if rtc.clock == ("localtime" if is_windows else "utc"):
        notes.kept("rtc.clock", "as VMware keeps it for this guest")
    elif rtc.clock == "utc":
        found["rtc.diffFromUTC"] = "0"
        notes.kept("rtc.clock", "rtc.diffFromUTC")
    else:
        notes.changed("rtc.clock", "UTC, as VMware keeps it for this guest")
    if rtc.start:
        start = datetime.datetime.fromisoformat(rtc.start).replace(tzinfo=datetime.UTC)
        found["rtc.startTime"] = str(int(start.timestamp()))
        notes.kept("rtc.start", "rtc.startTime")
    return found


def _own(config: MachineConfig, notes: Notes) -> dict[str, str]:
    """What VMware has its own of, or nothing like it."""
    found = {}
    notes.kept("architecture", "x86_64")
    notes.changed("machine", "VMware's own board (440BX with PCI Express bridges)")
    if config.display.model != "none":
        found["svga.present"] = "TRUE"
        if config.display.model == "vmware":
            notes.kept("display.model", "svga.present")
        notes.changed("display.model", "VMware's SVGA card")
    else:
        notes.changed("display.model", "VMware's SVGA card: there is always one")
    notes.changed("display.address", "VMware chooses it")
    for path in ("bios", "system.manufacturer", "system.product", "system.version"):
        notes.changed(f"smbios.{path}", "VMware shows its own strings")
    notes.dropped("smbios", "VMware shows its own strings")
    notes.kept("input", "a PS/2 mouse is always there")
    if config.rng.model == "none":
        notes.kept("rng.model", "none")
    notes.changed("rng", "VMware has no such device; guests use the CPU's RDRAND")
    if not config.pvpanic:
        notes.kept("pvpanic", "none")
    notes.changed("pvpanic", "VMware has no such device; it logs that the CPU was halted")
    if not config.guest_agent:
        notes.kept("guest-agent", "none")
    notes.changed("guest-agent", "VMware Tools (open-vm-tools) do what the agent does")
    notes.kept("watchdog", "none")
    for path in ("expected", "verify"):
        notes.dropped(path, "vmpack's own: it stays in the bundle")
    notes.dropped("ova", "a VMX has no product data: export to ova has")
    _controllers(config, notes)
    return found


def _controllers(config: MachineConfig, notes: Notes) -> None:
    for number, one in enumerate(config.controllers):
        path = f"controller[{number}]"
        notes.changed(f"{path}.address", "VMware chooses it")
        if re.fullmatch(r"virtio-(serial|scsi)", one.bus):
            notes.changed(path, f"VMware has no {one.bus}")
        elif one.bus == "usb-xhci":
            notes.changed(path, "USB as VMware has it")
        else:
            notes.kept(path, "the places of its disks")
