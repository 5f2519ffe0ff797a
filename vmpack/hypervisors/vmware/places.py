"""Where disks hang in a VMware machine: ``scsi0:1``, ``sata0:0``, ``ide1:0``, ``nvme0:2``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError

if TYPE_CHECKING:
    from vmpack.machine.hardware import Disk

__all__ = ["SCSI", "Place", "places", "target_bus"]

SCSI = ("pvscsi", "lsilogic", "lsisas1068", "buslogic")
_FAMILY = {**dict.fromkeys(SCSI, "scsi"), "sata": "sata", "ide": "ide", "nvme": "nvme"}
_CONTROLLERS = {"scsi": 4, "sata": 4, "ide": 2, "nvme": 4}
_OWN_ID = 7
"""The SCSI id of the controller itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """One disk's place."""

    bus: str
    """pvscsi, lsilogic, lsisas1068, buslogic, sata, ide or nvme."""
    controller: int
    unit: int
    moved: bool = False
    """It is not where the config has it."""

    @property
    def parent(self) -> str:
        """``scsi0``."""
        return f"{_FAMILY[self.bus]}{self.controller}"

    @property
    def name(self) -> str:
        """``scsi0:1``."""
        return f"{self.parent}:{self.unit}"


def target_bus(disk: Disk, family: str | None) -> str:
    """The bus in VMware for a config's: those that it lacks become what the guest can start from.

    Windows has a driver for SATA on its installation disk; Linux has one for pvscsi.
    """
    bus = disk.bus or "sata"
    if bus in _FAMILY:
        return bus
    if disk.kind == "cdrom" or family == "windows":
        return "sata"
    return "pvscsi" if family == "linux" else "lsilogic"


def places(disks: Sequence[Disk], family: str | None, hardware: int) -> list[Place]:
    """A place for every disk, in their order; the config's own where VMware has it.

    Raises :class:`UnsupportedError` for more disks than there are places.
    """
    found: dict[int, Place] = {}
    taken: set[tuple[str, int, int]] = set()
    owners: dict[tuple[str, int], str] = {}
    order = sorted(range(len(disks)), key=lambda index: (disks[index].port is None, index))
    for index in sorted(order, key=lambda index: disks[index].bus not in _FAMILY):
        disk = disks[index]
        bus = target_bus(disk, family)
        for controller, unit in _candidates(disk, bus, hardware):
            key = (_FAMILY[bus], controller)
            if owners.get(key, bus) != bus or (*key, unit) in taken:
                continue
            owners[key] = bus
            taken.add((*key, unit))
            found[index] = Place(bus, controller, unit, _moved(disk, bus, controller, unit))
            break
        else:
            raise UnsupportedError(
                f"VMware has no place left on {bus} for disk {disk.id!r}",
                field=f"disk[{index}]",
                hint=f"{_CONTROLLERS[_FAMILY[bus]]} controllers are all: put it on another bus",
            )
    return [found[index] for index in range(len(disks))]


def _moved(disk: Disk, bus: str, controller: int, unit: int) -> bool:
    if disk.bus != bus or bus == "nvme":
        return False
    if bus == "ide":
        return (disk.port or 0, disk.unit or 0) != (controller, unit)
    return (disk.controller or 0, disk.port or 0) != (controller, unit)


def _candidates(disk: Disk, bus: str, hardware: int) -> Iterator[tuple[int, int]]:
    """``(controller, unit)``: the config's own, its controller's others, then all others."""
    units = _units(bus, hardware)
    controllers = list(range(_CONTROLLERS[_FAMILY[bus]]))
    if bus == "ide":
        if disk.port is not None:
            yield disk.port, disk.unit or 0
    elif disk.bus == bus and disk.controller in controllers:
        assert disk.controller is not None
        if disk.port in units:
            yield disk.controller, disk.port
        controllers.sort(key=lambda number: number != disk.controller)
    for controller in controllers:
        for unit in units:
            yield controller, unit


def _units(bus: str, hardware: int) -> list[int]:
    if bus == "ide":
        return [0, 1]
    if bus == "sata":
        return list(range(30))
    if bus == "nvme":
        return list(range(15))
    most = 65 if bus == "pvscsi" and hardware >= 14 else 16
    return [unit for unit in range(most) if unit != _OWN_ID]
