"""Reads a domain's devices, disks apart. Profile: specs/hypervisors/libvirt.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.reader_nics import alias_id, pci_address, read_interface
from vmpack.machine.names import BUILT_IN_CONTROLLERS, chipset

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.reader import Domain


def read_devices(domain: Domain) -> None:
    """Every device: modelled, carried, or dropped with the reason."""
    from vmpack.hypervisors.libvirt.reader_disks import Scsi, read_boot_order, read_disk

    devices = domain.root.find("devices")
    all_devices = [] if devices is None else list(devices)
    draft = domain.draft
    # A domain lists all of its hardware: what is not there must not be added by pins.
    draft.data |= {"disk": [], "nic": [], "serial": [], "pvpanic": False, "guest-agent": False}
    draft.data |= {"rng": {"model": "none"}, "display": {"model": "none"}, "input": "ps2"}
    scsi = Scsi(domain, all_devices)
    has_xhci = any(_is_xhci(one) for one in all_devices)
    has_tablet = any(
        one.tag == "input" and one.get("type") == "tablet" and one.get("bus") == "usb"
        for one in all_devices
    )
    ids: dict[int, str] = {}
    handlers = {
        "interface": read_interface,
        "serial": _serial,
        "console": _console,
        "channel": _channel,
        "tpm": _tpm,
        "rng": _rng,
        "video": _video,
        "panic": _panic,
        "memballoon": _memballoon,
        "watchdog": _watchdog,
    }
    for element in all_devices:
        if element.tag == "disk":
            ids[id(element)] = read_disk(domain, element, scsi)
        elif element.tag == "controller":
            _controller(domain, element, scsi, usb=not has_xhci and has_tablet)
        elif element.tag == "input":
            _input(domain, element, has_xhci=has_xhci)
        elif element.tag in handlers:
            place = handlers[element.tag](domain, element)
            if place:
                ids[id(element)] = place
    read_boot_order(domain, all_devices, ids)
    for element in all_devices:
        _leftover(domain, element, ids.get(id(element), ""))


def _leftover(domain: Domain, element: Element, place: str) -> None:
    """What was not understood of a device."""
    from vmpack.hypervisors.libvirt.reader import why_dropped

    carrier = domain.carrier
    tag = carrier.prefixes.tag(element.tag)
    if place:
        for child in element:
            known = child.tag in names.CHILDREN_CARRIED
            if not known and not carrier.is_understood(child):
                name = carrier.prefixes.tag(child.tag)
                carrier.drop(child, f"{place}/{name}"[7:], why_dropped(child))
        carrier.carry(element, place)
    elif carrier.is_understood(element):
        # Understood as a whole, and reported.
        return
    elif element.tag in names.DEVICES_CARRIED:
        key = re.sub(r"[^\w-]", "", element.get("type", "") or element.get("model", ""))[:20]
        name = f"{tag}({key})" if key else tag
        _carry_device(domain, element, name)
    elif element.tag == "emulator":
        carrier.take_all(element)
        domain.draft.report.approximated("devices/emulator", "each host has a QEMU of its own")
    else:
        reason = {
            "hostdev": "a device of the host, passed through",
            "filesystem": "a folder of the host",
            "disk": "not a disk that a config can have",
        }.get(element.tag, why_dropped(element))
        carrier.drop(element, f"devices/{tag}", reason)


def _carry_device(domain: Domain, element: Element, name: str) -> None:
    """A device that is carried whole, without passwords, or not at all."""
    carrier = domain.carrier
    for one in element.iter():
        for attribute in names.SECRETS & set(one.keys()):
            carrier.take(one, attribute)
            del one.attrib[attribute]
            domain.draft.dropped(f"devices/{name}@{attribute}", "a password stays where it is")
    for one in element.iter():
        for attribute, value in (*one.items(), ("#text", one.text or "")):
            why = names.secret(one, attribute, value)
            if why is not None:
                carrier.drop(element, f"devices/{name}", why)
                return
    carrier.carry_whole(element, f"domain/devices/{name}")


def _serial(domain: Domain, element: Element) -> str:
    target = element.find("target")
    kind = "isa-serial" if target is None else target.get("type", "isa-serial")
    number = len(domain.draft.data["serial"])
    port = domain.number("" if target is None else target.get("port", "")) if kind else None
    if kind != "isa-serial":
        return ""
    port = number if port is None else port
    place = f"domain/devices/serial({port})"
    if target is not None:
        domain.carrier.take_all(target)
    address = element.find("address")
    if address is not None:
        domain.carrier.take_all(address)
    alias_id(domain, element, "serial")
    source = domain.attribute(element, "type")
    how = "" if source in ("pty", "null", "") else f"its host's side is a {source[:20]}: a pty now"
    for child in element:
        if child.tag in ("source", "protocol", "log"):
            domain.carrier.drop(child, f"{place}/{child.tag}"[7:], "the host's side of the port")
    domain.draft.add("serial", {"port": port}, place[7:], how=how)
    return place


def _console(domain: Domain, element: Element) -> str:
    """``<console type='serial'>`` is the first serial port once more."""
    target = element.find("target")
    if target is None or target.get("type", "serial") == "serial":
        domain.carrier.take_all(element)
        domain.draft.report.kept("devices/console", "the first serial port")
    return ""


def _channel(domain: Domain, element: Element) -> str:
    target = element.find("target")
    if target is None or target.get("name") != names.AGENT:
        return ""
    domain.carrier.take_all(element)
    domain.draft.set("guest-agent", True, "devices/channel(org.qemu.guest_agent.0)")
    return ""


def _tpm(domain: Domain, element: Element) -> str:
    backend = element.find("backend")
    kind = "" if backend is None else domain.attribute(backend, "type")
    if backend is None or kind != "emulator":
        domain.carrier.drop(element, "devices/tpm", "not an emulated TPM: a device of the host")
        return ""
    version = domain.attribute(backend, "version") or "2.0"
    model = domain.attribute(element, "model")
    domain.draft.set("tpm.version", version, "devices/tpm/backend@version")
    if model in ("tpm-tis", "tpm-crb"):
        domain.draft.set("tpm.model", model, "devices/tpm@model")
    file = names.TPM_STATE.get(version, names.TPM_STATE["2.0"])
    uuid = str(domain.draft.data.get("uuid", ""))
    if not re.fullmatch(r"[0-9a-f-]{36}", uuid):
        uuid = "unknown"
    folder = "tpm2" if version == "2.0" else "tpm1.2"
    # Where the system's libvirt keeps it; beside a file of XML the last component is looked for.
    path = f"/var/lib/libvirt/swtpm/{uuid}/{folder}/{file}"
    domain.draft.blobs["tpm-state"] = FileRef(path)
    domain.draft.report.approximated(
        "devices/tpm (state)", f"taken from {file} where that file is at hand, otherwise a new TPM"
    )
    for child in list(backend):
        if child.tag in ("encryption", "source"):
            domain.carrier.drop(child, f"devices/tpm/{child.tag}", "it names a secret or a file")
    return "domain/devices/tpm"


def _rng(domain: Domain, element: Element) -> str:
    backend = element.find("backend")
    model = domain.attribute(element, "model")
    if domain.draft.data["rng"]["model"] != "none":
        domain.carrier.drop(element, "devices/rng(2)", "a config has one source of randomness")
        return ""
    if backend is not None:
        kind = backend.get("model", "")
        how = "" if kind == "builtin" else f"a {kind[:20]!r} source of the host: QEMU's own now"
        domain.carrier.take_all(backend)
        if how:
            domain.draft.report.approximated("devices/rng/backend", how)
    domain.draft.set("rng.model", "virtio-rng", f"devices/rng@model={model[:30]}")
    address = pci_address(domain, element, "domain/devices/rng")
    if address:
        domain.draft.set("rng.address", address, "devices/rng/address")
    return "domain/devices/rng"


def _video(domain: Domain, element: Element) -> str:
    model = element.find("model")
    kind = "" if model is None else model.get("type", "")
    if domain.draft.data["display"]["model"] != "none" or model is None:
        return ""
    if kind not in names.VIDEO_READ:
        domain.draft.report.approximated("devices/video", f"{kind[:20]!r}: vmpack's pin instead")
        del domain.draft.data["display"]
        domain.draft.data["display"] = {"model": "std"}
        domain.attribute(model, "type")
        return "domain/devices/video"
    domain.attribute(model, "type")
    if domain.attribute(model, "primary") == "no":
        domain.draft.report.approximated("devices/video/model@primary", "the only one is primary")
    domain.draft.set("display.model", names.VIDEO_READ[kind], "devices/video/model@type")
    address = pci_address(domain, element, "domain/devices/video")
    if address and kind != "none":
        domain.draft.set("display.address", address, "devices/video/address")
    return "domain/devices/video"


def _panic(domain: Domain, element: Element) -> str:
    model = element.get("model", "isa")
    if model not in ("isa", "pvpanic"):
        return ""
    domain.carrier.take_all(element)
    how = "" if model == "isa" else "on PCI: on ISA now"
    domain.draft.set("pvpanic", True, "devices/panic", how=how)
    return ""


def _memballoon(domain: Domain, element: Element) -> str:
    if element.get("model") == "none":
        domain.carrier.take_all(element)
        domain.draft.report.kept("devices/memballoon", "none, as vmpack has none")
    return ""


def _watchdog(domain: Domain, element: Element) -> str:
    if element.get("model") == "itco" and element.get("action", "reset") == "reset":
        # Part of every q35 chipset; libvirt lists it since 9.1.
        domain.carrier.take_all(element)
        domain.draft.report.kept("devices/watchdog(itco)", "part of q35")
    return ""


def _is_xhci(element: Element) -> bool:
    return (
        element.tag == "controller"
        and element.get("type") == "usb"
        and element.get("model") in ("qemu-xhci", "nec-xhci")
    )


def _controller(domain: Domain, element: Element, scsi: Any, *, usb: bool) -> None:
    """``usb``: an xHCI controller stands in for those of USB."""
    kind, model = element.get("type", ""), element.get("model", "")
    index = domain.number(element.get("index", "0"))
    label = f"devices/controller({kind[:20]} {index})"
    if index is None:
        domain.carrier.drop(element, label, "its index is not a number")
    elif kind == "scsi":
        scsi.controller(element, index, label)
    elif kind == "usb" and model == "none":
        domain.carrier.take_all(element)
        domain.draft.report.kept(label, "no USB")
    elif kind == "pci" and model in ("pci-root", "pcie-root"):
        domain.carrier.take_all(element)
        domain.draft.report.kept(label, "machine")
    elif (kind, index) in (("sata", 0), ("ide", 0)) and _is_built_in(domain, kind):
        domain.carrier.take_all(element)
        domain.draft.report.kept(label, "part of the chipset")
    elif kind in ("sata", "ide", "virtio-serial") or _is_xhci(element):
        how = "nec-xhci becomes qemu-xhci" if model == "nec-xhci" else ""
        add_controller(
            domain, element, "usb-xhci" if kind == "usb" else kind, index, label, how=how
        )
    elif kind == "usb" and usb:
        domain.carrier.take_all(element)
        domain.draft.report.approximated(label, f"{model[:20] or 'usb'} becomes an xHCI controller")
    elif kind == "fdc":
        domain.carrier.drop(element, label, "a config has no floppy drives")


def _is_built_in(domain: Domain, bus: str) -> bool:
    machine = domain.draft.data.get("machine")
    return (chipset(machine), bus, 0) in BUILT_IN_CONTROLLERS


def add_controller(
    domain: Domain, element: Element, bus: str, index: int, label: str, *, how: str = ""
) -> None:
    """A controller that a config models, with its address on bus 0."""
    place = f"domain/devices/controller({bus} {index})"
    address = pci_address(domain, element, place)
    for name in ("type", "index", "model"):
        domain.attribute(element, name)
    alias_id(domain, element, "controller")
    domain.draft.add("controller", {"bus": bus, "index": index, "address": address}, label, how=how)
    for child in element:
        if child.tag not in names.CHILDREN_CARRIED:
            domain.carrier.drop(child, f"{label}/{child.tag}", "not modelled")
    domain.carrier.carry(element, place)


def _input(domain: Domain, element: Element, *, has_xhci: bool) -> None:
    kind, bus = element.get("type", ""), element.get("bus", "")
    label = f"devices/input({kind[:20]} {bus[:20]})"
    if bus == "ps2":
        domain.carrier.take_all(element)
        domain.draft.report.kept(label, "every PC has it")
    elif kind == "tablet" and bus in ("usb", "") and domain.draft.data["input"] == "ps2":
        domain.carrier.take_all(element)
        how = "" if has_xhci else "on an xHCI controller now"
        domain.draft.set("input", "usb-tablet", label, how=how)
