"""The kinds of facts that each layer has: the table of specs/behaviour-v1.md, BHV-FACT.

The kind of a fact is its key up to the first colon. A record made at an earlier level lacks the
kinds that came later: they are not compared, instead of being taken for new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmpack.verify.layers import LayerName

__all__ = ["KINDS", "Kind", "kind_of"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact."""

    value: str
    """What it holds, for the table."""
    level: int = 1
    """The level of records since which it is observed."""


KINDS: Mapping[LayerName, Mapping[str, Kind]] = {
    "ending": {
        "kind": Kind("how the boot ended, as in reports; `expected`: as the config says"),
        "order": Kind("QEMU's events, in their order, with their reasons"),
        "reason": Kind("QEMU's reason for a shutdown"),
        "resets": Kind("how many there were"),
    },
    "milestones": {
        "failed": Kind("what of the system failed to start, and how"),
        "milestone": Kind("a generic milestone that was reached, with its detail"),
        "order": Kind("milestones in the order that they always have"),
        "pattern": Kind("whether a milestone of the config was reached"),
        "target": Kind("`true`, for each of systemd's targets"),
    },
    "checks": {
        "check": Kind("verdict of a check of the config"),
    },
    "hardware": {
        "cpu-host": Kind("properties of the CPU whose defaults are the accelerator's"),
        "cpu-model": Kind("every other property of the CPU"),
        "cpus": Kind("model, vendor, number and grouping of CPUs"),
        "device": Kind("driver, bus and properties of a device"),
        "disk": Kind("by the config's id: device, place, serial, size and more"),
        "display": Kind("device and place"),
        "machine": Kind("the machine type"),
        "machine-options": Kind("properties of the board"),
        "memory": Kind("bytes, base and plugged"),
        "nic": Kind("by the config's id: device, place, MAC and more"),
        "pci": Kind("by address: IDs, class, interrupt pin, sizes of the BARs"),
        "rtc": Kind("base and start of the clock, and by how many hours it is off"),
        "serial": Kind("ports of a serial line"),
        "smbios": Kind("strings of the config"),
        "tpm": Kind("its model"),
        "uuid": Kind("the machine's UUID"),
        "watchdog": Kind("its model"),
    },
    "firmware": {
        "boot-order": Kind("what the BIOS would boot from, in order"),
        "booted": Kind("what it booted from"),
        "code": Kind("digest of the code image"),
        "kind": Kind("`bios` or `uefi`"),
        "version": Kind("what it says of itself"),
    },
    "guest": {
        "address": Kind("addresses of an interface, sorted"),
        "acpi": Kind("digest of a table that no QEMU version changes"),
        "boot-mode": Kind("`uefi` or `bios`"),
        "cmdline": Kind("the kernel's command line"),
        "consoles": Kind("the kernel's active consoles"),
        "cpu": Kind("the first CPU: vendor, family, model, stepping, name, address sizes"),
        "cpu-flag": Kind("`true`, for each flag"),
        "cpu-socket": Kind("threads and cores of a socket"),
        "cpus": Kind("how many are online"),
        "disk": Kind("size, sector size, read-only, model and serial"),
        "dmi": Kind("a string of SMBIOS that is not the firmware's"),
        "failed-unit": Kind("`true`, for each unit that failed"),
        "framebuffer": Kind("its driver"),
        "hostname": Kind("the host name"),
        "init": Kind("the program that is process 1"),
        "interface": Kind("state of one without hardware"),
        "kernel-taint": Kind("the kernel's taint bits"),
        "keyboard": Kind("layout"),
        "link": Kind("the device a name of `/dev/disk` leads to"),
        "locale": Kind("`LANG` and `LC_*`"),
        "machine-id": Kind("systemd's machine ID"),
        "memory": Kind("MemTotal in KiB, under a BIOS"),
        "memory-map": Kind("type of a range (E820), under a BIOS"),
        "module": Kind("`true`, for each loaded one"),
        "mount": Kind("source, type and options"),
        "nic": Kind("by MAC: name, driver, MTU, state"),
        "os": Kind("ID and version"),
        "os-info": Kind("what an agent that runs nothing tells of the system"),
        "partition": Kind("start and size in bytes"),
        "pci-driver": Kind("by address: IDs, class and driver"),
        "process": Kind("`true`, for each program's name, where there is no systemd"),
        "root-full": Kind("whether less than 1% of the root file system is free"),
        "route": Kind("ways to a network"),
        "rtc": Kind("the real-time clock's driver"),
        "secure-boot": Kind("whether it is enforced"),
        "swap": Kind("size in KiB"),
        "timezone": Kind("its name"),
        "tpm": Kind("major version"),
        "uname": Kind("kernel release, version and architecture"),
        "unit": Kind("active state of a systemd unit"),
        "usb": Kind("IDs and product of a device"),
        "user": Kind("`true`, for each that is logged in, of an agent that runs nothing"),
        "virtio": Kind("by name: device, driver, negotiated features"),
        "vulnerability": Kind("what the kernel says of it"),
    },
    "tables": {
        "acpi": Kind("digest of a table"),
        "cpuid": Kind("registers of a leaf"),
        "dmi": Kind("a string of SMBIOS that is the firmware's"),
        "memory": Kind("MemTotal in KiB, under UEFI"),
        "memory-map": Kind("type of a range, under UEFI"),
        "smbios": Kind("digest of the tables"),
    },
    "picture": {
        "*": Kind("one picture, under its name"),
    },
    "reads": {
        "disk": Kind("bytes and operations"),
    },
    "console": {
        "lines": Kind("normalised lines in their order"),
        "sometimes": Kind("lines that only some of the recorded boots had"),
    },
}


def kind_of(key: str) -> str:
    """The kind of the fact under ``key``."""
    return key.partition(":")[0]
