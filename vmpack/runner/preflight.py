"""Whether this host has what a machine pins, before anything is started.

Each pin is looked at by itself, so that whoever moves a bundle learns of everything at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vmpack.errors import VmpackError
from vmpack.runner.options import Accel, Firmware, Plan, Qemu, RunOptions
from vmpack.runner.qemu import VARIABLE, cpu_features, cpu_models, features, missing_devices

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = ["Pin", "expiry", "preflight"]

Status = Literal["available", "deprecated", "unavailable"]
LIFETIME = 6
"""Years, and so major versions, that QEMU keeps a versioned machine type."""
REPACK = "pack the machine again with what this host has, or run it on a host that has it"


@dataclass(frozen=True, slots=True)
class Pin:
    """One thing that a config pins, and whether this host has it."""

    pin: str
    """The config's field."""
    value: str
    status: Status
    message: str
    hint: str | None = None
    expires: str | None = None
    """The QEMU version that will no longer provide it, where that can be foreseen."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``vmpack doctor``."""
        return {
            "pin": self.pin,
            "value": self.value,
            "status": self.status,
            "message": self.message,
            "hint": self.hint,
            "expires": self.expires,
        }


def preflight(
    config: MachineConfig,
    qemu: Qemu,
    accel: Accel,
    *,
    nvram: bytes | None = None,
    code: bytes | None = None,
) -> Iterator[Pin]:
    """Every pin of a pinned config in turn; ``nvram`` and ``code`` are the bundle's blobs."""
    yield _machine(config, qemu)
    yield from _cpu(config, qemu, accel)
    firmware, pin = _firmware(config, qemu, nvram, code)
    yield pin
    yield from _devices(config, qemu, accel, firmware)
    if config.tpm is not None:
        yield _tpm(config.tpm.version or "2.0")


def expiry(machine: str) -> str | None:
    """The QEMU version that will no longer have this machine type, such as ``13.2``.

    Source: QEMU, docs/about/deprecated.rst, "System emulator machines": gone after six years, and
    the major version counts the years.
    """
    match = re.fullmatch(r"pc-\w+-(\d+)\.(\d+)(\.\d+)?", machine)
    return f"{int(match[1]) + LIFETIME}.{match[2]}" if match else None


def _machine(config: MachineConfig, qemu: Qemu) -> Pin:
    name = config.machine or ""
    has = features(qemu)
    version = ".".join(map(str, has.version))
    found = has.machines.get(name)
    if found is None:
        what, hint = _why_absent(name, has.version[:2])
        return Pin("machine", name, "unavailable", f"QEMU {version} {what}", hint)
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    if count > found.max_cpus:
        message = f"it takes {found.max_cpus} CPUs in QEMU {version}, the machine has {count}"
        return Pin("machine", name, "unavailable", message, "run it with fewer: --cpus")
    gone = expiry(name)
    if found.deprecated:
        message = f"QEMU {version} still has it; QEMU {gone} will not"
        hint = "pack the machine again with a newer machine type before then, and record it again"
        return Pin("machine", name, "deprecated", message, hint, gone)
    until = f"; QEMU {gone} is to go without it" if gone is not None else ""
    return Pin("machine", name, "available", f"QEMU {version} has it{until}", expires=gone)


def _why_absent(machine: str, qemu: tuple[int, ...]) -> tuple[str, str]:
    """What a QEMU of this version is said about a machine type that it lacks, and a hint."""
    major, minor = _number(machine)
    if (major, minor) > qemu:
        return "is too old for it", "install a newer QEMU"
    if (major + LIFETIME, minor) <= qemu:
        return "no longer has it", REPACK
    # Red Hat's builds have machine types of their own.
    return "was built without it", f"name a QEMU as its project builds it with {VARIABLE}"


def _number(machine: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", machine.rpartition("-")[2]))[:2]


def _cpu(config: MachineConfig, qemu: Qemu, accel: Accel) -> Iterator[Pin]:
    model = config.cpu.model or ""
    field, under = "cpu.model", accel.upper()
    lacks = cpu_models(qemu, accel).get(model)
    if lacks is None:
        version = ".".join(map(str, qemu.version))
        yield Pin(field, model, "unavailable", f"QEMU {version} does not know it", REPACK)
        return
    flags = {flag[1:]: flag[0] == "+" for flag in config.cpu.flags}
    lacks = tuple(name for name in lacks if flags.get(name, True))
    if lacks:
        message = f"{under} here lacks {', '.join(lacks)}"
        yield Pin(field, model, "unavailable", message, REPACK)
    else:
        yield Pin(field, model, "available", f"{under} here has all of it")
    wanted = [name for name, on in flags.items() if on]
    if wanted:
        known = cpu_features(qemu, accel)
        missing = [name for name in wanted if name.replace("_", "-") not in known]
        value = ", ".join(wanted)
        if missing:
            message = f"{under} here lacks {', '.join(missing)}"
            yield Pin("cpu.flags", value, "unavailable", message, REPACK)
        else:
            yield Pin("cpu.flags", value, "available", f"{under} here has them")


def _firmware(
    config: MachineConfig, qemu: Qemu, nvram: bytes | None, code: bytes | None
) -> tuple[Firmware, Pin]:
    from vmpack.runner.firmware import resolve_firmware, seabios

    kind = config.firmware.kind or "bios"
    value = kind + (" with Secure Boot" if config.firmware.secure_boot else "")
    try:
        firmware = resolve_firmware(config, qemu, nvram, code)
    except VmpackError as exc:
        pin = Pin(exc.field or "firmware", value, "unavailable", exc.message, exc.hint)
        return Firmware(kind=kind), pin
    if firmware.code is not None:
        message = "the bundle's own"
    else:
        message = firmware.code_path or seabios(qemu) or "QEMU's own"
    return firmware, Pin("firmware", value, "available", message)


def _devices(config: MachineConfig, qemu: Qemu, accel: Accel, firmware: Firmware) -> Iterator[Pin]:
    from vmpack.runner.devices import devices

    sockets = {"agent": 0} if config.guest_agent else {}
    plan = Plan(
        config=config,
        options=RunOptions(),
        accel=accel,
        qemu=qemu,
        firmware=firmware,
        windows={},
        fdsets={},
        inherited={},
        sockets=sockets,
    )
    try:
        drivers = sorted({str(node["driver"]) for node in devices(plan)})
    except VmpackError as exc:
        yield Pin(exc.field or "devices", "", "unavailable", exc.message, exc.hint)
        return
    missing = missing_devices(qemu, drivers)
    version = ".".join(map(str, qemu.version))
    for name in missing:
        hint = "install all of QEMU's modules, or pack the machine with another device"
        yield Pin("devices", name, "unavailable", f"this QEMU {version} has no such device", hint)
    if not missing:
        yield Pin("devices", ", ".join(drivers), "available", f"QEMU {version} has them")


def _tpm(version: str) -> Pin:
    from vmpack.runner.tpm import INSTALL, find_swtpm

    path = find_swtpm()
    if path is None:
        return Pin("tpm", version, "unavailable", "swtpm is not installed", INSTALL)
    return Pin("tpm", version, "available", path)
