"""What a pinned machine still takes from whichever host runs it: no pin fixes it.

Two hosts that provide every pin may differ in these, so they are told before a boot is blamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError
from vmpack.runner.options import Accel, Qemu

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = ["LeftOpen", "left_open"]


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """One thing that the host decides."""

    item: str
    message: str
    """What this host makes of it, and where that may show."""
    hint: str | None = None
    """How to fix it as well, where that can be done."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {"item": self.item, "message": self.message, "hint": self.hint}


def left_open(config: MachineConfig, qemu: Qemu, accel: Accel) -> Iterator[LeftOpen]:
    """What the pins of ``config`` do not fix on this host, run by ``qemu`` under ``accel``."""
    version = ".".join(map(str, qemu.version))
    yield from _firmware(config, qemu)
    yield from _strings(config)
    yield LeftOpen(
        "tables",
        f"QEMU {version} writes the ACPI tables, and what of SMBIOS no string pins; from one"
        " version to the next DSDT, APIC and the processor's family change",
    )
    yield _accelerator(accel)
    if config.rtc.start is None:
        yield LeftOpen(
            "clock",
            "it starts with this host's time",
            "a time to start with can be pinned: [rtc] start",
        )
    if config.nics:
        yield LeftOpen("network", "what the guest can reach is this host's, and --network's")
    if config.tpm is not None:
        yield _tpm()


def _firmware(config: MachineConfig, qemu: Qemu) -> Iterator[LeftOpen]:
    firmware = config.firmware
    if firmware.blob is None and firmware.digest is None:
        yield LeftOpen(
            "firmware",
            f"this host's own is taken: {_own(config, qemu)}",
            "vmpack pack --embed-firmware carries it along",
        )
    if firmware.kind != "uefi" and config.display.model not in (None, "none"):
        yield LeftOpen(
            "option-roms", "those of QEMU's own packages start the screen and the network cards"
        )


def _own(config: MachineConfig, qemu: Qemu) -> str:
    from vmpack.runner.firmware import resolve_firmware, seabios

    try:
        found = resolve_firmware(config, qemu).code_path
    except VmpackError:
        return "it has none that fits"
    return found or seabios(qemu) or "QEMU's SeaBIOS"


def _strings(config: MachineConfig) -> Iterator[LeftOpen]:
    bios, system = config.smbios.bios, config.smbios.system
    absent = [
        f"{part}.{name}"
        for part, values, names in (
            ("bios", bios, ("vendor", "version", "date")),
            ("system", system, ("manufacturer", "product", "version")),
        )
        for name in names
        if getattr(values, name) is None
    ]
    if absent:
        hint = "[smbios] pins them; pack does, where nothing else is said"
        yield LeftOpen("smbios", f"QEMU's own strings stand in {', '.join(absent)}", hint)


def _accelerator(accel: Accel) -> LeftOpen:
    if accel == "kvm":
        return LeftOpen(
            "accelerator",
            "KVM runs this host's own CPU: its speed, clock rate and microcode can be seen",
            "--accel tcg is the same on every host, and slower",
        )
    return LeftOpen(
        "accelerator",
        "TCG emulates the CPU: slower than KVM, and a few bits of CPUID change with QEMU's version",
    )


def _tpm() -> LeftOpen:
    from vmpack.runner.tpm import find_swtpm

    return LeftOpen("tpm", f"this host's swtpm emulates it: {find_swtpm() or 'it has none'}")
