"""Devices of an OVF, item by item, as a config has them."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.document import Document, child, place_name
from vmpack.hypervisors.ovf.items import Item
from vmpack.hypervisors.ovf.package import Package
from vmpack.hypervisors.ovf.units import factor, number
from vmpack.machine.names import POSITIONS
from vmpack.units import MiB

MAX_NICS = 32
MAX_DISKS = 64
NAT = ("nat",)
"""Networks that are a NAT of the host's: VirtualBox and Workstation name them so."""


class Hardware:
    """Reads the items of one machine into a draft."""

    def __init__(self, doc: Document, package: Package, family: str):
        self.doc = doc
        self.draft: Draft = doc.draft
        self.package = package
        self.family = family
        """VirtualSystemType."""
        self.boot: dict[str, dict[str, object]] = {}
        """InstanceID -> the draft's disk or card, for a boot order."""
        self._buses: dict[str, tuple[str, int, Item]] = {}
        self._used: set[str] = set()

    def read(self, items: list[Item]) -> None:
        """Everything that is understood; the rest keeps an empty place."""
        for item in items:
            if item.type in names.CONTROLLERS:
                self._controller(item)
        for item in items:
            self._device(item)
        for bus, index, item in self._buses.values():
            if item.instance in self._used:
                item.understood(f"controller:{bus}:{index}")
                item.note("Address", "the number of the controller")
                item.note("ResourceSubType", f"disks on {bus}")
        if not self.draft.data.get("nic"):
            self.draft.set("nic", [], "VirtualHardwareSection without network cards")
        for item in items:
            if item.type == names.OTHER and "vmware.vtpm" in item.peek("ResourceSubType").lower():
                item.value("ResourceSubType")
                item.understood("tpm")
                self.draft.set("tpm", {"version": "2.0"}, item.label)

    def _device(self, item: Item) -> None:
        if item.type == names.CPU:
            self._cpu(item)
        elif item.type == names.MEMORY:
            self._memory(item)
        elif item.type in (names.DISK, names.CD, names.DVD):
            self._drive(item)
        elif item.type == names.NIC:
            self._nic(item)
        elif item.type == names.SERIAL:
            self._serial(item)
        elif item.type == names.GRAPHICS:
            item.understood("display")
            self.draft.report.approximated(item.label, "a standard graphics card")

    def _cpu(self, item: Item) -> None:
        count = number(item.value("VirtualQuantity")) or 0
        item.understood("cpu")
        item.note("AllocationUnits", "of CPU limits")
        field = item.field("VirtualQuantity")
        each = child(item.element, "CoresPerSocket")
        cores = number(self.doc.take(each)) if each is not None else None
        if not count:
            self.draft.dropped(field, "not a number of CPUs")
        elif cores and count % cores == 0:
            self.draft.set("cpu.sockets", count // cores, field)
            self.draft.set("cpu.cores", cores, f"{item.label}/vmw:CoresPerSocket")
        elif self.family.startswith("vmx"):
            # VMware's own default: as many sockets as CPUs.
            self.draft.set("cpu.sockets", count, field)
            self.draft.set("cpu.cores", 1, field)
        else:
            self.draft.set("cpu.sockets", 1, field)
            self.draft.set("cpu.cores", count, field)

    def _memory(self, item: Item) -> None:
        text, units = item.value("VirtualQuantity"), item.value("AllocationUnits")
        item.understood("memory")
        unit, count, how = factor(units), number(text), ""
        if not units:
            unit, how = MiB, "taken as MiB, since no unit is stated"
        if not unit or not count:
            self.draft.dropped(item.field("VirtualQuantity"), f"{text!r} of {units!r} is no size")
            return
        size = count * unit
        if size % MiB:
            size += -size % MiB
            how = how or "rounded up to whole MiB"
        self.draft.set("memory", size, item.field("VirtualQuantity"), how=how)
        if units:
            self.draft.report.kept(item.field("AllocationUnits"), "memory")

    def _controller(self, item: Item) -> None:
        if item.type == names.IDE:
            number_of = number(item.peek("Address"))
            taken = {index for bus, index, _ in self._buses.values() if bus == "ide"}
            index = number_of if number_of in (0, 1) and number_of not in taken else len(taken)
            self._buses[item.instance] = ("ide", index, item)
            return
        models = names.SCSI_MODELS if item.type == names.SCSI else names.STORAGE_MODELS
        words = item.peek("ResourceSubType").lower().split()
        bus = next((models[word] for word in words if word in models), None)
        if bus is None:
            bus = "lsilogic" if item.type == names.SCSI else "sata"
        count = sum(known == bus for known, _, _ in self._buses.values())
        self._buses[item.instance] = (bus, count, item)

    def _place(self, item: Item) -> tuple[dict[str, object], str]:
        """Bus and place of a drive, and what of it is not as it was."""
        parent = item.peek("Parent")
        unit = number(item.peek("AddressOnParent"))
        if parent not in self._buses:
            return {}, "on a bus of vmpack's choice: it names no controller"
        bus, index, controller = self._buses[parent]
        self._used.add(controller.instance)
        cdrom = item.type in (names.CD, names.DVD)
        if bus == "nvme":
            return ({"bus": "sata"}, "on SATA: NVMe has no CD-ROM") if cdrom else ({"bus": bus}, "")
        if bus == "ide":
            if index > 1 or unit is None or unit > 1:
                return {"bus": bus}, "at the first free place"
            return {"bus": bus, "controller": 0, "port": index, "unit": unit}, ""
        ports, _ = POSITIONS[bus]
        if unit is None:
            return {"bus": bus}, "at the first free place"
        if unit >= ports or index > 31:
            return {"bus": bus}, f"at the first free place: {bus} has {ports} here, not {unit + 1}"
        return {"bus": bus, "controller": index, "port": unit, "unit": 0}, ""

    def _drive(self, item: Item) -> None:
        cdrom = item.type != names.DISK
        named = item.peek("HostResource")
        found = self.package.resource(named, path=self.doc.path) if named else None
        if found is None and not cdrom:
            # Nothing to attach: it stays as it is, among what is carried.
            self.draft.dropped(item.field("HostResource"), "the drive names no disk of the package")
            return
        if len(self.draft.data.get("disk", ())) >= MAX_DISKS:
            self.draft.dropped(item.label, f"a machine has {MAX_DISKS} drives here")
            self.doc.take_all(item.element)
            return
        place, how = self._place(item)
        source = item.field("HostResource")
        file: FileRef | None = None
        wanted = item.title or "cdrom"
        if found is not None:
            wanted, file = found
            item.value("HostResource")
            if cdrom and file.format is None:
                file = FileRef(file.name, "raw", gzip=file.gzip, chunk_size=file.chunk_size)
        elif named:
            item.value("HostResource")
            self.draft.dropped(source, "a drive of the host: it is empty here")
            source = item.label
        values = {"kind": "cdrom"} if cdrom else {}
        disk_id = self.draft.add_disk(wanted, file, source, how=how, **values, **place)
        item.understood(f"disk:{disk_id}")
        self.boot[item.instance] = self.draft.data["disk"][-1]
        if found is not None and found[0] in self.package.disks:
            disk = self.package.disks[found[0]]
            self.doc.carry(disk.element, f"diskinfo:{disk_id}")

    def _nic(self, item: Item) -> None:
        if len(self.draft.data.get("nic", ())) >= MAX_NICS:
            self.draft.dropped(item.label, f"a machine has {MAX_NICS} network cards here")
            self.doc.take_all(item.element)
            return
        words = item.choices("ResourceSubType")
        model = next((names.NIC_MODELS[word] for word in words if word in names.NIC_MODELS), None)
        how = ""
        if model is None:
            near = (names.APPROXIMATE_NICS[w] for w in words if w in names.APPROXIMATE_NICS)
            model = next(near, "e1000")
            how = f"is a {model}: {' '.join(words) or 'no model'} is stated"
        network, network_how = self._network(item)
        mac = _mac(item.value("Address"))
        values = {"model": model, "network": network, "mac": mac}
        index = self.draft.add("nic", values, item.field("ResourceSubType"), how=how)
        if network_how:
            self.draft.report.approximated(item.field("Connection"), network_how)
        elif network:
            self.draft.report.kept(item.field("Connection"), f"nic[{index}].network")
        if item.peek("Address"):
            kept = self.draft.report.kept if mac else self.draft.report.dropped
            kept(item.field("Address"), f"nic[{index}].mac" if mac else "no MAC address")
        item.understood(f"nic:{index}")
        self.boot[item.instance] = self.draft.data["nic"][index]

    def _network(self, item: Item) -> tuple[str | None, str]:
        if item.peek("AutomaticAllocation").lower() == "false":
            item.note("AutomaticAllocation", "the cable is unplugged")
            name = item.value("Connection")
            return "none", f"unplugged, from {name!r}" if name else ""
        item.note("AutomaticAllocation", "the cable is plugged in")
        name = item.value("Connection")
        if not name:
            return None, ""
        if name.lower() in NAT:
            return "user", ""
        plain = re.sub(r"[^A-Za-z0-9._ -]", "-", name).lstrip("._ -")[:64]
        if not plain:
            return None, "a network without a name that vmpack can keep"
        return plain, "" if plain == name else f"the network is called {plain!r}"

    def _serial(self, item: Item) -> None:
        count = len(self.draft.data.get("serial", ()))
        if count > 3:
            return
        self.draft.add("serial", {"port": count}, item.label)
        item.understood(f"serial:{count}")


def _mac(text: str) -> str | None:
    digits = re.sub(r"[:.-]", "", text.lower())
    if not re.fullmatch(r"[0-9a-f][02468ace][0-9a-f]{10}", digits):
        return None
    return ":".join(digits[n : n + 2] for n in range(0, 12, 2))


def network_place(name: str) -> str:
    """The place of a ``Network`` of the NetworkSection."""
    return f"network:{place_name(name)}"


def settings(section: Element, tag: str, space: str) -> list[tuple[str, str, Element]]:
    """``(key, value, element)`` of the ``vmw:Config`` or ``vmw:ExtraConfig`` of a section."""
    return [
        (one.get(f"{{{space}}}key", ""), one.get(f"{{{space}}}value", ""), one)
        for one in section
        if one.tag == f"{{{space}}}{tag}"
    ]
