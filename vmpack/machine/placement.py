"""Where devices sit: places on a bus, controllers, fixed PCI addresses (``specs/config-v1.md``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmpack.errors import UsageError
from vmpack.machine import hardware as hw
from vmpack.machine.config import MachineConfig
from vmpack.machine.names import BUILT_IN_CONTROLLERS, POSITIONS, chipset
from vmpack.machine.rules import addressed

__all__ = ["SLOTS", "give_addresses", "give_controllers", "give_positions"]

SLOTS: dict[str, tuple[int, ...]] = {
    "nic": tuple(range(0x03, 0x0B)),
    "virtio-serial": (0x0B,),
    "rng": (0x0C,),
    "usb-xhci": (0x0D,),
    "controller": tuple(range(0x10, 0x14)),
    "disk": tuple(range(0x14, 0x1F)),
}
"""Slots of PCI bus 0 for each kind of device; the display is in slot 1 (q35) or 2 (i440fx)."""

_DISPLAY_SLOT = {"q35": 0x01, "i440fx": 0x02}
_MAX_CONTROLLERS = 32


def give_positions(config: MachineConfig) -> MachineConfig:
    """A controller, port and unit for each disk on a bus that has them, in the disks' order."""
    taken: set[tuple[str, int, int, int]] = set()
    for disk in config.disks or ():
        if disk.bus in POSITIONS and disk.port is not None:
            taken.add((disk.bus or "", disk.controller or 0, disk.port, disk.unit or 0))
    placed = []
    for index, disk in enumerate(config.disks or ()):
        if disk.bus not in POSITIONS:
            placed.append(disk)
            continue
        place = _place(config, disk, taken, f"disk[{index}]")
        taken.add(place)
        _, controller, port, unit = place
        placed.append(
            disk.model_copy(update={"controller": controller, "port": port, "unit": unit})
        )
    return config.model_copy(update={"disks": tuple(placed)})


def _place(
    config: MachineConfig, disk: hw.Disk, taken: set[tuple[str, int, int, int]], field: str
) -> tuple[str, int, int, int]:
    bus = disk.bus or ""
    if disk.port is not None:
        return bus, disk.controller or 0, disk.port, disk.unit or 0
    for place in _places(bus, disk.controller):
        if place not in taken and disk.unit in (None, place[3]):
            return place
    raise UsageError(
        f"no free place on {bus} for disk {disk.id!r}",
        field=field,
        hint=f"{config.machine} has {len(list(_places(bus, disk.controller)))}; take another bus",
    )


def _places(bus: str, controller: int | None) -> Iterator[tuple[str, int, int, int]]:
    ports, units = POSITIONS[bus]
    # The chipset has the only IDE controller; of the others there can be more.
    count = 1 if bus == "ide" else _MAX_CONTROLLERS
    for index in range(count) if controller is None else (controller,):
        for port in range(ports):
            for unit in range(units):
                yield bus, index, port, unit


def give_controllers(config: MachineConfig) -> MachineConfig:
    """The controllers that the disks and channels hang on, after those that are listed."""
    wanted: list[tuple[str, int]] = [
        (disk.bus or "", disk.controller or 0)
        for disk in config.disks or ()
        if disk.bus in POSITIONS
    ]
    if config.guest_agent:
        wanted.append(("virtio-serial", 0))
    if config.input == "usb-tablet":
        wanted.append(("usb-xhci", 0))
    listed = list(config.controllers)
    known: set[tuple[str, int]] = {(one.bus, one.index) for one in listed}
    for bus, index in wanted:
        if (bus, index) not in known:
            known.add((bus, index))
            listed.append(hw.Controller.model_validate({"bus": bus, "index": index}))
    return config.model_copy(update={"controllers": tuple(listed)})


class _Bus:
    """PCI bus 0: which functions are taken, and the next free one among some slots."""

    def __init__(self, taken: set[str]):
        self._taken = taken

    def take(self, slots: Sequence[int], field: str) -> str:
        """A function 0 while there is one, then functions 1 to 7."""
        for function in range(8):
            for number in slots:
                address = f"00:{number:02x}.{function}"
                if address in self._taken or (function and f"00:{number:02x}.0" not in self._taken):
                    continue
                self._taken.add(address)
                return address
        raise UsageError("no free PCI slot", field=field, hint="remove a device, or give addresses")


def give_addresses(config: MachineConfig) -> MachineConfig:
    """A fixed PCI address for every device that has none: the same config, the same addresses."""
    bus = _Bus({address for _, address in addressed(config) if address})
    kind = chipset(config.machine)
    update: dict[str, object] = {}
    display, rng = config.display, config.rng
    if display.model != "none" and display.address is None:
        # Falls back to the disks' range where somebody else was put into the usual slot.
        slots = (_DISPLAY_SLOT[kind], *SLOTS["disk"])
        address = bus.take(slots, "display")
        update["display"] = display.model_copy(update={"address": address})
    if rng.model != "none" and rng.address is None:
        address = bus.take((*SLOTS["rng"], *SLOTS["disk"]), "rng")
        update["rng"] = rng.model_copy(update={"address": address})
    nics = []
    for index, nic in enumerate(config.nics or ()):
        given = nic.address or bus.take(SLOTS["nic"], f"nic[{index}]")
        nics.append(nic.model_copy(update={"address": given}))
    controllers = []
    for index, one in enumerate(config.controllers):
        fixed = one.address or BUILT_IN_CONTROLLERS.get((kind, one.bus, one.index))
        slots = SLOTS.get(one.bus, SLOTS["controller"])
        given = fixed or bus.take(slots, f"controller[{index}]")
        controllers.append(one.model_copy(update={"address": given}))
    disks = []
    for index, disk in enumerate(config.disks or ()):
        if disk.bus in POSITIONS or disk.address:
            disks.append(disk)
            continue
        given = bus.take(SLOTS["disk"], f"disk[{index}]")
        disks.append(disk.model_copy(update={"address": given}))
    update |= {"nics": tuple(nics), "controllers": tuple(controllers), "disks": tuple(disks)}
    return config.model_copy(update=update)
