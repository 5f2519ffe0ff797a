"""The items of the VirtualHardwareSection that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.flavour import Flavour, Slot
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.xmlsafe import element
from vmpack.machine import MachineConfig
from vmpack.units import MiB

_SCSI = ("lsilogic", "lsisas1068", "pvscsi", "buslogic")
_PLACE = "place:"


@dataclass(slots=True)
class Items:
    """Items in their order, each with its number."""

    version: str
    elements: list[Element] = field(default_factory=list)
    places: dict[str, Element] = field(default_factory=dict)
    """Place -> item."""

    def add(self, place: str, kind: int, title: str, tag: str = "Item", **values: str) -> str:
        """Append an item; its InstanceID."""
        number = str(len(self.elements) + 1)
        found = {**values, "ElementName": title, "InstanceID": number, "ResourceType": str(kind)}
        made = element(tag if self.version == "2.0" else "Item")
        for name in names.ORDER:
            if name in found:
                made.append(element(f"rasd:{name}", found[name]))
        self.elements.append(made)
        self.places[place] = made
        return number

    def instance(self, place: str) -> str | None:
        """The InstanceID of a place's item."""
        found = self.places.get(place)
        return None if found is None else found.findtext("rasd:InstanceID")


def add_all(
    items: Items,
    config: MachineConfig,
    flavour: Flavour,
    slots: Sequence[Slot],
    resources: Mapping[str, str],
    notes: Notes,
) -> None:
    """An item for each device of the config; ``resources`` is the HostResource of each disk."""
    _processor(items, config, flavour, notes)
    size = (config.memory or 0) // MiB
    units = {"AllocationUnits": "byte * 2^20"}
    if flavour.is_virtualbox and items.version != "2.0":
        units = {"AllocationUnits": "MegaBytes"}
    items.add(
        "memory",
        names.MEMORY,
        f"{size} MB of memory",
        Description="Memory Size",
        VirtualQuantity=str(size),
        **units,
    )
    notes.kept("memory", "Item of type 4")
    _controllers(items, flavour, slots)
    _drives(items, config, flavour, slots, resources, notes)
    _nics(items, config, flavour, notes)
    if not flavour.is_virtualbox:
        _others(items, config, notes)


def _processor(items: Items, config: MachineConfig, flavour: Flavour, notes: Notes) -> None:
    cpu = config.cpu
    sockets, dies, threads = cpu.sockets or 1, cpu.dies or 1, cpu.threads or 1
    each = dies * (cpu.cores or 1) * threads
    count = sockets * each
    items.add(
        "cpu",
        names.CPU,
        f"{count} virtual CPU(s)",
        AllocationUnits="hertz * 10^6",
        Description="Number of Virtual CPUs",
        VirtualQuantity=str(count),
    )
    if flavour.is_virtualbox:
        if sockets > 1:
            notes.changed("cpu.sockets", "VirtualBox has one, with all cores")
        notes.kept("cpu.sockets", "one")
    else:
        made = element("vmw:CoresPerSocket", str(each), {"ovf:required": "false"})
        items.places["cpu"].append(made)
        notes.kept("cpu.sockets", "VirtualQuantity, vmw:CoresPerSocket")
    notes.kept("cpu.cores", "VirtualQuantity")
    for path, number in (("cpu.dies", dies), ("cpu.threads", threads)):
        if number == 1:
            notes.kept(path, "one")
        notes.changed(path, f"{each} cores in a socket: there are neither dies nor threads")


def _controllers(items: Items, flavour: Flavour, slots: Sequence[Slot]) -> None:
    for slot in sorted(set(slots), key=lambda one: (one.bus, one.controller)):
        if slot.place in items.places:
            continue
        kind = names.IDE if slot.bus == "ide" else names.OTHER_STORAGE
        if slot.bus in _SCSI:
            kind = names.SCSI
        subtype = flavour.controllers[slot.bus]
        values = {"ResourceSubType": subtype} if subtype else {}
        title = {names.IDE: "IDE", names.SCSI: "SCSI"}.get(kind, slot.bus.upper())
        items.add(
            slot.place,
            kind,
            f"{title} Controller {slot.controller}",
            Address=str(slot.controller),
            Description=f"{title} Controller",
            **values,
        )


def _drives(
    items: Items,
    config: MachineConfig,
    flavour: Flavour,
    slots: Sequence[Slot],
    resources: Mapping[str, str],
    notes: Notes,
) -> None:
    for number, (disk, slot) in enumerate(zip(config.disks or (), slots, strict=True)):
        path = f"disk[{number}]"
        cdrom = disk.kind == "cdrom"
        kind = names.DISK
        if cdrom:
            kind = names.DVD if flavour.is_virtualbox else names.CD
        values = {"AddressOnParent": str(slot.unit), "Parent": items.instance(slot.place) or ""}
        if disk.id in resources:
            values["HostResource"] = resources[disk.id]
        if cdrom:
            values["AutomaticAllocation"] = "true" if disk.id in resources else "false"
        items.add(f"disk:{disk.id}", kind, disk.id, "StorageItem", **values)
        notes.kept(f"{path}.id", "its id and its file's name")
        notes.kept(f"{path}.kind", f"Item of type {kind}")
        notes.kept(f"{path}.empty", "no HostResource")
        if disk.bus != slot.bus:
            notes.changed(f"{path}.bus", f"{slot.bus}: {flavour.name} may lack {disk.bus}")
        _placed(notes, path, disk.bus == slot.bus and _same(disk, slot), slot)
        notes.changed(f"{path}.address", f"{flavour.name} gives it")
        notes.changed(f"{path}.serial", f"{flavour.name} makes its own")
        notes.dropped(f"{path}.wwn", "OVF has no place for it")
        notes.dropped(f"{path}.rotation-rate", "OVF does not tell SSDs from other disks")
        for member in ("logical_block_size", "physical_block_size"):
            name = f"{path}.{member.replace('_', '-')}"
            if getattr(disk, member) == 512:
                notes.kept(name, "512")
            notes.dropped(name, "sectors have 512 bytes there")
        if disk.read_only and not cdrom:
            notes.dropped(f"{path}.read-only", "disks are writable there")
        notes.kept(f"{path}.read-only", "what such a drive is")


def _same(disk: object, slot: Slot) -> bool:
    at = (getattr(disk, "controller", 0) or 0, getattr(disk, "port", 0) or 0)
    if slot.bus == "ide":
        at = (at[1], getattr(disk, "unit", 0) or 0)
    return at == (slot.controller, slot.unit)


def _placed(notes: Notes, path: str, same: bool, slot: Slot) -> None:
    notes.kept(f"{path}.bus", "ResourceSubType of its controller")
    for member in ("controller", "port", "unit"):
        if same:
            notes.kept(f"{path}.{member}", "Parent, AddressOnParent")
        notes.changed(f"{path}.{member}", f"{slot.bus} {slot.controller}:{slot.unit}")


def network_name(network: str | None, flavour: Flavour) -> str:
    """The OVF's name for a config's network."""
    return flavour.network if network in (None, "user", "none") else network or ""


def _nics(items: Items, config: MachineConfig, flavour: Flavour, notes: Notes) -> None:
    for number, nic in enumerate(config.nics or ()):
        path = f"nic[{number}]"
        model = nic.model or "e1000"
        spare = flavour.virtio_nic if model == "virtio-net" else flavour.spare_nic
        chosen = model if model in flavour.nics else spare
        name = network_name(nic.network, flavour)
        values = {"Address": nic.mac} if nic.mac else {}
        items.add(
            f"nic:{number}",
            names.NIC,
            f"Network adapter {number + 1}",
            "EthernetPortItem",
            AddressOnParent=str(number + 7),
            AutomaticAllocation="false" if nic.network == "none" else "true",
            Connection=name,
            Description=f"{flavour.nics[chosen]} ethernet adapter on {name}",
            ResourceSubType=flavour.nics[chosen],
            **values,
        )
        if chosen == model:
            notes.kept(f"{path}.model", "ResourceSubType")
        notes.changed(f"{path}.model", f"{chosen}: {flavour.name} may lack {model}")
        notes.kept(f"{path}.mac", "rasd:Address")
        notes.kept(f"{path}.id", "its place")
        if nic.network == "user" and flavour.network != "NAT":
            notes.changed(f"{path}.network", f"the network {flavour.network!r}")
        notes.kept(f"{path}.network", "rasd:Connection, rasd:AutomaticAllocation")
        notes.changed(f"{path}.address", f"{flavour.name} gives it")
        notes.dropped(f"{path}.mtu", "OVF has no place for it")
        if not flavour.is_virtualbox:
            notes.changed(f"{path}.boot", "disks are started first")


def _others(items: Items, config: MachineConfig, notes: Notes) -> None:
    for number, port in enumerate(config.serials or ()):
        items.add(
            f"serial:{number}",
            names.SERIAL,
            f"Serial port {number + 1}",
            AutomaticAllocation="false",
        )
        items.places[f"serial:{number}"].set("ovf:required", "false")
        if port.port == number:
            notes.kept(f"serial[{number}]", "a serial port: its other end is chosen on import")
        notes.changed(f"serial[{number}]", "ports are numbered without gaps")
    if config.display.model != "none":
        items.add("display", names.GRAPHICS, "Video card", AutomaticAllocation="false")
        items.places["display"].set("ovf:required", "false")
    if config.tpm is not None:
        items.add(
            "tpm",
            names.OTHER,
            "Virtual TPM",
            AutomaticAllocation="false",
            ResourceSubType="vmware.vtpm",
        )
        items.places["tpm"].set("ovf:required", "false")


def settle(section: Element, items: Items) -> None:
    """Numbers and order of all items, the carried ones too, after those were put back."""
    known = {id(one) for one in items.elements}
    carried = [
        one
        for one in section
        if one.tag in ("Item", "StorageItem", "EthernetPortItem") and id(one) not in known
    ]
    following = len(items.elements) + 1
    renamed: dict[str, str] = {}
    for one in carried:
        found = one.find("rasd:InstanceID")
        text = (found.text or "") if found is not None else ""
        number = items.instance(text.removeprefix(_PLACE)) if text.startswith(_PLACE) else None
        if number is None:
            number = str(following)
            following += 1
            renamed.setdefault(text, number)
        if found is None:
            found = element("rasd:InstanceID")
            one.append(found)
        found.text = number
    for one in carried:
        parent = one.find("rasd:Parent")
        if parent is None:
            continue
        text = parent.text or ""
        place = items.instance(text.removeprefix(_PLACE)) if text.startswith(_PLACE) else None
        number = place or renamed.get(text)
        if number is None:
            one.remove(parent)
        else:
            parent.text = number
    for one in [*items.elements, *carried]:
        _sort(one)
        if items.version == "2.0":
            _rename(one)


def _sort(item: Element) -> None:
    order = {f"rasd:{name}": number for number, name in enumerate(names.ORDER)}
    item[:] = sorted(item, key=lambda one: order.get(one.tag, len(order)))


def _rename(item: Element) -> None:
    """Storage and Ethernet items of OVF 2.0 have namespaces of their own."""
    prefix = {"StorageItem": "sasd:", "EthernetPortItem": "epasd:"}.get(item.tag)
    if prefix is not None:
        for one in item:
            one.tag = one.tag.replace("rasd:", prefix, 1)
