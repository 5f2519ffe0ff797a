"""Drives and network cards in VirtualBox's settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from vmpack.binary import escape
from vmpack.errors import DamagedError
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.carry import Carrier
from vmpack.hypervisors.virtualbox import names
from vmpack.hypervisors.xmlsafe import local
from vmpack.machine.names import POSITIONS

MAX_NICS = 32
MAX_DISKS = 64


def flag(text: str) -> bool:
    """A boolean as settings have it."""
    return text.strip().lower() in ("true", "yes", "1")


def _children(element: Element, name: str) -> list[Element]:
    return [one for one in element if local(one.tag) == name]


def _number(text: str, most: int = 1 << 31) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) and int(text) <= most else None


class Storage:
    """Controllers, and what is attached to them."""

    def __init__(self, carrier: Carrier, media: Mapping[str, tuple[str, FileRef]]):
        self.carrier = carrier
        self.draft = carrier.draft
        self.media = media
        self.named: dict[str, str] = {}
        """Disk id -> id of its medium."""
        self._count: dict[str, int] = {}

    def read(self, section: Element) -> None:
        """All controllers of a section."""
        for controller in _children(section, "StorageController"):
            kind = controller.get("type", "")
            bus = names.CONTROLLERS.get(kind)
            devices = _children(controller, "AttachedDevice")
            label = f"StorageController {controller.get('name', '')[:80]}"
            if not devices:
                continue
            if bus is None and not any(one.get("type") == "HardDisk" for one in devices):
                # Floppy drives: vmpack has none.
                continue
            index = self._count.get(bus or "sata", 0)
            self._count[bus or "sata"] = index + 1
            self.carrier.note(controller, label, f"disks on {bus or 'sata'}", "type")
            self.carrier.note(controller, label, "as many as are needed", "PortCount")
            if bus is None:
                self.draft.report.approximated(f"{label}@type", f"SATA: vmpack has no {kind}")
            for device in devices:
                self._device(device, label, bus, index)
            self.carrier.carry(controller, names.controller_place(bus or "sata", index))

    def _device(self, device: Element, label: str, bus: str | None, index: int) -> None:
        kind = self.carrier.take(device, "type")
        port = _number(self.carrier.take(device, "port") or "0")
        unit = _number(self.carrier.take(device, "device") or "0")
        source = f"{label}/AttachedDevice({port}:{unit})"
        if kind not in ("HardDisk", "DVD", ""):
            self.carrier.drop(device, source, f"vmpack has no {kind} drives")
            return
        cdrom = kind == "DVD"
        values, how = self._place(bus, index, port, unit, cdrom)
        if flag(device.get("nonrotational", "")):
            values["rotation-rate"] = 1
            self.carrier.note(device, source, "an SSD", "nonrotational")
        file, wanted = self._medium(device, source)
        if file is None and not cdrom:
            self.carrier.drop(device, source, "a drive without a disk")
            return
        if len(self.draft.data.get("disk", ())) >= MAX_DISKS:
            self.carrier.drop(device, source, f"a machine has {MAX_DISKS} drives here")
            return
        if cdrom:
            values["kind"] = "cdrom"
        disk_id = self.draft.add_disk(wanted or "cdrom", file, source, how=how, **values)
        if wanted is not None:
            self.named[disk_id] = wanted
        self.carrier.carry(device, names.disk_place(disk_id))

    def _place(
        self, bus: str | None, index: int, port: int | None, unit: int | None, cdrom: bool
    ) -> tuple[dict[str, object], str]:
        if bus is None or (bus == "nvme" and cdrom):
            return {"bus": "sata"}, "on SATA, at the first free place"
        if bus == "nvme":
            return {"bus": bus}, ""
        ports, units = POSITIONS[bus]
        index = 0 if bus == "ide" else index
        if port is None or unit is None or port >= ports or unit >= units or index > 31:
            return {"bus": bus}, f"at the first free place: {bus} has {ports} ports here"
        if bus == "ide" and self._count.get("ide", 0) > 1:
            return {"bus": bus}, "at the first free place: there is one IDE controller here"
        return {"bus": bus, "controller": index, "port": port, "unit": unit}, ""

    def _medium(self, device: Element, source: str) -> tuple[FileRef | None, str | None]:
        """The file of what is in the drive, and its id."""
        for image in _children(device, "Image"):
            uuid = self.carrier.take(image, "uuid").lower()
            found = self.media.get(uuid)
            if found is None:
                raise DamagedError(
                    f"a drive has the image {escape(uuid[:60])!r}, which is not in the settings",
                    field="AttachedDevice",
                    clause="VBOX-READ-4",
                    hint="the registry of VirtualBox has it: name the disk image itself",
                )
            return found[1], found[0]
        for drive in _children(device, "HostDrive"):
            self.carrier.drop(drive, f"{source}/HostDrive", "a drive of the host: it is empty here")
        return None, None


class Cards:
    """Network cards that are switched on; the others are carried whole."""

    def __init__(self, carrier: Carrier):
        self.carrier = carrier
        self.draft = carrier.draft

    def read(self, section: Element | None) -> None:
        """All adapters, in the order of their slots."""
        adapters = [] if section is None else _children(section, "Adapter")
        for adapter in sorted(adapters, key=lambda one: _number(one.get("slot", "")) or 0):
            if len(self.draft.data.get("nic", ())) >= MAX_NICS:
                label = f"Adapter({adapter.get('slot', '')[:8]})"
                self.carrier.drop(adapter, label, f"a machine has {MAX_NICS} network cards here")
            elif flag(adapter.get("enabled", "")):
                self._adapter(adapter)
        if not self.draft.data.get("nic"):
            self.draft.set("nic", [], "Network without cards")

    def _adapter(self, adapter: Element) -> None:
        take = self.carrier.take
        label = f"Adapter({take(adapter, 'slot')[:8]})"
        take(adapter, "enabled")
        kind = take(adapter, "type") or "Am79C973"
        model = names.ADAPTERS.get(kind)
        how = "" if kind in names.EXACT_ADAPTERS else f"{kind}: the nearest is {model or 'e1000'}"
        network, network_how = self._network(adapter)
        text = take(adapter, "MACAddress").lower()
        mac = None
        if re.fullmatch(r"[0-9a-f][02468ace][0-9a-f]{10}", text):
            mac = ":".join(text[n : n + 2] for n in range(0, 12, 2))
        index = self.draft.add(
            "nic",
            {"model": model or "e1000", "mac": mac, "network": network},
            f"{label}@type",
            how=how,
        )
        if mac:
            self.draft.report.kept(f"{label}@MACAddress", f"nic[{index}].mac")
        elif text:
            self.draft.dropped(f"{label}@MACAddress", "no unicast MAC address")
        if network_how:
            self.draft.report.approximated(f"{label}/network", network_how)
        elif network:
            self.draft.report.kept(f"{label}/network", f"nic[{index}].network")

    def _network(self, adapter: Element) -> tuple[str | None, str]:
        cable = self.carrier.take(adapter, "cable")
        mode = next((one for one in adapter if local(one.tag) in names.MODES), None)
        network, how = "none", "it is attached to nothing"
        if mode is not None:
            word = local(mode.tag)
            network, how = names.MODES[word], ""
            if not network:
                name = self.carrier.take(mode, "name")
                network = re.sub(r"[^A-Za-z0-9._ -]", "-", name).lstrip("._ -")[:64] or word.lower()
                how = "" if network == name else f"the network is called {network!r}"
            elif not mode.items() and not len(mode):
                self.carrier.take(mode)
        if cable and not flag(cable):
            if network != "none":
                how = f"unplugged, from {network!r}"
            return "none", how
        return network, how
