"""Hyper-V's XML of 2008 to 2012 R2, as what ``export-hyperv.ps1`` would say of the machine.

Sources: configs that Hyper-V wrote; Microsoft documents neither the format nor its numbers.
Profile: specs/hypervisors/hyperv.md, HYPERV-XML.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.hyperv import HINT
from vmpack.units import MiB

IDE = "83f8638b-8dca-4152-9eda-2ca8b33039b4"
BIOS = "ac6b8dc1-3257-4a70-b1b2-a9c9215659ad"
SERIAL = "8e3a359f-559a-4b6a-98a9-1690a6100ed7"
FLOPPY = "8f0d2762-0b00-4e04-af4f-19010527cb93"
_BOOT = {"Optical": "CD", "HardDrive": "IDE", "Network": "LegacyNetworkAdapter", "Floppy": "Floppy"}
_USED = ("properties", "settings", "manifest")
MAX_DEVICES = 512


def parse(data: bytes, *, path: str) -> tuple[dict[str, Any], Element]:
    """The machine, and the document. Raises :class:`UnsupportedError` for an export of 2008 R2."""
    root = xmlsafe.parse(data, path=path)
    if xmlsafe.local(root.tag) == "DECLARATIONS":
        raise UnsupportedError(
            "is an export of Hyper-V 2008 (CIM-XML), which has its disks elsewhere",
            path=path,
            clause="HYPERV-XML-3",
            hint=HINT,
        )
    if root.tag != "configuration" or root.find("properties") is None:
        raise DamagedError(
            "is no config of Hyper-V", path=path, clause="HYPERV-XML-1", hint="name its XML"
        )
    return _machine(root), root


def account(root: Element, draft: Draft) -> None:
    """Say of every part of the document that was not read that it has no place."""
    known = {f"_{one}_" for one in (IDE, BIOS, SERIAL)}
    for one in root:
        if one.tag in known or one.tag in _USED or _is_nic(one) or _disks_of(one):
            continue
        if any(leaf.text and leaf.text.strip() for leaf in one.iter()):
            draft.dropped(one.tag, "Hyper-V's own: nothing of it belongs to the machine")


def _machine(root: Element) -> dict[str, Any]:
    text = partial(_text, root)
    bios = f"_{BIOS}_"
    second = text("properties/subtype") == "1"
    found: dict[str, Any] = {
        "Name": text("properties/name"),
        "Notes": text("properties/notes"),
        "Version": text("properties/version"),
        "Generation": 2 if second else 1,
        "Processor": {"Count": _number(text("settings/processors/count"))},
        "Memory": _memory(root),
        "BiosGuid": text(f"{bios}/bios_guid"),
        "BiosSerialNumber": text(f"{bios}/bios_serial_number"),
        "BaseBoardSerialNumber": text(f"{bios}/base_board/serial_number"),
        "ChassisSerialNumber": text(f"{bios}/chassis/serial_number"),
        "ChassisAssetTag": text(f"{bios}/chassis/asset_tag"),
        "HardDiskDrives": [],
        "DvdDrives": [],
        "NetworkAdapters": [],
        "ComPorts": [],
    }
    if second:
        secure = text(f"{bios}/secure_boot_enabled") == "True"
        found["Firmware"] = {"SecureBoot": "On" if secure else "Off"}
    else:
        order = [_BOOT.get(text(f"{bios}/boot/device{n}"), "") for n in range(4)]
        found["Bios"] = {"StartupOrder": [one for one in order if one]}
    snapshots = _number(text("global_settings/snapshots/list/size")) or 0
    found["Checkpoints"] = [f"checkpoint {n + 1}" for n in range(min(snapshots, 64))]
    _devices(root, found)
    return found


def _text(part: Element, place: str) -> str:
    return (part.findtext(place) or "").strip()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _memory(root: Element) -> dict[str, Any]:
    size = _number((root.findtext("settings/memory/bank/size") or "").strip())
    dynamic = (root.findtext("settings/memory/bank/dynamic_memory_enabled") or "").strip() == "True"
    return {"Startup": None if size is None else size * MiB, "DynamicMemoryEnabled": dynamic}


def _devices(root: Element, found: dict[str, Any]) -> None:
    order = _instances(root)
    scsi = 0
    for number, part in enumerate(sorted(root, key=lambda one: order.get(one.tag, MAX_DEVICES))):
        if number > MAX_DEVICES:
            return
        if part.tag == f"_{IDE}_":
            for controller, location, drive in _disks_of(part):
                _drive(found, "IDE", controller, location, drive, part.tag)
        elif _is_nic(part):
            found["NetworkAdapters"].append(_nic(part))
        elif part.tag not in (f"_{FLOPPY}_", f"_{IDE}_") and _disks_of(part):
            for _, location, drive in _disks_of(part):
                _drive(found, "SCSI", scsi, location, drive, part.tag)
            scsi += 1


def _instances(root: Element) -> dict[str, int]:
    """Tag of a device's part -> its number in the manifest, which is their order."""
    found: dict[str, int] = {}
    for entry in root.iterfind("manifest/*"):
        number = re.fullmatch(r"vdev(\d{1,5})", entry.tag)
        instance = (entry.findtext("instance") or "").strip().lower()
        if number and instance:
            found[f"_{instance}_"] = int(number[1])
    return found


def _is_nic(part: Element) -> bool:
    return part.find("MacAddress") is not None


def _disks_of(part: Element) -> list[tuple[int, int, Element]]:
    """``(controller, location, drive)`` of a controller's part."""
    found = []
    for controller in part:
        number = re.fullmatch(r"controller(\d{1,2})", controller.tag)
        for drive in controller if number else ():
            location = re.fullmatch(r"drive(\d{1,3})", drive.tag)
            if number and location and part.tag != f"_{FLOPPY}_":
                found.append((int(number[1]), int(location[1]), drive))
    return found


def _drive(
    found: dict[str, Any], kind: str, controller: int, location: int, drive: Element, tag: str
) -> None:
    path = (drive.findtext("pathname") or "").strip()
    what = (drive.findtext("type") or "").strip()
    entry = {
        "Source": f"{tag}/controller{controller if kind == 'IDE' else 0}/drive{location}",
        "Path": path or None,
        "ControllerType": kind,
        "ControllerNumber": controller,
        "ControllerLocation": location,
    }
    if what in ("VHD", "PHYSICAL"):
        entry["DiskNumber"] = 0 if what == "PHYSICAL" else None
        found["HardDiskDrives"].append(entry)
    elif what == "ISO":
        found["DvdDrives"].append(entry)


def _nic(part: Element) -> dict[str, Any]:
    text = partial(_text, part)
    switch = text("Connection/AltSwitchName")
    return {
        "Source": part.tag,
        "Name": text("FriendlyName"),
        "MacAddress": text("MacAddress").replace("-", ""),
        "DynamicMacAddressEnabled": text("MacAddressIsStatic") != "True",
        "SwitchName": (switch or "switch") if text("IsConnected") == "True" else None,
        # Synthetic adapters talk through a channel of the VM bus; emulated ones have none.
        "IsLegacy": not text("ChannelInstanceGuid"),
    }
