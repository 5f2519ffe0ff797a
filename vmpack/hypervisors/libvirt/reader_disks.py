"""Reads a domain's disks, their SCSI controllers and the boot order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.reader_devices import add_controller
from vmpack.hypervisors.libvirt.reader_nics import alias_id, pci_address
from vmpack.machine.names import safe_id

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.reader import Domain

_FORMATS = {"vpc": "vhd"}
_KNOWN_FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vhd")
_EXTERNAL = ("source", "mirror", "backingStore", "auth", "encryption")


class Scsi:
    """SCSI controllers: libvirt counts all of them together, a config those of each model."""

    def __init__(self, domain: Domain, devices: Sequence[Element]):
        self._domain = domain
        self._places: dict[int, tuple[str, int]] = {}
        self._how: dict[int, str] = {}
        counts: dict[str, int] = {}
        for element in devices:
            if element.tag != "controller" or element.get("type") != "scsi":
                continue
            index = domain.number(element.get("index", "0"))
            if index is None or index in self._places:
                continue
            bus, how = self._bus(element.get("model", ""))
            self._places[index] = bus, counts.get(bus, 0)
            self._how[index] = how
            counts[bus] = counts.get(bus, 0) + 1

    @staticmethod
    def _bus(model: str) -> tuple[str, str]:
        if model in names.SCSI_BUSES:
            return names.SCSI_BUSES[model], ""
        if model.startswith("virtio"):
            return "virtio-scsi", f"{model[:40]} becomes virtio-scsi"
        if model in ("", "auto"):
            return "lsilogic", "no model given: libvirt takes an lsilogic"
        return "virtio-scsi", f"{model[:40]!r} is not known: virtio-scsi"

    def controller(self, element: Element, index: int, label: str) -> None:
        """Add a controller of the config's."""
        bus, number = self._places[index]
        add_controller(self._domain, element, bus, number, label, how=self._how[index])

    def place(self, index: int) -> tuple[str, int]:
        """Bus and index in a config; libvirt adds a controller that is not listed."""
        return self._places.get(index, ("lsilogic", 0))


def read_disk(domain: Domain, element: Element, scsi: Scsi) -> str:
    """Add the disk; the place under which the rest of it is carried, empty where it is dropped."""
    target = element.find("target")
    name = "" if target is None else domain.attribute(target, "dev")
    device = domain.attribute(element, "device") or "disk"
    label = f"devices/disk({name[:20]})"
    if device not in ("disk", "cdrom", "lun"):
        domain.carrier.drop(element, label, f"a config has no {device[:20]} drives")
        return ""
    disk_id = domain.draft.free_id(alias_id(domain, element, "disk") or name or "disk")
    place = f"domain/devices/disk({disk_id})"
    cdrom = device == "cdrom"
    _require_plain(domain, element, label)
    file = _source(domain, element, label, cdrom=cdrom)
    values, how = _place(domain, element, target, scsi, place, cdrom=cdrom)
    values |= _facts(domain, element, target, cdrom=cdrom)
    if device == "lun":
        how = "a SCSI device of the host, passed through: a disk now"
    wanted = domain.draft.add_disk(
        disk_id, file, label, how=how, kind="cdrom" if cdrom else "disk", **values
    )
    index = len(domain.draft.data["disk"]) - 1
    for field, value in values.items():
        if value is not None:
            path = field.replace("_", "-")
            domain.draft.set_source(f"disk[{index}].{path}", f"{label}/{path}")
    return f"domain/devices/disk({wanted})"


def _require_plain(domain: Domain, element: Element, label: str) -> None:
    if element.find("encryption") is None and element.find("source/encryption") is None:
        return
    raise UnsupportedError(
        f"{label} is encrypted, with a key that libvirt keeps",
        path=domain.source.name,
        field=label,
        hint="decrypt it first: qemu-img convert --object secret,... and edit the XML",
    )


def _source(domain: Domain, element: Element, label: str, *, cdrom: bool) -> FileRef | None:
    kind = domain.attribute(element, "type") or "file"
    driver = element.find("driver")
    source = element.find("source")
    format_name = "raw" if driver is None else domain.attribute(driver, "type") or "raw"
    if driver is not None:
        domain.attribute(driver, "name")
    file = None if source is None else _file(domain, source, kind)
    if source is not None:
        _slices(domain, element, label)
    for name in _EXTERNAL:
        for child in element.findall(name):
            if name == "backingStore":
                domain.carrier.take_all(child)
                if len(child):
                    how = "read as the image itself names it (--allow-backing)"
                    domain.draft.report.approximated(f"{label}/backingStore", how)
            elif name == "source":
                domain.carrier.take_all(child)
            else:
                domain.carrier.drop(child, f"{label}/{name}", "of the host and its running jobs")
    if file is None:
        if not cdrom:
            return FileRef(f"{kind} without a name"[:40], is_volume=True)
        return None
    domain.draft.report.kept(f"{label}/source", "the disk's content")
    ours = _FORMATS.get(format_name, format_name)
    if _has_slices(element):
        return FileRef(file.name, is_volume=True)
    return FileRef(
        file.name,
        ours if ours in _KNOWN_FORMATS else None,
        is_volume=file.is_volume,
    )


def _file(domain: Domain, source: Element, kind: str) -> FileRef | None:
    get = domain.carrier.take
    if kind == "file":
        name = get(source, "file")
        return FileRef(name) if name else None
    if kind == "block":
        name = get(source, "dev")
        return FileRef(name) if name else None
    if kind == "volume":
        pool, volume = get(source, "pool"), get(source, "volume")
        return FileRef(f"{pool}/{volume}", is_volume=True) if volume else None
    name = get(source, "name") or get(source, "dir") or get(source, "path")
    return FileRef(f"{kind} {get(source, 'protocol')} {name}".strip(), is_volume=True)


def _has_slices(element: Element) -> bool:
    return any(one.tag == "slices" for one in element.iter())


def _slices(domain: Domain, element: Element, label: str) -> None:
    if _has_slices(element):
        domain.draft.report.approximated(
            f"{label}/source/slices",
            "the disk, or what it is an overlay of, is a part of a file: name an image of it with"
            " --disk, for a bundle's disk BUNDLE#ID",
        )


def _place(
    domain: Domain,
    element: Element,
    target: Element | None,
    scsi: Scsi,
    place: str,
    *,
    cdrom: bool,
) -> tuple[dict[str, Any], str]:
    """Bus, controller, port, unit, address; and what had to be changed."""
    bus = "" if target is None else domain.attribute(target, "bus")
    name = "" if target is None else target.get("dev", "")
    if not bus:
        bus = {"vd": "virtio", "sd": "scsi", "hd": "ide"}.get(name[:2], "virtio")
    address = element.find("address")
    if bus == "virtio":
        if cdrom:
            return {"bus": None}, "virtio has no CD-ROM drives"
        return {"bus": "virtio-blk", "address": pci_address(domain, element, place)}, ""
    if address is not None and address.get("type") != "drive":
        domain.carrier.drop(address, f"{place}/address"[7:], "not a place on a bus of disks")
        address = None
    parts: Mapping[str, int | None] = {
        key: None if address is None else domain.number(domain.attribute(address, key) or "0")
        for key in ("controller", "bus", "target", "unit")
    }
    if address is not None:
        domain.attribute(address, "type")
    controller, unit = parts["controller"], parts["unit"]
    if bus == "sata":
        return {"bus": "sata", "controller": controller, "port": unit}, ""
    if bus == "ide":
        return {"bus": "ide", "port": parts["bus"], "unit": unit}, ""
    if bus == "scsi":
        ours, number = scsi.place(controller or 0)
        lun = unit if ours != "lsilogic" else None
        port = parts["target"] if ours != "lsilogic" else unit
        if lun:
            how = f"logical unit {lun} of target {port}: a target of its own"
            return {"bus": ours, "controller": number}, how
        return {"bus": ours, "controller": number, "port": port}, ""
    return {"bus": "sata"}, f"bus {bus[:20]!r} becomes SATA"


def _facts(
    domain: Domain, element: Element, target: Element | None, *, cdrom: bool
) -> dict[str, Any]:
    """Serial, WWN, block sizes, rotation rate, write protection."""
    found: dict[str, Any] = {}
    serial, wwn = element.find("serial"), element.find("wwn")
    if serial is not None and domain.text(serial):
        found["serial"] = domain.text(serial)
    if wwn is not None and domain.text(wwn):
        found["wwn"] = "0x" + domain.text(wwn).lower().removeprefix("0x").rjust(16, "0")
    blocks = element.find("blockio")
    if blocks is not None and not cdrom:
        for kind in ("logical", "physical"):
            size = domain.number(domain.attribute(blocks, f"{kind}_block_size"))
            if size:
                found[f"{kind}_block_size"] = size
    if target is not None and not cdrom:
        found["rotation_rate"] = domain.number(domain.attribute(target, "rotation_rate"))
    if element.find("readonly") is not None:
        for one in element.findall("readonly"):
            domain.carrier.take_all(one)
        found["read_only"] = True
    elif cdrom:
        found["read_only"] = True
    return found


def read_boot_order(domain: Domain, devices: Sequence[Element], places: Mapping[int, str]) -> None:
    """``<boot order>`` of the devices, or ``<boot dev>`` of the machine as orders."""
    draft = domain.draft
    order: list[tuple[int, dict[str, Any]]] = []
    for element in devices:
        boot = element.find("boot")
        entry = _entry(domain, places.get(id(element), ""))
        if boot is None:
            continue
        number = domain.number(domain.attribute(boot, "order"))
        load = domain.attribute(boot, "loadparm")
        if load:
            draft.dropped(f"devices/{element.tag}/boot@loadparm", "for other architectures")
        if number is None or entry is None:
            draft.dropped(f"devices/{element.tag}/boot", "a config starts from disks and networks")
        else:
            draft.report.kept(f"{places[id(element)][7:]}/boot", "boot")
            order.append((number, entry))
    by_kind = domain.root.findall("os/boot")
    if not order:
        for boot in by_kind:
            _by_kind(domain, domain.attribute(boot, "dev"), order)
    for boot in by_kind:
        domain.carrier.take_all(boot)
    numbers = [number for number, _ in order]
    fits = len(set(numbers)) == len(numbers) and all(1 <= one <= 64 for one in numbers)
    for place, (number, entry) in enumerate(sorted(order, key=lambda one: one[0]), 1):
        entry["boot"] = number if fits else place


def _entry(domain: Domain, place: str) -> dict[str, Any] | None:
    found = re.fullmatch(r"domain/devices/(disk|interface)\((.*)\)", place)
    if found is None:
        return None
    listed = domain.draft.data["disk" if found[1] == "disk" else "nic"]
    return next((one for one in listed if one["id"] == safe_id(found[2])), None)


def _by_kind(domain: Domain, kind: str, order: list[tuple[int, dict[str, Any]]]) -> None:
    data = domain.draft.data
    wanted: list[dict[str, Any]] = {
        "hd": [one for one in data["disk"] if one.get("kind") == "disk"],
        "cdrom": [one for one in data["disk"] if one.get("kind") == "cdrom"],
        "network": data["nic"],
    }.get(kind, [])
    taken = [entry for _, entry in order]
    fresh = [one for one in wanted if one not in taken][:1]
    if not fresh:
        domain.draft.dropped(f"os/boot({kind[:20]})", "there is no such device")
        return
    order.append((len(order) + 1, fresh[0]))
    domain.draft.report.kept(f"os/boot({kind})", f"boot of {fresh[0]['id']}")
