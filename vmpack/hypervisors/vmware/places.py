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

    def take(index: int, bus: str, controller: int, unit: int) -> bool:
        key = (_FAMILY[bus], controller)
        if owners.get(key, bus) != bus or (*key, unit) in taken:
            return False
        owners[key] = bus
        taken.add((*key, unit))
        found[index] = Place(bus, controller, unit, _moved(disks[index], bus, controller, unit))
        return True

    # Nobody is moved to a place that another disk has already.
    for index, disk in enumerate(disks):
        own = _own_place(disk, hardware)
        if own is not None:
            take(index, disk.bus or "", *own)
    for index, disk in enumerate(disks):
        bus = target_bus(disk, family)
        if index in found or any(take(index, bus, *one) for one in _others(disk, bus, hardware)):
            continue
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


def _own_place(disk: Disk, hardware: int) -> tuple[int, int] | None:
    """Controller and unit that the config has, where VMware has them too."""
    if disk.bus == "ide" and disk.port is not None:
        return disk.port, disk.unit or 0
    if disk.bus in (None, "ide", "nvme") or disk.bus not in _FAMILY or disk.port is None:
        return None
    controller = disk.controller or 0
    if controller < _CONTROLLERS[_FAMILY[disk.bus]] and disk.port in _units(disk.bus, hardware):
        return controller, disk.port
    return None


def _others(disk: Disk, bus: str, hardware: int) -> Iterator[tuple[int, int]]:
    """Every place on ``bus``: the config's controller and unit first."""
    wanted = (disk.controller, disk.port) if disk.bus == bus else (None, None)
    controllers = sorted(range(_CONTROLLERS[_FAMILY[bus]]), key=lambda one: one != wanted[0])
    units = sorted(_units(bus, hardware), key=lambda one: one != wanted[1])
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
