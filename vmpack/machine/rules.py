"""What no single field of a config can say: rules between fields (clauses CFG-RULE-*)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.machine.names import BUILT_IN_CONTROLLERS, CHIPSET_SLOTS, POSITIONS, chipset

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.machine.hardware import Disk

__all__ = ["Conflict", "addressed", "conflicts", "slot"]

MAX_CPUS = 255
VERBATIM_BYTES = 1 << 20
_SHORT_SERIAL = {"virtio-blk": 20, "ide": 20, "sata": 20, "nvme": 20}
_STEPS = ("command", "wait_for", "send", "screenshot")


@dataclass(frozen=True)
class Conflict:
    """One broken rule: the field that breaks it, in the config's terms, and what to do."""

    field: str
    message: str
    clause: str
    hint: str | None = None


def conflicts(config: MachineConfig) -> Iterator[Conflict]:
    """Every rule between fields that ``config`` breaks. Absent fields break none."""
    yield from _unique(config)
    yield from _cpu(config)
    yield from _firmware(config)
    for index, disk in enumerate(config.disks or ()):
        yield from _disk(config, f"disk[{index}]", disk)
    yield from _positions(config)
    yield from _addresses(config)
    yield from _others(config)
    yield from _checks(config)


def _repeated(
    entries: Iterator[tuple[str, object]], what: str, clause: str, hint: str | None = None
) -> Iterator[Conflict]:
    """A conflict for each (field, value) whose value an earlier field has already; not None."""
    first: dict[object, str] = {}
    for field, value in entries:
        if value is None:
            continue
        if value in first:
            yield Conflict(field, f"{what} is taken by {first[value]}", clause, hint)
        else:
            first[value] = field


def _unique(config: MachineConfig) -> Iterator[Conflict]:
    disks, nics = config.disks or (), config.nics or ()
    ids = ((f"disk[{n}].id", disk.id) for n, disk in enumerate(disks))
    yield from _repeated(ids, "this id", "CFG-RULE-1")
    ids_of_nics = ((f"nic[{n}].id", nic.id) for n, nic in enumerate(nics))
    yield from _repeated(ids_of_nics, "this id", "CFG-RULE-1")
    macs = ((f"nic[{n}].mac", nic.mac) for n, nic in enumerate(nics))
    yield from _repeated(macs, "this MAC address", "CFG-RULE-1")
    order = [(f"disk[{n}].boot", disk.boot) for n, disk in enumerate(disks)]
    order += [(f"nic[{n}].boot", nic.boot) for n, nic in enumerate(nics)]
    yield from _repeated(iter(order), "this place in the boot order", "CFG-RULE-1")
    ports = ((f"serial[{n}].port", port.port) for n, port in enumerate(config.serials or ()))
    yield from _repeated(ports, "this port", "CFG-RULE-1")
    numbers = (
        (f"controller[{n}].index", (one.bus, one.index)) for n, one in enumerate(config.controllers)
    )
    yield from _repeated(numbers, "this index", "CFG-RULE-1")
    keys = ((f"ova.property[{n}].key", one.key) for n, one in enumerate(config.ova.properties))
    yield from _repeated(keys, "this key", "CFG-RULE-1")


def _cpu(config: MachineConfig) -> Iterator[Conflict]:
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    if count > MAX_CPUS:
        yield Conflict("cpu", f"{count} CPUs, at most {MAX_CPUS} possible", "CFG-RULE-2")
    flags = ((f"cpu.flags[{n}]", flag[1:]) for n, flag in enumerate(cpu.flags))
    yield from _repeated(flags, "this feature", "CFG-RULE-2")


def _firmware(config: MachineConfig) -> Iterator[Conflict]:
    firmware = config.firmware
    if not firmware.secure_boot:
        return
    if firmware.kind == "bios":
        yield Conflict(
            "firmware.secure-boot",
            "Secure Boot needs UEFI",
            "CFG-RULE-3",
            'write firmware.kind = "uefi"',
        )
    if chipset(config.machine) != "q35":
        yield Conflict(
            "firmware.secure-boot",
            "Secure Boot needs a q35 machine",
            "CFG-RULE-3",
            'write machine = "pc-q35-7.2"',
        )


def _disk(config: MachineConfig, field: str, disk: Disk) -> Iterator[Conflict]:
    if disk.bus == "ide" and config.machine and chipset(config.machine) != "i440fx":
        yield Conflict(
            f"{field}.bus",
            "a q35 machine has no IDE",
            "CFG-RULE-4",
            'write bus = "sata", or machine = "pc-i440fx-7.2"',
        )
    if disk.kind == "cdrom":
        if disk.bus in ("virtio-blk", "nvme"):
            yield Conflict(
                f"{field}.bus", f"{disk.bus} has no CD-ROM drives", "CFG-RULE-5", 'try bus = "sata"'
            )
        if disk.read_only is False:
            yield Conflict(f"{field}.read-only", "a CD-ROM is always read-only", "CFG-RULE-5")
    elif disk.empty:
        yield Conflict(
            f"{field}.empty", "only a CD-ROM drive can be empty", "CFG-RULE-5", 'kind = "cdrom"'
        )
    most = _SHORT_SERIAL.get(disk.bus or "", 36)
    if disk.serial and len(disk.serial) > most:
        yield Conflict(f"{field}.serial", f"{disk.bus} has {most} characters for it", "CFG-RULE-5")
    if disk.bus is not None and disk.address and disk.bus in POSITIONS:
        yield Conflict(
            f"{field}.address",
            f"the PCI address of a disk on {disk.bus} is that of its controller",
            "CFG-RULE-6",
            "write it as [[controller]] address",
        )
    if disk.bus is None and (disk.controller, disk.port, disk.unit) != (None, None, None):
        yield Conflict(f"{field}.bus", "a place on a bus needs a bus", "CFG-RULE-6")


def _positions(config: MachineConfig) -> Iterator[Conflict]:
    """Ports and units exist, and no two disks share a place."""
    places: list[tuple[str, object]] = []
    for index, disk in enumerate(config.disks or ()):
        place = (disk.controller, disk.port, disk.unit)
        if disk.bus is None:
            continue
        if disk.bus not in POSITIONS:
            if place != (None, None, None):
                yield Conflict(
                    f"disk[{index}].controller",
                    f"{disk.bus} has no controllers, ports or units",
                    "CFG-RULE-6",
                )
            continue
        ports, units = POSITIONS[disk.bus]
        if (disk.port or 0) >= ports:
            yield Conflict(f"disk[{index}].port", f"{disk.bus} has {ports} ports", "CFG-RULE-6")
        if (disk.unit or 0) >= units:
            yield Conflict(f"disk[{index}].unit", f"{disk.bus} has {units} units", "CFG-RULE-6")
        if disk.port is not None:
            places.append(
                (f"disk[{index}].port", (disk.bus, disk.controller or 0, disk.port, disk.unit or 0))
            )
    yield from _repeated(iter(places), "this place on the bus", "CFG-RULE-6")


def addressed(config: MachineConfig) -> Iterator[tuple[str, str | None]]:
    """(field, PCI address) of every device of ``config`` that has one."""
    yield "display.address", config.display.address
    for index, nic in enumerate(config.nics or ()):
        yield f"nic[{index}].address", nic.address
    yield "rng.address", config.rng.address
    for index, controller in enumerate(config.controllers):
        yield f"controller[{index}].address", controller.address
    for index, disk in enumerate(config.disks or ()):
        yield f"disk[{index}].address", disk.address


def slot(address: str) -> int:
    """Slot number of a PCI address of bus 0."""
    return int(address[3:5], 16)


def _addresses(config: MachineConfig) -> Iterator[Conflict]:
    """No address twice, none of the chipset's, built-in controllers where the chipset has them."""
    yield from _repeated(addressed(config), "this PCI address", "CFG-RULE-7")
    used = {address for _, address in addressed(config) if address}
    kind = chipset(config.machine)
    for index, one in enumerate(config.controllers):
        own = BUILT_IN_CONTROLLERS.get((kind, one.bus, one.index))
        if own and one.address not in (None, own):
            yield Conflict(
                f"controller[{index}].address",
                f"this controller is part of {kind}, at {own}",
                "CFG-RULE-7",
            )
    built_in = {
        f"controller[{index}].address"
        for index, one in enumerate(config.controllers)
        if (kind, one.bus, one.index) in BUILT_IN_CONTROLLERS
    }
    for field, address in addressed(config):
        if address is None or field in built_in:
            continue
        if slot(address) in CHIPSET_SLOTS[kind]:
            yield Conflict(field, f"{kind} keeps slot {address[3:5]} for itself", "CFG-RULE-7")
        elif not address.endswith(".0") and f"{address[:-1]}0" not in used:
            yield Conflict(
                field, f"a function needs {address[:-1]}0, which nothing has", "CFG-RULE-7"
            )


def _others(config: MachineConfig) -> Iterator[Conflict]:
    tpm = config.tpm
    if tpm is not None and tpm.model == "tpm-crb" and tpm.version == "1.2":
        yield Conflict("tpm.model", "tpm-crb is for TPM 2.0", "CFG-RULE-8", 'model = "tpm-tis"')
    if config.rng.model == "none" and config.rng.address:
        yield Conflict("rng.address", "no device, no address", "CFG-RULE-8")
    if config.display.model == "none" and config.display.address:
        yield Conflict("display.address", "no device, no address", "CFG-RULE-8")
    size = sum(
        len(one.key.encode()) + len(one.value.encode())
        for fields in config.verbatim.values()
        for one in fields
    )
    if size > VERBATIM_BYTES:
        yield Conflict("verbatim", f"{size} bytes, at most {VERBATIM_BYTES}", "CFG-RULE-9")
    if config.rtc.start and not _is_time(config.rtc.start):
        yield Conflict("rtc.start", "there is no such time", "CFG-RULE-8")


def _is_time(text: str) -> bool:
    from datetime import datetime

    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _checks(config: MachineConfig) -> Iterator[Conflict]:
    if config.verify.probe == "login" and config.verify.login is None:
        message = "no [verify.login] says how to log in"
        yield Conflict("verify.probe", message, "CFG-RULE-11", hint="add one, with a user")
    for index, check in enumerate(config.verify.checks):
        field = f"verify.check[{index}]"
        steps = [step for step in _STEPS if getattr(check, step) is not None]
        if len(steps) != 1:
            yield Conflict(
                field,
                "exactly one of command, wait-for, send and screenshot is needed",
                "CFG-RULE-10",
            )
        if check.command is None and (check.stdout, check.exit_code) != (None, None):
            yield Conflict(field, "stdout and exit-code belong to a command", "CFG-RULE-10")
