"""The machine as ``export-hyperv.ps1`` would describe it: what vmpack itself reads again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.hypervisors.hyperv import MARK

if TYPE_CHECKING:
    from vmpack.hypervisors.hyperv.layout import Drive
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Nic

DESCRIPTION = "machine.json"


def described_as(
    config: MachineConfig,
    drives: Sequence[Drive],
    carried: Mapping[str, str],
    given_back: Collection[str],
) -> bytes:
    """The JSON document; of what was ``carried``, those fields that are ``given_back``."""
    second = config.firmware.kind == "uefi"
    cpu, smbios = config.cpu, config.smbios
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    data: dict[str, Any] = {
        MARK: 1,
        "Name": config.name,
        "Notes": config.description or "",
        "State": "Off",
        "Generation": 2 if second else 1,
        "Processor": {"Count": count},
        "Memory": {"Startup": config.memory},
        "TpmEnabled": second and config.tpm is not None,
        "BiosGuid": f"{{{(config.uuid or '').upper()}}}",
        "BiosSerialNumber": smbios.system.serial or "",
        "BaseBoardSerialNumber": smbios.baseboard.serial or "",
        "ChassisSerialNumber": smbios.chassis.serial or "",
        "ChassisAssetTag": smbios.chassis.asset or "",
        "HardDiskDrives": [_drive(one) for one in drives if one.disk.kind != "cdrom"],
        "DvdDrives": [_drive(one) for one in drives if one.disk.kind == "cdrom"],
        "NetworkAdapters": [_nic(n, nic, second) for n, nic in enumerate(config.nics or ())],
        "ComPorts": [
            {"Number": one.port + 1, "Connected": True}
            for one in config.serials or ()
            if one.port < 2
        ]
        or [{"Number": 1, "Connected": False}],
    }
    if second:
        secure = "On" if config.firmware.secure_boot else "Off"
        data["Firmware"] = {"SecureBoot": secure, "BootOrder": _boot_order(config, drives)}
    else:
        data["Bios"] = {"StartupOrder": startup_order(config, drives)}
    for key, value in carried.items():
        _put_back(data, key, value, given_back)
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def startup_order(config: MachineConfig, drives: Sequence[Drive]) -> list[str]:
    """Kinds of devices, which is all that the BIOS of generation 1 can tell apart."""
    order = [(one.disk.boot, "CD" if one.disk.kind == "cdrom" else "IDE") for one in drives]
    order += [(nic.boot, "LegacyNetworkAdapter") for nic in config.nics or ()]
    names = [name for _, name in sorted((place, name) for place, name in order if place)]
    return list(dict.fromkeys([*names, "IDE", "CD", "LegacyNetworkAdapter", "Floppy"]))


def _drive(drive: Drive) -> dict[str, Any]:
    kind, controller, location = drive.place
    return {
        "Path": drive.file or None,
        "ControllerType": kind,
        "ControllerNumber": controller,
        "ControllerLocation": location,
    }


def _nic(index: int, nic: Nic, second: bool) -> dict[str, Any]:
    switches = {"none": None, "user": "Default Switch"}
    return {
        "Id": str(index),
        "MacAddress": (nic.mac or "").replace(":", "").upper(),
        "DynamicMacAddressEnabled": False,
        "SwitchName": switches.get(nic.network or "user", nic.network),
        "IsLegacy": nic.model == "tulip" and not second,
    }


def _boot_order(config: MachineConfig, drives: Sequence[Drive]) -> list[dict[str, Any]]:
    order: list[tuple[int, dict[str, Any]]] = []
    for one in drives:
        if one.disk.boot:
            place = {key: value for key, value in _drive(one).items() if key != "Path"}
            order.append((one.disk.boot, {"BootType": "Drive", **place}))
    for index, nic in enumerate(config.nics or ()):
        if nic.boot:
            order.append((nic.boot, {"BootType": "Network", "AdapterId": str(index)}))
    return [entry for _, entry in sorted(order, key=lambda one: one[0])]


def _put_back(data: dict[str, Any], key: str, value: str, given_back: Collection[str]) -> None:
    table, mark, name = key.partition(".")
    if table == "IntegrationServices":
        entry = {"Name": name, "Enabled": value.lower() == "true"}
        data.setdefault(table, []).append(entry)
    elif key in given_back or key == "Firmware.SecureBootTemplate":
        target = data.setdefault(table, {}) if mark else data
        target.setdefault(name if mark else key, value)
    elif table.removeprefix("net").isdigit():
        number = int(table.removeprefix("net"))
        if mark and number < len(data["NetworkAdapters"]):
            data["NetworkAdapters"][number].setdefault(name, value)
