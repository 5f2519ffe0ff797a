"""PCI addresses of a domain: those of the config on bus 0, or those that its XML had once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.hypervisors.xmlsafe import element
from vmpack.machine.names import CHIPSET_SLOTS, chipset

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

Address = tuple[int, int, int]
"""Bus, slot, function."""
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,4}|[0-9]{1,4}")


def parsed(address: Element) -> Address | None:
    """Bus, slot and function of ``<address type='pci'>``; ``None`` for anything else."""
    numbers = []
    for name in ("domain", "bus", "slot", "function"):
        text = address.get(name, "0")
        if not _NUMBER.fullmatch(text):
            return None
        numbers.append(int(text, 16 if text.startswith("0x") else 10))
    domain, bus, slot, function = numbers
    if domain or bus > 255 or slot > 31 or function > 7:
        return None
    return bus, slot, function


class PciSlots:
    """Which addresses are taken, and whether the XML's own topology is used."""

    def __init__(
        self,
        config: MachineConfig,
        topology: Sequence[Element],
        addresses: Mapping[str, Element],
    ):
        self._own = {place: parsed(one) for place, one in addresses.items()}
        ours = set(_ours(config, without=set(self._own)))
        self.has_topology = bool(topology) and self._fits(topology, ours)
        if self.has_topology:
            ours |= {found for one in topology if (found := _address_of(one)) is not None}
            ours |= {found for found in self._own.values() if found is not None}
        else:
            ours = set(_ours(config, without=set()))
        self._taken = ours

    def _fits(self, topology: Sequence[Element], ours: set[Address]) -> bool:
        """Every address once, on a bus that there is."""
        wanted: list[Address] = []
        buses = {0}
        for one in topology:
            found = _address_of(one)
            index = one.get("index", "")
            if found is None or not _NUMBER.fullmatch(index):
                return False
            buses.add(int(index))
            wanted.append(found)
        for address in self._own.values():
            if address is None:
                return False
            wanted.append(address)
        return (
            len(set(wanted)) == len(wanted)
            and not set(wanted) & ours
            and all(bus in buses for bus, _, _ in wanted)
        )

    def claim(self, address: Element) -> bool:
        """Take the address of a carried device; whether it is free and there."""
        found = parsed(address)
        if found is None or found in self._taken or (found[0] and not self.has_topology):
            return False
        self._taken.add(found)
        return True

    def element(self, place: str, address: str | None) -> Element | None:
        """The ``<address>`` of the device at ``place`` whose config says ``00:SLOT.FUNCTION``."""
        own = self._own.get(place) if self.has_topology else None
        if own is None and address is None:
            return None
        bus, slot, function = own or _on_bus_0(address or "00:01.0")
        shared = not function and any(one[:2] == (bus, slot) and one[2] for one in self._taken)
        return element(
            "address",
            None,
            {
                "type": "pci",
                "domain": "0x0000",
                "bus": f"0x{bus:02x}",
                "slot": f"0x{slot:02x}",
                "function": f"0x{function:x}",
                "multifunction": "on" if shared else None,
            },
        )


def _on_bus_0(address: str) -> Address:
    return 0, int(address[3:5], 16), int(address[6])


def _address_of(controller: Element) -> Address | None:
    address = controller.find("address")
    return None if address is None else parsed(address)


def _ours(config: MachineConfig, *, without: set[str]) -> list[Address]:
    """Addresses of the config's devices, those at the places ``without`` apart."""
    found: list[tuple[str, str | None]] = [
        ("domain/devices/video", config.display.address),
        ("domain/devices/rng", config.rng.address),
    ]
    found += [(f"domain/devices/interface({nic.id})", nic.address) for nic in config.nics or ()]
    found += [(f"domain/devices/disk({disk.id})", disk.address) for disk in config.disks or ()]
    found += [
        (f"domain/devices/controller({one.bus} {one.index})", one.address)
        for one in config.controllers
    ]
    chips = [(0, slot, 0) for slot in CHIPSET_SLOTS[chipset(config.machine)]]
    return chips + [
        _on_bus_0(address)
        for place, address in found
        if address is not None and place not in without
    ]
