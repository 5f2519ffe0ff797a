"""What most exports have to say of a config in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.hypervisors.vmware.notes import Notes

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = ["Notes", "say_common", "say_expected"]


def say_expected(notes: Notes) -> None:
    """Fields that are vmpack's own and stay in the bundle."""
    notes.kept("version", "vmpack's own")
    notes.kept("architecture", "x86_64")
    for path in ("expected", "verify"):
        notes.dropped(path, "vmpack's own: it stays in the bundle")
    notes.dropped("ova", "product data: an OVA has a place for it")


def say_common(notes: Notes, config: MachineConfig, whose: str) -> None:
    """What ``whose`` (``KubeVirt``) chooses itself. To be called last, before the rest."""
    say_expected(notes)
    notes.kept("hyperv-generation", "the firmware says it")
    for number, disk in enumerate(config.disks or ()):
        path = f"disk[{number}]"
        if not disk.read_only or disk.kind == "cdrom":
            notes.kept(f"{path}.read-only", "no" if not disk.read_only else "a CD-ROM")
        for member, size in (
            ("logical-block-size", disk.logical_block_size),
            ("physical-block-size", disk.physical_block_size),
        ):
            if size == 512:
                notes.kept(f"{path}.{member}", "512")
        for member in ("controller", "port", "unit", "address"):
            notes.changed(f"{path}.{member}", f"{whose} chooses it")
    for number, _ in enumerate(config.nics or ()):
        notes.changed(f"nic[{number}].address", f"{whose} chooses it: the card may be renamed")
    for number, one in enumerate(config.controllers):
        notes.changed(f"controller[{number}]", f"{whose} adds what disks need: {one.bus}")
    for path in ("display", "rng"):
        notes.changed(f"{path}.address", f"{whose} chooses it")
    for path in ("firmware.digest", "firmware.blob"):
        notes.changed(path, f"{whose} starts machines with its own firmware")
    for path in ("cpu.vendor", "smbios"):
        notes.changed(path, f"{whose} shows its own")
    if not config.pvpanic:
        notes.kept("pvpanic", "none")
    notes.dropped("pvpanic", f"{whose} has no such device")
    if config.watchdog == "none":
        notes.kept("watchdog", "none")
    if config.input == "ps2":
        notes.kept("input", "a PS/2 mouse is always there")
    for path in notes.open():
        if path.startswith("verbatim."):
            notes.dropped(path, f"fields of another hypervisor, of no use to {whose}")
    notes.rest(f"{whose} has no place for it")
