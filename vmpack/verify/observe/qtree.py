"""The device tree of a running QEMU, from its ``info qtree``: the only place that has all of it.

A person's command, whose shape has not changed between QEMU 7.2 and 11.1: ``dev: DRIVER, id "ID"``,
indented under its bus, with ``name = value`` lines below. What is no property (addresses that a
guest gives to its BARs, whether it has opened a port) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmpack.verify.model import Json

__all__ = ["Device", "parse_qtree"]

DEVICE = re.compile(r'^( *)dev: ([^,"]+), id "(.*)"$')
BUS = re.compile(r"^( *)bus: (\S+)$")
PROPERTY = re.compile(r"^( *)([\w.-]+) = (.*)$")
NUMBER = re.compile(r"^(-?\d+) \(.*\)$")

PLACES = ("addr", "address", "iobase", "index", "unit", "port", "nr", "base")
"""Properties that tell two devices of one kind apart."""

IGNORED = frozenset({"rombar"})
"""Its default of 1 is told as -1 since QEMU 10.0, and means the same."""


@dataclass(slots=True)
class Device:
    """One device, with what QEMU says of it."""

    driver: str
    id: str
    bus: str
    """Name of the bus it hangs on, ``main-system-bus`` for the board's own."""
    parent: Device | None
    """The device that has this bus."""
    properties: dict[str, Json] = field(default_factory=dict)
    name: str = ""
    """Unique in its machine and the same in each: the id, or the driver and where it is."""

    def get(self, name: str) -> Json:
        """A property; ``None`` where it has none of that name."""
        return self.properties.get(name)


def parse_qtree(text: str) -> list[Device]:
    """Every device, each with its name, parents before what hangs on them."""
    devices: list[Device] = []
    inside: list[tuple[int, Device]] = []
    buses: list[tuple[int, str]] = []
    for line in text.splitlines():
        if found := DEVICE.match(line):
            depth = len(found[1])
            _leave(inside, depth)
            _leave(buses, depth)
            parent = inside[-1][1] if inside else None
            bus = buses[-1][1] if buses else ""
            device = Device(found[2], found[3], bus, parent)
            devices.append(device)
            inside.append((depth, device))
        elif found := BUS.match(line):
            _leave(inside, len(found[1]))
            _leave(buses, len(found[1]))
            buses.append((len(found[1]), found[2]))
        elif (found := PROPERTY.match(line)) and inside:
            _leave(inside, len(found[1]))
            value = _value(found[3])
            # A link to what has no name of its own: numbered in the order of its making.
            anonymous = isinstance(value, str) and value.startswith("/machine/unattached/")
            if inside and found[2] not in IGNORED and not anonymous:
                inside[-1][1].properties[found[2]] = value
    _name(devices)
    return devices


def _leave(stack: list[tuple[int, Device]] | list[tuple[int, str]], depth: int) -> None:
    while stack and stack[-1][0] >= depth:
        stack.pop()


def _value(text: str) -> Json:
    if text in ("true", "false"):
        return text == "true"
    number = NUMBER.match(text)
    if number:
        return int(number[1])
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _name(devices: list[Device]) -> None:
    taken: set[str] = set()
    for device in devices:
        for name in _names(device):
            if name not in taken:
                taken.add(name)
                device.name = name
                break


def _names(device: Device) -> Iterator[str]:
    if device.id:
        yield device.id
    owner = device.parent
    # What belongs to a device with an id is told apart by it.
    base = f"{owner.name}/{device.driver}" if owner is not None and owner.id else device.driver
    yield base
    for place in PLACES:
        if place in device.properties:
            base = f"{base}@{device.properties[place]}"
            yield base
            break
    number = 2
    while True:
        yield f"{base}#{number}"
        number += 1
