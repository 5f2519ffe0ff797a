"""Reads a domain's network cards, and what all devices have: PCI addresses and aliases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from vmpack.hypervisors.libvirt import names

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.reader import Domain

_NO_NETWORK = ("hostdev", "vdpa")
"""Interfaces that are a device of the host."""
_NAMED = {"network": "network", "bridge": "bridge"}
"""Interface type -> attribute of its source that has the network's name."""


def pci_address(domain: Domain, element: Element, place: str) -> str | None:
    """The device's address on PCI bus 0. Others are left to be carried."""
    address = element.find("address")
    if address is None or address.get("type") != "pci":
        return None
    parts = [domain.number(address.get(name, "0")) for name in ("domain", "bus", "slot")]
    function = domain.number(address.get("function", "0"))
    if None in parts or function is None:
        domain.carrier.drop(address, f"{place}/address"[7:], "not a PCI address")
        return None
    if parts[:2] != [0, 0]:
        domain.draft.report.approximated(
            f"{place}/address"[7:],
            f"bus {parts[1]:#x}: on bus 0, at an address of vmpack's table; the guest may name the"
            " device anew",
        )
        return None
    domain.carrier.take_all(address)
    return f"00:{parts[2] or 0:02x}.{function}"


def alias_id(domain: Domain, element: Element, kind: str) -> str | None:
    """The id that an export of vmpack's left in the device's alias, or the user's own alias."""
    alias = element.find("alias")
    name = "" if alias is None else alias.get("name", "")
    if alias is None:
        return None
    domain.carrier.take_all(alias)
    if not name.startswith("ua-"):
        domain.draft.report.kept(f"devices/{element.tag}/alias", "libvirt names devices itself")
        return None
    own = name.removeprefix("ua-").removeprefix(f"{kind}-")
    domain.draft.report.kept(f"devices/{element.tag}/alias", "id")
    return own


def read_interface(domain: Domain, element: Element) -> str:
    """``<interface>``: a network card; the place under which the rest of it is carried."""
    draft, kind = domain.draft, element.get("type", "")
    if kind in _NO_NETWORK:
        domain.carrier.drop(element, f"devices/interface({kind})", "a device of the host")
        return ""
    number = len(draft.data["nic"])
    nic_id = alias_id(domain, element, "nic") or f"net{number}"
    place = f"domain/devices/interface({re.sub(r'[^a-z0-9-]', '-', nic_id.lower())[:32]})"
    label = place[7:]
    values: dict[str, Any] = {"id": place[place.rindex("(") + 1 : -1]}
    values["model"], how = _nic_model(domain, element)
    mac = element.find("mac")
    if mac is not None:
        values["mac"] = domain.attribute(mac, "address").lower()
    values["network"] = _network(domain, element, label)
    values["address"] = pci_address(domain, element, place)
    mtu = element.find("mtu")
    if mtu is not None:
        values["mtu"] = domain.number(domain.attribute(mtu, "size"))
    target = element.find("target")
    if target is not None:
        domain.carrier.drop(target, f"{label}/target", "a device of the host, made for each run")
    index = draft.add("nic", values, label, how=how)
    for name, value in values.items():
        if value is not None:
            draft.set_source(f"nic[{index}].{name}", f"{label}/{name}")
    return place


def _nic_model(domain: Domain, element: Element) -> tuple[str | None, str]:
    model = element.find("model")
    name = "" if model is None else domain.attribute(model, "type")
    if not name:
        return "rtl8139", "no model given: libvirt takes an rtl8139"
    if name in names.VIRTIO_VARIANTS:
        return "virtio-net", f"{name} becomes virtio"
    if name in names.NICS_READ:
        return names.NICS_READ[name], ""
    return None, f"model {name[:30]!r} is not known: pinned to vmpack's table"


def _network(domain: Domain, element: Element, label: str) -> str | None:
    kind = domain.attribute(element, "type")
    report = domain.draft.report
    link = element.find("link")
    source = element.find("source")
    name = ""
    if kind in _NAMED and source is not None:
        name = domain.attribute(source, _NAMED[kind])
        if kind == "bridge":
            domain.draft.verbatim(f"domain/{label}@type", kind)
    if link is not None and domain.attribute(link, "state") == "down":
        detail = "network none: the cable is unplugged"
        report.approximated(f"{label}/link", f"{detail}; {name!r} is not kept" if name else detail)
        return "none"
    if kind == "user":
        return "user"
    if name:
        return name
    report.approximated(f"{label}@type", f"{kind[:20]!r} names a device of the host: user network")
    return "user"
