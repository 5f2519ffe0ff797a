"""The hardware layer: the machine as its QEMU shows it, under the names that its config uses.

Source: QEMU's QAPI schema; ``query-pci``, ``query-block``, ``query-hotpluggable-cpus``,
``query-memory-size-summary`` and ``query-tpm`` are the same in 7.2, 10.0 and 11.1 but for what is
left out here: paths, threads, names of anonymous nodes, addresses that a guest gives out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.errors import OperationError
from vmpack.verify.model import Json
from vmpack.verify.observe.cpu import cpu_facts, cpu_properties
from vmpack.verify.observe.qtree import Device, parse_qtree

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.runner.session import Session

__all__ = ["device_facts", "disk_facts", "nic_facts", "observe_hardware", "pci_facts"]

MACHINE = ("acpi", "graphics", "hpet", "i8042", "max-ram-below-4g", "nvdimm", "pic", "pit", "smm")
"""Properties of the board. QEMU tells some as they were asked for: ``auto``."""

DISKS = frozenset(
    {"virtio-blk-pci", "nvme", "ide-hd", "ide-cd", "scsi-hd", "scsi-cd", "usb-storage"}
)
WATCHDOGS = frozenset({"i6300esb", "ib700", "iTCO"})
TPMS = ("tpm-crb", "tpm-tis")


async def observe_hardware(session: Session) -> dict[str, Json]:
    """The facts of the layer. Raises :class:`InfrastructureError` when QEMU is gone."""
    config = session.plan.config
    queries = ("query-pci", "query-block", "query-memory-size-summary", "query-uuid", "query-tpm")
    pci, blocks, memory, uuid, tpms = await asyncio.gather(*map(session.qmp, queries))
    tree = {"command-line": "info qtree"}
    devices = parse_qtree(await session.qmp("human-monitor-command", **tree))
    cpus = await session.qmp("query-hotpluggable-cpus")
    first = min(
        (one for one in cpus if "qom-path" in one), key=lambda one: sorted(one["props"].items())
    )
    properties = await cpu_properties(session, first["qom-path"])
    boot = await _boot_order(session, devices)
    facts: dict[str, Json] = {
        **await _machine(session),
        "memory": {"base": memory["base-memory"], "plugged": memory.get("plugged-memory", 0)},
        "uuid": uuid["UUID"],
        **cpu_facts(cpus, properties),
        **disk_facts(devices, blocks, boot),
        **nic_facts(devices, boot),
        **pci_facts(pci),
        **_others(devices, tpms),
        "rtc": {"clock": config.rtc.clock, "start": config.rtc.start, **await _drift(session)},
        **_smbios(config),
        **device_facts(devices),
    }
    return facts


async def _machine(session: Session) -> dict[str, Json]:
    kind = await session.qmp("qom-get", path="/machine", property="type")
    options: dict[str, Json] = {}
    for name in MACHINE:
        try:
            options[name] = await session.qmp("qom-get", path="/machine", property=name)
        except OperationError:
            # This board, or this QEMU, has no such thing.
            continue
    return {"machine": str(kind).removesuffix("-machine"), "machine-options": options}


def pci_facts(buses: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    """Each function of ``query-pci`` under ``pci:BUS:SLOT.FUNCTION``, those behind bridges too."""
    facts: dict[str, Json] = {}
    for device in _functions(buses):
        ids = device["id"]
        subsystem = f"{ids.get('subsystem-vendor', 0):04x}:{ids.get('subsystem', 0):04x}"
        place = f"{device['bus']:02x}:{device['slot']:02x}.{device['function']:x}"
        facts[f"pci:{place}"] = {
            "id": f"{ids['vendor']:04x}:{ids['device']:04x}",
            "subsystem": subsystem,
            "class": f"{device['class_info']['class']:04x}",
            "irq-pin": device.get("irq_pin", 0),
            "name": device.get("qdev_id", ""),
            "bars": {str(one["bar"]): _bar(one) for one in device.get("regions", ())},
        }
    return facts


def _functions(buses: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    waiting = list(buses)
    while waiting:
        for device in waiting.pop(0).get("devices", ()):
            yield device
            if "pci_bridge" in device:
                waiting.append({"devices": device["pci_bridge"].get("devices", ())})


def _bar(region: Mapping[str, Any]) -> str:
    words = [str(region["type"]), str(region["size"])]
    words += ["64-bit"] if region.get("mem_type_64") else []
    words += ["prefetchable"] if region.get("prefetch") else []
    return " ".join(words)


def disk_facts(
    devices: Sequence[Device],
    blocks: Iterable[Mapping[str, Any]],
    boot: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """Each disk under ``disk:ID``, where ID is the config's for those that the config has."""
    media = {str(one.get("qdev", "")): one for one in blocks}
    facts: dict[str, Json] = {}
    for device in devices:
        if device.driver not in DISKS:
            continue
        inner = _inner(device, devices)
        found = next((one for path, one in media.items() if device.id in path.split("/")), {})
        inserted = found.get("inserted")
        facts[f"disk:{device.name.removeprefix('disk-')}"] = {
            "device": device.driver,
            "place": _place(device),
            "serial": inner.get("serial"),
            "wwn": inner.get("wwn"),
            "logical-block-size": inner.get("logical_block_size"),
            "physical-block-size": inner.get("physical_block_size"),
            "rotation-rate": inner.get("rotation_rate"),
            "boot": (boot or {}).get(device.name),
            "removable": bool(found.get("removable", False)),
            "size": None if inserted is None else inserted["image"]["virtual-size"],
            "read-only": None if inserted is None else bool(inserted["ro"]),
        }
    return facts


def nic_facts(devices: Sequence[Device], boot: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """Each network card under ``nic:ID``."""
    facts: dict[str, Json] = {}
    for device in devices:
        inner = _inner(device, devices)
        if inner.get("mac") is None or device.bus == "virtio-bus":
            continue
        facts[f"nic:{device.name.removeprefix('nic-')}"] = {
            "device": device.driver,
            "place": _place(device),
            "mac": inner.get("mac"),
            "mtu": inner.get("host_mtu"),
            "boot": (boot or {}).get(device.name),
        }
    return facts


def _inner(device: Device, devices: Sequence[Device]) -> Device:
    """What a virtio device has on its own bus; any other one is its own."""
    return next(
        (one for one in devices if one.parent is device and one.bus == "virtio-bus"), device
    )


def _place(device: Device) -> str:
    """Where a device is plugged in: its PCI address, or bus and unit."""
    if "addr" in device.properties and device.bus.startswith(("pci", "pcie")):
        return f"{device.bus} {device.properties['addr']}"
    places = {key: device.get(key) for key in ("channel", "scsi-id", "lun", "unit", "port")}
    words = [f"{key} {place}" for key, place in places.items() if place is not None]
    return ", ".join([device.bus, *words])


def _others(devices: Sequence[Device], tpms: Sequence[Mapping[str, Any]]) -> dict[str, Json]:
    facts: dict[str, Json] = {}
    for number, one in enumerate(tpms):
        facts["tpm" if number == 0 else f"tpm:{number}"] = {"model": one["model"]}
    for device in devices:
        if device.driver in WATCHDOGS:
            facts["watchdog"] = device.driver
        if device.id == "display":
            facts["display"] = {"device": device.driver, "place": _place(device)}
        if device.driver == "isa-serial":
            ports = {key: device.get(key) for key in ("iobase", "irq")}
            facts[f"serial:{device.get('index')}"] = ports
    return {"tpm": None, "watchdog": None, "display": None} | facts


def device_facts(devices: Iterable[Device]) -> dict[str, Json]:
    """Every device with all of its properties under ``device:NAME``."""
    return {
        f"device:{one.name}": {"driver": one.driver, "bus": one.bus, **one.properties}
        for one in devices
    }


async def _boot_order(session: Session, devices: Sequence[Device]) -> dict[str, Json]:
    """The place in the boot order of what has one; ``info qtree`` does not tell it."""
    places: dict[str, Json] = {}
    for device in devices:
        if device.id.startswith(("disk-", "nic-")):
            path = f"/machine/peripheral/{device.id}"
            try:
                index = await session.qmp("qom-get", path=path, property="bootindex")
            except OperationError:
                continue
            places[device.name] = None if index == -1 else index
    return places


def _smbios(config: MachineConfig) -> dict[str, Json]:
    """What the config puts into SMBIOS; QEMU does not tell it, and the guest may."""
    dumped = config.smbios.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {f"smbios:{part}": strings for part, strings in dumped.items() if strings}


async def _drift(session: Session) -> dict[str, Json]:
    """By how many hours the machine's clock is not what it was started with."""
    import calendar
    import time

    try:
        shown = await session.qmp("qom-get", path="/machine", property="rtc-time")
    except OperationError:
        return {}
    fields = [shown[f"tm_{name}"] for name in ("year", "mon", "mday", "hour", "min", "sec")]
    fields = [fields[0] + 1900, fields[1] + 1, *fields[2:]]
    rtc = session.plan.config.rtc
    now = time.gmtime()
    if rtc.clock == "localtime":
        now = time.localtime()
    if rtc.start is not None:
        start = calendar.timegm(time.strptime(rtc.start[:19], "%Y-%m-%dT%H:%M:%S"))
        now = time.gmtime(start + session.seconds)
    hours = round((calendar.timegm((*fields, 0, 0, 0)) - calendar.timegm(now)) / 3600)
    return {"hours-off": hours}
